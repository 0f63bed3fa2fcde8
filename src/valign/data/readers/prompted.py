"""Examples that were turned into prompts elsewhere: rows of P3, xP3 and the Flan collection."""

from __future__ import annotations

from valign.data.group import Demonstration, Group, Response, user
from valign.data.readers.reader import (
    Drop,
    Log,
    Reader,
    Row,
    having,
    id_of,
    list_of,
    mostly,
    rest_of,
    row_wise,
    text_of,
)


def read_prompted(row: Row, log: Log) -> Group:
    """Prompt and target; with answer choices, the target is the one right answer."""
    f = row.fields
    old = f.get("inputs_pretokenized") is not None  # P3 holds token ids under the plain names
    names = ("inputs_pretokenized", "targets_pretokenized") if old else ("inputs", "targets")
    prompt, target = (text_of(f, name).strip() for name in names)
    for name, value in zip(names, (prompt, target), strict=True):
        if not value:
            raise Drop(name, "is empty")
    meta = rest_of(f, "id", "inputs", "targets", *names)
    if f.get("answer_choices"):
        meta["checks"] = [{"type": "exact", "answers": [target]}]
        if target not in (choices := [str(c) for c in list_of(f, "answer_choices", str)]):
            raise Drop("answer_choices", f"{target[:40]!r} is not among {choices}"[:200])
    return Group(
        id=id_of(f, row, "id"), prompt=user(prompt), responses=(Response(target),), feedback=(Demonstration(response=0),),
        meta=meta,
    )  # fmt: skip


READERS = (
    Reader(
        "prompted",
        "P3, xP3 and Flan: examples that were made into prompts",
        "inputs, targets (P3: inputs_pretokenized, targets_pretokenized, answer_choices)",
        mostly(lambda f: having("inputs", "targets")(f) or having("inputs_pretokenized", "targets_pretokenized")(f)),
        row_wise(read_prompted),
    ),
)
