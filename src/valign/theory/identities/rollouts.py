"""I19, I21, I38, I39 and the rollout rows of I37:
policy gradients, their baselines, and the KL table, by enumeration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

from valign.theory import policy_gradient as pg
from valign.theory.coefficients import rollouts
from valign.theory.identities.composition import SEQUENCES, TREE
from valign.theory.identities.result import (
    ALGEBRA,
    AUTOGRAD,
    BETA,
    NUMERIC,
    OUTCOMES,
    IdentityResult,
    Setting,
    gradient,
    judged,
    settings,
    tensor,
)
from valign.theory.laws import Array, as_array, log_softmax, score_rows, softmax

Check = Callable[[Setting], Array]
NODES = tuple(s for s in TREE.prefixes if len(s) < 3)  # 13 inner prefixes, one softmax each
PLACE = np.array([[NODES.index(y[:t]) for t in range(3)] for y in SEQUENCES])  # (27, 3) prefix of each token
TOKEN = np.array(SEQUENCES)


def token_table(logits: Any) -> Any:
    """log π(y_t|y_<t) of all 27 sequences, (27, 3), from logits (13, 3); works on arrays and tensors."""
    steps = log_softmax(logits) if isinstance(logits, np.ndarray) else logits.log_softmax(-1)
    return steps[PLACE, TOKEN]


def tree_pull(law: Array, coefficients: Array, logits: Array) -> Array:
    """E_{y~law} Σ_t c_t(y) ∇log π(y_t|y_<t), (13, 3)."""
    out, p = np.zeros_like(logits), softmax(logits)
    for y, chance in enumerate(law):
        for t in range(3):
            node = PLACE[y, t]
            out[node] += chance * coefficients[y, t] * (np.eye(3)[TOKEN[y, t]] - p[node])
    return out


def _tree_setting(w: Setting) -> tuple[Array, Array, Array]:
    return (
        w.rng.normal(size=(len(NODES), 3)),
        w.rng.normal(size=(len(NODES), 3)),
        w.rng.normal(size=len(SEQUENCES)),
    )


def kl_table() -> Iterator[IdentityResult]:
    found: dict[str, list[Array]] = {}
    for w in settings():
        logits, ref_logits, _ = _tree_setting(w)
        log_p, log_q = token_table(logits), token_table(ref_logits)
        p, q = np.exp(log_p.sum(1)), np.exp(log_q.sum(1))
        ref = tensor(log_q)

        def held(term: Callable[[Any], Any], law: Array = p, z: Array = logits) -> Array:
            return gradient(lambda x: (tensor(law) * term(token_table(x))).sum(), z)

        def reverse(x: Any, ref: Any = ref) -> Any:
            lp = token_table(x).sum(1)
            return (lp.exp() * (lp - ref.sum(1))).sum()

        def forward(x: Any, law: Array = q) -> Any:
            return -(tensor(law) * token_table(x).sum(1)).sum()

        def per_token(forward_kl: bool, law: Array = p, z: Array = logits, rz: Array = ref_logits) -> Array:
            visits = np.zeros(len(NODES))
            np.add.at(visits, PLACE.ravel(), np.repeat(law, 3))

            def local(x: Any) -> Any:
                a, b = x.log_softmax(-1), tensor(log_softmax(rz))
                first, second = (b, a) if forward_kl else (a, b)
                return (tensor(visits) * (first.exp() * (first - second)).sum(1)).sum()

            return gradient(local, z)

        true, other = gradient(reverse, logits), gradient(forward, logits)
        start = tensor(log_p)

        def loss_of(row: str, ref: Any = ref, start: Any = start) -> Callable[[Any], Any]:
            def value(lp: Any) -> Any:
                d, ratio = ref - lp, (lp - start).sum(1).exp()
                total = d.sum(1)
                return {
                    "k1": -total,
                    "k2_seq": total**2 / 2,
                    "k2_token": (d**2 / 2).sum(1),
                    "k3_seq": total.exp() - 1 - total,
                    "k3_token": (d.exp() - 1 - d).sum(1),
                    "ratio_k1": ratio * -total,
                    "ratio_k3": ratio * (total.exp() - 1 - total),
                }[row]

            return value

        expected = {
            "k1": 0 * true,
            "k2_seq": true,
            "k2_token": per_token(False),
            "k3_seq": other,
            "k3_token": per_token(True),
            "ratio_k1": true,
            "ratio_k3": true,
        }
        for row, wanted in expected.items():
            found.setdefault(row, []).append(held(loss_of(row)) - wanted)
        for row in (*pg.KL_LOSS_ROWS, "in_reward"):
            pull = tree_pull(p, pg.kl_coefficients(row, log_p, log_q), logits)
            wanted = true if row == "in_reward" else expected[row]
            found.setdefault(row, []).append(pull + wanted)
    says = {
        "k1": "exactly 0",
        "k2_seq": "∇KL(π‖π_ref)",
        "k2_token": "Σ_t of reverse-KL gradients on fixed prefixes",
        "k3_seq": "∇KL(π_ref‖π), the forward KL",
        "k3_token": "Σ_t of forward-KL gradients on fixed prefixes",
        "ratio_k1": "∇KL(π‖π_ref), the response as one decision",
        "ratio_k3": "∇KL(π‖π_ref), the response as one decision",
        "in_reward": "∇KL(π‖π_ref) by return-to-go",
    }
    for row, statement in says.items():
        yield judged(f"I38.{row}", f"{row} in a loss, samples held fixed: {statement}", AUTOGRAD, found[row])


def group_baselines() -> Iterator[IdentityResult]:
    rloo, centred = [], []
    for w in settings():
        p, r = softmax(w.logits[:4]), w.reward[:4]
        rows, true = score_rows(p), (p * r) @ score_rows(p)
        for k in (2, 3):
            sums = np.zeros((2, 4))
            for draw in product(range(4), repeat=k):
                picks = list(draw)
                advantages = pg.rloo_advantage(r[picks]), pg.group_advantage(r[picks], "none")
                for i, a in enumerate(advantages):
                    sums[i] += np.prod(p[picks]) * (a @ rows[picks]) / k
            rloo.append(sums[0] - true)
            centred.append(sums[1] - (1 - 1 / k) * true)
    yield judged("I19a", "leave-one-out baseline is unbiased, all groups of 2 and 3", ALGEBRA, rloo)
    yield judged("I19b", "mean-centred rewards give (1 - 1/K) ∇J", ALGEBRA, centred)


def clipped_surrogate() -> Iterator[IdentityResult]:
    def residual(w: Setting) -> Array:
        old, a = tensor(w.policy), tensor(w.reward)

        def surrogate(z: Any) -> Any:
            ratio = z.softmax(-1) / old
            unclipped, clipped = ratio * a, ratio.clamp(0.8, 1.2) * a
            return (old * unclipped.minimum(clipped)).sum()

        return gradient(surrogate, w.logits) - (w.policy * w.reward) @ score_rows(w.policy)

    yield judged("I21", "PPO-clip gradient at θ_old = policy gradient", ALGEBRA, map(residual, settings()))


def advantage_goldens() -> Iterator[IdentityResult]:
    advantages, returns = pg.gae([0, 0, 0, 1], [0, 0, 0, 1], gamma=0.9, lam=0.95)
    yield judged(
        "I39a",
        "GAE: golden, λ = 1 without values = discounted return, λ = 0 = TD error",
        NUMERIC,
        [
            advantages - [0.6579225, 0.7695, 0.9, 0.0],
            returns - [0.6579225, 0.7695, 0.9, 1.0],
            pg.gae([0.1, -0.2, 1.0], [0, 0, 0], gamma=0.5, lam=1.0)[0] - [0.25, 0.3, 1.0],
            pg.gae([0.1, -0.2, 1.0], [0.4, 0.2, 0.6], gamma=0.5, lam=0.0)[0] - [-0.2, -0.1, 0.4],
        ],
    )
    r = np.array([1.0, 0.5, -0.5, 2.0])
    others = np.array([np.delete(r, i).mean() for i in range(4)])
    yield judged(
        "I39b",
        "RLOO = R_i - mean of the others = K/(K-1)(R_i - mean)",
        NUMERIC,
        [pg.rloo_advantage(r) - (r - others)],
    )
    white = np.array([-3, -1, 1, 3]) / 2
    yield judged(
        "I39c",
        "whitening of 1, 2, 3, 4: biased and unbiased",
        NUMERIC,
        [
            pg.whiten([1, 2, 3, 4]) - white / np.sqrt(1.25),
            pg.whiten([1, 2, 3, 4], std="unbiased") - white / np.sqrt(5 / 3),
        ],
    )
    yield judged(
        "I39d",
        "adaptive KL multipliers",
        NUMERIC,
        [
            pg.adaptive_kl(1.0, 8.0, 6.0, 64, 10000) - 1.00128,
            pg.adaptive_kl(1.0, 3.0, 6.0, 64, 10000) - 0.99872,
        ],
    )


class _Batch:
    """Three responses of random lengths, old and reference log-probs near the policy's so that some tokens
    clip.
    """

    def __init__(self, w: Setting) -> None:
        self.mask = (np.arange(5) < w.rng.integers(1, 6, size=3)[:, None]).astype(float)
        self.policy = log_softmax(w.rng.normal(size=(3, 5, 6)))[..., 0]
        self.old = self.policy + 0.3 * w.rng.normal(size=(3, 5))
        self.reference = self.policy + 0.3 * w.rng.normal(size=(3, 5))
        self.advantage, self.reward = w.rng.normal(size=3), w.rng.normal(size=3)
        self.values, self.segments = w.rng.normal(size=(3, 5)), w.rng.normal(size=(2, 3, 5))


def _surrogate(ratio: Any, a: Any, low: float, high: float, dual: float | None = None) -> Any:
    loss = -(ratio * a).minimum(ratio.clamp(1 - low, 1 + high) * a)
    return loss if dual is None else loss.where(a >= 0, loss.minimum(-dual * a))


def _tokens(loss: Callable[[Any, _Batch], Any], table: Callable[[_Batch], Array]) -> Check:
    """A token loss (3, 5), summed over response tokens, against the table."""

    def residual(w: Setting) -> Array:
        batch = _Batch(w)
        pull = gradient(lambda x: (loss(x, batch) * tensor(batch.mask)).sum(), batch.policy)
        return pull + table(batch)

    return residual


def _clip(
    advantage: Callable[[_Batch], Array], low: float = 0.2, high: float = 0.2, beta: float = 0.0
) -> Any:
    def loss(x: Any, b: _Batch) -> Any:
        a = np.broadcast_to(advantage(b), b.mask.shape)
        d = tensor(b.reference) - x
        return _surrogate((x - tensor(b.old)).exp(), tensor(a), low, high) + beta * (d.exp() - 1 - d)

    return loss


def _standard(r: Array) -> Array:
    return as_array(((r - r.mean(-1, keepdims=True)) / (r.std(-1, ddof=1, keepdims=True) + 1e-4))[..., None])


def _segment_advantage(b: _Batch) -> Array:
    reward = b.mask * (np.array([0.7, 0.3]) @ b.segments.reshape(2, -1)).reshape(3, 5) - b.mask * 0.1 * (
        b.old - b.reference
    )
    v = np.concatenate([b.mask * b.values, np.zeros((3, 1))], 1)
    delta = reward + 0.98 * v[:, 1:] - v[:, :-1]
    return np.stack([sum((0.98 * 0.95) ** (k - t) * delta[:, k] for k in range(t, 5)) for t in range(5)], 1)


def _sequence_loss(x: Any, b: _Batch) -> Any:
    m = tensor(b.mask)
    ratio = (((x - tensor(b.old)) * m).sum(1) / m.sum(1)).exp()
    each = _surrogate(ratio, tensor(b.advantage), 0.1, 0.15)
    return each[:, None] * m / m.sum(1, keepdim=True)


def _column(loss: Callable[[Any, Any], Any]) -> Callable[[Any, _Batch], Any]:
    return lambda x, b: loss((x - tensor(b.old)).exp(), tensor(b.advantage)[:, None] + 0 * x)


def _sapo(ratio: Any, a: Any) -> Any:
    tau = 1.05 - 0.05 * (a > 0).double()
    return -4 / tau * (tau * (ratio - 1)).sigmoid() * a


def _tree_reinforce(w: Setting) -> Array:
    logits, ref_logits, reward = _tree_setting(w)
    log_p, log_q = token_table(logits), token_table(ref_logits)

    def value(x: Any) -> Any:
        lp = token_table(x).sum(1)
        return (lp.exp() * (tensor(reward) - BETA * (lp - tensor(log_q.sum(1))))).sum()

    c = rollouts.reinforce(log_p, log_q, np.ones((27, 3)), reward, beta=BETA, baseline=0.4)
    return gradient(value, logits) - tree_pull(np.exp(log_p.sum(1)), c, logits)


def _objective(table: Callable[[Setting, Array], Array], reward: Callable[[Setting], Array]) -> Check:
    """∇(E_π r - β KL) of a table of outcomes against E_π c ∇log π."""

    def residual(w: Setting) -> Array:
        log_ref = tensor(np.log(w.reference))

        def value(z: Any) -> Any:
            lp = z.log_softmax(-1)
            return (lp.exp() * (tensor(reward(w)) - BETA * (lp - log_ref))).sum()

        p = w.policy
        return gradient(value, w.logits) - (p * table(w, np.log(p))) @ score_rows(p)

    return residual


def _rloo(w: Setting) -> Array:
    p, rows, total = w.policy, score_rows(w.policy), np.zeros(OUTCOMES)
    log_p, log_q = np.log(p), np.log(w.reference)
    for draw in product(range(OUTCOMES), repeat=2):
        picks = list(draw)
        c = rollouts.rloo(log_p[picks], log_q[picks], w.reward[picks], beta=BETA)
        total += np.prod(p[picks]) * (c @ rows[picks]) / 2
    exact = (p * (w.reward - BETA * (log_p - log_q))) @ rows
    return total - exact


def _win(w: Setting) -> Array:
    return 1 / (1 + np.exp(-w.reward))


def _ref(w: Setting) -> Array:
    return np.log(w.reference)


ROLLOUT_CHECKS: dict[str, list[Check]] = {
    "reinforce": [_tree_reinforce],
    "reinforce_sequence": [
        _objective(
            lambda w, lp: rollouts.reinforce_sequence(lp, _ref(w), w.reward, beta=BETA, baseline=0.3),
            lambda w: w.reward,
        )
    ],
    "remax": [
        _objective(
            lambda w, lp: rollouts.remax(lp, _ref(w), w.reward, w.reward[0], beta=BETA), lambda w: w.reward
        )
    ],
    "nash_md": [_objective(lambda w, lp: rollouts.nash_md(lp, _ref(w), _win(w), beta=BETA), _win)],
    "rloo": [_rloo],
    "ppo": [
        _tokens(
            _clip(lambda b: b.advantage[:, None]),
            lambda b: rollouts.ppo(b.policy, b.old, b.mask, b.advantage),
        ),
        _tokens(
            _column(lambda ratio, a: _surrogate(ratio, a, 0.2, 0.2, dual=1.25)),
            lambda b: rollouts.ppo(b.policy, b.old, b.mask, b.advantage, dual=1.25),
        ),
    ],
    "fine_grained": [
        _tokens(
            _clip(_segment_advantage),
            lambda b: rollouts.fine_grained(
                b.policy, b.old, b.reference, b.values, b.mask, b.segments, [0.7, 0.3], beta=0.1, gamma=0.98
            ),
        )
    ],
    "grpo": [
        _tokens(
            _clip(lambda b: _standard(b.reward), beta=0.3),
            lambda b: rollouts.grpo(b.policy, b.old, b.reference, b.mask, b.reward, beta=0.3),
        )
    ],
    "dapo": [
        _tokens(
            _clip(lambda b: _standard(b.reward), 0.2, 0.28),
            lambda b: rollouts.dapo(b.policy, b.old, b.mask, b.reward),
        )
    ],
    "dr_grpo": [
        _tokens(
            _clip(lambda b: (b.reward - b.reward.mean())[:, None]),
            lambda b: rollouts.dr_grpo(b.policy, b.old, b.mask, b.reward),
        )
    ],
    "gdpo": [
        _tokens(
            _clip(lambda b: _standard(b.reward) + _standard(3 * b.advantage), beta=0.3),
            lambda b: rollouts.gdpo(
                b.policy, b.old, b.reference, b.mask, np.stack([b.reward, 3 * b.advantage]), beta=0.3
            ),
        )
    ],
    "gspo": [
        _tokens(
            _sequence_loss,
            lambda b: rollouts.gspo(b.policy, b.old, b.mask, b.advantage, eps_low=0.1, eps_high=0.15),
        )
    ],
    "luspo": [
        _tokens(
            lambda x, b: _sequence_loss(x, b) * tensor(b.mask.sum(1, keepdims=True)),
            lambda b: rollouts.luspo(b.policy, b.old, b.mask, b.advantage, eps_low=0.1, eps_high=0.15),
        )
    ],
    "cispo": [
        _tokens(
            lambda x, b: (
                -(x - tensor(b.old)).exp().clamp(max=1.2).detach() * tensor(b.advantage)[:, None] * x
            ),
            lambda b: rollouts.cispo(b.policy, b.old, b.mask, b.advantage, ratio_max=1.2),
        )
    ],
    "sapo": [_tokens(_column(_sapo), lambda b: rollouts.sapo(b.policy, b.old, b.mask, b.advantage))],
}

IDENTITIES = (group_baselines, clipped_surrogate, kl_table, advantage_goldens)
