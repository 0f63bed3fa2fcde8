"""OpenAssistant message trees: flat messages with parent ids, or one nested tree per row.

Every user turn becomes a group: the path from the root is the prompt, its replies are the responses. Replies
by people are demonstrations; their ranks are a ranking. Roles and order are those of the path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from valign.data.group import Demonstration, Feedback, Group, Message, Ranking, Response, Score
from valign.data.readers.reader import Drop, Fields, Log, Reader, Row, having, mostly, number_of, text_of
from valign.data.readers.turns import ROLE_OF

LICENCE = "Apache-2.0 (OpenAssistant/oasst1)"
NO_REPLY = "a user turn has no reply; kept as a prompt"


@dataclass
class _Node:
    """One message. `fields` as in the file; `children` in file order."""

    line: int
    fields: Fields
    turn: Message
    children: list[_Node] = field(default_factory=list)

    @property
    def id(self) -> str:
        return str(self.fields["message_id"])


def read_flat(rows: Iterable[Row], log: Log) -> Iterator[tuple[int, Group]]:
    """Messages one per row, in any order. A message whose parent is absent or dropped is dropped with its
    reason.
    """
    nodes: dict[str, _Node] = {}
    parents: dict[str, str | None] = {}
    for row in rows:
        try:
            node = _node(row.line, row.fields)
            if node.id in nodes:
                raise Drop("message_id", f"{node.id} stands already in line {nodes[node.id].line}")
            nodes[node.id], parent = node, row.fields.get("parent_id")
            parents[node.id] = str(parent) if parent else None
        except Drop as drop:
            log.drop(row.line, drop.field, drop.reason)
    roots = []
    for id, parent in parents.items():
        if parent is None:
            roots.append(nodes[id])
        elif parent in nodes:
            nodes[parent].children.append(nodes[id])
    reached: set[str] = set()
    for root in roots:
        yield from _groups(root, (), str(root.fields.get("message_tree_id") or root.id), log, reached)
    for id, node in nodes.items():
        if id not in reached:
            log.drop(
                node.line,
                "parent_id",
                f"no path leads from a first message to {id}: {parents[id]} is missing",
            )


def read_nested(rows: Iterable[Row], log: Log) -> Iterator[tuple[int, Group]]:
    """One tree per row: {"message_tree_id", "prompt": {"text", "role", "replies": [...]}}."""
    for row in rows:
        try:
            root = _tree(row.line, row.fields.get("prompt"), "prompt", log)
        except Drop as drop:
            log.drop(row.line, drop.field, drop.reason)
            continue
        tree = str(row.fields.get("message_tree_id") or root.id)
        yield from _groups(root, (), tree, log, set())


def _tree(line: int, value: Any, path: str, log: Log) -> _Node:
    """A nested message with its replies; a reply that cannot be read is dropped with all below it."""
    if not isinstance(value, dict):
        raise Drop(path, "is not a message")
    try:
        node = _node(
            line, value if value.get("message_id") else {**value, "message_id": f"line-{line}.{path}"}
        )
    except Drop as drop:
        raise Drop(f"{path}.{drop.field}", drop.reason) from drop
    for i, reply in enumerate(value.get("replies") or ()):
        try:
            node.children.append(_tree(line, reply, f"{path}.replies[{i}]", log))
        except Drop as drop:
            log.drop(line, drop.field, drop.reason)
    return node


def _node(line: int, fields: Fields) -> _Node:
    if fields.get("message_id") is None:
        raise Drop("message_id", "is missing")
    if fields.get("deleted") is True:
        raise Drop("deleted", "the message was deleted by its community")
    role = ROLE_OF.get(str(fields.get("role")).lower())
    if role is None:
        raise Drop("role", f"unknown role {fields.get('role')!r}")
    return _Node(line, fields, Message(role, text_of(fields, "text")))


def _groups(
    node: _Node, path: tuple[Message, ...], tree: str, log: Log, reached: set[str]
) -> Iterator[tuple[int, Group]]:
    """The groups at and below a node, its ancestors' turns in `path`. Iterative: trees may be deep."""
    stack = [(node, path)]
    while stack:
        node, path = stack.pop()
        reached.add(node.id)
        here = (*path, node.turn)
        stack.extend((child, here) for child in reversed(node.children))
        if node.turn.role == "user":
            yield node.line, _group(node, here, tree, log)


def _group(node: _Node, prompt: tuple[Message, ...], tree: str, log: Log) -> Group:
    replies = [c for c in node.children if c.turn.role == "assistant"]
    feedback: list[Feedback] = []
    for i, reply in enumerate(replies):
        if not reply.fields.get("synthetic"):
            feedback.append(Demonstration(response=i, annotator=str(reply.fields.get("user_id") or "")))
        for aspect, value in _labels(reply.fields.get("labels")):
            feedback.append(Score(response=i, value=value, aspect=aspect, low=0.0, high=1.0))
    ranks = {i: number_of(r.fields.get("rank")) for i, r in enumerate(replies)}
    ranked = sorted({rank for rank in ranks.values() if rank is not None})
    order = tuple(tuple(i for i, rank in ranks.items() if rank == place) for place in ranked)
    if sum(map(len, order)) >= 2:
        feedback.append(Ranking(order=order))
    if not replies:
        log.counts[NO_REPLY] += 1
    log.counts["messages"] += 1 + len(replies)
    return Group(
        id=node.id,
        prompt=prompt,
        responses=tuple(
            Response(r.turn.content, id=r.id, source=str(r.fields.get("model_name") or "")) for r in replies
        ),
        feedback=tuple(feedback),
        cluster=tree,
        meta={k: node.fields[k] for k in ("lang", "tree_state") if isinstance(node.fields.get(k), str)},
    )


def _labels(labels: Any) -> Iterator[tuple[str, float]]:
    """(aspect, mean in 0..1) of crowd labels, in both published shapes."""
    if not isinstance(labels, dict):
        return
    if isinstance(labels.get("name"), list) and isinstance(labels.get("value"), list):
        pairs: Iterable[tuple[Any, Any]] = zip(labels["name"], labels["value"])
    else:
        pairs = ((k, v.get("value") if isinstance(v, dict) else v) for k, v in labels.items())
    for name, value in pairs:
        number = number_of(value)
        if number is not None and 0 <= number <= 1:
            yield str(name), number


READERS = (
    Reader(
        "oasst_messages",
        "OpenAssistant: messages with parent ids, one per row",
        "message_id, parent_id, role, text, rank (optional)",
        mostly(lambda f: having("message_id", "role", "text")(f) and "parent_id" in f),
        read_flat,
        LICENCE,
    ),
    Reader(
        "oasst_trees",
        "OpenAssistant: one nested message tree per row",
        "message_tree_id, prompt {text, role, replies}",
        mostly(lambda f: isinstance(f.get("prompt"), dict) and "replies" in f["prompt"]),
        read_nested,
        LICENCE,
    ),
)
