"""What the engine's tests share: tiny policies, the naive oracle, random trees and items.

The oracle is the definition of a score: one response at a time, no cache, no padding, no sharing. It is never
optimized.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from valign.engine.items import Item, Objective
from valign.engine.objective import Terms
from valign.engine.scorer import Scorer
from valign.engine.tree import Leaf, Segment, Tree, from_paths
from valign.models import tiny as tiny_models
from valign.models.loaded import LoadedModel

VOCABULARY, FIRST, STOP = 103, 7, 2  # ids below FIRST are special
KINDS = tuple(k for k in tiny_models.KINDS if k != "mamba")  # mamba reads tokens in order: plain path only


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `kind` runs once for every tiny model that can share a trunk."""
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", KINDS)


# -------------------------------------------------------------------------------------------------------
# models


def build(kind: str = "llama", dtype: str = "float64", seed: int = 0) -> LoadedModel:
    """A tiny random policy; in float64 its norms and its softmax are float64 too, or a mask bug could
    hide.
    """
    policy = tiny_models.tiny_model(kind, dtype=dtype, seed=seed)
    if dtype == "float64":
        with tiny_models.float64_norms(policy):
            exact = policy.model.config._attn_implementation
        policy.model.set_attn_implementation(exact)
        for m in policy.model.modules():
            if type(m).__name__.endswith("RMSNorm"):
                m.forward = types.MethodType(_norm, m)  # a bound method goes with its module into a deep copy
    return policy


def _norm(self: Any, x: Tensor) -> Tensor:
    eps = self.variance_epsilon if hasattr(self, "variance_epsilon") else self.eps
    weight = self.weight + 1 if type(self).__name__.startswith("Gemma") else self.weight
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


@pytest.fixture(scope="session")
def tiny() -> Callable[..., LoadedModel]:
    """`tiny(kind)` is shared and not to be changed; `tiny(kind, fresh=True)` is a policy of one's own."""
    shared = cache(build)

    def of(kind: str = "llama", *, fresh: bool = False, dtype: str = "float64") -> LoadedModel:
        policy = build(kind, dtype) if fresh else shared(kind, dtype)
        policy.model.zero_grad(set_to_none=True)
        return policy

    return of


_GPT = {"vocab_size": 103, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 16}
_LINEAR = {
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    **{"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_num_value_heads": 4, "linear_value_head_dim": 8},
}
_FAMILY: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gptj": {**_GPT, "rotary_dim": 4},
    "codegen": {**_GPT, "rotary_dim": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "cohere": {"logit_scale": 2.0},
    "granite": {"logits_scaling": 0.4},
    "cohere2": {
        "logit_scale": 2.0,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma2": {"sliding_window": 8, "head_dim": 8},
    "starcoder2": {"sliding_window": 8},
    "phi3": {"sliding_window": 8},
    "mixtral": {"num_local_experts": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "exaone4": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma3_text": {
        "sliding_window": 8,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_oss": {
        "num_local_experts": 4,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "helium": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "ministral": {"head_dim": 8, "sliding_window": 8},
    "olmo3": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "jamba": {
        **{"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4},
        **{"expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 4},
    },
    "bamba": {"attn_layer_indices": [1], **_MAMBA2},
    "falcon_h1": {"mamba_d_ssm": 64, "head_dim": 8, **_MAMBA2},
    "qwen3_next": {
        **_LINEAR,
        **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    },
    "qwen3_5_text": {
        **_LINEAR,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32, "attention_window_size": 64},
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "num_local_experts": 4, "head_dim": 8},
}


@pytest.fixture(scope="session")
def of_family() -> Callable[..., Any]:
    """`of_family(name, **settings)`: a random model of 2 layers of any architecture, float32 (some know no float64)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
    }

    def of(family: str, **settings: Any) -> Any:
        more: dict[str, Any] = {**_FAMILY.get(family, {}), **settings}
        config = AutoConfig.for_model(family, **(more if more.get("n_embd") else {**sizes, **more}))
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for p in model.parameters():  # a flat model hides bugs
                p += 0.15 * torch.randn_like(p)
        return model

    return of


# -------------------------------------------------------------------------------------------------------
# oracle


def naive_scores(model: Any, tree: Tree, temperature: float = 1.0) -> list[Tensor]:
    """Token log-probs of every leaf, 0 where the loss weight is 0: one path at a time."""
    out = []
    for leaf in tree.leaves:
        ids = torch.as_tensor(tree.path(leaf).astype(np.int64))
        logits = model(ids[None], use_cache=False).logits[0].double() / temperature
        log_probs = logits.log_softmax(-1)
        rows = [log_probs[t - 1, ids[t]] if t else torch.zeros(()) for t in range(leaf.first, len(ids))]
        scored = torch.as_tensor(tree.response_loss(leaf) != 0)
        out.append(torch.stack(rows).double() * scored if rows else torch.zeros(0, dtype=torch.float64))
    return out


@pytest.fixture(scope="session")
def oracle() -> Callable[..., list[Tensor]]:
    return naive_scores


def distance(a: Any, b: Any) -> float:
    """The largest absolute difference over two nested lists of arrays; infinite where shapes differ or a
    NaN stands.
    """
    if isinstance(a, dict):
        return distance(list(a.values()), [b[k] for k in a]) if set(a) == set(b) else float("inf")
    if isinstance(a, list | tuple):
        return max(map(distance, a, b), default=0.0) if len(a) == len(b) else float("inf")
    x, y = (v.detach().double().numpy() if isinstance(v, Tensor) else np.asarray(v, np.float64) for v in (a, b))
    gap = float(np.max(np.abs(x - y), initial=0.0)) if x.shape == y.shape else float("inf")
    return gap if gap == gap else float("inf")


@pytest.fixture(scope="session")
def worst() -> Callable[[Any, Any], float]:
    return distance


def gradients_of(model: Any, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every trainable weight, 0 where none arrives."""
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), grads)}


@pytest.fixture(scope="session")
def gradients() -> Callable[..., dict[str, Tensor]]:
    return gradients_of


# --------------------------------------------------------------------------------------------------------
# trees


def random_paths(n: int, seed: int = 0, longest: int = 60) -> list[Tree]:
    """Prompts with 1 to 4 responses, paths of up to 60 tokens; some responses share a prefix, repeat or
    are empty.
    """
    rng = np.random.default_rng(seed)
    trees = []
    for i in range(n):
        trunk = rng.integers(FIRST, VOCABULARY, rng.integers(3, longest // 2 + 6)).tolist()
        branches = [
            rng.integers(FIRST, VOCABULARY, rng.integers(1, longest // 2 - 5)).tolist()
            for _ in range(rng.integers(1, 5))
        ]
        if i % 3 == 1:
            branches += [[*branches[0][: len(branches[0]) // 2], 8, 9], list(branches[0])]
        if i % 4 == 3:
            branches.append([])
        trees.append(from_paths(f"g{i}", trunk, branches))
    return trees


def random_tree(rng: np.random.Generator, id: str = "random", roots: int = 1) -> Tree:
    """Depth up to 4, fan-out up to 5, empty segments, leaves inside segments, duplicate leaves,
    fractional weights.
    """
    segments: list[Segment] = []

    def grow(parent: int, start: int, depth: int) -> None:
        n = int(rng.integers(2, 8)) if parent < 0 else int(rng.integers(0, 6))
        loss = np.where(rng.random(n) < 0.7, rng.choice([1.0, 0.5], n), 0.0).astype(np.float32)
        if start == 0 and n:
            loss[0] = 0
        ids = rng.integers(0, VOCABULARY, n).astype(np.int32)
        segments.append(Segment(ids, parent, "assistant", loss, start))
        own = len(segments) - 1
        if depth < 4:
            for _ in range(int(rng.integers(0, 6 if depth < 2 else 3))):
                if len(segments) < 14:
                    grow(own, start + n, depth + 1)

    for _ in range(roots):
        grow(-1, 0, 1)
    leaves = []
    for i in rng.integers(0, len(segments), rng.integers(1, 8)):
        s = segments[i]
        end = int(rng.integers(0, len(s.ids) + 1))
        end = max(end, 1) if s.parent < 0 else end
        leaves.append(Leaf(int(i), end, len(leaves), int(rng.integers(1, s.start + end + 1))))
    leaves.append(Leaf(leaves[0].segment, leaves[0].end, len(leaves), leaves[0].first))
    return Tree(id, tuple(segments), tuple(leaves))


@pytest.fixture(scope="session")
def trees() -> Callable[..., list[Tree]]:
    return random_paths


@pytest.fixture(scope="session")
def branching() -> Callable[..., Tree]:
    return random_tree


# ------------------------------------------------------------------------------------- objectives, items,
# prompts


def nll(policy: Tensor, mask: Tensor) -> Terms:
    """One loss per token: the shape of SFT."""
    return Terms(-policy * mask, unit="token", nll=-policy)


def mean_nll(policy: Tensor, mask: Tensor) -> Terms:
    """One loss per response."""
    return Terms(-(policy * mask).sum(1) / mask.sum(1).clamp(min=1), unit="response", length=mask.sum(1))


def preference(policy: Tensor, reference: Tensor, mask: Tensor, pairs: Tensor, *, beta: float) -> Terms:
    """One loss per pair: the shape of DPO."""
    log_ratio = ((policy - reference) * mask).sum(1)
    margin = beta * (log_ratio[pairs[:, 0]] - log_ratio[pairs[:, 1]])
    return Terms(-torch.nn.functional.logsigmoid(margin), unit="pair", margin=margin)


def reward_order(reward: Tensor, pairs: Tensor) -> Terms:
    """One loss per pair, from one number per response: the shape of a reward model."""
    gap = reward[pairs[:, 0]] - reward[pairs[:, 1]]
    return Terms(-torch.nn.functional.logsigmoid(gap), unit="pair", gap=gap)


def rollout_loss(policy: Tensor, reference: Tensor, mask: Tensor, advantage: Tensor, *, beta: float) -> Terms:
    """One loss per sample: a policy gradient with a KL term."""
    d = (reference - policy) * mask
    k3 = d.exp() - 1 - d
    return Terms(((beta * k3 - advantage[:, None] * policy) * mask).sum(1), unit="response", k3=k3)


def local_engine() -> Any:
    from valign.engine.local import LocalEngine

    return LocalEngine(precision="full")


def objectives_by_unit() -> dict[str, Objective]:
    """One objective for each unit of the normalizer."""
    return {
        "token": Objective(nll, {}, "token"),
        "response": Objective(mean_nll, {}, "response"),
        "pair": Objective(preference, {"beta": 0.3}, "pair", float(np.log(2))),
    }


@pytest.fixture(scope="session")
def objectives() -> dict[str, Objective]:
    return objectives_by_unit()


def pair_items(n: int, seed: int = 0, model: Any = None) -> list[Item]:
    """Pairs of responses that end with the stop token; with a model, its log-probs stand beside them as
    reference.
    """
    rng = np.random.default_rng(seed)
    items = []
    for i in range(n):
        trunk = rng.integers(FIRST, VOCABULARY, rng.integers(3, 14)).tolist()
        branches = [[*rng.integers(FIRST, VOCABULARY, rng.integers(1, 12)).tolist(), STOP] for _ in range(2)]
        items.append(Item(from_paths(f"g{i}", trunk, branches), rows={"pairs": np.array([[0, 1]])}))
    if model is None:
        return items
    scored = Scorer(model).score([i.tree for i in items])
    return [i.with_tokens(reference=row) for i, row in zip(items, scored)]


@pytest.fixture(scope="session")
def pairs() -> Callable[..., list[Item]]:
    return pair_items


def toy_prompts(n: int, seed: int = 0) -> list[Any]:
    """Groups that hold a prompt only."""
    from valign.data.group import Group, user

    rng = np.random.default_rng(seed)
    texts = ["".join(chr(c) for c in rng.integers(32, 127, rng.integers(2, 9))) for _ in range(n)]
    return [Group(id=f"p{i}", prompt=user(text)) for i, text in enumerate(texts)]


@pytest.fixture(scope="session")
def prompts() -> Callable[..., list[Any]]:
    return toy_prompts


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bitwise comparisons want one thread; so do slow shared machines."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
