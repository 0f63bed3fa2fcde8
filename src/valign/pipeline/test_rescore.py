"""A changed goal judges stored outputs again: what flips, by which part, what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from valign.errors import DataError, ValignError
from valign.evaluation.results_file import read_results
from valign.goals import load_goal
from valign.goals.revisions import read_revisions
from valign.pipeline.evaluate import goal_record
from valign.pipeline.rescore import old_goal, rescore, write_rescored
from valign.pipeline.stored import read_outputs

CARE = {"id": "mine", "level": "value", "theory": "schwartz10", "target": {"benevolence": 1, "power": -1}}
POWER = CARE | {"version": 2, "target": {"benevolence": 1, "power": 1}}
WORDS = {"care": {"BE": 0.8}, "rule": {"PO": 0.9}, "boss": {"PO": 0.6, "BE": -0.4}, "hush": {}}


class Reader:
    """A planted evaluator: a text's first word says its values. Counts how often it was asked."""

    id, theory = "planted", "schwartz10"

    def __init__(self) -> None:
        self.asked = 0

    def values(self, groups):
        self.asked += 1
        theory = load_goal(CARE).theory
        return [np.stack([theory.vector(WORDS[r.text.split()[0]]) for r in g.responses]) for g in groups]


class Marks:
    """A planted judge of two principles: kept where a text holds the principle's id, broken where it holds "no ID"."""

    id = "marks"

    def verdicts(self, groups, principles):
        def one(text: str, id: str) -> float:
            return -1.0 if f"no {id}" in text else 1.0 if id in text else 0.0

        return [np.array([[one(r.text, p.id) for p in principles] for r in g.responses]) for g in groups]


def store(folder: Path, goal, answers: list[list[str]], subject: str = "tiny") -> Path:
    """What `evaluate` writes, from texts; "!" is an answer that never came."""
    folder.mkdir(parents=True)
    from valign.data.group import Group, Response, user

    rows = []
    for i, texts in enumerate(answers):
        group = Group(id=f"p{i}", prompt=user(f"question {i}"), responses=tuple(Response(t.strip("!")) for t in texts))
        given = [t != "!" for t in texts]
        plain = [Response(t if ok else next(iter(WORDS))) for t, ok in zip(texts, given)]
        scored = Group(id=group.id, prompt=group.prompt, responses=tuple(plain))
        utility = goal.utility([scored])[0]
        values = goal.values([scored])[0] if goal.level == "value" else [None] * len(texts)
        responses = []
        for text, ok, u, v in zip(texts, given, utility, values):
            row = {"text": text, "score": round(float(u), 6)} if ok else {"text": "", "score": None, "failure": "timeout"}
            if ok and v is not None:
                row["values"] = dict(zip(goal.theory.ids, v.tolist()))
            responses.append(row)
        rows.append({"id": group.id, "prompt": group.prompt_text, "responses": responses, "score": None})
    (folder / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "goal.json").write_text(json.dumps(goal_record(goal)))
    (folder / "result.json").write_text(json.dumps({"schema": 1, "results": [{"subject": subject}]}))
    return folder


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def run(tmp_path, reader) -> Path:
    goal = load_goal(CARE, scorers={"value": reader})
    return store(tmp_path / "run", goal, [["care 1", "rule 1"], ["care 2", "boss 2"], ["hush 3", "rule 3"], ["care 4", "!"]])


@pytest.mark.capability("G11")
def test_changing_a_goal_rescores_stored_outputs_and_shows_what_flipped(run, reader):
    """Power is wanted now, no longer unwanted. By hand: v = (BE, PO), D = sqrt(((BE-1)² + (PO∓1)²)/2)/2.
    "rule" (0, .9) beats "care" (.8, 0) under the new target (.709 against .721) and lost before (1.518 > .721), and beats
    silence now; "boss" (-.4, .6) stays behind "care". All by the part PO; nothing was generated, the evaluator not asked.
    """
    asked = reader.asked
    outputs = read_outputs(run)
    new = load_goal(POWER, scorers={"value": reader})
    found = rescore(outputs, new, old_goal(outputs, {"value": reader}))
    assert reader.asked == asked
    assert found.changes == ("~ target.PO: -1 -> 1",)
    orders = [f for f in found.flips if f["kind"] == "order"]
    assert [(f["id"], f["was_better"]["response"], f["was_worse"]["response"], f["part"]) for f in orders] == [
        ("p0", 0, 1, "PO"), ("p2", 0, 1, "PO"),
    ]  # fmt: skip
    d = -np.sqrt(((np.array([0.8, 0]) - 1) ** 2 + (np.array([0, 0.9]) - 1) ** 2) / 2) / 2
    assert orders[0]["after"] == pytest.approx(d.tolist(), abs=1e-6)
    assert orders[0]["before"][1] == pytest.approx(-np.sqrt((1 + 1.9**2) / 2) / 2, abs=1e-6)
    standing = [(f["id"], f["response"], f["now"]) for f in found.flips if f["kind"] == "standing"]
    assert standing == [("p0", 1, "good"), ("p2", 1, "good")]
    assert found.counts == {
        "prompts": 4, "responses": 7, "pairs": 3, "order_flips": 2, "newly_even": 0, "newly_ordered": 0, "standing": 7,
        "standing_flips": 2,
    }  # fmt: skip
    assert found.by_part == {"PO": 4}


@pytest.mark.capability("G11")
def test_a_revision_is_logged_and_the_new_scores_written_beside_the_old(run, reader):
    outputs = read_outputs(run)
    stored = {f.name: f.read_bytes() for f in run.iterdir()}
    new = load_goal(POWER, scorers={"value": reader})
    found = rescore(outputs, new, old_goal(outputs, {"value": reader}))
    paths = write_rescored(found)
    assert {name: (run / name).read_bytes() for name in stored} == stored  # nothing stored was touched
    assert paths["flips"].parent == run / "rescored" / new.fingerprint()[:12]
    (entry,) = read_revisions(run / "revisions.jsonl")
    assert (entry["before"]["version"], entry["after"]["version"]) == (1, 2)
    assert entry["after"]["fingerprint"] == new.fingerprint() and entry["changes"] == ["~ target.PO: -1 -> 1"]
    assert entry["counts"]["order_flips"] == 2
    results = {r.metric: r for r in read_results(paths["results"])}
    assert results["goal.order_flips"].value == pytest.approx(2 / 3) and results["goal.order_flips"].n == 3
    assert results["goal.standing_flips"].value == pytest.approx(2 / 7)
    utility = results["goal.utility"]
    assert (utility.n, dict(utility.n_unscored), utility.subject) == (7, {"no_answer": 1}, "tiny")
    row = json.loads(paths["samples"].read_text().splitlines()[0])
    assert row["responses"][0]["score"] == row["responses"][0]["score_before"]  # "care" shows no power either way
    assert row["responses"][1]["score"] > row["responses"][1]["score_before"]
    write_rescored(found)
    assert len(read_revisions(run / "revisions.jsonl")) == 1  # the same revision is logged once


def test_what_was_written_can_be_judged_again(run, reader):
    """Back to the first goal, from the rescored folder: the first scores return and the same pairs flip back."""
    outputs = read_outputs(run)
    new = load_goal(POWER, scorers={"value": reader})
    paths = write_rescored(rescore(outputs, new, old_goal(outputs, {"value": reader})))
    again = read_outputs(paths["samples"].parent)
    back = rescore(again, load_goal(CARE, scorers={"value": reader}), old_goal(again, {"value": reader}))
    assert back.counts["order_flips"] == 2
    for one, other in zip(back.after.scores[0], outputs[0].scores, strict=True):
        assert one == pytest.approx(other, abs=1e-6, nan_ok=True)


def test_principles_with_another_weight(tmp_path):
    """The response that keeps what now counts more is the better one; the part that decides is the principle."""
    rules = [{"id": "cite", "text": "cite sources"}, {"id": "brief", "text": "be brief"}]
    before = load_goal({"id": "h", "level": "principle", "principles": rules}, scorers=Marks())
    heavy = [rules[0], rules[1] | {"weight": 3}]
    after = load_goal({"id": "h", "level": "principle", "principles": heavy}, scorers=Marks())
    answers = [["cite no brief", "brief no cite"], ["cite", "no brief"], ["cite no brief brief", "cite"]]
    run = store(tmp_path / "run", before, answers)
    found = rescore(read_outputs(run), after, before)
    assert found.changes == ("~ principles.brief.weight: 1 -> 3",)
    assert found.counts["newly_ordered"] == 1 and found.counts["order_flips"] == 0  # 0 against 0 becomes -2 against 2
    assert found.counts["standing_flips"] == 0
    harsh = load_goal({"id": "h", "level": "principle", "principles": [rules[1]]}, scorers=Marks())
    found = rescore(read_outputs(run), harsh, before)
    assert found.changes == ('- principles.cite: "cite sources"',)


def test_which_policy_is_better_flips(tmp_path, reader):
    """One policy cares, the other rules: the order of the two policies turns, and both intervals exclude 0."""
    goal = load_goal(CARE, scorers={"value": reader})
    store(tmp_path / "evaluation" / "a", goal, [["care"]] * 12, "carer")
    store(tmp_path / "evaluation" / "b", goal, [["rule"]] * 11 + [["boss"]], "ruler")
    outputs = read_outputs(tmp_path)
    found = rescore(outputs, load_goal(POWER | {"target": {"power": 1}}, scorers={"value": reader}), goal)
    (pair,) = found.policies
    assert (pair["one"], pair["other"], pair["n"], pair["flipped"], pair["sure"]) == ("carer", "ruler", 12, True, True)
    assert pair["before"]["difference"] > 0 > pair["after"]["difference"]
    assert found.counts["order_flips"] == 12  # pairs across the two policies, one per prompt
    paths = write_rescored(found, tmp_path / "out")
    assert (tmp_path / "out" / "2" / "samples.jsonl").is_file() and paths["flips"] == tmp_path / "out" / "flips.jsonl"
    assert [len(read_revisions(o.folder / "revisions.jsonl")) for o in outputs] == [1, 1]


def test_without_the_old_goal_stored_scores_are_compared(run, reader):
    """A folder of an older version has no goal.json: order flips are found, standing is not, and a note says so."""
    (run / "goal.json").unlink()
    outputs = read_outputs(run)
    assert old_goal(outputs) is None
    found = rescore(outputs, load_goal(POWER, scorers={"value": reader}))
    assert found.counts["order_flips"] == 2 and found.counts["standing"] == 0 and reader.asked > 0
    assert any("standing is not compared" in n for n in found.notes)
    json.dumps(found.to_json(), allow_nan=False)


def test_the_same_goal_flips_nothing(run, reader):
    goal = load_goal(CARE, scorers={"value": reader})
    found = rescore(read_outputs(run), goal, goal)
    assert (found.changes, found.flips, found.counts["order_flips"]) == ((), (), 0)


def test_values_of_another_evaluator_are_not_used_again(run, reader):
    class Other(Reader):
        id = "another"

    other = Other()
    rescore(read_outputs(run), load_goal(POWER, scorers={"value": other}), load_goal(CARE, scorers={"value": reader}))
    assert other.asked > 0


def test_composites_are_standardized_on_the_outputs(run, reader):
    parts = [{"goal": CARE | {"id": "care"}, "weight": 1}, {"goal": POWER | {"id": "power"}, "weight": 0.1}]
    scorers = {"value": reader}
    before = load_goal({"id": "both", "level": "composite", "parts": parts}, scorers=scorers)
    turned = [parts[0] | {"weight": 0.1}, parts[1] | {"weight": 1}]
    after = load_goal({"id": "both", "level": "composite", "parts": turned}, scorers=scorers)
    found = rescore(read_outputs(run), after, before)
    assert found.counts["order_flips"] >= 1 and any("standardized on these outputs" in n for n in found.notes)
    assert {f["part"] for f in found.flips} <= {"care", "power", ""}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not a stored sample"),
        ('{"id": "x", "prompt": "p"}', "responses"),
        ('{"id": "p0", "prompt": "p", "responses": []}', "stands twice"),
    ],
)
def test_faulty_files(run, line, words):
    with (run / "samples.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=words) as caught:
        read_outputs(run)
    assert "line 5" in caught.value.where


def test_folders_without_outputs(tmp_path):
    with pytest.raises(DataError, match="no stored outputs"):
        read_outputs(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_outputs(tmp_path / "absent")


def test_a_goal_without_a_scorer_says_so(run):
    (run / "goal.json").unlink()
    with pytest.raises(ValignError, match="no scorer"):
        rescore(read_outputs(run), load_goal(CARE))


def test_a_goal_that_ranks_puts_the_answers_of_all_policies_in_one_order(tmp_path, reader):
    """Two people for care, one for power: to three prompts "care" is better than "rule" in 2/3 of the opinions. A lone policy's
    ranks tell no utility."""
    stored = load_goal(CARE, scorers={"value": reader})
    runs = [store(tmp_path / word, stored, [[f"{word} {i}"] for i in range(3)], word) for word in ("care", "rule")]
    people = [("one", "benevolence", 1), ("two", "benevolence", 1), ("three", "power", 1)]
    goal = load_goal(
        {"id": "vote", "level": "composite", "conflict": "social", "social": "borda", "standard": "raw",
         "parts": [{"goal": {**CARE, "id": name, "target": {value: sign}}} for name, value, sign in people]},
        scorers={"value": reader},
    )  # fmt: skip
    asked = reader.asked
    found = rescore([o for r in runs for o in read_outputs(r)], goal)
    assert reader.asked == asked, "values are stored"
    assert [float(x) for policy in found.after.scores for row in policy for x in row] == pytest.approx([2 / 3] * 3 + [1 / 3] * 3)
    (pair,) = found.policies
    assert pair["after"]["difference"] == pytest.approx(1 / 3, abs=1e-6) and found.counts["standing"] == 0
    paths = write_rescored(found, tmp_path / "out")
    results = [r for p in ("1", "2") for r in read_results(tmp_path / "out" / p / "result.json")]
    assert [r.value for r in results if r.metric == "goal.utility"] == pytest.approx([2 / 3, 1 / 3]) and "flips" in paths
    alone = write_rescored(rescore(read_outputs(runs[0]), goal), tmp_path / "alone")
    assert "goal.utility" not in {r.metric for r in read_results(alone["results"])}
