"""What a frozen model holds of a response: its hidden states, averaged over the response's tokens.

Always true here: a response is read after its prompt, under the model's own chat template; its stop token is
left out of the average; how responses are batched changes nothing but rounding. Heads on these features live
in `linear_head`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group
from valign.errors import require

if TYPE_CHECKING:
    from valign.models.loaded import LoadedModel

Floats = NDArray[np.float32]
TOKEN_BUDGET = 2048  # tokens of a batch, padding included: every layer's states of a batch lie in memory
Path = tuple[list[int], int, int]  # ids, first and one past the last position that counts


def layers_of(model: LoadedModel) -> int:
    """Number of hidden states: one per block, and the embeddings."""
    return int(model.model.config.get_text_config().num_hidden_layers) + 1


def mean_states(
    model: LoadedModel, groups: Sequence[Group], layers: Sequence[int], *, token_budget: int = TOKEN_BUDGET
) -> list[Floats]:
    """(n_responses, len(layers), width) float32 per group: each layer's states, averaged over a response's
    tokens.

    layers   0 = embeddings, k = output of block k. NaN for a response without tokens.
    A path longer than the model's positions loses the start of its prompt, then the end of its response.
    """
    n = layers_of(model)
    require(all(0 <= k < n for k in layers) and bool(layers), "layers", list(layers), f"layers from 0 to {n - 1}")
    pairs = [(g.prompt, r) for g in groups for r in g.responses]
    paths = [_path(model, encoded) for encoded in model.template.encode_many(pairs)] if pairs else []
    width = int(model.model.config.get_text_config().hidden_size)
    out = np.full((len(paths), len(layers), width), np.nan, dtype=np.float32)
    readable = [i for i, (_, start, end) in enumerate(paths) if end > start]
    for batch in _batches(readable, paths, token_budget):
        out[batch] = _forward(model, [paths[i] for i in batch], layers)
    ends = np.cumsum([len(g.responses) for g in groups])
    return list(np.split(out, ends[:-1]))[: len(groups)]


def _path(model: LoadedModel, encoded: Any) -> Path:
    """Ids to read, and where the response lies in them, its stop token left out."""
    ids, start = list(encoded.ids), encoded.n_prompt
    if encoded.stopped:
        ids = ids[:-1]
    if limit := model.max_positions:
        cut = min(max(len(ids) - limit, 0), max(start - 1, 0))
        ids, start = ids[cut:][:limit], start - cut
    return ids, start, len(ids)


def _batches(chosen: Sequence[int], paths: Sequence[Path], budget: int) -> Iterator[list[int]]:
    """Paths of like length together, so that little is padded; at least one path each."""
    ranked = sorted(chosen, key=lambda i: -len(paths[i][0]))
    while ranked:
        n = max(1, budget // len(paths[ranked[0]][0]))
        yield ranked[:n]
        ranked = ranked[n:]


def _forward(model: LoadedModel, paths: Sequence[Path], layers: Sequence[int]) -> Floats:
    """(paths, layers, width): one padded forward of the model's body."""
    import torch

    longest = max(len(ids) for ids, _, _ in paths)
    tokens = torch.zeros(len(paths), longest, dtype=torch.long)
    real, counted = torch.zeros_like(tokens), torch.zeros(len(paths), longest)
    for i, (ids, start, end) in enumerate(paths):
        tokens[i, : len(ids)] = torch.tensor(ids)
        real[i, : len(ids)] = 1
        counted[i, start:end] = 1.0 / (end - start)
    device = model.device
    with torch.inference_mode():  # right padding: no real token sees a padded one
        states = model.model.base_model(
            input_ids=tokens.to(device),
            attention_mask=real.to(device),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        weights = counted.to(device)
        means = [torch.einsum("pt,ptd->pd", weights, states[k].float()) for k in layers]
    return np.stack([m.cpu().numpy() for m in means], axis=1)
