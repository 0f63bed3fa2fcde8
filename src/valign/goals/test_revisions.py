"""What changed between two goals, and the log of revisions that nobody can rewrite unseen."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from valign.errors import DataError
from valign.goals import load_goal
from valign.goals.diff import differences
from valign.goals.revisions import append_revision, goal_card, read_revisions

HOUSE = {"id": "house", "level": "principle", "principles": [{"id": "cite", "text": "name sources", "weight": 2},
                                                             {"id": "brief", "text": "be brief"}]}  # fmt: skip


def lines(before, after) -> list[str]:
    return [c.text for c in differences(load_goal(before), load_goal(after))]


def test_the_same_goal_in_other_words_has_no_changes():
    """A named target and its numbers are one goal; notes and versions change nothing that counts."""
    numbers = {"SE": 1, "CO": 1, "BE": 1, "UN": 1, "PO": -0.5} | dict.fromkeys(("SD", "ST", "HE", "AC", "TR"), 0)
    written = {"id": "hhh_like", "level": "value", "theory": "schwartz10", "target": numbers, "version": 3, "notes": "x"}
    assert lines("hhh_like", written) == []
    assert lines(HOUSE, HOUSE | {"notes": "mine"}) == []


def test_value_targets_by_dimension():
    before = {"id": "a", "level": "value", "theory": "schwartz10", "target": {"power": -1, "benevolence": 1}}
    after = {"id": "a", "level": "value", "theory": "schwartz10", "target": {"power": 1, "security": 0.5}}
    assert lines(before, after) == [
        "~ target.PO: -1 -> 1", "- target.BE: 1", "+ target.SE: 0.5", "- weights.BE: 1", "+ weights.SE: 1",
    ]  # fmt: skip


def test_principles_by_id():
    """Added, removed, reworded, weighted anew: each by its id, whatever the order."""
    rules = [{"id": "warm", "text": "be warm"}, {"id": "cite", "text": "name every source", "weight": 1}]
    after = {"id": "house", "level": "principle", "principles": rules}
    assert lines(HOUSE, after) == [
        '~ principles.cite.text: "name sources" -> "name every source"', "~ principles.cite.weight: 2 -> 1",
        '- principles.brief: "be brief"', '+ principles.warm: "be warm"',
    ]  # fmt: skip


def test_parts_of_a_composite():
    before = {"id": "c", "level": "composite", "parts": [{"goal": "hhh"}, {"goal": "uk", "weight": 0.5}]}
    parts = [{"goal": "hhh"}, {"goal": "uk", "priority": 2}]
    after = {"id": "c", "level": "composite", "conflict": "lexicographic", "parts": parts}
    assert lines(before, after) == [
        '~ conflict: "weighted" -> "lexicographic"', "~ parts.uk.weight: 0.5 -> 1", "~ parts.uk.priority: 1 -> 2",
        "+ epsilon: 0.1",
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- the log

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def revision(before: str = "uk", after: str = "nl", outputs: str = "o") -> dict:
    return {"before": goal_card(load_goal(before)), "after": goal_card(load_goal(after)), "outputs": outputs, "counts": {}}


def test_lines_are_added_and_name_the_one_before(tmp_path):
    path = tmp_path / "revisions.jsonl"
    first = append_revision(path, revision(), now=NOW)
    whole = path.read_bytes()
    second = append_revision(path, revision("nl", "fr"), now=NOW)
    assert path.read_bytes().startswith(whole)
    assert (first["n"], first["previous"], second["n"]) == (1, "", 2) and len(second["previous"]) == 64
    assert read_revisions(path) == [first, second]
    assert first["time"] == "2026-01-02T03:04:05+00:00"


def test_a_revision_that_repeats_the_last_is_written_once(tmp_path):
    path = tmp_path / "revisions.jsonl"
    append_revision(path, revision(), now=NOW)
    before = path.read_bytes()
    assert append_revision(path, revision())["time"] == "2026-01-02T03:04:05+00:00"
    assert path.read_bytes() == before
    append_revision(path, revision(outputs="other"))
    assert len(read_revisions(path)) == 2


@pytest.mark.parametrize("tamper", ["edit", "remove"])
def test_a_changed_or_missing_line_is_noticed(tmp_path, tamper):
    path = tmp_path / "revisions.jsonl"
    for pair in (("uk", "nl"), ("nl", "fr"), ("fr", "uk")):
        append_revision(path, revision(*pair), now=NOW)
    rows = path.read_text().splitlines()
    if tamper == "edit":
        rows[0] = json.dumps(json.loads(rows[0]) | {"time": "2025-01-01"})
    else:
        del rows[1]
    path.write_text("".join(r + "\n" for r in rows))
    with pytest.raises(DataError, match="was changed") as caught:
        read_revisions(path)
    assert "line 2" in caught.value.where


def test_a_line_cut_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "revisions.jsonl"
    append_revision(path, revision(), now=NOW)
    with path.open("a") as file:
        file.write('{"v": 1, "n": 2, "prev')
    assert len(read_revisions(path)) == 1
    append_revision(path, revision("nl", "fr"), now=NOW)
    assert [r["n"] for r in read_revisions(path)] == [1, 2]


def test_nobody_writes_a_revision_while_another_process_does(tmp_path):
    """Two lines that both name the last one would break the chain for good."""
    from valign.engine.lock import Lock
    from valign.errors import ValignError

    entry = {"before": {"id": "a"}, "after": {"id": "b"}, "outputs": "x"}
    other = Lock(tmp_path)
    other.acquire()
    with pytest.raises(ValignError, match="is writing here"):
        append_revision(tmp_path / "revisions.jsonl", entry)
    other.release()
    append_revision(tmp_path / "revisions.jsonl", entry)
    assert [x.name for x in tmp_path.iterdir()] == ["revisions.jsonl"] and len(read_revisions(tmp_path / "revisions.jsonl")) == 1
