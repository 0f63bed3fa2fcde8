"""The tax meter on scripted and tiny checkpoints: what was gained and lost is what was planted."""

from __future__ import annotations

import numpy as np
import pytest

from valign.data.group import Group, Response, user
from valign.errors import UsageError, ValignError
from valign.evaluation.result import Item, Result
from valign.models.policy import Cost, Sample, Sampling, Scored
from valign.pipeline.tax import TaxPlan, names_of, tax_section
from valign.rewards.base import from_callable


class Answers:
    """A policy that answers by a rule and finds each byte of a text equally probable."""

    kind = "weights"

    def __init__(self, id, answer, nats_per_byte=1.0):
        self.id, self.answer, self.nats, self.cost = id, answer, nats_per_byte, Cost()

    def card(self):
        return {"id": self.id, "sha256": self.id * 8}

    def generate(self, prompts, sampling, *, keys=None, progress=None):
        return [[self._one(p[0].content, k) for k in range(sampling.n)] for p in prompts]

    def _one(self, prompt, k):
        text = self.answer(prompt, k)
        ids = tuple(text.encode())
        law = np.full(len(ids), -self.nats, np.float32)
        return Sample(text, ids, law, law, "stop")

    def score(self, groups, *, progress=None):
        return [[Scored(np.full(len(r.text.encode()), -self.nats, np.float32)) for r in g.responses] for g in groups]


def task(i):
    return Group(id=f"t{i}", prompt=user(f"task {i}"), meta={"checks": [{"type": "exact", "answers": ["good"]}]})


def number(prompt):
    return int(prompt.split()[1])


TASKS = [task(i) for i in range(40)]
PROMPTS = [Group(id=f"p{i}", prompt=user(f"prompt {i}")) for i in range(20)]
TEXTS = [Group(id=f"x{i}", prompt=user("say"), responses=(Response("héllo"),)) for i in range(5)]
KIND = from_callable(lambda p, r: float(r.count("kind")), id="kindness")


def aligned(loses=6, kindness=2):
    """Loses tasks 0..5, wins task 30, and is `kindness` times kinder on every prompt but a little unevenly."""

    def answer(prompt, k):
        if "task" in prompt:
            return "good" if loses <= number(prompt) <= 30 else "bad"
        return "kind " * (kindness + number(prompt) % 2) + "."

    return Answers("aligned", answer, 1.5)


def section(**more):
    base = Answers("base", lambda p, k: ("good" if number(p) < 30 else "bad") if "task" in p else "kind .")
    return tax_section(base, aligned(**more), TaxPlan({"tasks": TASKS}, PROMPTS, KIND, TEXTS, Sampling(n=2), 8))


def found(s, metric):
    return next(r for r in s.results if r.metric == metric)


@pytest.mark.capability("F07")
def test_gain_and_loss_are_reported_from_paired_items_with_intervals():
    """Planted: 6 of 40 tasks lost and 1 won on a base of 3/4, 1.5 more of the reward, KL .5 nats per byte."""
    s = section()
    tax, gain = found(s, "tax.T"), found(s, "reward.gain")
    assert any(n.endswith("would be found in 4 of 5 such comparisons") for n in tax.notes)
    assert tax.value == pytest.approx(5 / 30) and tax.interval.low < 5 / 30 < tax.interval.high
    assert (
        gain.value == pytest.approx(1.5) and gain.interval.low < 1.5 < gain.interval.high and gain.cluster.count == 20
    )
    per = found(s, "tax.per_gain")
    assert per.value == pytest.approx(5 / 30 / 1.5) and per.interval.low < per.value < per.interval.high
    flips = s.figure("flips")["items"]["instruction.accuracy"]
    assert [r["id"] for r in flips["won"]] == ["t30"] and {r["id"] for r in flips["lost"]} == {
        f"t{i}" for i in range(6)
    }
    assert flips["lost"][0]["base_text"] == "good" and flips["lost"][0]["aligned_text"] == "bad"
    bits = found(s, "text.bits_per_byte.change")
    assert bits.value == pytest.approx(0.5 / np.log(2)) and bits.direction == "down"
    kl = found(s, "kl.policy_reference")
    assert kl.value == pytest.approx(-0.5 * np.mean([5 * (2 + i % 2) + 1 for i in range(8)]))


def test_no_item_lost_of_forty_is_not_no_tax_for_certain():
    """The interval ends where 1 - .025^(1/40) of other items, all lost, would put it: .088 of 3/4."""
    base = Answers("base", lambda p, k: "good" if number(p) < 30 else "bad")
    again = Answers("again", lambda p, k: "good" if number(p) < 30 else "bad")
    s = tax_section(base, again, TaxPlan({"tasks": TASKS}))
    total, part = found(s, "tax.T"), found(s, "tax.instruction.accuracy")
    worst = (1 - 0.025 ** (1 / 40)) / 0.75
    assert total.value == part.value == 0 and total.interval.method == "exact" and total.cluster.unit == "prompt"
    assert (total.interval.low, total.interval.high) == pytest.approx((0, worst))
    assert (part.interval.low, part.interval.high) == pytest.approx((-worst, worst))


def test_a_weight_of_no_benchmark_is_an_error():
    from valign.evaluation.measure import measure_tax

    results = [r for r in section().results if r.metric == "instruction.accuracy"]
    assert measure_tax(results[:1], results[1:], {"instruction.accuracy": 2.0})[0].value == pytest.approx(5 / 30)
    with pytest.raises(ValignError, match="instruction"):
        measure_tax(results[:1], results[1:], {"instructions": 2.0})


def test_without_a_gain_there_is_no_price():
    s = section(kindness=0)  # half as kind as the base
    assert found(s, "tax.per_gain").value is None and "cannot be told from 0" in found(s, "tax.per_gain").notes[0]


def test_without_a_reward_and_prompts_only_ability_and_text_are_measured():
    base = Answers("base", lambda p, k: "good")
    s = tax_section(base, aligned(), TaxPlan({"tasks": TASKS}))
    assert {r.metric for r in s.results} == {"tax.T", "tax.instruction.accuracy", "instruction.accuracy"}


def test_two_benchmarks_keep_their_names():
    choices = [
        Group(id=f"c{i}", prompt=user("pick"), responses=(Response("a"), Response("bbb")), choices=True, gold=0)
        for i in range(9)
    ]
    base = Answers("base", lambda p, k: "good")
    s = tax_section(base, aligned(), TaxPlan({"tasks": TASKS, "picks": choices}))
    names = {r.metric for r in s.results}
    assert {"tax.instruction.accuracy.tasks", "tax.multiple_choice.accuracy.picks"} <= names
    assert found(s, "tax.T").notes[0].startswith("signed mean")


def test_aggregate_golden_through_the_measurement(golden):
    """The golden's three benchmarks as items whose means are the golden's: T clips after averaging."""
    from valign.evaluation.measure import measure_tax
    from valign.evaluation.record import Anchors

    g = golden("tax.aggregate")

    def result(side, k, b):
        items = tuple(Item(str(i), str(i), b[side] + (0.01 if i % 2 else -0.01)) for i in range(40))
        return Result(metric=f"b{k}", variant="v", subject=side, level="capability", value=b[side], unit="share", direction="up",
                      anchors=Anchors(1.0, 0.0, b["chance"]), n=40, items=items)  # fmt: skip

    sides = [[result(s, k, b) for k, b in enumerate(g["inputs"]["benchmarks"])] for s in ("base", "aligned")]
    total, *parts = measure_tax(*sides)
    assert total.value == pytest.approx(g["expected"]["tax"]) and [p.value for p in parts] == pytest.approx(
        g["expected"]["signed"]
    )


def test_every_benchmark_has_a_name_of_its_own():
    """Two files of one name in two folders, two splits of one, a file that is called as something else is."""
    assert names_of(["builtin:instructions#test", "a/math.jsonl"]) == {
        "instructions": "builtin:instructions#test", "math": "a/math.jsonl"
    }  # fmt: skip
    tasks = ["a/x.jsonl", "b/x.jsonl", "builtin:y#dev", "builtin:y#test", "prompts.jsonl"]
    assert names_of(tasks) == {t: t for t in tasks}
    with pytest.raises(UsageError, match="a.jsonl is named twice"):
        names_of(["a.jsonl", "a.jsonl"])
