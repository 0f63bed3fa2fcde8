"""Group: a prompt, its responses, and the feedback on them. The one schema of valign's data.

Always true here: objects are immutable (mappings in them refuse changes; lists inside `meta` are the reader's
own), every feedback names its responses by their position in the group, and `Group.from_json(group.to_json())
== group`. Reading formats is left to `data/readers`, changing kinds of feedback to `data/convert`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeVar

from valign.data.frozen import frozen
from valign.errors import DataError

Role = Literal["system", "user", "assistant", "tool", "text"]
ROLES: tuple[str, ...] = ("system", "user", "assistant", "tool", "text")
SCHEMA = 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. Role "text" is raw text that no chat template touches (base models, likelihood items)."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"unknown role {self.role!r}", where="role", how=f"one of {', '.join(ROLES)}")
        if not isinstance(self.content, str):
            raise DataError(
                f"a turn's content must be text, not {type(self.content).__name__}", where="content"
            )


Prompt = tuple[Message, ...]


def user(text: str, *, system: str | None = None) -> Prompt:
    """A prompt of one user turn, with a system turn before it if given."""
    head = (Message("system", system),) if system is not None else ()
    return (*head, Message("user", text))


def text(raw: str) -> Prompt:
    """A prompt of raw text."""
    return (Message("text", raw),)


@dataclass(frozen=True, slots=True)
class Response:
    """What the assistant answered: the text of its final turn.

    ids     token ids as a sampler emitted them, stop token included; None when the response came as text
    finish  why it ended: "stop" (end token), "length" (cut: never trained as if finished), None (given as
            text: complete)
    """

    text: str
    id: str = ""
    source: str = ""
    ids: tuple[int, ...] | None = None
    finish: Literal["stop", "length"] | None = None


# --------------------------------------------------------------------------------------------------- feedback


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What all kinds share: who gave it (an annotator id, a judge id or "") and how much it counts."""

    kind: ClassVar[str] = ""
    annotator: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration(Feedback):
    """This response shows what to do."""

    kind: ClassVar[str] = "demonstration"
    response: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Feedback):
    """`chosen` is preferred to `rejected`.

    probability  soft label: P(chosen preferred), in [0, 1]; 1 for a hard label, 0.5 with tie=True
    strength     graded preference, larger = clearer; None if not graded
    """

    kind: ClassVar[str] = "comparison"
    chosen: int
    rejected: int
    probability: float = 1.0
    strength: float | None = None
    tie: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking(Feedback):
    """Responses from best to worst; each place holds the responses tied there."""

    kind: ClassVar[str] = "ranking"
    order: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Feedback):
    """A number on a stated scale. `low` and `high` are the ends of the scale, or None where it has none."""

    kind: ClassVar[str] = "score"
    response: int
    value: float
    aspect: str = "overall"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorScore(Feedback):
    """A position in a value space: dimension id -> number in [-1, 1]. A dimension that is absent counts as
    0.
    """

    kind: ClassVar[str] = "vector"
    response: int
    theory: str
    values: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", frozen(self.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Critique(Feedback):
    """Words about a response; `span` is (start, end) in its characters, None for the whole."""

    kind: ClassVar[str] = "critique"
    response: int
    text: str
    span: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit(Feedback):
    """`revised` is what `response` should have been."""

    kind: ClassVar[str] = "edit"
    response: int
    revised: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Feedback):
    """Whether a response keeps (1), breaks (-1) or does not touch (0) a principle. Principle "good": a
    thumb.
    """

    kind: ClassVar[str] = "verdict"
    response: int
    principle: str
    value: float
    quote: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """A person (or group) whose feedback or answers stand in the data: attributes are free text."""

    id: str
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", frozen(self.attributes))


KINDS: dict[str, type[Feedback]] = {
    c.kind: c for c in (Demonstration, Comparison, Ranking, Score, VectorScore, Critique, Edit, Verdict)
}


# ------------------------------------------------------------------------------------------------------ group


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt, its responses, and the feedback on them.

    id        unique in its data set; results are paired on it
    choices   True for the answer choices of a multiple-choice item (responses are choices, not assistant
              turns)
    gold      position of the right choice, None if there is none
    cluster   what counts as independent for statistics ("" = the group itself)
    split     "train", "dev", "test" or ""
    meta      anything else from the source, JSON values only
    """

    id: str
    prompt: Prompt
    responses: tuple[Response, ...] = ()
    feedback: tuple[Feedback, ...] = ()
    profiles: tuple[Profile, ...] = ()
    choices: bool = False
    gold: int | None = None
    cluster: str = ""
    split: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "meta", frozen(self.meta))
        n = len(self.responses)
        if self.gold is not None and not 0 <= self.gold < n:
            raise DataError(
                f"gold is {self.gold}, but the group has {n} response(s)", where=f"group {self.id}"
            )
        for f in self.feedback:
            if problem := _problem(f, n):
                raise DataError(f"{f.kind} {problem}", where=f"group {self.id}")

    def of(self, kind: type[Any]) -> Iterator[Any]:
        """The feedback of one kind, in order."""
        return (f for f in self.feedback if isinstance(f, kind))

    def with_feedback(self, *more: Feedback) -> Group:
        """The same group with more feedback."""
        return replace(self, feedback=(*self.feedback, *more))

    @property
    def prompt_text(self) -> str:
        """The prompt as a person reads it: the text of a single turn, else turns with their roles."""
        if len(self.prompt) == 1:
            return self.prompt[0].content
        return "\n\n".join(f"{m.role}: {m.content}" for m in self.prompt)

    def to_json(self) -> dict[str, Any]:
        """JSON values only; fields at their default are left out."""
        out: dict[str, Any] = {"id": self.id, "prompt": [[m.role, m.content] for m in self.prompt]}
        if self.responses:
            out["responses"] = [_plain(r) for r in self.responses]
        if self.feedback:
            out["feedback"] = [{"kind": f.kind, **_plain(f)} for f in self.feedback]
        if self.profiles:
            out["profiles"] = [{"id": p.id, "attributes": dict(p.attributes)} for p in self.profiles]
        for name in ("choices", "gold", "cluster", "split"):
            value = getattr(self, name)
            if value not in (False, None, ""):
                out[name] = value
        if self.gold == 0:
            out["gold"] = 0
        if self.meta:
            out["meta"] = dict(self.meta)
        return out

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Group:
        """The inverse of `to_json`. Raises `DataError` naming the field that is missing, unknown or of a
        wrong type.
        """
        known = {f.name for f in fields(cls)}
        if extra := set(row) - known:
            raise DataError(f"unknown field(s) {sorted(extra)}", where="group", how=f"known: {sorted(known)}")
        for name in ("id", "prompt"):
            if name not in row:
                raise DataError(f"field {name!r} is missing", where="group")
        where = f"group {row['id']}"

        def part(name: str, make: Callable[[Any], T], default: T) -> T:
            try:
                return make(row[name]) if name in row else default
            except (DataError, TypeError, ValueError, KeyError, AttributeError) as error:
                reason = error.render() if isinstance(error, DataError) else str(error)
                raise DataError(f"not valid: {reason}", where=f"{where}, field {name}") from error

        return cls(
            id=str(row["id"]),
            prompt=part("prompt", lambda turns: tuple(Message(role, content) for role, content in turns), ()),
            responses=part("responses", lambda all: tuple(_response(r) for r in all), ()),
            feedback=part("feedback", lambda all: tuple(_feedback(f) for f in all), ()),
            profiles=part(
                "profiles", lambda all: tuple(Profile(p["id"], p.get("attributes", {})) for p in all), ()
            ),
            choices=part("choices", _typed(bool), False),
            gold=part("gold", _typed(int, type(None)), None),
            cluster=part("cluster", _typed(str), ""),
            split=part("split", _typed(str), ""),
            meta=part("meta", _typed(Mapping), {}),
        )

    def fingerprint(self) -> str:
        """sha256 of the content (16 hex digits): equal content, equal fingerprint."""
        canonical = json.dumps(self.to_json(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()[:16]


def _response_indices(f: Feedback) -> tuple[int, ...]:
    match f:
        case Comparison():
            return (f.chosen, f.rejected)
        case Ranking():
            return tuple(i for place in f.order for i in place)
        case Edit():
            return (f.response, f.revised)
        case _:
            return (f.response,)  # type: ignore[attr-defined]


def _problem(f: Feedback, n: int) -> str:
    """What is wrong with a feedback in a group of n responses; "" if nothing is."""
    indices = _response_indices(f)
    for index in indices:
        if not 0 <= index < n:
            return f"names response {index}, but the group has {n} response(s)"
    if not (math.isfinite(f.weight) and f.weight >= 0):
        return f"has weight {f.weight}; it must be 0 or more"
    match f:
        case Comparison() if f.chosen == f.rejected:
            return f"compares response {f.chosen} with itself"
        case Comparison() if not 0 <= f.probability <= 1:
            return f"has probability {f.probability}; it must lie in [0, 1]"
        case Ranking() if len(set(indices)) < len(indices):
            return "names a response twice"
        case VectorScore() if wrong := [k for k, v in f.values.items() if not -1 <= v <= 1]:
            return f"gives {wrong[0]} the value {f.values[wrong[0]]}; it must lie in [-1, 1]"
    return ""


def _plain(obj: Any) -> dict[str, Any]:
    """A dataclass as a dict of JSON values, without the fields that stand at their default."""
    out = {}
    for f in fields(obj):
        value = getattr(obj, f.name)
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if value != default:
            out[f.name] = _json(value)
    return out


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return [_json(v) for v in value] if isinstance(value, tuple) else value


def _typed(*types: Any) -> Callable[[Any], Any]:
    """A function that passes a value of one of the types and refuses every other."""

    def check(value: Any) -> Any:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise TypeError(
                f"{value!r} is {type(value).__name__}, not {' or '.join(t.__name__ for t in types)}"
            )
        return value

    return check


def _number(value: Any) -> Any:
    if not math.isfinite(_typed(int, float)(value)):
        raise ValueError(f"{value} is not a finite number")
    return value


def _finish(value: Any) -> Any:
    if value not in ("stop", "length"):
        raise ValueError(f"{value!r} is neither stop nor length")
    return value


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _all(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: tuple(check(x) for x in _typed(list, tuple)(value))


def _values(value: Any) -> Any:
    return {_typed(str)(k): _number(v) for k, v in _typed(Mapping)(value).items()}


_TEXT, _PLACE = _typed(str), _typed(int)
_OF_RESPONSE: dict[str, Callable[[Any], Any]] = {
    "text": _TEXT, "id": _TEXT, "source": _TEXT, "ids": _optional(_all(_PLACE)), "finish": _optional(_finish),
}  # fmt: skip
_OF_FEEDBACK: dict[str, Callable[[Any], Any]] = {  # a name means the same in every kind
    **dict.fromkeys(("response", "chosen", "rejected", "revised"), _PLACE),
    **dict.fromkeys(("weight", "probability", "value"), _number),
    **dict.fromkeys(("strength", "low", "high"), _optional(_number)),
    **dict.fromkeys(("annotator", "aspect", "theory", "text", "principle", "quote"), _TEXT),
    "tie": _typed(bool), "order": _all(_all(_PLACE)), "span": _optional(_all(_PLACE)), "values": _values,
}  # fmt: skip


def _checked(kind: type[T], row: Mapping[str, Any], checks: Mapping[str, Callable[[Any], Any]], where: str = "") -> T:
    """An object of `kind` from JSON values. Raises `DataError` naming the field that is missing, unknown or of a wrong type."""
    known = fields(kind)  # type: ignore[arg-type]
    if extra := set(_typed(Mapping)(row)) - {f.name for f in known}:
        raise DataError(f"unknown field(s) {sorted(extra)}", where=where)
    needed = {f.name for f in known if f.default is f.default_factory is MISSING}
    if missing := needed - set(row):
        raise DataError(f"field(s) {sorted(missing)} are missing", where=where)
    values = {}
    for name, value in row.items():
        try:
            values[name] = checks[name](value)
        except (TypeError, ValueError) as error:
            raise DataError(str(error), where=name) from error
    return kind(**values)


def _response(row: Mapping[str, Any]) -> Response:
    return _checked(Response, row, _OF_RESPONSE)


def _feedback(row: Mapping[str, Any]) -> Feedback:
    rest = {k: v for k, v in _typed(Mapping)(row).items() if k != "kind"}
    if row.get("kind") not in KINDS:
        raise DataError(
            f"unknown feedback kind {row.get('kind')!r}", where="kind", how=f"one of {', '.join(KINDS)}"
        )
    kind = KINDS[row["kind"]]
    return _checked(kind, rest, _OF_FEEDBACK, kind.kind)
