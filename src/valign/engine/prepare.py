"""From groups to trees: text becomes ids once, and nothing is cut or dropped without being counted.

Templates and tokenizers are `models.chat`'s; what a method trains on is the method's. Here a group becomes a tree, and
a path that is too long meets the one policy for long paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from valign.data.group import Group, Message
from valign.engine.tree import Tree, from_chat, from_paths
from valign.errors import ValignError
from valign.models.chat import ChatTemplate, Encoded

OnLong = Literal["error", "drop", "cut_prompt_left", "cut_response"]


@dataclass
class Ledger:
    """What happened to the groups on their way into trees: ids by what was done to them."""

    dropped: dict[str, list[str]] = field(default_factory=dict)
    cut: dict[str, list[str]] = field(default_factory=dict)
    merged: int = 0
    responses: int = 0

    def drop(self, reason: str, group: str) -> None:
        self.dropped.setdefault(reason, []).append(group)

    @property
    def cut_share(self) -> float:
        """Share of responses whose path was shortened."""
        return sum(map(len, self.cut.values())) / self.responses if self.responses else 0.0


def response_tree(
    template: ChatTemplate,
    group: Group,
    *,
    longest: int | None = None,
    on_long: OnLong = "error",
    ledger: Ledger | None = None,
) -> Tree | None:
    """The tree of a group's prompt and all its responses, stop tokens included; None if it was dropped.

    longest  tokens of the longest path allowed, None: no limit
    Raises `ValignError` naming the group for a long path under on_long="error".
    """
    ledger = ledger if ledger is not None else Ledger()
    paths = template.encode_many([(group.prompt, r) for r in group.responses])
    ledger.responses += len(paths)
    ledger.merged += sum(p.merged for p in paths)
    over = [p for p in paths if longest is not None and len(p.ids) > longest]
    if over and on_long == "drop":
        ledger.drop("too long", group.id)
        return None
    if over and on_long == "error":
        raise ValignError(
            f"a path has {max(len(p.ids) for p in over)} tokens, the limit is {longest}",
            where=f"group {group.id}",
            how="raise max_length, or choose on_long=drop, cut_prompt_left or cut_response",
        )
    return _tree(group.id, paths, longest if over else None, on_long, ledger, (template.start, template.text_start))


def chat_tree(template: ChatTemplate, group: Group, *, longest: int, on_long: OnLong, ledger: Ledger) -> list[Tree]:
    """The trees that train every assistant turn of the conversations that end in the group's responses."""
    trees = []
    for i, r in enumerate(group.responses):
        paths = template.chat_paths((*group.prompt, Message("assistant", r.text)), "all")
        for j, (ids, loss) in enumerate(paths):
            ledger.responses += 1
            if len(ids) <= longest:
                trees.append(from_chat(f"{group.id}#{i}.{j}", ids, loss))
            elif on_long == "drop":
                ledger.drop("too long", group.id)
            else:  # cutting a conversation would change which turns are trained
                raise ValignError(
                    f"a conversation has {len(ids)} tokens, the limit is {longest}",
                    where=f"group {group.id}",
                    how="raise max_length, or choose on_long=drop",
                )
    return trees


def _tree(
    id: str,
    paths: Sequence[Encoded],
    longest: int | None,
    on_long: OnLong,
    ledger: Ledger,
    starts: Sequence[tuple[int, ...]],
) -> Tree | None:
    shared = min(p.n_prompt for p in paths)
    trunk, branches = list(paths[0].ids[:shared]), [list(p.ids[shared:]) for p in paths]
    loss = [[0.0] * (p.n_prompt - shared) + [1.0] * (len(p.ids) - p.n_prompt) for p in paths]
    if longest is not None and on_long == "cut_prompt_left":
        # models were never trained on a text without its start token: what is lost stands behind it
        start = next((list(s) for s in starts if s and tuple(trunk[: len(s)]) == s), [])
        room = longest - len(start) - max(len(b) for b in branches)
        if room < 1:
            ledger.drop("response alone is too long", id)
            return None
        trunk = start + trunk[len(start) :][-room:]
        ledger.cut.setdefault("prompt", []).extend([id] * len(paths))  # every response lost its beginning
    elif longest is not None and on_long == "cut_response":
        room = longest - len(trunk)
        if room < 1:
            ledger.drop("prompt alone is too long", id)
            return None
        # a cut answer has lost its stop token, so it is never trained as if it were finished
        for i, b in enumerate(branches):
            if len(b) > room:
                branches[i], loss[i] = b[:room], loss[i][:room]
                ledger.cut.setdefault("response", []).append(id)
    return from_paths(id, trunk, branches, loss)
