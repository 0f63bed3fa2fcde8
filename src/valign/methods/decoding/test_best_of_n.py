"""Best of n: which candidate is kept, at what price, and how its score and its curve follow from theory."""

from __future__ import annotations

import numpy as np
import pytest

from valign.data.group import Group, Response, user
from valign.errors import ValignError
from valign.methods.decoding.best_of_n import BestOfN, BestOfNConfig, best_of_n, curve, gibbs_value
from valign.methods.target import Target
from valign.models.policy import Policy, Sampling
from valign.theory.best_of_n import best_of_n_kl, best_of_n_kl_bound, best_of_n_law, best_of_n_value
from valign.theory.divergence import kl
from valign.theory.target import at_strength
from valign.theory.worlds import TabularWorld

PROMPTS = [user("Why?"), user("What is this?")]
SAMPLING = Sampling(n=3, max_new_tokens=6, seed=3)


def vowels(groups):
    return [np.array([sum(c in "aeiou" for c in r.text) + 0.01 * len(r.text) for r in g.responses]) for g in groups]


def wrapped(policy, reward=vowels, **settings):
    return best_of_n(policy, Target(reward=reward), BestOfNConfig(**settings))


def ids(rows):
    return [[s.ids for s in row] for row in rows]


# ------------------------------------------------------------------------------------------------------- choosing


def test_each_sample_is_the_best_of_its_own_candidates(tiny_policy):
    policy = wrapped(tiny_policy, n=4)
    assert isinstance(policy, Policy) and policy.kind == "decoding"
    found = policy.generate(PROMPTS, SAMPLING, keys=["a", "b"])
    pool = tiny_policy.generate(PROMPTS, Sampling(n=12, max_new_tokens=6, seed=3), keys=["a", "b"])
    for prompt, row, drawn in zip(PROMPTS, found, pool):
        group = Group(id="", prompt=prompt, responses=tuple(Response(s.text) for s in drawn))
        best = vowels([group])[0].reshape(3, 4).argmax(1) + np.array([0, 4, 8])
        assert [s.ids for s in row] == [drawn[i].ids for i in best]


def test_the_reward_reads_prompts_ids_and_endings(tiny_policy):
    seen = []
    wrapped(tiny_policy, lambda groups: seen.extend(groups) or vowels(groups), n=2).generate(PROMPTS, SAMPLING)
    assert [g.prompt for g in seen] == PROMPTS and all(len(g.responses) == 6 for g in seen)
    assert all(r.ids and r.finish in ("stop", "length") for g in seen for r in g.responses)


def test_a_candidate_without_a_reward_is_never_chosen_over_one_that_has_one(tiny_policy):
    """NaN is not 0: one scored candidate wins however bad it is."""
    rng = np.random.default_rng(0)

    def partly(groups):
        return [np.where(rng.random(len(g.responses)) < 0.6, np.nan, -1e9) for g in groups]

    rewards = []
    policy = wrapped(tiny_policy, lambda groups: rewards.append(partly(groups)) or rewards[-1], n=4)
    found = policy.generate(PROMPTS, SAMPLING)
    pool = tiny_policy.generate(PROMPTS, Sampling(n=12, max_new_tokens=6, seed=3))
    assert any(np.isnan(r).any() for r in rewards[0])
    for row, drawn, r in zip(found, pool, rewards[0]):
        for k, sample in enumerate(row):
            own = range(4 * k, 4 * k + 4)
            known = [i for i in own if np.isfinite(r[i])]
            assert sample.ids in {drawn[i].ids for i in known or own}


def test_without_any_reward_the_first_candidate_is_kept(tiny_policy):
    policy = wrapped(tiny_policy, lambda groups: [np.full(len(g.responses), np.nan) for g in groups], n=4)
    pool = tiny_policy.generate(PROMPTS, Sampling(n=12, max_new_tokens=6, seed=3))
    assert ids(policy.generate(PROMPTS, SAMPLING)) == [[row[k].ids for k in (0, 4, 8)] for row in pool]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_one_candidate_is_the_base(tiny_policy, temperature):
    """n=1: the same samples (greedy stays greedy), the same scores, and no reward is asked."""
    policy = wrapped(tiny_policy, lambda groups: pytest.fail("asked for a reward"), n=1)
    sampling = Sampling(n=2, max_new_tokens=6, temperature=temperature, seed=1)
    assert ids(policy.generate(PROMPTS, sampling)) == ids(tiny_policy.generate(PROMPTS, sampling))
    groups = [Group(id="g", prompt=PROMPTS[0], responses=(Response("yes"), Response("no")))]
    assert [s.log_prob for s in policy.score(groups)[0]] == [s.log_prob for s in tiny_policy.score(groups)[0]]


def test_greedy_callers_get_candidates_that_differ(tiny_policy):
    found = wrapped(tiny_policy, n=8, temperature=0.9).generate(PROMPTS, Sampling(max_new_tokens=6, temperature=0))
    pool = tiny_policy.generate(PROMPTS, Sampling(n=8, max_new_tokens=6, temperature=0.9))
    assert all(len({s.ids for s in row}) > 1 for row in pool)
    assert all(row[0].ids in {s.ids for s in drawn} for row, drawn in zip(found, pool))


def test_it_needs_a_reward():
    with pytest.raises(ValignError, match="needs a reward"):
        best_of_n(None, Target(), BestOfNConfig())


def test_what_it_costs_is_in_the_cost(tiny_policy):
    policy = wrapped(tiny_policy, n=5)
    before = policy.cost
    policy.generate(PROMPTS, SAMPLING)
    spent = policy.cost - before
    assert spent.calls == 2 * 3 * 5 and spent.tokens_generated > 30


# -------------------------------------------------------------------------------------------------------- scoring


class Known:
    """A base with a known law over five answers, and a pool drawn from it."""

    id, kind = "known", "weights"
    law = np.array([0.1, 0.2, 0.3, 0.25, 0.15])

    def score(self, groups, *, progress=None):
        from valign.models.policy import Scored

        return [
            [Scored(np.array([-0.5, np.log(self.law[int(r.text)]) + 0.5], np.float32)) for r in g.responses]
            for g in groups
        ]


def test_the_score_is_the_bases_plus_the_density_of_the_winner():
    """log pi + log n + (n-1) log F, on the last token; F from the pool of the prompt, ranks smoothed by one half."""
    policy = BestOfN(Known(), "best_of_n", BestOfNConfig(n=3), family="decoding", reward=number)
    prompt = user("x")
    pool = np.repeat(np.arange(5.0), (1000 * Known.law).astype(int))
    policy.pools[repr(prompt)] = pool
    (row,) = policy.score([Group(id="g", prompt=prompt, responses=tuple(Response(str(i)) for i in range(5)))])
    for i, s in enumerate(row):
        below = (Known.law[:i].sum() * 1000 + 0.5 * Known.law[i] * 1000 + 0.5) / 1001
        assert s.log_prob == pytest.approx(np.log(Known.law[i]) + np.log(3) + 2 * np.log(below), abs=1e-5)
        assert s.log_probs[0] == np.float32(-0.5)
    exact = best_of_n_law(Known.law, np.arange(5.0), 3)
    assert np.abs(np.exp([s.log_prob for s in row]) - exact).max() < 0.03, "close to the law for few ties"


def number(groups):
    return [np.array([float(r.text) for r in g.responses]) for g in groups]


def test_a_prompt_without_a_pool_gets_one(tiny_policy):
    policy, later = wrapped(tiny_policy, n=4), wrapped(tiny_policy, n=4)
    group = Group(id="g", prompt=PROMPTS[0], responses=(Response("aeiou"), Response("xyz")))
    high, low = policy.score([group])[0]
    plain = tiny_policy.score([group])[0]
    assert high.log_prob - plain[0].log_prob > low.log_prob - plain[1].log_prob
    assert len(policy.pools[repr(PROMPTS[0])]) == 4
    later.generate(PROMPTS, Sampling(max_new_tokens=3))
    others = Group(id="h", prompt=PROMPTS[1], responses=(Response("a"),))
    assert [s.log_prob for s in later.score([others, group])[1]] == [high.log_prob, low.log_prob], "no history in it"


# ----------------------------------------------------------------------------------------------------------- curve


@pytest.mark.capability("T01")
def test_the_curve_stays_below_its_bound_and_below_gibbs():
    """KL <= log n - (n-1)/n, and the gain stands beside Gibbs at equal KL, which is never less (I6)."""
    world = TabularWorld()
    rng = np.random.default_rng(0)
    pools = [rng.choice(world.utilities[x], 200, p=world.reference_table()[x]) for x in range(4)]
    rows = curve(pools, [1, 2, 4, 16, 64, 200])
    for row in rows:
        assert row["pool_kl"] <= row["kl_bound"] + 1e-9
        assert row["pool_gibbs"] >= row["pool_reward"] - 1e-9
        assert row["kl_bound"] == pytest.approx(best_of_n_kl_bound(row["n"]))
    gains = [row["reward"] for row in rows]
    assert gains == sorted(gains) and gains[-1] == pytest.approx(np.mean([p.max() for p in pools]))
    assert gains[0] == pytest.approx(np.mean([p.mean() for p in pools]))


def test_the_curve_is_unbiased():
    """I40: over many pools the mean of the estimate is the exact E[max of n]; five standard errors (4e-7 false alarms)."""
    world, rng, n = TabularWorld(), np.random.default_rng(1), 4
    law, utility = world.reference_table()[0], world.utilities[0]
    exact = best_of_n_value(law, utility, n)
    found = [curve([rng.choice(utility, 12, p=law)], [n])[0]["reward"] for _ in range(300)]
    assert abs(np.mean(found) - exact) < 5 * np.std(found) / np.sqrt(300)


@pytest.mark.parametrize("strength", [0.3, 1.0, 4.0])
def test_gibbs_at_equal_kl_is_the_law_with_that_kl(strength):
    """Its reward at the KL of pi_ref e^{s r} / Z is that law's; it is never below best-of-n at the same KL (I6)."""
    world = TabularWorld()
    for x in range(4):
        base, r = world.reference_table()[x], world.utilities[x]
        law = at_strength(base, r, strength)
        assert gibbs_value(base, r, float(kl(law, base))) == pytest.approx(law @ r, abs=1e-9)
        for n in (2, 8, 64):
            assert gibbs_value(base, r, float(best_of_n_kl(base, r, n))) >= best_of_n_value(base, r, n) - 1e-9
    assert gibbs_value(base, np.ones(8), 0.3) == pytest.approx(1.0) and gibbs_value(base, r, 0.0) == pytest.approx(
        base @ r
    )
    assert gibbs_value(base, r, 50.0) == pytest.approx(r.max()), "no law on these responses is that far away"
