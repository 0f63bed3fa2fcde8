"""Efficiency curves: of planted points, and of three methods that really run on a tiny model."""

from __future__ import annotations

import numpy as np
import pytest

from valign.data.group import Group, Response, VectorScore, user
from valign.engine.local import LocalEngine
from valign.errors import ValignError
from valign.evaluation.result import Result
from valign.goals.theory import load_theory
from valign.goals.value import ValueGoal
from valign.methods.table import METHODS
from valign.models.policy import LocalPolicy, Sampling
from valign.models.tiny import tiny_model
from valign.pipeline.efficiency import AXES, Point, Sweep, efficiency_section, sweep

THEORY = load_theory("schwartz10")


def score(value, name="m"):
    return Result(
        metric="goal.utility", variant="v", subject=name, level="value", value=value, unit="score", direction="up", n=4
    )


def point(method, size, value, **cost):
    return Point(method, size, score(value), {a: 0.0 for a in AXES} | {"labels": float(size)} | cost)


def found(section, metric, variant):
    return next(r for r in section.results if r.metric == metric and r.variant == variant)


def test_golden_curve_through_the_section(golden):
    """The golden's curve as one method, a cheaper copy as another: heights over the common range, costs of the target."""
    g = golden("efficiency.curve")
    i, want = g["inputs"], g["expected"]
    points = [point("a", c, s) for c, s in zip(i["cost"], i["score"])]
    points += [point("b", c // 2, s) for c, s in zip(i["cost"], i["score"])]
    s = efficiency_section(score(0.5), points, target=i["target"])
    assert found(s, "efficiency.cost_to_target.labels", "a").value == pytest.approx(want["cost_to_target"])
    assert found(s, "efficiency.cost_to_target.labels", "b").value == pytest.approx(want["cost_to_target"] / 2)
    assert s.figure("efficiency")["axes"]["labels"]["range"] == (100, 400)
    assert found(s, "efficiency.mean_height.labels", "a").value == pytest.approx((0.575 + 0.64) / 2)
    assert found(s, "efficiency.mean_height.labels", "b").value == pytest.approx((0.64 + 0.69) / 2)
    about = found(s, "efficiency.mean_height.labels", "b").provenance
    assert [p["size"] for p in about["points"]] == [c // 2 for c in i["cost"]] and about["cost"]["tokens_trained"] == 0
    alone = efficiency_section(score(0.5), points[:4], target=i["target"])
    assert found(alone, "efficiency.mean_height.labels", "a").value == pytest.approx(want["mean_height"])
    about = found(s, "efficiency.cost_to_target.labels", "b").provenance
    assert about["target"] == i["target"] and about["method"] == "b" and about["axis"] == "labels"
    assert [(p["cost"], p["score"]) for p in about["points"]] == [(c // 2, v) for c, v in zip(i["cost"], i["score"])]


def test_the_curves_are_what_the_report_draws():
    """One panel for each cost that differs, with the heights and costs of the section."""
    from valign.report.from_section import section_of
    from valign.report.instruments import section

    points = [point("a", n, 0.5 + n / 10, seconds=2.0 * n) for n in (1, 2, 4)] + [point("b", n, 0.6) for n in (1, 2, 4)]
    made = efficiency_section(score(0.5), points, target=0.7)
    row = section(section_of(made.to_json()), [])
    labels, seconds = row["figures"][0]["data"]["panels"]
    assert labels["log_x"] and [s["name"] for s in labels["series"]] == ["a", "b"] and len(seconds["series"]) == 1
    (a,) = seconds["series"]
    assert [(p["x"], p["value"]) for p in a["points"]] == [(2.0, 0.6), (4.0, 0.7), (8.0, 0.9)]
    assert a["cost_to_target"] == pytest.approx(4.0)
    assert a["mean_height"] == found(made, "efficiency.mean_height.seconds", "a").value
    assert {v["label"] for v in labels["levels"]} == {"target", "before"}


def test_what_is_not_reached_or_not_spent_is_none():
    s = efficiency_section(score(0.5), [point("a", n, v) for n, v in ((1, 0.5), (2, 0.5), (4, 0.6))], target=0.9)
    late = found(s, "efficiency.cost_to_target.labels", "a")
    assert late.value is None and "not reached" in late.notes[0]
    assert found(s, "efficiency.mean_height.rollout_tokens", "a").value is None
    assert "half way" in efficiency_section(score(0.5), [point("a", n, 0.7) for n in (1, 2, 4)]).notes[0]


class Signs:
    """Reads a value off the signs of a text, so that any two texts differ."""

    id, theory = "signs", THEORY.id

    def values(self, groups):
        rows = [np.zeros((len(g.responses), len(THEORY.ids))) for g in groups]
        for row, g in zip(rows, groups):
            row[:, THEORY.ids.index("BE")] = [sum(map(ord, r.text)) % 97 / 97 for r in g.responses]
        return rows


def labelled(n, name):
    """Situations whose first answer is benevolent by label."""
    made = []
    for i in range(n):
        labels = tuple(VectorScore(response=k, theory=THEORY.id, values={"BE": v}) for k, v in enumerate((1.0, -1.0)))
        made.append(
            Group(
                id=f"{name}{i}",
                prompt=user(f"Why {i}?"),
                responses=(Response("aa ee"), Response("xyz")),
                feedback=labels,
            )
        )
    return made


@pytest.mark.capability("F08")
def test_one_run_draws_three_methods_against_every_cost(tmp_path):
    """sft, dpo and grpo on 1, 2 and 3 groups: nested data, costs that grow, a curve on each axis; run again, nothing is
    trained or answered twice."""
    base = LocalPolicy(tiny_model("llama", dtype="float32"), LocalEngine(precision="full"))
    small = {"learning_rate": 1e-2, "batch_size": 1}
    methods = [("sft", METHODS["sft"], small), ("dpo", METHODS["dpo"], small),
               ("grpo", METHODS["grpo"], {**small, "group_size": 3, "max_new_tokens": 4})]  # fmt: skip
    goal = ValueGoal(THEORY, {"BE": 1.0}, evaluator=Signs())
    plan = Sweep(methods, (1, 2, 3), labelled(3, "g"), goal, labelled(2, "t"), sampling=Sampling(n=2, max_new_tokens=4))
    section = sweep(base, plan, tmp_path)
    data = section.figure("efficiency")
    assert set(data["curves"]) == {"sft", "dpo", "grpo"} and set(data["axes"]) == set(AXES)
    for title in ("sft", "dpo", "grpo"):
        assert data["curves"][title]["size"] == [1, 2, 3] and all(v is not None for v in data["curves"][title]["low"])
        tokens = data["axes"]["training_tokens"]["methods"][title]["cost"]
        assert tokens[0] < tokens[1] < tokens[2] and data["axes"]["labels"]["methods"][title]["cost"] == [1, 2, 3]
        assert all(x > 0 for x in data["axes"]["seconds"]["methods"][title]["cost"])
        assert all(x >= 0 for x in data["axes"]["added_memory"]["methods"][title]["cost"]), "a tiny model may need none"
    rollouts = {t: data["axes"]["rollout_tokens"]["methods"][t]["cost"] for t in data["curves"]}
    assert rollouts["dpo"] == [0, 0, 0] and 0 < rollouts["grpo"][0] < rollouts["grpo"][2] <= 3 * 3 * 4
    assert found(section, "goal.utility", f"{goal.id}@dpo-3").interval is not None
    for name in ("mean_height", "cost_to_target"):
        about = found(section, f"efficiency.{name}.labels", "dpo").provenance
        assert about["model"]["id"] == base.id and about["goal"]["fingerprint"] == goal.fingerprint()
        assert about["cost"]["tokens_trained"] == sum(data["axes"]["training_tokens"]["methods"]["dpo"]["cost"])
    told = []
    again = sweep(base, plan, tmp_path, on_event=lambda e, f: told.append(e))
    assert "step" not in told and again.figure("efficiency") == data


@pytest.mark.parametrize("change, said", [({"sizes": (2, 4)}, "three or more"), ({"sizes": (2, 4, 60)}, "no more than the 6"),
                                          ({"methods": []}, "at least one")])  # fmt: skip
def test_a_sweep_that_could_not_be_drawn_is_refused(change, said):
    given = {"methods": [("sft", METHODS["sft"], {})], "sizes": (2, 4, 6), "groups": labelled(6, "g"), "goal": None,
             "held_out": ()} | change  # fmt: skip
    with pytest.raises(ValignError, match=said):
        Sweep(**given)
