"""The scalar head: a causal language model that gives one number per response in place of a next token.

Always true here: the head of the vocabulary is gone, so nothing of its size is trained, kept or saved; the new head is
one row of weights without a bias (a constant changes no comparison), called `score` as transformers calls it, so that a
saved model is a sequence classifier of one label to other tools. What the number means is its trainer's matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.errors import ModelError

SCORE = "score"
Floats = NDArray[np.float64]


def first_head(width: int, seed: int) -> Floats:
    """(width,) the weights that a scalar head begins with: N(0, 1 / (width + 1)), the same for the same seed
    (2009.01325, appendix).
    """
    return np.random.default_rng([seed, width]).normal(0.0, (width + 1) ** -0.5, width)


def attach_head(network: Any, weights: Floats) -> None:
    """Give a causal LM a scalar head in place of its vocabulary head: it generates no more.

    weights  (width,) of the head; they follow the dtype and device of the network and can be trained
    Attach an adapter before: one that takes every linear layer would wrap this head too.
    """
    import torch

    like = network.get_input_embeddings().weight
    width = int(network.config.get_text_config().hidden_size)
    if np.shape(weights) != (width,):
        raise ModelError(f"a head for states of width {width} has {width} weights, not {np.shape(weights)}",
                         where=type(network).__name__)  # fmt: skip
    head = torch.nn.Linear(width, 1, bias=False, device=like.device, dtype=like.dtype)
    with torch.no_grad():
        head.weight.copy_(torch.as_tensor(np.asarray(weights))[None])
    network.set_output_embeddings(torch.nn.Identity())
    setattr(network, SCORE, head)


def scalar_head(network: Any) -> Any:
    """The scalar head of a network. Raises `ModelError` where it has none."""
    head = getattr(network, SCORE, None)
    if head is None:
        raise ModelError("the model has no scalar head", where=type(network).__name__,
                         how="attach one: attach_head(network, weights)")  # fmt: skip
    return head
