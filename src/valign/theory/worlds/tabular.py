"""The tabular world: 4 prompts, 8 responses, every number a formula.
A response is one token, with a length when one is needed.
"""

from __future__ import annotations

import numpy as np

from valign.theory.laws import Array, as_array, log_softmax
from valign.theory.worlds.world import World

PROMPTS, RESPONSES = 4, 8
RARE = 7  # the rare response: bad, unsafe, and loved by the proxy


class TabularWorld(World):
    """x = 0..3, k = 0..7 (theory notes, section 15.1);
    `round` rotates the utility by 15° per round (`drift`).

    reference logits sin(2.3x + 1.7k + 1), -3.5 at k = 7;  U = 1.5 cos(1.1x + 2.9k + .5), -1.5 at k = 7;
    proxy U + .4 sin(5.1x + 3.7k), max U + 1.5 at k = 7;  cost 1 if (k-x) mod 4 = 0 or k = 7;  length 2 +
    (3k mod 5); values v_j = cos(1.1x + 2.9k + .5 + jπ/2), j = 0..3, so that U = 1.5 v_0 below k = 7.
    """

    def __init__(self) -> None:
        x, k = np.meshgrid(np.arange(PROMPTS), np.arange(RESPONSES), indexing="ij")
        logits = np.sin(2.3 * x + 1.7 * k + 1)
        logits[:, RARE] = -3.5
        utility = phase_utility(0.0)
        proxy = utility + 0.4 * np.sin(5.1 * x + 3.7 * k)
        proxy[:, RARE] = utility[:, :RARE].max(1) + 1.5
        cost = (((k - x) % 4 == 0) | (k == RARE)).astype(np.float64)
        angles = (1.1 * x + 2.9 * k + 0.5)[..., None] + np.arange(4) * np.pi / 2
        super().__init__(
            prompts=tuple(range(PROMPTS)),
            response_list=tuple((i,) for i in range(RESPONSES)),
            log_reference=log_softmax(logits),
            utilities=utility,
            value_vectors=np.cos(angles),
            costs=cost,
            proxies=proxy,
            lengths=2 + (3 * np.arange(RESPONSES)) % 5,
            rules={"harmless": cost > 0, "no_exploit": k == RARE},
        )

    def drifted(self, round_: int) -> Array:
        """U of round k, rotated by 15° per round, (4, 8)."""
        return phase_utility(np.deg2rad(15.0) * round_)

    def bad_tokens(self, threshold: float = 0.5) -> Array:
        """(4, 8, 1): the single token is bad if the best response is at least `threshold` better."""
        gain = self.utilities.max(1, keepdims=True) - self.utilities
        return as_array((gain >= threshold).astype(np.float64)[..., None])

    def best_edit(self, x: int, y: int, within: int = 2) -> int:
        """One token: any response is one edit away."""
        return int(np.argmax(self.utilities[x])) if within >= 1 else y


def phase_utility(phase: float) -> Array:
    """1.5 cos(1.1x + 2.9k + .5 + phase), -1.5 at k = 7, (4, 8): U_H at phase 0, other people elsewhere."""
    x, k = np.meshgrid(np.arange(PROMPTS), np.arange(RESPONSES), indexing="ij")
    utility = 1.5 * np.cos(1.1 * x + 2.9 * k + 0.5 + phase)
    utility[:, RARE] = -1.5
    return utility
