"""Tiny random language models of every kind valign is proven on, for tests, documents and oracle worlds.

Always true here: a model is decided by (kind, seed, vocab); its numbers are large enough that a wrong mask
or position changes log-probs by far more than rounding; its tokenizer has one token per character and never
merges. It is a `LoadedModel` like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from valign.errors import unknown
from valign.models.loaded import LoadedModel

if TYPE_CHECKING:
    import torch

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
SPECIAL = ("<unk>", "<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WINDOW = 8  # tokens a local layer sees: short, so that ordinary test paths are longer
POSITIONS = 512
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "max_position_embeddings": POSITIONS}
ALTERNATING = {
    **GROUPED,
    "num_hidden_layers": 4,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # kind -> (model type of transformers, settings)
    "llama": ("llama", {**GROUPED, "tie_word_embeddings": False}),
    "llama_tied": ("llama", {**GROUPED, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {**GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 16, "tie_word_embeddings": True}),
    "gemma3": ("gemma3_text", ALTERNATING),
    "gemma2": ("gemma2", ALTERNATING),
    "mistral": ("mistral", {**GROUPED, "sliding_window": WINDOW}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}),
    "gpt_neox": ("gpt_neox", {**SHAPE, "max_position_embeddings": POSITIONS}),
    "phi3": ("phi3", GROUPED),
    "olmo2": ("olmo2", GROUPED),
    "mixtral": ("mixtral", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "time_step_rank": 4}),
}
EAGER_ONLY = ("gemma2",)  # soft-capped attention scores, which SDPA cannot do
SPREAD = 0.15  # standard deviation added to every parameter: large beside rounding, small beside saturation
EXACT_ATTENTION = "valign_exact"


def tiny_model(
    kind: str = "llama",
    *,
    seed: int = 0,
    dtype: torch.dtype | str = "float32",
    vocab: str = CHARACTERS,
    rows: int | None = None,
    tokenizer: Any = None,
) -> LoadedModel:
    """A random model of 2 to 4 layers, width 32, in evaluation mode on the CPU.

    kind    one of `KINDS`
    dtype   a dtype of torch or its name
    vocab   its characters, one token each (ids from `len(SPECIAL)` on); other characters become <unk>
    rows    rows of the embedding when there should be more than tokens, as published models have
    tokenizer   another tokenizer than that of `vocab`, e.g. one of `merging`
    Raises `UsageError` for an unknown kind.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from valign.models.loading import assemble

    if kind not in KINDS:
        raise unknown("tiny model", kind, KINDS)
    model_type, settings = KINDS[kind]
    tokenizer = tiny_tokenizer(vocab) if tokenizer is None else tokenizer
    config = AutoConfig.for_model(
        model_type,
        vocab_size=rows or len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        **settings,
    )
    exact = {"attn_implementation": "eager" if kind in EAGER_ONLY else "sdpa"} if kind != "mamba" else {}
    if kind == "mixtral":
        exact["experts_implementation"] = "eager"  # the grouped product knows no float64
    number_format = getattr(torch, str(dtype).removeprefix("torch."))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loader: Any = AutoModelForCausalLM
        model = loader.from_config(config, **exact)
        with torch.no_grad():
            for parameter in model.parameters():  # constant biases and norms would hide a bug in them
                parameter.add_(SPREAD * torch.randn_like(parameter))
    return assemble(f"tiny-{kind}-{seed}", model.to(number_format), tokenizer)


def tiny_tokenizer(vocab: str = CHARACTERS) -> Any:
    """One token per character; pad = end of turn, as often; the start token is added to text."""
    import transformers
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    tokens = (*SPECIAL, *dict.fromkeys(vocab))
    backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(SPECIAL))
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    wrapper: Any = transformers.PreTrainedTokenizerFast
    tokenizer = wrapper(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="<|end|>", pad_token="<|end|>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@contextmanager
def float64_norms(model: Any) -> Iterator[None]:
    """Inside, norms (and eager attention) of a model compute in the format of their inputs, float64 in tests.

    transformers computes RMSNorm and the softmax of its eager attention in float32 whatever the weights
    are. Then a float64 comparison stops at 1e-8 and a mask bug can hide (engine notes section 16). model:
    a `LoadedModel` or a module of transformers.
    """
    network: Any = model.model if isinstance(model, LoadedModel) else model
    norms = [m for m in network.modules() if type(m).__name__.endswith("RMSNorm")]
    attention = getattr(network.config, "_attn_implementation", None)
    for norm in norms:
        norm.forward = _exact_norm(norm)
    if attention == "eager":
        network.set_attn_implementation(_register_exact_attention())
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward  # the class's own shows again
        if attention == "eager":
            network.set_attn_implementation("eager")


def _exact_norm(norm: Any) -> Any:
    """x / sqrt(mean(x²) + ε) · w, in the format of x; Gemma keeps w - 1."""
    epsilon = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    offset = 1.0 if type(norm).__name__.startswith("Gemma") else 0.0

    def forward(x: torch.Tensor) -> torch.Tensor:
        scaled = x * (x.pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()
        out: torch.Tensor = scaled * (norm.weight + offset)
        return out

    return forward


def _register_exact_attention() -> str:
    """Make `_exact_attention` known to transformers, with the mask that its eager attention gets; return
    its name.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(EXACT_ATTENTION, _exact_attention)
    AttentionMaskInterface.register(EXACT_ATTENTION, eager_mask)
    return EXACT_ATTENTION


def _exact_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The eager attention of transformers with its softmax in the format of the queries.

    query (rows, heads, tokens, width), key and value (rows, key heads, tokens, width); returns (rows,
    tokens, heads, width) and the weights.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights
