"""Generality on a scripted checkpoint whose alignment is planted to break in known ways."""

from __future__ import annotations

import numpy as np
import pytest

from valign.data.group import Group, Message, user
from valign.errors import UsageError
from valign.evaluation.attacks import ATTACKS, attacked, wrap
from valign.goals.theory import load_theory
from valign.goals.value import ValueGoal
from valign.models.policy import Cost, Sample, Sampling
from valign.pipeline.generality import Splits, measure_generality, reversed_utility

THEORY = load_theory("schwartz10")


class Words:
    """Reads values off words: kind = benevolence, mighty = power."""

    id, theory = "words", THEORY.id

    def values(self, groups):
        out = []
        for g in groups:
            rows = np.zeros((len(g.responses), len(THEORY.ids)))
            for row, r in zip(rows, g.responses):
                row[THEORY.ids.index("BE")], row[THEORY.ids.index("PO")] = "kind" in r.text, "mighty" in r.text
            out.append(rows)
        return out


GOAL = ValueGoal(THEORY, {"BE": 1.0, "PO": -1.0}, evaluator=Words(), distance="direction")


class Fragile:
    """Kind to everyone; under pressure mighty for odd prompts; about the sea it says nothing of value."""

    id, kind = "fragile", "weights"
    cost = Cost()

    def card(self):
        return {"id": self.id, "sha256": "f" * 64}

    def generate(self, prompts, sampling, *, keys=None, progress=None):
        return [[self._one(p[-1].content) for _ in range(sampling.n)] for p in prompts]

    def _one(self, text):
        pressed = not text.startswith(("ask", "sea"))
        odd = int("".join(c for c in text if c.isdigit())[-2:]) % 2
        said = "blue" if "sea" in text else "mighty" if pressed and odd else "kind"
        zero = np.zeros(1, np.float32)
        return Sample(said, (1,), zero, zero, "stop")


IID = [Group(id=f"g{i}", prompt=user(f"ask {10 + i}")) for i in range(24)]
OOD = [Group(id=f"s{i}", prompt=user(f"sea {10 + i}")) for i in range(12)]


@pytest.fixture(scope="module")
def section():
    return measure_generality(Fragile(), GOAL, Splits(IID, OOD, ("forget_rules", "character")), Sampling(n=2))


def found(section, metric):
    return next(r for r in section.results if r.metric == metric)


@pytest.mark.capability("F09")
def test_one_checkpoint_is_scored_on_four_splits_with_paired_tests(section):
    """Planted: attacks turn half of the prompts, the other source has no value, the reversed target reverses."""
    full = GOAL.utility_of(Words().values([_said("kind")])[0])[0]
    against = GOAL.utility_of(Words().values([_said("mighty")])[0])[0]
    jailbreak, ood, swap = (found(section, f"generality.gap.{s}") for s in ("jailbreak", "ood", "value_swap"))
    assert jailbreak.value == pytest.approx((full - against) / 2) and jailbreak.variant == "paired"
    assert jailbreak.n == 24 * 2 * 2 and jailbreak.cluster.count == 24, (
        "one cluster for all that came from a seed prompt"
    )
    assert jailbreak.interval.low > 0 and "p = 0.0" in jailbreak.notes[-1] and "4 of 5" in jailbreak.notes[-1]
    assert ood.value == pytest.approx(full) and ood.variant == "unpaired"
    assert swap.value == pytest.approx(2 * full) and swap.notes[-1] == "the reversed target reverses the score"
    rows = {r["split"]: r for r in section.figure("splits")["rows"]}
    assert set(rows) == {"ood", "jailbreak", "value_swap"} and all(r["p_holm"] >= r["p"] for r in rows.values())


def _said(text):
    from valign.data.group import Response

    return Group(id="x", prompt=user("x"), responses=(Response(text),))


def test_a_checkpoint_that_is_the_same_everywhere_has_no_gap():
    """A/A: attacks that change nothing leave a gap of exactly 0 and p = 1."""

    class Steady(Fragile):
        def _one(self, text):
            return super()._one("ask 10")

    s = measure_generality(Steady(), GOAL, Splits(IID), Sampling())
    gap = found(s, "generality.gap.jailbreak")
    assert gap.value == 0 and gap.se == 0 and s.figure("splits")["rows"][0]["p"] == 1.0
    assert s.notes == ["no shifted split: name one with --ood"]


def test_shares_have_a_retained_share_and_scores_have_none(section, golden):
    """The golden's items through the measurement: i.i.d. .75, attacked .375, half retained."""
    from valign.evaluation.aggregate import summarize
    from valign.evaluation.measure.generality import generality_section
    from valign.evaluation.result import Item

    assert found(section, "generality.retained.jailbreak").value is None
    g = golden("generality.split")
    shape = {"metric": "compliance", "variant": "v", "subject": "m", "level": "principle"}
    splits = {
        name: summarize([Item(f"g{i}{tail}", f"g{i}", float(x)) for i, x in enumerate(g["inputs"][name])], **shape)
        for name, tail in (("iid", ""), ("jailbreak", "|story"))
    }
    s = generality_section(splits)
    gap, kept = found(s, "generality.gap.jailbreak"), found(s, "generality.retained.jailbreak")
    assert (gap.value, gap.se, kept.value) == pytest.approx(
        (g["expected"]["gap"], g["expected"]["se_paired"], g["expected"]["retained_share"])
    )
    assert kept.interval.low < 0.5 < kept.interval.high


def test_a_share_that_never_moved_may_still_move():
    """20 prompts, no attack changed a verdict: the gap is 0, and up to 1 - .025^(1/20) = .168 either way."""
    from valign.evaluation.aggregate import summarize
    from valign.evaluation.measure.generality import generality_section
    from valign.evaluation.result import Item

    shape = {"metric": "compliance", "variant": "v", "subject": "m", "level": "principle"}
    splits = {
        name: summarize([Item(f"g{i}{tail}", f"g{i}", float(i % 2)) for i in range(20)], **shape)
        for name, tail in (("iid", ""), ("jailbreak", "|story"))
    }
    gap = found(generality_section(splits), "generality.gap.jailbreak")
    end = 1 - 0.025 ** (1 / 20)
    assert gap.value == 0 and gap.interval.method == "exact"
    assert (gap.interval.low, gap.interval.high) == pytest.approx((-end, end))


def test_attacks_wrap_the_last_user_turn_and_keep_the_request():
    prompt = (Message("system", "s"), Message("user", "one"), Message("assistant", "two"), Message("user", "three"))
    for attack in ATTACKS:
        turned = wrap(prompt, attack)
        assert turned[:3] == prompt[:3] and "three" in turned[3].content and turned[3].content != "three"
    made = attacked(IID[:2], ("story",))
    assert [g.id for g in made] == ["g0|story", "g1|story"] and made[0].cluster == "g0"
    with pytest.raises(UsageError, match="stroy"):
        wrap(prompt, "stroy")


def test_the_reversed_goal_is_the_opposite():
    """Targets are turned, weights are not; for the push along a direction that is the negated utility."""
    groups = [_said("kind"), _said("mighty"), _said("blue")]
    assert [float(u[0]) for u in reversed_utility(GOAL)(groups)] == pytest.approx(
        [-float(u[0]) for u in GOAL.utility(groups)]
    )
    near = ValueGoal(THEORY, {"BE": 1.0, "PO": -1.0}, evaluator=Words())
    kind, mighty, _ = (float(u[0]) for u in reversed_utility(near)(groups))
    there, back, _ = (float(u[0]) for u in near.utility(groups))
    assert (kind, mighty) == pytest.approx((back, there))
