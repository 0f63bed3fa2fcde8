"""The law that samples is the law that scores.

Order: logits / temperature -> softmax -> truncation (top-k, then top-p with the crossing token, then min-p) ->
renormalize. Randomness is addressed: the uniform for (seed, prompt key, sample, token) does not depend on neighbours.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from valign.models.policy import Sampling

_BLOCK = 256  # tokens that are summed before sums are cumulated


def sampling_law(logits: Tensor, sampling: Sampling) -> Tensor:
    """(rows, V) log-probs that tokens are drawn from; -inf outside the truncated support. Greedy: 0 at the maximum.

    logits  (rows, V), float32 or float64; a logit of -inf is never drawn
    """
    if sampling.temperature == 0:
        law = torch.full_like(logits, float("-inf"))
        return law.scatter_(1, logits.argmax(-1, keepdim=True), 0.0)
    law = torch.log_softmax(logits / sampling.temperature, -1)
    if sampling.top_k and sampling.top_k < law.shape[1]:
        kth = law.topk(sampling.top_k, -1).values[:, -1:]
        law = law.masked_fill(law < kth, float("-inf")).log_softmax(-1)
    if sampling.top_p < 1:
        ordered, index = law.sort(dim=-1, descending=True, stable=True)
        probs = ordered.exp()
        # a token stays while the mass before it is below top_p: the crossing token is kept
        drop = probs.cumsum(-1) - probs >= sampling.top_p
        law = law.masked_fill(torch.zeros_like(drop).scatter_(1, index, drop), float("-inf")).log_softmax(-1)
    if sampling.min_p > 0:
        least = law.max(-1, keepdim=True).values + float(np.log(sampling.min_p))
        law = law.masked_fill(law < least, float("-inf")).log_softmax(-1)
    return law


def draw(law: Tensor, uniform: Tensor) -> Tensor:
    """(rows,) token ids by the inverse of the cumulated law. uniform: (rows,) in [0, 1).

    First the block of the vocabulary, then the token within it: sums of blocks are cumulated in float64, and so is the
    one block that is entered, but never the whole vocabulary.
    """
    width = min(_BLOCK, law.shape[1])
    weights = law.exp()
    if rest := -law.shape[1] % width:
        weights = torch.nn.functional.pad(weights, (0, rest))
    weights = weights.unflatten(1, (-1, width))
    cumulated = weights.sum(-1).double().cumsum(-1)
    point = uniform.double()[:, None] * cumulated[:, -1:]
    block = torch.searchsorted(cumulated, point, right=True).clamp_(max=weights.shape[1] - 1)
    # where the point stands in its block, as a share of it
    end = cumulated.gather(1, block)
    begin = torch.where(block > 0, cumulated.gather(1, (block - 1).clamp(min=0)), 0.0)
    share = ((point - begin) / (end - begin)).clamp_(0.0, 1.0 - 2.0**-53)
    inside = weights.gather(1, block[:, :, None].expand(-1, -1, width)).squeeze(1).double().cumsum(-1)
    # scaling by the last value keeps rounding of the sums from ever leaving the support
    within = torch.searchsorted(inside, share * inside[:, -1:], right=True)
    return (block * width + within).squeeze(1).clamp_(max=law.shape[1] - 1)


def uniforms(seed: int, key: str, sample: int, n: int) -> NDArray[np.float64]:
    """The n uniforms of one sample: token t uses the t-th, whoever its neighbours are (Philox, counter-based)."""
    address = hashlib.sha256(f"{seed}|{key}|{sample}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(address[:16], "little"))).random(n)
