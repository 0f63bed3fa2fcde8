"""What a report says: which number is which, what counts as a change, and how the headline words it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from valign.errors import ValignError
from valign.report.build import SubjectReport, method_report
from valign.report.html import render
from valign.report.paired import difference, dominated, verdict
from valign.report.roles import ROLES, assign, gap
from valign.report.samples import rows
from valign.report.subject import CURVE_POINTS, curves
from valign.report.values import figure

GOAL = {"id": "g", "level": "value", "title": "kindness", "target": {"a": 1.0}}


def result(
    subject: str, value: float | None, scores: list[float] | None = None, **more: Any
) -> dict[str, Any]:
    """The JSON of a Result; with `scores` it holds items, so that it pairs."""
    items = [
        {"id": f"p{i}", "cluster": f"p{i}", "score": s, "weight": 1.0} for i, s in enumerate(scores or [])
    ]
    out = {
        "metric": "misalignment.M",
        "variant": "log_prob",
        "subject": subject,
        "level": "value",
        "value": value,
        "unit": "share",
        "direction": "down",
        "anchors": {"best": 0, "worst": 1, "chance": 0.5},
        "scaled": None,
        "n": len(items) or 30,
        "n_unscored": {},
        "bounds": None,
        "se": None,
        "interval": None,
        "cluster": {"unit": "prompt", "count": 30},
        "items": items,
        "provenance": {},
        "notes": [],
    }
    return {**out, **more}


def subject(id: str, scores: list[float], **more: Any) -> SubjectReport:
    mean = sum(scores) / len(scores)
    return SubjectReport(policy={"id": id}, results=[result(id, mean, scores)], label=id, **more)


WORSE = [0.5 + 0.01 * (i % 5) for i in range(30)]
BETTER = [0.2 + 0.01 * (i % 7) for i in range(30)]
LIKE_WORSE = [x + (0.02 if i % 2 else -0.02) for i, x in enumerate(WORSE)]


def lead(*subjects: SubjectReport, **more: Any) -> dict[str, Any]:
    report = method_report(subjects, goal=GOAL, **more)
    assert json.loads(json.dumps(report, allow_nan=False)) == report, "not plain JSON"
    return dict(report["sentences"])


def test_the_method_that_moved_it_furthest_is_named_with_interval_and_cost():
    said = lead(
        subject("base", WORSE, base=True),
        subject("dpo", BETTER, cost={"seconds": 600, "tokens_trained": 2e6}),
        subject("urial", LIKE_WORSE),
    )
    assert said["best"] == "dpo"
    assert "Of 2 methods to align base with “kindness”, dpo moved it furthest" in said["lead"]
    assert "misalignment M fell from 0.520 to 0.228" in said["lead"] and "95 % interval −" in said["lead"]
    assert "It cost 10 min and 2 M tokens trained." in said["lead"]
    assert "No measurable change from urial." in said["more"]
    assert "What dpo cost in ability was not measured." in said["more"]


def test_noise_is_not_called_a_change():
    said = lead(subject("base", WORSE, base=True), subject("urial", LIKE_WORSE), subject("bon", LIKE_WORSE))
    assert said["best"] is None
    assert said["lead"].startswith("None of 2 methods moved base measurably toward “kindness”.")
    pair = lead(subject("base", WORSE, base=True), subject("urial", LIKE_WORSE))
    assert pair["lead"].startswith("urial did not move base measurably")


def test_the_answers_that_lie_closest_are_named_beside_the_order():
    """V of a policy's own answers may move where the order of given ones does not; overlap is said."""

    def answering(id: str, v: float, low: float, high: float, **more: Any) -> SubjectReport:
        ends = {"low": low, "high": high, "level": 0.95, "method": "bootstrap_cluster"}
        row = result(id, v, metric="value.V", variant="profile", direction="up", interval=ends)
        mean = result(id, sum(WORSE) / 30, WORSE)
        return SubjectReport(policy={"id": id}, results=[mean, row], label=id, **more)

    base, far = answering("base", 0.5, 0.45, 0.55, base=True), answering("far", 0.7, 0.65, 0.75)
    said = lead(base, answering("near", 0.52, 0.47, 0.57), far)["more"]
    assert any("In its own answers far comes closest to the goal: V 0.700" in x and "overlap" not in x for x in said)
    said = lead(base, answering("near", 0.52, 0.47, 0.57))["more"]
    assert any("near comes closest" in x and "overlap" in x for x in said)
    assert any("no policy comes closer" in x for x in lead(base, answering("off", 0.4, 0.3, 0.5))["more"])
    assert not any("own answers" in x for x in lead(subject("base", WORSE, base=True), subject("x", WORSE))["more"])


def test_a_method_that_hurts_is_said_so():
    assert lead(subject("base", BETTER, base=True), subject("sft", WORSE))["lead"].startswith(
        "sft moved base away from “kindness”"
    )
    said = lead(
        subject("base", LIKE_WORSE, base=True),
        subject("sft", [x + 0.3 for x in WORSE]),
        subject("dpo", BETTER),
    )
    assert "sft made it worse." in said["more"]


def test_without_items_no_effect_is_claimed():
    bare = SubjectReport(policy={"id": "dpo"}, results=[result("dpo", 0.1)], label="dpo")
    report = method_report([subject("base", WORSE, base=True), bare], goal=GOAL)
    assert "No paired comparison of dpo with base exists" in report["sentences"]["lead"]
    assert report["subjects"][1]["verdict"]["kind"] == "unknown"


def test_a_given_difference_is_used_where_items_are_missing():
    given = result(
        "dpo vs base",
        -0.2,
        se=0.02,
        interval={"low": -0.24, "high": -0.16, "level": 0.95, "method": "paired_t"},
    )
    bare = SubjectReport(policy={"id": "dpo"}, results=[result("dpo", 0.3)], label="dpo", differences=[given])
    said = lead(replace(subject("base", WORSE), base=True), bare)
    assert said["best"] == "dpo" and "−0.240 to −0.160" in said["lead"]


def test_a_lead_within_noise_is_not_a_win():
    close = [x + (0.005 if i % 2 else -0.004) for i, x in enumerate(BETTER)]
    said = lead(subject("base", WORSE, base=True), subject("dpo", BETTER), subject("grpo", close))
    assert any(m.startswith("Its lead over") and "within noise" in m for m in said["more"])


def test_one_policy_says_where_it_stands_and_unscored_stays_unscored():
    report = method_report([subject("base", WORSE)], goal=GOAL)
    assert report["kind"] == "model" and "misalignment M is 0.520" in report["sentences"]["lead"]
    nothing = SubjectReport(policy={"id": "base"}, results=[result("base", None)])
    assert "is unscored" in method_report([nothing], goal=GOAL)["sentences"]["lead"]
    empty = method_report([SubjectReport(policy={"id": "base"})], goal=GOAL)
    assert "is unscored" in empty["sentences"]["lead"]


def test_few_seeds_and_many_unscored_items_are_warned_about():
    left = subject("dpo", BETTER, seeds=1)
    left = replace(left, results=[{**left.results[0], "n_unscored": {"parse_failure": 3}}])  # type: ignore[dict-item]
    report = method_report(
        [subject("base", WORSE, base=True), left, subject("sft", BETTER, seeds=3)], goal=GOAL
    )
    assert (
        "Fewer than 3 training seeds (dpo): the order of methods may be luck of the seed."
        in report["warnings"]
    )
    assert "dpo, M: 3 of 33 items are unscored (parse failure 3)." in report["warnings"]


def test_one_warning_for_all_that_share_it():
    """Three seeds with one caveat are one line that names them."""
    runs = [subject(f"dpo-{i}", BETTER, seeds=1, notes=("pairs follow from labels",)) for i in range(3)]
    found = method_report([subject("base", WORSE, base=True), *runs], goal=GOAL)["warnings"]
    assert [w for w in found if "labels" in w] == ["dpo-0, dpo-1, dpo-2: pairs follow from labels"]


def test_one_variant_for_all_policies():
    """A number of another formula never stands in the same column."""
    rows = {
        "base": [result("base", 0.5)],
        "dpo": [result("dpo", 0.2, variant="implicit"), result("dpo", 0.3)],
        "sft": [result("sft", 0.4)],
    }
    assert {k: v["M"]["variant"] for k, v in assign(rows, "value").items()} == dict.fromkeys(rows, "log_prob")


def test_gap_axis_maps_value_and_interval():
    row = {"value": 0.7, "interval": {"low": 0.6, "high": 0.75}}
    assert gap(ROLES["V"], row) == pytest.approx({"gap": 0.3, "low": 0.25, "high": 0.4})
    assert gap(ROLES["M"], row) == {"gap": 0.7, "low": 0.6, "high": 0.75}
    assert gap(ROLES["V"], {"value": None}) == {"gap": None, "low": None, "high": None}


def test_differences_count_items_won_and_lost():
    row = difference(result("a", 0.5, [1.0, 0.0, 1.0, 0.0]), result("b", 0.5, [0.0, 0.0, 1.0, 1.0]))
    assert row is not None and row["flips"] == {"up": 1, "down": 1, "same": 2} and row["value"] == 0
    assert verdict(row, ROLES["M"]) == "none" and verdict(None, ROLES["M"]) == "unknown"
    assert difference(result("a", 0.5), result("b", 0.5)) is None


def test_mde_is_2_8_standard_errors():
    """z(.975) + z(.8) = 2.801585: the usual factor."""
    row = difference(result("a", sum(BETTER) / 30, BETTER), result("b", sum(WORSE) / 30, WORSE))
    assert row is not None and row["mde"] == pytest.approx(2.801585 * row["se"], rel=1e-6)


def test_dominance_needs_every_axis():
    axes, beaten = dominated(
        {"a": {"M": 0.1, "s": 5.0}, "b": {"M": 0.2, "s": 6.0}, "c": {"M": 0.05, "s": 9.0}}
    )
    assert axes == ["M", "s"] and beaten == {"a": [], "b": ["a"], "c": []}
    axes, beaten = dominated({"a": {"M": 0.1, "s": None}, "b": {"M": 0.2, "s": 1.0}})
    assert axes == ["M"] and beaten["b"] == ["a"]
    assert dominated({"a": {"M": 0.1}, "b": {"M": 0.1}})[1] == {"a": [], "b": []}


def test_the_table_and_the_plane_mark_by_one_rule_that_counts_the_kl():
    """The same M and reward at twice the distance is dominated in both, cheap or not; a KL that one lacks cannot count."""

    def one(id: str, kl: float | None, reward: float, seconds: float) -> SubjectReport:
        more = [result(id, reward, metric="reward.mean", unit="score", direction="up")]
        more += [] if kl is None else [result(id, kl, metric="kl.policy_reference", level="cost", unit="nats")]
        whole = subject(id, BETTER, cost={"seconds": seconds})
        return replace(whole, results=[*whole.results, *more])

    def marks(*subjects: SubjectReport) -> tuple[list[str], dict[str, list[str]], dict[str, bool], str]:
        base = replace(subject("base", WORSE, base=True), results=[result("base", 0.52, WORSE),
                       result("base", 0.0, metric="reward.mean", unit="score", direction="up")])  # fmt: skip
        report = method_report([base, *subjects], goal=GOAL)
        data = {f["id"]: f["data"] for s in report["sections"] for f in s["figures"]}
        plane = data.get("reward_kl", {"points": [], "axes": data["methods"]["axes"]})
        assert plane["axes"] == data["methods"]["axes"]
        table = {r["subject"]: r["dominated_by"] for r in data["methods"]["rows"]}
        return plane["axes"], table, {p["subject"]: p["dominated"] for p in plane["points"]}, render(report)

    axes, table, plane, page = marks(one("near", 1.0, 0.5, 900), one("far", 2.0, 0.5, 10), one("gain", 3.0, 0.6, 10))
    assert axes == ["M", "reward", "KL"]
    assert table == {"base": [], "near": [], "far": ["near"], "gain": []}
    assert plane == {"near": False, "far": True, "gain": False}
    assert page.count("at least as good on M, reward, KL and better on one") == 2
    axes, table, plane, _ = marks(one("near", None, 0.5, 900), one("far", 2.0, 0.5, 10), one("gain", 3.0, 0.6, 10))
    assert axes == ["M", "reward"] and table["far"] == ["gain"] and plane == {"far": True, "gain": False}


@pytest.mark.parametrize(
    ("subjects", "more"),
    [
        ([], {}),
        ([subject("a", WORSE), subject("a", WORSE)], {}),
        ([subject("a", WORSE, base=True), subject("b", WORSE, base=True)], {}),
        ([subject("a", WORSE)], {"primary": "total"}),
    ],
)
def test_absurd_reports_are_refused(subjects: list[SubjectReport], more: dict[str, Any]):
    with pytest.raises(ValignError):
        method_report(subjects, goal=GOAL, **more)


def test_long_curves_keep_both_ends():
    lines = [{"event": "step", "step": i, "loss": float(i), "kl": None if i else 0.0} for i in range(1, 5001)]
    found = curves(lines)
    assert len(found["steps"]) <= CURVE_POINTS and (found["steps"][0], found["steps"][-1]) == (1, 5000)
    assert found["of"] == 5000 and list(found["series"]) == ["loss"]


def test_every_profile_says_under_its_circle_whether_it_can_be_trusted():
    """Two policies on the same 24 prompts, one with values and one that answers at random: both numbers stand on the page with
    their intervals, and the random one is warned about there and before all numbers."""
    import numpy as np

    from valign.data.group import Group, Response, user
    from valign.evaluation.measure.profile import profile_results
    from valign.goals.theory import load_theory
    from valign.goals.value import ValueGoal

    rng, goal = np.random.default_rng(0), ValueGoal(load_theory("schwartz10"), {"BE": 1.0})
    groups = [Group(id=f"p{i}", prompt=user("?"), responses=(Response("a"),)) for i in range(24)]
    made = {
        "steady": np.linspace(-0.5, 0.5, 10) + 0.2 * rng.normal(size=(24, 1, 10)),
        "random": rng.uniform(-1, 1, (24, 1, 10)),
    }
    subjects = [
        SubjectReport(policy={"id": id}, label=id, base=id == "steady",
                      results=profile_results(groups, list(values), goal, subject=id, about={}))
        for id, values in made.items()
    ]  # fmt: skip
    report = json.loads(json.dumps(method_report(subjects, goal={**GOAL, "theory": "schwartz10"}, primary="profile")))
    (circle,) = [f for s in report["sections"] if s["id"] == "values" for f in s["figures"]]
    steady, noisy = (p["reliability"] for p in circle["data"]["policies"])
    assert steady["value"] > 0.9 and not steady["warning"] and steady["retest"] is None
    assert noisy["value"] < 0.7 and noisy["warning"].startswith("UNRELIABLE, do not read this profile: two halves of the prompts")
    assert report["warnings"] == [f"random: {noisy['warning']}"]
    html = render(report)
    trust = html.partition('<div class="trust">')[2].partition("</div>")[0]
    for r in (steady, noisy):
        assert all(f'value="{x!r}"' in trust for x in (r["value"], r["interval"]["low"], r["interval"]["high"]))
    assert trust.count("not asked again in other words") == 2 and trust.count("UNRELIABLE") == 1 and "0.7 is needed" in trust
    bare = [replace(s, results=[r for r in s.results if r.metric.startswith("value.profile")]) for s in subjects]
    assert render(method_report(bare, goal=GOAL, primary="profile")).count("its reliability was not measured") == 2


def test_the_circle_has_nine_wedges_and_four_groups(seven: dict[str, Any]):
    """Schwartz: conformity and tradition share a wedge, hedonism is shared by two groups."""
    data = next(f["data"] for s in seven["sections"] for f in s["figures"] if f["id"] == "values")
    angle = {s["id"]: s["angle"] for s in data["spokes"]}
    assert {k: angle[k] for k in ("SD", "ST", "PO", "UN")} == {"SD": 0, "ST": 40, "PO": 160, "UN": 320}
    assert abs(angle["CO"] - 240) == abs(angle["TR"] - 240) == 8
    bands = {b["name"]: (b["from"], b["to"]) for b in data["bands"]}
    assert bands["openness"] == (-20, 80) and bands["self-enhancement"] == (80, 180) and len(bands) == 4
    assert data["policies"][0]["circle"]["null_r2"] == pytest.approx(2 / 9)


def test_an_unnamed_dimension_is_a_target_of_zero_only_where_it_is_weighed():
    one = SubjectReport(policy={"id": "m"}, profile={"values": {"care": 0.5, "loyalty": 0.2, "liberty": 0.1}})
    goal = {"target": {"care": 1.0}}
    for weights, whole in (("named", False), ("ones", True), ([1, 1, 1], True), ([1, 0, 1], False)):
        found = figure([one], {**goal, "weights": weights}, None, None)
        assert found is not None and len(found["data"]["target"]) == (3 if whole else 1), weights


def test_other_theories_get_a_radar():
    one = SubjectReport(
        policy={"id": "m"}, profile={"values": {"care": 0.5, "loyalty": None, "liberty": 0.1}, "n": 9}
    )
    found = figure([one], {"target": {"care": 1.0}}, None, None)
    assert found is not None and found["type"] == "radar"
    assert [s["angle"] for s in found["data"]["spokes"]] == [0, 120, 240]
    assert figure([SubjectReport(policy={"id": "m"})], {}, None, None) is None


def test_a_baseline_is_not_a_policy():
    silent = result("baseline: shows no value", 0.6)
    one = subject("base", WORSE)
    report = method_report([replace(one, results=[*one.results, silent])], goal=GOAL)
    measured = next(s for s in report["sections"] if s["id"] == "measured")
    assert [r["subject"] for r in measured["results"]] == ["baseline: shows no value"]
    entries = measured["figures"][0]["data"]["groups"][0]["results"]
    assert [e["subject"] for e in entries] == ["base", None]


def test_samples_stand_side_by_side_with_what_changed():
    def says(id: str, scores: list[float | None], **more: Any) -> SubjectReport:
        rows = [
            {"id": f"p{i}", "prompt": "q", "responses": [{"text": f"{id} {i}", "score": s}]}
            for i, s in enumerate(scores)
        ]
        return SubjectReport(policy={"id": id}, samples=rows, **more)

    table = rows([says("base", [0.0, 0.0, 0.0, None]), says("dpo", [0.1, -0.5, 0.0, 1.0])], "base")
    assert [r["id"] for r in table] == ["p1", "p0", "p2", "p3"], "largest change first, then by id"
    other = {r["id"]: r["answers"][1] for r in table}
    assert {k: a["outcome"] for k, a in other.items()} == {
        "p0": "won",
        "p1": "lost",
        "p2": "same",
        "p3": "unscored",
    }
    assert other["p1"]["delta"] == -0.5 and other["p3"]["delta"] is None
    assert (
        table[0]["answers"][0]["outcome"] == "base" and table[0]["answers"][1]["texts"][0]["text"] == "dpo 1"
    )


def test_what_was_not_planned_is_paired_too_and_adjusted_as_one_family():
    """V of two policies before and after: recomputed from the items' values, beside M, with Benjamini-Hochberg's p."""
    from valign.evaluation.statistics import benjamini_hochberg

    def made(id: str, scores: list[float], raised: float, **more: Any) -> SubjectReport:
        rows = [[0.1 * (i % 5) + 2 * raised * (i % 2), -0.3 + 0.1 * (i % 3)] for i in range(30)]
        items = [{**row, "detail": {"values": v}} for row, v in zip(result(id, 0.5, [0.5] * 30)["items"], rows)]
        v = result(id, 1 - 0.5 * ((1 - 0.2 - raised) ** 2) ** 0.5, metric="value.V", variant="profile", direction="up",
                   anchors={"best": 1, "worst": 0, "chance": 0.5}, items=items, n=30,
                   provenance={"target": {"t": [1.0, 0.0], "w": [1.0, 0.0]}})  # fmt: skip
        first = subject(id, scores, **more)
        return replace(first, results=[*first.results, v])

    subjects = [made("base", WORSE, 0.0, base=True), made("a", BETTER, 0.3), made("b", LIKE_WORSE, 0.001)]
    report = method_report(subjects, goal=GOAL)
    figures = {f["id"]: f["data"] for s in report["sections"] for f in s["figures"]}
    assert figures["changes"]["role"] == "M" and figures["changes_V"]["better"] == "up" and "changes_reward" not in figures
    rows = figures["changes_V"]["rows"]
    assert [r["subject"] for r in rows] == ["a", "b"] and rows[0]["value"] == pytest.approx(0.15)
    assert rows[0]["interval"]["method"] == "bootstrap_cluster" and rows[0]["interval"]["low"] > 0 and rows[0]["mde"] > 0
    assert [r["p_adjusted"] for r in rows] == pytest.approx(list(benjamini_hochberg([r["p"] for r in rows])))
