"""Norm banks: rules of thumb (a judgement on an action) with the situations that they were written beside.

Four published formats are read from files that the user fetched: Social Chemistry 101 (2011.00620), MIC (2204.03021),
Moral Stories (2012.15738) and the bank of Delphi (2110.07574); `everyday` is the project's own small bank. Always true
here: a row that cannot be read is listed with its line and reason, and agreement is a share in [0, 1] or unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from valign.data.readers.containers import rows_of
from valign.data.readers.reader import Drop, Fields, Log, Row, having, mostly, number_of, text_of
from valign.errors import DataError, unknown
from valign.goals.files import DATA, Reader, builtin_names, read_yaml
from valign.goals.principle import Kind, Principle

FOUNDATIONS = ("care", "fairness", "loyalty", "authority", "sanctity", "liberty")
# Shares of people who would agree, the middle of each published answer: < 1 %, 5-25 %, about half, 75-90 %, > 99 %.
AGREE = (0.005, 0.15, 0.5, 0.825, 0.995)
UNMARKED = -1  # what MIC writes where an annotator marked no agreement
JUDGEMENT = re.compile(
    r"^((?:it'?s|it is|that'?s) .+? (?:to|that you|when you|if you)|(?:you|people|one|we) "
    r"(?:should(?: not|n't)?|shouldn't|must(?: not)?|need to|can|don't have to)(?: always| never)?)\s+(.+)$",
    re.IGNORECASE,
)
YES_NO = re.compile(r"(yes|no)\b", re.IGNORECASE)  # how Delphi's answers to statements begin
BAD = re.compile(r"\b(wrong|rude|mean|bad|unfair|disrespectful|selfish|immoral|not|shouldn't|never|unacceptable|n't)\b", re.I)


@dataclass(frozen=True)
class Norm:
    """A rule of thumb: judgement + action, with the situation it was written beside.

    foundations  of FOUNDATIONS; agreement  share of people who would agree, None where nobody was asked
    held_out     further situations that call for the rule; never part of what is searched
    """

    id: str
    judgement: str
    action: str
    situation: str = ""
    foundations: tuple[str, ...] = ()
    agreement: float | None = None
    split: str = ""
    held_out: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The rule in one sentence."""
        return f"{self.judgement} {self.action}".strip()

    def principle(self, source: str = "", license: str = "") -> Principle:
        """The rule as a principle of a goal; what most people disagree with has weight 0."""
        kind: Kind = "dont" if BAD.search(self.judgement) else "prefer"
        weight = 1.0 if self.agreement is None else max(0.0, 2 * self.agreement - 1)
        return Principle(self.id, self.text, kind=kind, theme=", ".join(self.foundations), weight=weight,
                         source=source, license=license)  # fmt: skip


@dataclass(frozen=True)
class NormBank:
    """Norms with their source.

    dropped   (line, field, reason) of rows that could not be read
    """

    id: str
    norms: tuple[Norm, ...]
    source: str = ""
    license: str = ""
    dropped: tuple[tuple[int, str, str], ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.norms)


def load_norms(spec: str | Path, *, format: str | None = None) -> NormBank:
    """A built-in bank by name ("everyday"), a bank in valign's own YAML, or a file of a published format.

    format   social_chemistry, mic, moral_stories or delphi; None: recognized by the columns
    Raises `DataError` for a file that holds none of them, `UsageError` for an unknown format.
    """
    if str(spec) in builtin_names("norms"):
        return _own(DATA / "norms" / f"{spec}.yaml")
    path = Path(spec)
    if path.suffix in (".yaml", ".yml"):
        return _own(path)
    if format is not None and format not in FORMATS:
        raise unknown("format", format, FORMATS, where=str(path))
    log = Log()
    rows = list(rows_of(path, log))
    name = format or _recognized([r.fields for r in rows[:20]], str(path))
    chosen, norms = FORMATS[name], []
    for row in rows:
        try:
            norms.append(chosen.read(row))
        except Drop as drop:
            log.drop(row.line, drop.field, drop.reason)
    if not norms:
        raise DataError(f"none of {len(rows)} rows could be read as {name}", where=str(path),
                        how=[f"line {line}, {field}: {why}" for line, field, why in log.dropped[:5]])  # fmt: skip
    return NormBank(name, _unique(norms), chosen.source, chosen.license, tuple(log.dropped))


def _own(path: Path) -> NormBank:
    r = Reader(read_yaml(path), str(path))
    norms = []
    for part in r.parts("norms"):
        foundation = part.text("foundation", default="")
        norms.append(Norm(
            part.text("id"), part.text("judgement"), part.text("action"), part.text("situation", default=""),
            (foundation,) if foundation else (), part.raw("agreement", None),
            held_out=(held,) if (held := part.text("held_out", default="")) else (),
        ))  # fmt: skip
    bank = NormBank(r.text("id"), tuple(norms), r.text("source", default=""), r.text("license", default=""))
    r.integer("version", default=1)
    r.done()
    return bank


# -------------------------------------------------------------------------------------------- published formats


def _social_chemistry(row: Row) -> Norm:
    f = row.fields
    if number_of(f.get("rot-bad")) == 1:
        raise Drop("rot-bad", "the annotators marked the rule as unusable")
    agree = number_of(f.get("rot-agree"))
    judgement, action = split_rule(text_of(f, "rot"))
    return Norm(
        str(f.get("rot-id") or f"line-{row.line}"), judgement, action, text_of(f, "situation"),
        _foundations(f.get("rot-moral-foundations")), None if agree is None else _share(agree, 0, "rot-agree"),
        str(f.get("split") or ""),
    )  # fmt: skip


def _mic(row: Row) -> Norm:
    f = row.fields
    agree = number_of(f.get("rot-agree"))
    agree = None if agree == UNMARKED else agree
    judgement, action = split_rule(text_of(f, "rot"))
    situation = f"{text_of(f, 'Q').strip()}\n{text_of(f, 'A').strip()}"
    return Norm(
        str(f.get("rot-id") or f.get("id") or f"line-{row.line}"), judgement, action, situation,
        _foundations(f.get("moral")), None if agree is None else _share(agree, 1, "rot-agree"), str(f.get("split") or ""),
    )  # fmt: skip


def _moral_story(row: Row) -> Norm:
    f = row.fields
    judgement, action = split_rule(text_of(f, "norm"))
    situation = f"{text_of(f, 'situation').strip()} {str(f.get('intention') or '').strip()}".strip()
    return Norm(str(f.get("ID") or f"line-{row.line}"), judgement, action, situation)


def _delphi(row: Row) -> Norm:
    f = row.fields
    action = next((f[k] for k in ("action", "input_sequence", "input") if isinstance(f.get(k), str)), None)
    if action is None:
        raise Drop("input_sequence", "is missing")
    label = number_of(f.get("class_label"))
    if label not in (-1, 0, 1):
        raise Drop("class_label", f"is {f.get('class_label')!r}, not -1, 0 or 1")
    judgement = str(f.get("text_label") or {-1: "it's wrong", 0: "it's ok", 1: "it's good"}[int(label)])
    if YES_NO.match(judgement):  # the input is a rule already, and the label says whether people share it
        said, rest = split_rule(action)
        return Norm(str(f.get("id") or f"line-{row.line}"), said, rest, action.strip(), agreement=None if label > 0 else 0.0)
    return Norm(str(f.get("id") or f"line-{row.line}"), judgement, re.sub(r"^\[\w+\]:\s*", "", action.strip()), action.strip())


def split_rule(text: str) -> tuple[str, str]:
    """(judgement, action) of a rule in one sentence; ("", the whole) where it does not begin with a known judgement."""
    text = " ".join(text.split()).rstrip(".")
    if not text:
        raise Drop("rot", "is empty")
    match = JUDGEMENT.match(text)
    return (match[1], match[2]) if match else ("", text)


def _foundations(value: Any) -> tuple[str, ...]:
    """Names out of "care-harm|fairness-cheating", "care, liberty" or a list; others are left out."""
    parts = value if isinstance(value, list | tuple) else re.split(r"[|,;]", str(value or ""))
    names = [str(p).strip().strip("'[]\" ").lower().split("-")[0] for p in parts]
    return tuple(dict.fromkeys(n for n in names if n in FOUNDATIONS))


def _share(level: float, lowest: int, name: str) -> float:
    k = int(level) - lowest
    if level != int(level) or not 0 <= k < len(AGREE):
        raise Drop(name, f"is {level:g}, not {lowest} to {lowest + len(AGREE) - 1}")
    return AGREE[k]


@dataclass(frozen=True)
class Format:
    """A published bank: which columns it has and how a row is read."""

    read: Callable[[Row], Norm]
    columns: tuple[str, ...]
    source: str
    license: str


FORMATS: Mapping[str, Format] = {
    "social_chemistry": Format(_social_chemistry, ("rot", "situation", "rot-agree"), "2011.00620", "CC BY-SA 4.0"),
    "mic": Format(_mic, ("rot", "Q", "A"), "2204.03021", "CC BY-SA 4.0"),
    "moral_stories": Format(_moral_story, ("norm", "situation", "moral_action"), "2012.15738", "MIT"),
    "delphi": Format(_delphi, ("class_label",), "2110.07574", "on request"),
}


def _recognized(rows: Sequence[Fields], where: str) -> str:
    for name, chosen in FORMATS.items():
        if rows and mostly(having(*chosen.columns))(rows):
            return name
    how = [f"{name}: {', '.join(chosen.columns)}" for name, chosen in FORMATS.items()]
    raise DataError("the columns are those of no known norm bank", where=where, how=how)


def _unique(norms: Sequence[Norm]) -> tuple[Norm, ...]:
    """The norms with unique ids: a repeated one gets "#2", "#3"."""
    from dataclasses import replace

    seen: dict[str, int] = {}
    out = []
    for n in norms:
        seen[n.id] = turn = seen.get(n.id, 0) + 1
        out.append(n if turn == 1 else replace(n, id=f"{n.id}#{turn}"))
    return tuple(out)
