"""Value FULCRA: dialogues labelled with basic values, -1 or +1, in noisy spelling.

Two vectors per answer: the ten values as the file gives them (theory "schwartz10"), and the finer items
(theory "fulcra54"). A value that is not mentioned counts as 0. Where one row gives a value both signs, that
value is left out.
"""

from __future__ import annotations

import re

from valign.data.group import Group, Message, Response, VectorScore
from valign.data.readers.reader import Drop, Log, Reader, Row, list_of, mostly, rest_of, row_wise, text_of

VALUES = {
    "self-direction": "SD",
    "stimulation": "ST",
    "hedonism": "HE",
    "achievement": "AC",
    "power": "PO",
    "security": "SE",
    "tradition": "TR",
    "conformity": "CO",
    "benevolence": "BE",
    "universalism": "UN",
    "humility": "CO",  # a name of the 19-value theory, which the data use beside the ten
}

# The 54 items of the data set by the value that the rows give them (test_fulcra.py holds each against the
# rows). "observing social norms" counts as security here, though it belongs to face in the 19 values.
ITEMS_OF = {
    "SD": "be creative, be curious, have freedom of thought, be choosing own goals, be independent,"
    " have freedom of action, have privacy",
    "ST": "have an exciting life, have a varied life, be daring",
    "HE": "have pleasure, enjoying life, be self-indulgent",
    "AC": "be ambitious, be successful, be capable, be influential, be intellectual",
    "PO": "have authority, have social power, have wealth, have social recognition,"
    " preserving my public image",
    "SE": "observing social norms, have a sense of belonging, have a good health, have no debts,"
    " be neat and tidy, have family security, have a safe country, have a stable society",
    "TR": "be respecting traditions, be holding religious faith",
    "CO": "be obedient, be self-disciplined, moderate, be polite, be honoring parents and elders, be humble,"
    " accepting my portion in life",
    "BE": "be helpful, be honest, be forgiving, true friendship, mature love, be responsible,"
    " have loyalty towards friends",
    "UN": "have equality, social justice, have a world at peace, be protecting the environment,"
    " have harmony with nature, have a world of beauty, be broadminded",
}
ITEMS = {item: value for value, items in ITEMS_OF.items() for item in items.split(", ")}
SAME_ITEM = {"have a social recognition": "have social recognition"}

_AMOUNT = re.compile(r"[+\-=]?[0-9][+\-]?")
_TURN = re.compile(r"(?:\A|\n)(Human|Bob): ?")


def parse_label(label: str) -> tuple[str, int] | None:
    """(name in lower case, -1, 0 or 1) of a label such as "security: -1", "power : 1+" or "tradition:=1";
    None if
    it is no label. The name ends at the last colon; blanks in the amount do not count; a minus anywhere in it
    makes
    it negative.
    """
    name, colon, amount = label.rpartition(":")
    amount = amount.replace(" ", "")
    if not colon or not _AMOUNT.fullmatch(amount):
        return None
    size = min(1, int(re.sub(r"\D", "", amount)))
    return name.strip().lower(), -size if "-" in amount else size


def read_row(row: Row, log: Log) -> Group:
    """One dialogue: its last answer is the response, all turns before it the prompt."""
    f = row.fields
    turns = _dialogue(text_of(f, "dialogue"))
    values = _vector(row, log, "value_types", VALUES)
    items = _vector(row, log, "value_items", {**{i: i for i in ITEMS}, **SAME_ITEM})
    return Group(
        id=f"line-{row.line}",
        prompt=turns[:-1],
        responses=(Response(turns[-1].content, source=str(f.get("response_source") or "")),),
        feedback=(
            VectorScore(response=0, theory="schwartz10", values=values),
            VectorScore(response=0, theory="fulcra54", values=items),
        ),
        meta=rest_of(f, "dialogue", "value_items", "value_types", "response_source"),
    )


def _dialogue(raw: str) -> tuple[Message, ...]:
    """Turns of "Human: ...\\nBob: ..."; words such as "Introduction:" inside an answer are no speakers."""
    parts = _TURN.split(raw)
    if parts[0].strip() or len(parts) < 5:
        raise Drop("dialogue", "is not a dialogue of Human and Bob")
    turns = tuple(
        Message("user" if who == "Human" else "assistant", said.strip())
        for who, said in zip(parts[1::2], parts[2::2])
    )
    if turns[-1].role != "assistant":
        raise Drop("dialogue", "does not end in an answer of Bob")
    return turns


def _vector(row: Row, log: Log, field: str, known: dict[str, str]) -> dict[str, float]:
    """Names to -1 or 1. Counted: labels, signs, unknown names, unreadable labels, names with both signs."""
    signs: dict[str, set[int]] = {}
    for i, label in enumerate(list_of(row.fields, field, str)):
        parsed = parse_label(label)
        if parsed is None:
            log.flag(row.line, f"{field}[{i}]", "a label is not readable")
            continue
        name, sign = parsed
        log.counts[f"{field}: labels"] += 1
        log.counts[f"{field}: {'plus' if sign > 0 else 'minus' if sign < 0 else 'zero'}"] += 1
        if name not in known:
            log.flag(row.line, f"{field}[{i}]", f"{name!r} is not in the list")
            continue
        if name == "humility":
            log.counts["value_types: humility"] += 1
        signs.setdefault(name, set()).add(sign)
    both = {known[name] for name, s in signs.items() if {-1, 1} <= s}
    if both:
        log.flag(row.line, field, f"{field}: a name has both signs")
    merged: dict[str, set[int]] = {}
    for name, s in signs.items():
        merged.setdefault(known[name], set()).update(s - {0})
    log.counts[f"{field}: two names of one value disagree"] += sum(
        len(s) == 2 and value not in both for value, s in merged.items()
    )
    return {value: float(min(s)) for value, s in merged.items() if len(s) == 1}


READER = Reader(
    "fulcra",
    "Value FULCRA: dialogues with labels of Schwartz values",
    "dialogue, value_items, value_types",
    mostly(lambda f: isinstance(f.get("dialogue"), str) and isinstance(f.get("value_types"), list)),
    row_wise(read_row),
    "MIT (microsoft/ValueCompass; no separate licence for the data)",
)
