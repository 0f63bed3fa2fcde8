"""I9, I10, I12, I13, I15, I22, I24, I25, I40, I41:
decoding, context, mixing, likelihoods, measures, estimators.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations, product
from math import erf

import numpy as np

from valign.theory import bayes, decoding, divergence, likelihoods, misalignment, mixtures
from valign.theory import best_of_n as bon
from valign.theory.identities.result import (
    ALGEBRA,
    BETA,
    OUTCOMES,
    SEEDS,
    STEPS,
    VOCABULARY,
    IdentityResult,
    Setting,
    judged,
    reported,
    settings,
    violated,
)
from valign.theory.laws import Array, Ints, entropy, log_softmax, sigmoid, softmax
from valign.theory.target import gibbs

SEQUENCES = tuple(product(range(VOCABULARY), repeat=STEPS))
TREE = decoding.PrefixTree(SEQUENCES)


def tree_law(rng: np.random.Generator) -> Array:
    """A random law over the 27 sequences, built from random token laws."""
    steps = TREE.normalize_steps(rng.normal(size=len(TREE.prefixes)))
    return np.exp(TREE.multiply_down(steps))


def token_decoding() -> Iterator[IdentityResult]:
    exact, plug_in, bayes_gap, root = [], [], [], []
    for w in settings():
        law, reward = tree_law(w.rng), w.rng.normal(size=len(SEQUENCES))
        star = gibbs(law, reward, BETA)
        soft = decoding.soft_values(TREE, law, reward, BETA)
        mean = decoding.mean_values(TREE, law, reward)
        exact.append(decoding.value_guided_law(TREE, law, soft, BETA) - star)
        root.append(soft[0] - BETA * np.log(np.sum(law * np.exp(reward / BETA))))
        plug_in.append(float(divergence.kl(decoding.value_guided_law(TREE, law, mean, BETA), star)))
        chance = sigmoid(2 * reward)
        posterior = law * chance / (law @ chance)
        bayes_gap.append(decoding.bayes_guided_law(TREE, law, chance) - posterior)
    yield judged("I9a", "soft-value token law multiplies to the sequence Gibbs law", ALGEBRA, exact + root)
    yield reported(
        "I9b",
        "KL to π* when the mean value replaces the soft value is positive",
        float(np.mean(plug_in)),
        min(plug_in) > 0,
        f"mean over seeds; from {min(plug_in):.4f} to {max(plug_in):.4f}",
    )
    yield judged("I9c", "token-wise Bayes factors multiply to p_ref(y|c=1)", ALGEBRA, bayes_gap)


def context_as_bayes() -> Iterator[IdentityResult]:
    conditioning, sizes = [], (0, 1, 2, 4, 8, 16, 32, 64)
    distances = np.zeros((SEEDS, len(sizes)))
    for w in settings():
        concepts, prior = softmax(1.5 * w.rng.normal(size=(4, OUTCOMES))), softmax(w.rng.normal(size=4))
        marginal, true = prior @ concepts, 2
        likelihood = prior[true] * concepts[true] / marginal
        conditioning.append(bayes.conditioned(marginal, likelihood) - concepts[true])
        seen: Ints = w.rng.choice(OUTCOMES, size=(200, sizes[-1]), p=concepts[true])
        for i, n in enumerate(sizes):
            guess = bayes.predictive(prior, concepts, seen[:, :n])
            distances[w.seed, i] = float(np.mean(divergence.kl(concepts[true], guess)))
    mean = distances.mean(0)
    yield judged("I10a", "p(y|x,v) = Gibbs with r = log p(v|x,y), β = 1", ALGEBRA, conditioning)
    falls = bool(np.all(np.diff(mean) < 0)) and float(distances[:, -1].max()) < 0.01
    yield reported(
        "I10b",
        "KL of the posterior predictive falls with demonstrations, below .01 at 64",
        float(mean[-1]),
        falls,
        "after 0, 1, 2, ... 64: " + " ".join(f"{m:.4f}" for m in mean),
    )


def mixing() -> Iterator[IdentityResult]:
    dial, share = 1.8, np.array([0.35, 0.65])
    dera, token, soup, mod = [], [], [], []
    for w in settings():
        dera.append(mixtures.dera(w.reference, w.star, dial) - gibbs(w.reference, w.reward, BETA / dial))
        law, reward = tree_law(w.rng), w.rng.normal(size=len(SEQUENCES))
        both = np.stack([law, gibbs(law, reward, BETA)])
        token.append(float(mixtures.token_form_gap(TREE, both, np.array([1 - dial, dial]))))
        rewards = np.stack([w.reward, w.second])
        best = gibbs(w.reference, share @ rewards, BETA)
        soup.append(mixtures.logit_soup(np.log(w.reference) + rewards / BETA, share) - best)
        mod.append(mixtures.geometric(gibbs(w.reference, rewards, BETA), share) - best)
    yield judged("I12a", "π_ref^{1-λ} π_β^λ = Gibbs at β/λ (sequence form)", ALGEBRA, dera)
    yield reported(
        "I12b",
        "KL(token form ‖ sequence form) of the same mixture",
        float(np.mean(token)),
        min(token) > 0,
        f"mean over seeds; largest {max(token):.4f}",
    )
    yield judged("I13a", "mean of logits = optimum of the weighted reward", ALGEBRA, soup)
    yield judged("I13b", "geometric mixture = optimum of the weighted reward", ALGEBRA, mod)


def preference_models() -> Iterator[IdentityResult]:
    shift, total, two = [], [], []
    for w in settings():
        margin = w.reward[:, None] - w.reward
        moved = (w.reward + 3)[:, None] - (w.reward + 3)
        shift.append(likelihoods.bradley_terry(margin) - likelihoods.bradley_terry(moved))
        orders = np.array(list(permutations(w.reward[:4])))
        total.append(np.exp(likelihoods.plackett_luce(orders)).sum() - 1)
        two.append(
            likelihoods.plackett_luce(w.reward[:2]) - likelihoods.bradley_terry(w.reward[0] - w.reward[1])
        )
    yield judged("I15a", "Bradley-Terry ignores a constant added to U", ALGEBRA, shift)
    yield judged("I15b", "Plackett-Luce sums to one over all 4! orders", ALGEBRA, total)
    yield judged("I15c", "Plackett-Luce of two items = Bradley-Terry", ALGEBRA, two)


def more_likelihoods() -> Iterator[IdentityResult]:
    davidson, thurstone, boltzmann, bt = [], [], [], []
    for w in settings():
        davidson.append(np.exp(likelihoods.davidson(w.reward, w.second, 0.7)).sum(-1) - 1)
        gap = w.reward - w.second
        thurstone.append(np.exp(likelihoods.thurstone(gap)) + np.exp(likelihoods.thurstone(-gap)) - 1)
        boltzmann.append(np.exp(likelihoods.demonstration(np.log(w.reference), w.reward, 0.3)).sum() - 1)
        bt.append(likelihoods.davidson(w.reward, w.second, 0.0)[..., 0] - likelihoods.bradley_terry(gap))
    thurstone.append(np.exp(likelihoods.thurstone(1.0)) - 0.5 * (1 + erf(0.5)))
    yield judged("I41a", "Davidson's three outcomes sum to one", ALGEBRA, davidson)
    yield judged("I41b", "Davidson with ν = 0 is Bradley-Terry", ALGEBRA, bt)
    yield judged("I41c", "Thurstone: P(i ≻ j) + P(j ≻ i) = 1, Φ(1/√2) at distance 1", ALGEBRA, thurstone)
    yield judged("I41d", "Boltzmann demonstrations sum to one", ALGEBRA, boltzmann)


def measures() -> Iterator[IdentityResult]:
    twice, shift, kl_excess, regret, risk, imitation = [], [], [], [], [], []
    for w in settings():
        human, agent = w.reward, w.reward + 0.3 * w.second
        twice.append(misalignment.m1(human, agent, w.mu) - misalignment.m1_bound(human, agent, w.mu))
        shift.append(misalignment.m1(human, agent, w.mu) - misalignment.m1(human, agent + 5, w.mu))
        distance = divergence.kl(softmax(human / BETA), softmax(agent / BETA))
        kl_excess.append(distance - misalignment.kl_bound(human, agent, BETA))
        regret.append(misalignment.regret(human, agent) - misalignment.regret_bound(human, agent))
        risk.append(likelihoods.bt_excess_risk(human, human + 4.2, w.mu))
        target_law = np.exp(log_softmax(np.log(w.reference) + human / BETA))
        imitation.append(divergence.kl(target_law, gibbs(w.reference, human + 4.2, BETA)))
    yield violated("I22a", "M1 <= 2 min_c M2(U_A + c)", twice)
    yield judged("I22b", "M1 ignores a constant added to U_A", ALGEBRA, shift)
    yield violated("I22c", "KL(p_H‖p_A) <= osc(U_H - U_A)/β", kl_excess)
    yield violated("I22d", "utility lost by argmax U_A <= sup |ΔU_H - ΔU_A|", regret)
    yield judged("I22e", "Bradley-Terry excess risk is 0 at U_H + c", ALGEBRA, risk)
    yield judged("I22f", "imitation KL is 0 at U_H + c", ALGEBRA, imitation)


def information() -> Iterator[IdentityResult]:
    residuals, gains, jsd = [], [], []
    for w in settings():
        joint = w.rng.dirichlet(np.ones(4 * OUTCOMES)).reshape(2, 2, OUTCOMES)
        gain = divergence.information_gain(joint)
        total = divergence.total_correlation(joint.sum(-1)) - divergence.conditional_total_correlation(joint)
        residuals.append(gain - total)
        gains.append(gain)
        laws, weights = softmax(w.rng.normal(size=(5, 10))), softmax(w.rng.normal(size=5))
        entropies = entropy(weights @ laws) - weights @ entropy(laws)
        jsd.append(divergence.generalized_jsd(laws, weights) - entropies)
    yield judged("I24a", "Σ_k I(v_k;y) - I(V;y) = TC(V) - TC(V|y)", ALGEBRA, residuals)
    yield reported(
        "I24b", "that quantity can be negative", min(gains), min(gains) < 0, "smallest of 20 random tables"
    )
    yield judged("I25", "Σ α_i KL(p_i‖p_M) = H(p_M) - Σ α_i H(p_i)", ALGEBRA, jsd)


def estimators() -> Iterator[IdentityResult]:
    subsets, pass_rate, unbiased = [], [], []

    def check(w: Setting) -> None:
        scores, hits = w.rng.normal(size=8), w.rng.random(8) < 0.4
        for n in range(1, 9):
            best = np.mean([max(c) for c in combinations(scores.tolist(), n)])
            subsets.append(bon.estimate_best_of_n(scores, n) - best)
            found = np.mean([any(c) for c in combinations(hits.tolist(), n)])
            pass_rate.append(bon.pass_at_k(8, int(hits.sum()), n) - found)
        for n in range(1, 6):
            fewer = np.mean([bon.estimate_best_of_n(c, n) for c in combinations(scores.tolist(), 5)])
            unbiased.append(fewer - bon.estimate_best_of_n(scores, n))

    for w in settings():
        check(w)
    yield judged("I40a", "best-of-n estimator = mean over all subsets, N = 8", ALGEBRA, subsets)
    yield judged("I40b", "pass@k = share of all subsets with a correct sample, N = 8", ALGEBRA, pass_rate)
    yield judged("I40c", "from 5 of 8 samples the estimator is unbiased", ALGEBRA, unbiased)


IDENTITIES = (
    token_decoding,
    context_as_bayes,
    mixing,
    preference_models,
    measures,
    information,
    estimators,
    more_likelihoods,
)
