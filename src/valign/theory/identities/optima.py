"""I1 to I8, I14, I27, I30, I36: what the target is, and that each projection ends where it says."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import brentq, minimize

from valign.theory import best_of_n as bon
from valign.theory import constrained, target
from valign.theory.coefficients import pairs
from valign.theory.divergence import F_DIVERGENCES, kl
from valign.theory.identities.result import (
    ALGEBRA,
    AUTOGRAD,
    BETA,
    NUMERIC,
    OUTCOMES,
    TAU,
    IdentityResult,
    Setting,
    gradient,
    judged,
    minimizer,
    settings,
    tensor,
    violated,
)
from valign.theory.laws import Array, as_array, expectation, score_rows, sigmoid, softmax


def _log_policy(z: Any) -> Any:
    return z.log_softmax(-1)


def _pair_matrix(values: Any) -> Any:
    return values[:, None] - values[None, :]


def objective_decomposes() -> Iterator[IdentityResult]:
    def residual(w: Setting) -> Array:
        q = softmax(2 * w.rng.normal(size=(200, OUTCOMES)))
        left = target.objective(q, w.reference, w.reward, BETA)
        return left - BETA * target.log_partition(w.reference, w.reward, BETA) + BETA * kl(q, w.star)

    yield judged("I1", "J(q) = β log Z - β KL(q‖π*), 200 random q", ALGEBRA, map(residual, settings()))


def _dpo_loss(w: Setting, probability: Array) -> Any:
    weight, win, log_ref = tensor(np.outer(w.mu, w.mu)), tensor(probability), tensor(np.log(w.reference))

    def loss(z: Any) -> Any:
        margin = _pair_matrix(BETA * (_log_policy(z) - log_ref))
        return -(weight * (win * margin.sigmoid().log() + (1 - win) * (-margin).sigmoid().log())).sum()

    return loss


def _win(w: Setting) -> Array:
    return sigmoid(w.reward[:, None] - w.reward[None, :])


def dpo_population() -> Iterator[IdentityResult]:
    at_star = [gradient(_dpo_loss(w, _win(w)), np.log(w.star)) for w in settings()]
    yield judged("I2a", "gradient of the DPO population loss is 0 at π*", AUTOGRAD, at_star)
    found = [(w, softmax(minimizer(_dpo_loss(w, _win(w)), np.log(w.reference)))) for w in settings()]
    yield judged("I2b", "minimizer of the DPO population loss = π*", NUMERIC, (q - w.star for w, q in found))

    def spread(w: Setting, q: Array) -> Array:
        implied = BETA * np.log(q / w.reference)
        return (implied[:, None] - implied) - (w.reward[:, None] - w.reward)

    yield judged("I2c", "its implicit reward differences = Δr", NUMERIC, (spread(w, q) for w, q in found))


def ipo_population() -> Iterator[IdentityResult]:
    def gap(w: Setting, win: Array) -> Array:
        weight, p, log_ref = tensor(np.outer(w.mu, w.mu)), tensor(win), tensor(np.log(w.reference))

        def loss(z: Any) -> Any:
            h = _pair_matrix(_log_policy(z) - log_ref)
            return (weight * (p * (h - 0.5 / TAU) ** 2 + (1 - p) * (h + 0.5 / TAU) ** 2)).sum() / 2

        return softmax(minimizer(loss, np.log(w.reference))) - target.gibbs(w.reference, win @ w.mu, TAU)

    def certain(w: Setting) -> Array:
        return 0.5 + 0.5 * np.sign(w.reward[:, None] - w.reward[None, :])

    yield judged("I3a", "IPO minimizer = π_ref e^{p*(y≻μ)/τ}", NUMERIC, (gap(w, _win(w)) for w in settings()))
    yield judged(
        "I3b",
        "the same, finite, for deterministic preferences",
        NUMERIC,
        (gap(w, certain(w)) for w in settings()),
    )

    def escape(w: Setting) -> float:
        # along the order itself the loss falls without end: no finite minimizer
        loss, rank = _dpo_loss(w, certain(w)), np.argsort(np.argsort(w.reward)).astype(float)
        floor = np.log(2) * float(w.mu @ w.mu)  # a response against itself can never be told apart
        values = [float(loss(tensor(np.log(w.reference) + t * rank))) - floor for t in (1.0, 10.0, 100.0)]
        return float(max(values[1] - values[0], values[2] - values[1], values[2] - 1e-6))

    yield violated(
        "I3c",
        "DPO diverges on deterministic preferences: loss → its infimum only at infinity",
        (escape(w) for w in settings()),
    )


def objective_gradient() -> Iterator[IdentityResult]:
    def residual(w: Setting) -> Array:
        log_ref, reward = tensor(np.log(w.reference)), tensor(w.reward)

        def loss(z: Any) -> Any:
            log_p = _log_policy(z)
            return (log_p.exp() * (reward - BETA * (log_p - log_ref))).sum()

        p, baseline = w.policy, w.rng.normal()
        c = w.reward - BETA * np.log(p / w.reference) - baseline
        return gradient(loss, w.logits) - (p * c) @ score_rows(p)

    yield judged("I4", "∇J = E_π[(r - βh - b) ∇log π]", AUTOGRAD, map(residual, settings()))


def dpo_coefficients() -> Iterator[IdentityResult]:
    def residual(w: Setting) -> Array:
        i, j = w.rng.choice(OUTCOMES, 2, replace=False)
        log_ref, p = tensor(np.log(w.reference)), w.policy

        def loss(z: Any) -> Any:
            h = _log_policy(z) - log_ref
            return -(BETA * (h[i] - h[j])).sigmoid().log()

        log_p, log_q = np.log(p), np.log(w.reference)
        c_w, c_l = pairs.dpo(pairs.Pairs(log_p[i], log_p[j], log_q[i], log_q[j]), beta=BETA)
        rows = score_rows(p)
        return as_array(-gradient(loss, w.logits) - (c_w * rows[i] + c_l * rows[j]))

    yield judged("I5", "DPO coefficients are ±βσ(-Δ)", AUTOGRAD, map(residual, settings()))


def best_of_n_law() -> Iterator[IdentityResult]:
    def enumerated(w: Setting) -> Array:
        p, r = softmax(w.logits[:4]), np.round(w.reward[:4])  # rounded: ties occur
        law = np.zeros(4)
        for draw in product(range(4), repeat=3):
            law[max(draw, key=lambda k: (r[k], -draw.index(k)))] += np.prod(p[list(draw)])
        return law - bon.best_of_n_law(p, r, 3)

    def excess(w: Setting) -> Array:
        n = np.arange(1, 65)
        return np.array(
            [bon.best_of_n_kl(w.reference, w.reward, int(k)) for k in n]
        ) - bon.best_of_n_kl_bound(n)

    def lead(w: Setting) -> Array:
        out = []
        for n in (2, 4, 8, 16, 32, 64):
            distance = float(bon.best_of_n_kl(w.reference, w.reward, n))

            def excess_kl(s: float, distance: float = distance) -> float:
                return float(kl(target.at_strength(w.reference, w.reward, s), w.reference)) - distance

            s = brentq(excess_kl, 0, 500, xtol=1e-14)
            best = expectation(target.at_strength(w.reference, w.reward, s), w.reward)
            out.append(float(best - bon.best_of_n_value(w.reference, w.reward, n)))
        return np.array(out)

    yield judged(
        "I6a", "best-of-n law = enumeration of all draws, ties included", ALGEBRA, map(enumerated, settings())
    )
    yield violated("I6b", "KL(best-of-n‖π_ref) <= log n - (n-1)/n, n = 1..64", map(excess, settings()))
    atoms = np.full(4000, 1 / 4000)
    gap = bon.best_of_n_kl(atoms, np.arange(4000.0), 8) - bon.best_of_n_kl_bound(8)
    yield judged("I6c", "4000 equal atoms, n = 8: the bound is nearly reached", 1e-6, [gap])
    leads = [lead(w) for w in settings()]
    yield violated(
        "I6d",
        "reward(Gibbs) >= reward(best-of-n) at equal KL",
        (-x for x in leads),
        note=f"largest lead {max(float(x.max()) for x in leads):.4f}",
    )


def weighted_imitation() -> Iterator[IdentityResult]:
    def weighted(w: Setting) -> Array:
        weight = tensor(w.reference * np.exp(w.reward / BETA) / np.sum(w.reference * np.exp(w.reward / BETA)))
        return softmax(minimizer(lambda z: -(weight * _log_policy(z)).sum(), np.log(w.reference))) - w.star

    def filtered(w: Setting) -> Array:
        threshold = float(np.median(w.reward))
        indicator = (w.reward >= threshold).astype(float)
        return target.filtered(w.reference, w.reward, threshold) - target.gibbs(
            w.reference, indicator, 1 / 60
        )

    yield judged("I7a", "minimizer of SFT weighted by e^{r/β} = π*", NUMERIC, map(weighted, settings()))
    yield judged(
        "I7b", "filtered SFT = Gibbs limit of the indicator reward", 1e-12, map(filtered, settings())
    )


def forward_kl_gradient() -> Iterator[IdentityResult]:
    def residual(w: Setting) -> Array:
        star, p = tensor(w.star), w.policy
        loss_gradient = gradient(lambda z: (star * (star.log() - _log_policy(z))).sum(), w.logits)
        return loss_gradient + (p * (w.star / p)) @ score_rows(p)

    yield judged("I8", "∇KL(π*‖π) = -E_π[(π*/π) ∇log π]", AUTOGRAD, map(residual, settings()))


def constrained_target() -> Iterator[IdentityResult]:
    def solve(w: Setting) -> tuple[Array, float, float]:
        cost = w.second
        limit = float(w.star @ cost) - 0.25 * float(w.star @ cost - cost.min())
        found = constrained.constrained_optimum(w.reference, w.reward, cost, BETA, limit)

        def negative(z: Array) -> tuple[float, Array]:
            p = softmax(z)
            value = float(target.objective(p, w.reference, w.reward, BETA))
            gain = w.reward - BETA * np.log(p / w.reference)
            return -value, -p * (gain - p @ gain)

        rule = {
            "type": "ineq",
            "fun": lambda z: limit - softmax(z) @ cost,
            "jac": lambda z: -softmax(z) * (cost - softmax(z) @ cost),
        }
        solved = minimize(
            negative,
            np.log(w.reference),
            jac=True,
            method="SLSQP",
            constraints=[rule],
            options={"maxiter": 2000, "ftol": 1e-15},
        )
        grid = np.linspace(0, 4, 41)
        costs = [float(target.gibbs(w.reference, w.reward - m * cost, BETA) @ cost) for m in grid]
        return (
            softmax(solved.x) - found.law,
            found.multiplier * (found.cost - limit),
            float(np.diff(costs).max()),
        )

    solved = [solve(w) for w in settings()]
    yield judged(
        "I14a", "optimum under E c <= d (numerical solver) = Gibbs(r - λc)", NUMERIC, (s[0] for s in solved)
    )
    yield judged("I14b", "λ (E c - d) = 0", NUMERIC, (s[1] for s in solved))
    yield violated("I14c", "E c falls in λ", (s[2] for s in solved))


def f_divergence_targets() -> Iterator[IdentityResult]:
    torch_values: dict[str, Any] = {
        "reverse_kl": lambda u: u * u.log(),
        "forward_kl": lambda u: -u.log(),
        "jensen_shannon": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
        "alpha_half": lambda u: 2 * (u - 1) - 4 * (u.sqrt() - 1),
    }
    for name, kind in F_DIVERGENCES.items():

        def residual(w: Setting, name: str = name, kind: Any = kind) -> float:
            ref, reward, f = tensor(w.reference), tensor(w.reward), torch_values[name]

            def loss(z: Any) -> Any:
                p = _log_policy(z).exp()
                return BETA * (ref * f(p / ref)).sum() - (p * reward).sum()

            best = softmax(minimizer(loss, np.log(w.reference)))
            closed = target.f_divergence_optimum(w.reference, w.reward, BETA, kind)
            spread = np.ptp(w.reward - BETA * kind.slope(best / w.reference))
            return max(float(spread), float(np.abs(best - closed).max()))

        yield judged(
            f"I27.{name}",
            f"r - βf'(π*/π_ref) is constant at the numerical optimum, f = {name}",
            1e-5,
            map(residual, settings()),
        )


def strength_slopes() -> Iterator[IdentityResult]:
    def slope(w: Setting, gold: Array) -> float:
        log_ref, reward, value = tensor(np.log(w.reference)), tensor(w.reward), tensor(gold)
        strength = np.array(1 / BETA)
        moved = gradient(lambda s: ((log_ref + s * reward).softmax(-1) * value).sum(), strength)
        return float(moved - target.strength_slope(w.reference, w.reward, 1 / BETA, gold))

    yield judged(
        "I30", "dE_{π*}[r]/ds = Var_{π*}(r), s = 1/β", AUTOGRAD, (slope(w, w.reward) for w in settings())
    )
    yield judged("I36", "dE_{π_s}[U]/ds = Cov(U, proxy)", AUTOGRAD, (slope(w, w.second) for w in settings()))


IDENTITIES = (
    objective_decomposes,
    dpo_population,
    ipo_population,
    objective_gradient,
    dpo_coefficients,
    best_of_n_law,
    weighted_imitation,
    forward_kl_gradient,
    constrained_target,
    f_divergence_targets,
    strength_slopes,
)
