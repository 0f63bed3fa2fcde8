"""Message trees become chat turns: every path keeps its roles and order, every reply its rank."""

import json
import random

import pytest

from valign.data.group import Demonstration, Ranking, Score
from valign.data.readers import read


def message(id, role, text, *replies, **more):
    return {"message_id": id, "role": role, "text": text, "replies": list(replies), **more}


TREE = {
    "message_tree_id": "t1",
    "tree_state": "ready_for_export",
    "prompt": message(
        "p",
        "prompter",
        "How?",
        message(
            "a",
            "assistant",
            "So.",
            message("b", "prompter", "Why?", message("c", "assistant", "Thus.", rank=0)),
            rank=1,
            user_id="u1",
        ),
        message(
            "d", "assistant", "No.", message("e", "prompter", "Oh?"), rank=0, synthetic=True, model_name="m"
        ),
        lang="en",
    ),
}


def flat(node, parent=None, tree="t1"):
    """The same tree as messages, one per row."""
    row = {k: v for k, v in node.items() if k != "replies"} | {"parent_id": parent, "message_tree_id": tree}
    return [row, *(x for reply in node["replies"] for x in flat(reply, node["message_id"], tree))]


def read_rows(tmp_path, *rows, **options):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read(path, **options)


def check(data):
    """What holds of TREE in either form."""
    groups = {g.id: g for g in data}
    assert list(groups) == ["p", "b", "e"] and {g.cluster for g in data} == {"t1"}
    p, b, e = groups.values()
    assert [(m.role, m.content) for m in p.prompt] == [("user", "How?")]
    assert [(m.role, m.content) for m in b.prompt] == [
        ("user", "How?"),
        ("assistant", "So."),
        ("user", "Why?"),
    ]
    assert [(m.role, m.content) for m in e.prompt] == [
        ("user", "How?"),
        ("assistant", "No."),
        ("user", "Oh?"),
    ]
    assert [(r.id, r.text, r.source) for r in p.responses] == [("a", "So.", ""), ("d", "No.", "m")]
    assert [r.text for r in b.responses] == ["Thus."] and e.responses == ()
    assert [r.order for r in p.of(Ranking)] == [((1,), (0,))] and not list(b.of(Ranking))
    assert [(d.response, d.annotator) for d in p.of(Demonstration)] == [
        (0, "u1")
    ]  # the other one is a model's
    assert p.meta["lang"] == "en" and not data.report.dropped
    assert data.report.counts["a user turn has no reply; kept as a prompt"] == 1


@pytest.mark.capability("D02")
def test_a_nested_tree_becomes_turns_with_roles_and_order_intact(tmp_path):
    data = read_rows(tmp_path, TREE)
    assert data.format == "oasst_trees"
    check(data)


@pytest.mark.capability("D02")
def test_flat_messages_in_any_order_become_the_same_turns(tmp_path):
    """Replies keep the order they have in the file; a child may stand before its parent."""
    rows = flat(TREE["prompt"])
    data = read_rows(tmp_path, *rows)
    assert data.format == "oasst_messages"
    check(data)
    child_first = [rows[1], rows[0], *rows[2:]]
    check(read_rows(tmp_path, *child_first))


@pytest.mark.capability("D02")
def test_every_path_of_a_random_tree_is_kept(tmp_path):
    """Each user turn gives one group, whose prompt is exactly its path from the root."""
    rng = random.Random(0)
    rows, path = [], {}
    for i in range(300):
        parent = None if i == 0 else rng.choice(rows)
        role = "prompter" if parent is None or parent["role"] == "assistant" else "assistant"
        rows.append(
            {
                "message_id": f"m{i}",
                "parent_id": parent and parent["message_id"],
                "role": role,
                "text": f"{i}",
            }
        )
        path[f"m{i}"] = [
            *(path[parent["message_id"]] if parent else []),
            ({"prompter": "user"}.get(role, role), f"{i}"),
        ]
    rng.shuffle(rows)
    data = read_rows(tmp_path, *rows)
    users = {r["message_id"] for r in rows if r["role"] == "prompter"}
    assert {g.id for g in data} == users
    assert all([(m.role, m.content) for m in g.prompt] == path[g.id] for g in data)
    assert data.report.counts["messages"] == 300 and not data.report.dropped
    for g in data:
        assert {r.id for r in g.responses} == {r["message_id"] for r in rows if r["parent_id"] == g.id}


def test_orphans_deleted_messages_and_those_below_are_listed(tmp_path):
    rows = flat(TREE["prompt"])
    rows[1]["deleted"] = True  # "a": its child "b" and grandchild "c" have no path to the root any more
    rows.append({"message_id": "x", "parent_id": "absent", "role": "assistant", "text": "?"})
    rows.append({"message_id": "p", "parent_id": None, "role": "prompter", "text": "again"})
    data = read_rows(tmp_path, *rows)
    assert [g.id for g in data] == ["p", "e"] and [r.id for r in data[0].responses] == ["d"]
    reasons = {line: reason for line, _, reason in data.report.dropped}
    assert "deleted" in reasons[2] and "a is missing" in reasons[3] and "b is missing" in reasons[4]
    assert "absent is missing" in reasons[7] and "stands already in line 1" in reasons[8]
    assert len(reasons) == 5


def test_a_cycle_is_listed_and_does_not_hang(tmp_path):
    ring = [
        {"message_id": x, "parent_id": y, "role": "prompter", "text": x} for x, y in (("r", "s"), ("s", "r"))
    ]
    data = read_rows(tmp_path, *flat(TREE["prompt"]), *ring)
    assert len(data.report.dropped) == 2 and len(data) == 3


def test_a_very_deep_tree_is_read(tmp_path):
    rows = [
        {
            "message_id": str(i),
            "parent_id": str(i - 1) if i else None,
            "role": ("prompter", "assistant")[i % 2],
            "text": str(i),
        }
        for i in range(3000)
    ]
    data = read_rows(tmp_path, *rows)
    assert len(data) == 1500 and len(data[-1].prompt) == 2999


def test_a_broken_reply_is_listed_with_its_place(tmp_path):
    tree = json.loads(json.dumps(TREE))
    tree["prompt"]["replies"][1]["role"] = "alien"
    data = read_rows(tmp_path, tree)
    assert data.report.dropped == ((1, "prompt.replies[1].role", "unknown role 'alien'"),)
    assert [g.id for g in data] == ["p", "b"]


def test_equal_ranks_tie_and_unranked_replies_stay_out(tmp_path):
    replies = [message(f"r{i}", "assistant", f"{i}", rank=rank) for i, rank in enumerate((1, 0, 1, None))]
    data = read_rows(tmp_path, {"message_tree_id": "t", "prompt": message("p", "prompter", "q", *replies)})
    assert [r.order for r in data[0].of(Ranking)] == [((1,), (0, 2))]


def test_crowd_labels_are_scores_in_both_shapes(tmp_path):
    shapes = [{"quality": {"value": 0.75, "count": 3}}, {"name": ["quality", "spam"], "value": [0.75, 0.0]}]
    for labels in shapes:
        reply = message("a", "assistant", "x", labels=labels)
        (g,) = read_rows(tmp_path, {"message_tree_id": "t", "prompt": message("p", "prompter", "q", reply)})
        assert ("quality", 0.75) in [(s.aspect, s.value) for s in g.of(Score)]
