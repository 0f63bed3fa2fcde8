"""What the engine's tests share: tiny random models in float64, the naive oracle, random trees and a toy policy.

The oracle is the definition of a score: one response at a time, no cache, no padding, no sharing. It is never
optimized.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator, Sequence
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

VOCABULARY, STOP = 97, 3
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # wide enough that a wrong mask moves a log-prob by far more than any tolerance
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": STOP,
}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128,
         "initializer_range": 0.3, "eos_token_id": STOP}  # fmt: skip
_ALTERNATING = ["sliding_attention", "full_attention"] * 2
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "gemma3": ("gemma3_text", {"head_dim": 8, "sliding_window": 8, "num_hidden_layers": 4, "layer_types": _ALTERNATING,
                               "final_logit_softcapping": 5.0}),  # fmt: skip
    "mistral": ("mistral", {"sliding_window": 8}),
    "gpt2": ("gpt2", _GPT2),
    "neox": ("gpt_neox", {"rotary_pct": 0.5}),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `kind` runs once for every tiny model."""
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", TINY)


# ------------------------------------------------------------------------------------------------------- models


def build(kind: str, attention: str = "sdpa", **changes: Any) -> Any:
    """A tiny random model in float64 with float64 norms, in eval mode. The same call gives the same weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family, more = TINY.get(kind, (kind, {}))
    sizes = {} if more is _GPT2 else _SIZES
    config = AutoConfig.for_model(family, **{**sizes, **more, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).double().eval()
        for name, p in model.named_parameters():  # norms start at 1 and biases at 0: there a slip would not show
            if p.ndim == 1:
                p.data += 0.3 * torch.randn_like(p)
            assert p.dtype == torch.float64, name
    return float64_norms(model)


def float64_norms(model: Any) -> Any:
    """RMSNorm of transformers computes in float32 whatever the weights are; a mask bug could hide behind that."""
    for m in model.modules():
        if type(m).__name__.endswith("RMSNorm"):
            m.forward = types.MethodType(_norm, m)  # a bound method survives deepcopy
    return model


def _norm(self: Any, x: Tensor) -> Tensor:
    eps = getattr(self, "variance_epsilon", None) or self.eps
    weight = self.weight + 1 if type(self).__name__.startswith("Gemma") else self.weight
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """`tiny(kind)` is a shared model, not to be changed; `tiny(kind, fresh=True)` is a copy of its own."""
    shared = cache(build)

    def of(kind: str = "llama", *, fresh: bool = False, **changes: Any) -> Any:
        model = shared(kind, **changes)
        model.zero_grad(set_to_none=True)
        return copy.deepcopy(model) if fresh else model

    return of


# ------------------------------------------------------------------------------------------------------- oracle


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
    """The largest absolute difference over two nested lists of arrays; infinite where shapes differ or a NaN stands."""
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


# -------------------------------------------------------------------------------------------------------- trees


def random_paths(n: int, seed: int = 0, longest: int = 60) -> list[Tree]:
    """Prompts with 1 to 4 responses, paths of up to 60 tokens; some responses share a prefix, repeat or are empty."""
    rng = np.random.default_rng(seed)
    trees = []
    for i in range(n):
        trunk = rng.integers(4, VOCABULARY, rng.integers(3, longest // 2 + 6)).tolist()
        branches = [rng.integers(4, VOCABULARY, rng.integers(1, longest // 2 - 5)).tolist() for _ in range(rng.integers(1, 5))]
        if i % 3 == 1:
            branches += [branches[0][: len(branches[0]) // 2] + [5, 6], list(branches[0])]
        if i % 4 == 3:
            branches.append([])
        trees.append(from_paths(f"g{i}", trunk, branches))
    return trees


def random_tree(rng: np.random.Generator, id: str = "random", roots: int = 1) -> Tree:
    """Depth up to 4, fan-out up to 5, empty segments, leaves inside segments, duplicate leaves, fractional weights."""
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


# --------------------------------------------------------------------------------- objectives, items, a toy policy


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


@pytest.fixture(scope="session")
def objectives() -> dict[str, Objective]:
    """One objective for each unit of the normalizer."""
    return {
        "token": Objective(nll, {}, "token"),
        "response": Objective(mean_nll, {}, "response"),
        "pair": Objective(preference, {"beta": 0.3}, "pair", float(np.log(2))),
    }


def pair_items(n: int, seed: int = 0, model: Any = None) -> list[Item]:
    """Pairs of responses that end with the stop token; with a model, its log-probs stand beside them as reference."""
    rng = np.random.default_rng(seed)
    items = []
    for i in range(n):
        trunk = rng.integers(4, VOCABULARY, rng.integers(3, 14)).tolist()
        branches = [[*rng.integers(4, VOCABULARY, rng.integers(1, 12)).tolist(), STOP] for _ in range(2)]
        items.append(Item(from_paths(f"g{i}", trunk, branches), rows={"pairs": np.array([[0, 1]])}))
    if model is None:
        return items
    scored = Scorer(model).score([i.tree for i in items])
    return [i.with_tokens(reference=row) for i, row in zip(items, scored)]


@pytest.fixture(scope="session")
def pairs() -> Callable[..., list[Item]]:
    return pair_items


class ToyTemplate:
    """Texts of one sign per token: enough of a `ChatTemplate` for the engine."""

    stop_id, stop_ids, sha256 = STOP, (STOP,), "toy"

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(0x4E00 + i) for i in ids if i >= 4)

    def prompt_ids_many(self, prompts: Sequence[Any]) -> list[list[int]]:
        return [[1, *(ord(c) - 0x4E00 for m in p for c in m.content)] for p in prompts]

    def encode_many(self, pairs: Sequence[tuple[Any, Any]]) -> list[Any]:
        from valign.models.chat import Encoded

        out = []
        for prompt, response in pairs:
            head = self.prompt_ids_many([prompt])[0]
            stop = [] if response.finish == "length" else [STOP]
            body = list(response.ids) if response.ids is not None else [ord(c) - 0x4E00 for c in response.text] + stop
            out.append(Encoded(head + body, len(head), merged=False, stopped=body[-1:] == [STOP]))
        return out


def toy_policy(model: Any) -> Any:
    """A `LoadedModel` around a tiny model."""
    from valign.models.loaded import LoadedModel

    p = next(model.parameters())
    return LoadedModel("toy", model, None, ToyTemplate(), "toy", p.dtype, p.device)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def policy_of() -> Callable[[Any], Any]:
    return toy_policy


def toy_prompts(n: int, seed: int = 0) -> list[Any]:
    """Groups that hold a prompt only."""
    from valign.data.group import Group, user

    rng = np.random.default_rng(seed)
    text = ToyTemplate().decode
    return [Group(id=f"p{i}", prompt=user(text(rng.integers(4, VOCABULARY, rng.integers(2, 9)).tolist()))) for i in range(n)]


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
