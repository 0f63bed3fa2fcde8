"""I17, I18, I31 to I35, I37: every row of the coefficient table against automatic differentiation in float64.

Tokens carry their own log-probabilities, drawn from random tables; the gradient of a loss with respect to
each of them must be -c_t on response tokens and 0 elsewhere. Rows whose samples come from the policy are
checked as expectations by enumeration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from valign.theory.coefficients import COEFFICIENTS, FEEDBACK, Pairs, lists, responses
from valign.theory.identities import losses
from valign.theory.identities.result import (
    ALGEBRA,
    AUTOGRAD,
    BETA,
    OUTCOMES,
    IdentityResult,
    Setting,
    gradient,
    judged,
    settings,
    tensor,
)
from valign.theory.identities.rollouts import ROLLOUT_CHECKS
from valign.theory.laws import Array, as_array, log_softmax, score_rows

Check = Callable[[Setting], Array]
WIDTH = 5  # longest response of the random batches, in tokens


def token_log_probs(rng: np.random.Generator, *shape: int) -> Array:
    """log-probs of random tokens under random tables of six tokens, (shape)."""
    return log_softmax(rng.normal(size=(*shape, 6)))[..., 0]


def pair_residual(name: str, w: Setting) -> Array:
    """Autograd minus table for one pair loss on three pairs of random lengths; (3, 2, WIDTH)."""
    lengths = w.rng.integers(1, WIDTH + 1, size=(3, 2))
    mask = (np.arange(WIDTH) < lengths[..., None]).astype(float)
    policy, reference = token_log_probs(w.rng, 3, 2, WIDTH), token_log_probs(w.rng, 3, 2, WIDTH)
    options = losses.settings_of(name)
    given = SimpleNamespace(**{k: tensor(v) if isinstance(v, list) else v for k, v in options.items()})

    def loss(tokens: Any) -> Any:
        total, ref, n = (tokens * tensor(mask)).sum(-1), tensor((reference * mask).sum(-1)), tensor(lengths)
        x = SimpleNamespace(w=total[:, 0], l=total[:, 1], rw=ref[:, 0], rl=ref[:, 1], nw=n[:, 0], nl=n[:, 1])
        x.a, x.b = x.w - x.rw, x.l - x.rl
        x.h = x.a - x.b
        return losses.PAIR_LOSSES[name](x, given).sum()

    summed, ref = (policy * mask).sum(-1), (reference * mask).sum(-1)
    batch = Pairs(*summed.T, *ref.T, *lengths.T)
    chosen, rejected = COEFFICIENTS[name](batch, **options)
    return as_array(gradient(loss, policy) + np.stack([chosen, rejected], 1)[..., None] * mask)


def token_pair_residual(name: str, w: Setting) -> Array:
    """The same for losses that weigh tokens: one pair of 3 and 5 tokens, as one row of 8."""
    policy, reference = token_log_probs(w.rng, 8), token_log_probs(w.rng, 8)
    sums, marks = w.rng.uniform(0.3, 1.0, size=8), (w.rng.random(8) < 0.4).astype(float)
    options = losses.settings_of(name)
    data = SimpleNamespace(
        rw=tensor(reference[:3]),
        rl=tensor(reference[3:]),
        p2w=tensor(sums[:3]),
        p2l=tensor(sums[3:]),
        cw=tensor(marks[:3]),
        cl=tensor(marks[3:]),
    )

    def loss(t: Any) -> Any:
        return losses.token_pair_loss(name, t[:3], t[3:], data, SimpleNamespace(**options))

    arguments = [policy[:3], policy[3:]]
    if name != "cpl":
        arguments += [reference[:3], reference[3:]]
    if name == "wpo":
        arguments += [sums[:3], sums[3:]]
    if name.startswith("dense_dpo"):
        arguments += [marks[:3], marks[3:]]
    return as_array(gradient(loss, policy) + np.concatenate(COEFFICIENTS[name](*arguments, **options)))


def list_residual(name: str, w: Setting) -> Array:
    """Ranked and rated lists of four responses of random lengths, best first where the method wants it."""
    lengths = w.rng.integers(1, WIDTH + 1, size=4)
    mask = (np.arange(WIDTH) < lengths[:, None]).astype(float)
    policy, rewards = token_log_probs(w.rng, 4, WIDTH), np.sort(w.rng.uniform(0, 7, size=4))[::-1].copy()
    summed = (policy * mask).sum(-1)
    if name == "d2o":
        ratios = w.rng.normal(size=5)
        own, negative = lists.d2o(ratios[:4], float(ratios[4]), beta=0.4, alpha=0.3)

        def d2o_loss(r: Any) -> Any:
            return -(0.4 * r[:4].mean() - 0.3 * r[4]).sigmoid().log()

        return as_array(gradient(d2o_loss, ratios) + np.append(own, negative))
    if name == "rrhf":
        rewards = w.rng.permutation(rewards)

    def loss(tokens: Any) -> Any:
        total = (tokens * tensor(mask)).sum(-1)
        mean = total / tensor(lengths)
        if name == "rrhf":
            return losses.rrhf(mean, rewards, total[int(np.argmax(rewards))])
        if name == "pro":
            return losses.pro(mean, rewards) - 0.2 * total[0]
        if name == "plackett_luce":
            return losses.pro(mean, rewards, dynamic=False)
        return losses.stable_alignment(mean, rewards, 0.5, 1.0, 7.0, largest=name.endswith("max"))

    table: dict[str, Callable[[], Array]] = {
        "rrhf": lambda: lists.rrhf(summed, lengths, rewards),
        "pro": lambda: lists.pro(summed, lengths, rewards, sft_weight=0.2),
        "plackett_luce": lambda: lists.plackett_luce(summed, lengths),
        "stable_alignment": lambda: lists.stable_alignment(summed, lengths, rewards),
        "stable_alignment_max": lambda: lists.stable_alignment_max(summed, lengths, rewards),
    }
    return as_array(gradient(loss, policy) + table[name]()[:, None] * mask)


def _single(loss: Callable[[Any, Setting], Any], table: Callable[[Array, Setting], Array]) -> Check:
    """A loss of OUTCOMES single log-probs, each drawn from its own table."""

    def residual(w: Setting) -> Array:
        log_prob = token_log_probs(w.rng, OUTCOMES)
        return gradient(lambda t: loss(t, w).sum(), log_prob) + table(log_prob, w)

    return residual


def _expected(
    loss: Callable[[Any, Setting], Any], law: Callable[[Setting], Array], table: Callable[[Setting], Array]
) -> Check:
    """A population loss of logits against E_{y~law} c(y) ∇log π(y)."""

    def residual(w: Setting) -> Array:
        return gradient(lambda z: loss(z.log_softmax(-1), w), w.logits) + (law(w) * table(w)) @ score_rows(
            w.policy
        )

    return residual


def _log_ref(w: Setting) -> Array:
    return np.log(w.reference)


def _good(w: Setting) -> Array:
    return (w.reward > 0).astype(float)


def _kto_loss(t: Any, w: Setting) -> Any:
    h, good = t - tensor(_log_ref(w)), tensor(_good(w))
    return good * 1.2 * (1 - (0.4 * (h - 0.5)).sigmoid()) + (1 - good) * 0.9 * (
        1 - (0.4 * (0.5 - h)).sigmoid()
    )


def _cut_loss(t: Any, w: Setting) -> Any:
    p, marked = t.exp(), tensor(_good(w))
    return marked * 0.8 * (p.detach() ** 1.5) * -(1 - p).log() - (1 - marked) * t


def _weights(w: Setting) -> Array:
    return np.exp(w.reward / BETA) / np.sum(w.reference * np.exp(w.reward / BETA))


def _reverse_kl(log_p: Any, w: Setting) -> Any:
    return (log_p.exp() * (log_p - tensor(np.log(w.star)))).sum()


RESPONSE_CHECKS: dict[str, list[Check]] = {
    "sft": [_single(lambda t, w: -t, lambda lp, w: responses.sft(lp))],
    "gradient_ascent": [_single(lambda t, w: t, lambda lp, w: responses.gradient_ascent(lp))],
    "unlikelihood": [
        _single(
            lambda t, w: tensor(_good(w)) * -(1 - t.exp()).log() - (1 - tensor(_good(w))) * t,
            lambda lp, w: responses.unlikelihood(lp, _good(w)),
        )
    ],
    "cut": [_single(_cut_loss, lambda lp, w: responses.cut(lp, _good(w), alpha=0.8, gamma=1.5))],
    "npo": [
        _single(
            lambda t, w: -2 / 0.4 * (-0.4 * (t - tensor(_log_ref(w)))).sigmoid().log(),
            lambda lp, w: responses.npo(lp, _log_ref(w), beta=0.4),
        )
    ],
    "kto": [
        _single(
            _kto_loss,
            lambda lp, w: responses.kto(lp, _log_ref(w), _good(w), beta=0.4, z0=0.5, lam_d=1.2, lam_u=0.9),
        )
    ],
    "alol": [
        _single(
            lambda t, w: -(t - tensor(_log_ref(w))).exp().detach() * tensor(w.reward).clamp(min=0) * t,
            lambda lp, w: responses.alol(lp, _log_ref(w), w.reward),
        ),
        _single(
            lambda t, w: (
                -(t - tensor(_log_ref(w))).exp().clamp(0.8, 1.2).detach() * tensor(w.reward).clamp(min=0) * t
            ),
            lambda lp, w: responses.alol(lp, _log_ref(w), w.reward, clip=0.2),
        ),
    ],
    "alol_ref_free": [
        _single(
            lambda t, w: -tensor(w.reward).clamp(min=0) * t,
            lambda lp, w: responses.alol_ref_free(lp, w.reward),
        )
    ],
    "ilql": [
        _single(
            lambda t, w: -(0.6 * (tensor(w.reward) - tensor(w.second))).exp() * t,
            lambda lp, w: responses.ilql_awac(lp, w.reward, w.second, beta_a=0.6),
        )
    ],
    "reward_weighted_sft": [
        _expected(
            lambda log_p, w: -(tensor(w.reference * _weights(w)) * log_p).sum(),
            lambda w: w.reference,
            lambda w: responses.reward_weighted_sft(
                _log_ref(w), w.reward, beta=BETA, log_z=np.log(np.sum(w.reference * np.exp(w.reward / BETA)))
            ),
        ),
        _single(
            lambda t, w: -(tensor(w.reward) / BETA).softmax(-1) * OUTCOMES * t,
            lambda lp, w: responses.reward_weighted_sft(lp, w.reward, beta=BETA),
        ),
    ],
    "fdpg": [
        _expected(
            lambda log_p, w: (tensor(w.star) * (tensor(np.log(w.star)) - log_p)).sum(),
            lambda w: w.policy,
            lambda w: responses.fdpg(np.log(w.policy), np.log(w.star)),
        ),
        _expected(  # reverse KL: f' = log u + 1
            _reverse_kl,
            lambda w: w.policy,
            lambda w: responses.fdpg(np.log(w.policy), np.log(w.star), slope=lambda u: np.log(u) + 1),
        ),
    ],
}


def _figa_check(w: Setting) -> Array:
    log_prob = token_log_probs(w.rng, OUTCOMES)
    revision = gradient(lambda t: -(tensor(_good(w)) * t).sum(), log_prob) + responses.figa(
        _good(w), draft=False
    )
    draft = gradient(lambda t: (0.5 * tensor(_good(w)) * t).sum(), log_prob) + responses.figa(
        _good(w), draft=True
    )
    return np.concatenate([revision, draft])


def _named(name: str, function: Callable[[str, Setting], Array]) -> Check:
    return lambda w: function(name, w)


def _fdpo_check(w: Setting) -> Array:
    from valign.theory.coefficients import pairs
    from valign.theory.divergence import F_DIVERGENCES

    a, b = w.reward[:3], w.second[:3]
    batch = Pairs(a, b)  # zero reference: a and b are log-ratios
    general = pairs.fdpo(batch, beta=0.4, kind=F_DIVERGENCES["reverse_kl"])
    return np.stack(general) - np.stack(pairs.dpo(batch, beta=0.4))


CHECKS: dict[str, list[Check]] = {
    **{name: [_named(name, pair_residual)] for name in losses.PAIR_LOSSES},
    **{name: [_named(name, token_pair_residual)] for name, kind in FEEDBACK.items() if kind == "token_pairs"},
    **{name: [_named(name, list_residual)] for name, kind in FEEDBACK.items() if kind == "list"},
    **RESPONSE_CHECKS,
    **ROLLOUT_CHECKS,
    "fdpo": [_fdpo_check],
    "figa": [_figa_check],
}


def _run(name: str, seeds: Iterable[Setting]) -> float:
    """Largest residual of one row; rows that share a function share its checks; nan when a row has none."""
    same = [other for other in CHECKS if COEFFICIENTS.get(other) is COEFFICIENTS[name]]
    found = [float(np.max(np.abs(check(w)))) for w in seeds for other in same for check in CHECKS[other]]
    return max(found) if found else float("nan")


def whole_table() -> Iterator[IdentityResult]:
    shown: dict[int, float] = {}
    for kind in dict.fromkeys(FEEDBACK.values()):
        rows: dict[str, float] = {}
        for name in (n for n, k in FEEDBACK.items() if k == kind):
            key = id(COEFFICIENTS[name])
            if key not in shown:
                shown[key] = _run(name, settings())
            rows[name] = shown[key]
        worst = max(rows, key=lambda n: (np.isnan(rows[n]), rows[n]))
        yield judged(
            f"I37.{kind}",
            f"{len(rows)} rows over {kind}: c_t = -∂L/∂log π_t by automatic differentiation",
            AUTOGRAD,
            rows.values(),
            note=f"largest at {worst}",
        )


def _rows(id_: str, statement: str, names: Iterable[str], bound: float = ALGEBRA) -> IdentityResult:
    return judged(id_, statement, bound, [_run(name, settings()) for name in names])


def named_rows() -> Iterator[IdentityResult]:
    yield _rows("I17", "coefficients of IPO, SLiC, CPL", ("ipo_sum", "ipo_mean", "slic_hf", "cpl"))
    singles = ("unlikelihood", "gradient_ascent", "npo", "kto", "sft")
    yield _rows("I18", "coefficients of unlikelihood, gradient ascent, NPO, KTO good and bad, SFT", singles)
    yield _rows("I31", "coefficients of D²O", ("d2o",))
    yield _rows("I32", "coefficients of f-DPO, forward KL and Jensen-Shannon", ("fdpo_forward_kl", "fdpo_js"))
    yield _rows("I33", "coefficients of RRHF with lengths", ("rrhf",))
    yield _rows("I34a", "coefficients of PRO with dynamic temperatures", ("pro",))

    def same(w: Setting) -> Array:
        mean = -np.abs(w.reward[:4])
        from valign.theory.likelihoods import plackett_luce

        at_one = losses.pro(tensor(mean), [4.0, 3.0, 2.0, 1.0], dynamic=False)
        return np.asarray(float(at_one) + float(plackett_luce(mean)))

    yield judged("I34b", "PRO at temperature 1 = Plackett-Luce", ALGEBRA, map(same, settings()))

    def third(w: Setting) -> Array:
        log_prob, log_ref = token_log_probs(w.rng, OUTCOMES), _log_ref(w)

        def loss(t: Any) -> Any:
            d = tensor(log_ref) - t
            return (BETA * (d.exp() - 1 - d)).sum()

        return gradient(loss, log_prob) + BETA * (np.exp(log_ref - log_prob) - 1)

    yield judged("I35", "k3 term in the loss: coefficient β(π_ref/π - 1)", ALGEBRA, map(third, settings()))


def shared_prefix() -> Iterator[IdentityResult]:
    def tree_gradient(w: Setting, by_length: bool) -> Array:
        # rows of `z` are positions: 0 and 1 are shared by both responses, the others belong to one of them
        tokens_w, tokens_l = [(0, 1), (1, 2), (2, 0), (3, 3)], [(0, 1), (1, 2), (4, 1)]
        z = w.rng.normal(size=(5, 6))
        reference = tensor(log_softmax(w.rng.normal(size=(5, 6))))

        def loss(logits: Any) -> Any:
            ratio = logits.log_softmax(-1) - reference
            a, b = sum(ratio[i, t] for i, t in tokens_w), sum(ratio[i, t] for i, t in tokens_l)
            if by_length:
                a, b = a / len(tokens_w), b / len(tokens_l)
            return -(0.4 * (a - b)).sigmoid().log()

        return gradient(loss, z)[:2]

    plain = [tree_gradient(w, False) for w in settings()]
    mean = [float(np.abs(tree_gradient(w, True)).max()) for w in settings()]
    yield judged(
        "I42",
        "DPO: the gradient of a shared prefix cancels exactly",
        ALGEBRA,
        plain,
        note=f"with length means it does not: at least {min(mean):.1e}",
    )


IDENTITIES = (named_rows, whole_table, shared_prefix)
