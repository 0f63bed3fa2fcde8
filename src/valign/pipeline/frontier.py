"""The reference curves of the reward-KL plane: how much reward a distance from the base can buy at most.

`gibbs_curve` is exact where a world can be enumerated; `best_of_n_curve` is what picking the best of the
base's own responses gives, where several were drawn and scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.best_of_n import best_of_n_kl_bound, estimate_best_of_n
from valign.theory.divergence import kl
from valign.theory.target import gibbs

BETAS = tuple(float(b) for b in np.geomspace(20.0, 0.02, 40))  # from next to the reference to nearly greedy


def gibbs_curve(
    reference: ArrayLike, reward: ArrayLike, *, weights: ArrayLike | None = None, betas: Sequence[float] = BETAS
) -> dict[str, Any]:
    """{"label", "points": [[KL in nats, mean reward]]} of π_β ∝ π_ref e^{r/β}: no policy of this KL has more reward.

    reference, reward  (prompts, responses); weights (prompts,) sum to 1, default equal
    """
    p, r = np.atleast_2d(np.asarray(reference, float)), np.atleast_2d(np.asarray(reward, float))
    w = np.full(len(p), 1 / len(p)) if weights is None else np.asarray(weights, float)
    points = [[0.0, float(w @ (p * r).sum(-1))]]
    for beta in betas:
        law = np.asarray(gibbs(p, r, beta))
        points.append([float(w @ kl(law, p)), float(w @ (law * r).sum(-1))])
    return {"label": "the optimum at each distance, enumerated (Gibbs policies)", "points": points}


def best_of_n_curve(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The same for best of n, from the base's scored samples; None with fewer than two scored responses a prompt.

    Reward is the unbiased mean of the best of n among the N drawn; KL its bound log n - (n-1)/n, so the curve lies to
    the right of the true one. It ends at the fewest responses that a prompt has.
    """
    scores = [[r["score"] for r in s.get("responses") or () if r.get("score") is not None] for s in samples]
    scores = [row for row in scores if row]
    most = min((len(row) for row in scores), default=0)
    if most < 2:
        return None
    points = [
        [float(best_of_n_kl_bound(n)), float(np.mean([estimate_best_of_n(row, n) for row in scores]))]
        for n in range(1, most + 1)
    ]
    return {"label": f"best of n of the base's own responses, n = 1 to {most}", "points": points}
