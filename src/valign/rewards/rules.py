"""Rule checkers: whether a response has the answer and the form that a task asked for, decided by a program.

Always true here: a check is a mapping with a "type" and the keys of that type; an unknown type or key, a
missing key or a value of the wrong kind is an error when the checks are read, before any response is judged.
Words are what blanks separate; phrases are found as whole words, case-insensitively.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from valign.data.group import Group
from valign.errors import DataError, unknown
from valign.goals.base import Array, sha256
from valign.goals.instruction import checks_of
from valign.rewards.base import FunctionReward

Test = Callable[[str], tuple[bool, str]]
MAX_ANSWER_WORDS = 25  # contains_answer: a longer text could hold every answer at once
FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}
QUOTES = "\"'“”‘’ \t\n"
ITEM = re.compile(r"\s*(?:[-*•]|\d+[.)])\s*\S")
SENTENCE_END = re.compile(r"[.!?]+(?:\s+|$)")


@dataclass(frozen=True)
class Checked:
    """The outcome of a task's checks on one text.

    outcomes   (type, passed) per check, in order
    reasons    one line per check: what was found
    """

    outcomes: tuple[tuple[str, bool], ...]
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return all(ok for _, ok in self.outcomes)

    @property
    def share(self) -> float:
        """Checks that passed, in [0, 1]."""
        return sum(ok for _, ok in self.outcomes) / len(self.outcomes)


def check(checks: Sequence[Mapping[str, Any]], text: str) -> Checked:
    """Judge a text by checks such as {"type": "words", "max": 20}. Raises `DataError` for a check that is not
    valid.

    exact            the whole text is one of `answers`: case, surrounding blanks and quotes, and final . ! ?
                     do not count
                     (strip: false: only case does not count)
    contains_answer  one of `answers` occurs, and the text has at most 25 words
    includes, excludes       all / none of `phrases` occur as whole words
    regex            `pattern` is found; `flags` from i m s
    json             the text is a JSON object, a ``` fence around it allowed, with all `keys`
    case             no letter of the other `case` (lower, upper)
    starts_with, ends_with   `text`, after blanks are stripped; case does not count
    words, sentences, lines, items, characters   their number lies between `min` and `max` (one may be absent)
    """
    tests = prepared(checks)
    results = [test(text) for _, test in tests]
    outcomes = tuple((name, ok) for (name, _), (ok, _) in zip(tests, results, strict=True))
    return Checked(outcomes, tuple(f"{name}: {reason}" for (name, _), (_, reason) in zip(tests, results, strict=True)))


def reward(
    checks: Sequence[Mapping[str, Any]] | None = None, *, credit: Literal["share", "passed"] = "share"
) -> FunctionReward:
    """Rule checks as a reward in [0, 1]: the share that passes, or 1 only when all pass.

    checks   for every response; None takes those of each task (`meta["checks"]`), NaN where a task has none
    """
    if credit not in ("share", "passed"):
        raise unknown("credit", credit, ("share", "passed"), where="rules")
    if checks is not None:
        prepared(checks)

    def score(groups: Sequence[Group]) -> list[Array]:
        return [_scores(group, checks_of(group) if checks is None else checks, credit) for group in groups]

    fixed = "" if checks is None else sha256([dict(c) for c in checks])
    return FunctionReward("rules", score, f"{credit} {fixed}")


def _scores(group: Group, checks: Sequence[Mapping[str, Any]], credit: str) -> Array:
    if not checks:
        return np.full(len(group.responses), np.nan)
    return np.array([float(getattr(check(checks, r.text), credit)) for r in group.responses])


# ------------------------------------------------------------------------------------------ reading of checks


def prepared(checks: Sequence[Mapping[str, Any]]) -> list[tuple[str, Test]]:
    """(type, test) of every check. Raises `DataError` or `UsageError` naming the check that is not valid."""
    if not checks:
        raise DataError("there is nothing to check", where="checks")
    return _prepared(json.dumps([dict(c) for c in checks]))


@lru_cache(maxsize=4096)
def _prepared(text: str) -> list[tuple[str, Test]]:
    return [_test(spec, f"checks[{i}]") for i, spec in enumerate(json.loads(text))]


def _test(spec: dict[str, Any], where: str) -> tuple[str, Test]:
    kind = spec.get("type")
    if kind not in TYPES:
        raise unknown("check type", str(kind), TYPES, where=where)
    make, required, optional = TYPES[kind]
    for key in spec:
        if key not in ("type", *required, *optional):
            raise unknown("key", key, (*required, *optional), where=f"{where} ({kind})")
    for key, _, words in required.values():
        if key not in spec:
            raise DataError(f"{key} is missing: {words}", where=f"{where} ({kind})")
    for key, valid, words in (*required.values(), *optional.values()):
        if key in spec and not valid(spec[key]):
            raise DataError(f"{key} = {spec[key]!r} must be {words}", where=f"{where} ({kind})")
    try:
        return kind, make(spec)
    except re.error as error:
        raise DataError(f"is no regular expression: {error}", where=f"{where} (regex): pattern") from error
    except ValueError as error:
        raise DataError(str(error), where=f"{where} ({kind})") from error


# --------------------------------------------------------------------------------------------------- checkers


def _exact(spec: dict[str, Any]) -> Test:
    strip = spec.get("strip", True)
    clean = bare if strip else str.lower
    answers = {clean(a) for a in spec["answers"]}
    return lambda text: (clean(text) in answers, f"answer {text.strip()[:40]!r}")


def _contains_answer(spec: dict[str, Any]) -> Test:
    def test(text: str) -> tuple[bool, str]:
        n = len(text.split())
        found = [a for a in spec["answers"] if occurs(a, text)]
        if n > MAX_ANSWER_WORDS:
            return False, f"{n} words, more than {MAX_ANSWER_WORDS}"
        return bool(found), f"found {found[0]!r}" if found else "no answer found"

    return test


def _includes(spec: dict[str, Any]) -> Test:
    def test(text: str) -> tuple[bool, str]:
        missing = [p for p in spec["phrases"] if not occurs(p, text)]
        return not missing, f"missing {missing}" if missing else "all found"

    return test


def _excludes(spec: dict[str, Any]) -> Test:
    def test(text: str) -> tuple[bool, str]:
        found = [p for p in spec["phrases"] if occurs(p, text)]
        return not found, f"found {found}" if found else "none found"

    return test


def _regex(spec: dict[str, Any]) -> Test:
    flags = re.RegexFlag(0)
    for letter in spec.get("flags", ""):
        flags |= FLAGS[letter]
    pattern = re.compile(spec["pattern"], flags)

    def test(text: str) -> tuple[bool, str]:
        found = pattern.search(text)
        return found is not None, f"found {found.group()[:40]!r}" if found else "pattern not found"

    return test


def _json(spec: dict[str, Any]) -> Test:
    def test(text: str) -> tuple[bool, str]:
        body = re.sub(r"\A```\w*\s*\n|\n\s*```\Z", "", text.strip())
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            return False, f"not JSON: {error}"
        if not isinstance(value, dict):
            return False, f"JSON, but {type(value).__name__}, not an object"
        missing = [k for k in spec.get("keys", ()) if k not in value]
        return not missing, f"missing keys {missing}" if missing else "JSON object"

    return test


def _case(spec: dict[str, Any]) -> Test:
    change = str.lower if spec["case"] == "lower" else str.upper

    def test(text: str) -> tuple[bool, str]:
        wrong = [a for a, b in zip(text, map(change, text), strict=True) if a != b]
        return not wrong, f"{len(wrong)} letter(s) of the other case" if wrong else f"all {spec['case']}"

    return test


def _starts_with(spec: dict[str, Any]) -> Test:
    start = spec["text"].strip().lower()
    return lambda text: (text.strip().lower().startswith(start), f"starts {text.strip()[:30]!r}")


def _ends_with(spec: dict[str, Any]) -> Test:
    end = spec["text"].strip().lower()
    return lambda text: (text.strip().lower().endswith(end), f"ends {text.strip()[-30:]!r}")


def _count(count: Callable[[str], int]) -> Callable[[dict[str, Any]], Test]:
    """A checker of a number that must lie between min and max."""

    def make(spec: dict[str, Any]) -> Test:
        low, high = spec.get("min", 0), spec.get("max", float("inf"))
        if "min" not in spec and "max" not in spec:
            raise ValueError("needs min, max or both")
        if low > high:
            raise ValueError(f"min {low} is above max {high}")
        return lambda text: (low <= (n := count(text.strip())) <= high, f"{n} (wanted {low} to {high})")

    return make


def bare(text: str) -> str:
    """Lower case without surrounding blanks and quotes and without final . ! ?"""
    return text.strip(QUOTES).rstrip(".!? ").strip(QUOTES).lower()


def occurs(phrase: str, text: str) -> bool:
    """Whether a phrase stands in a text as whole words; case and the kind of blanks do not count."""
    words = r"\s+".join(re.escape(w) for w in phrase.lower().split())
    return re.search(rf"(?<!\w){words}(?!\w)", text.lower()) is not None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v.strip() for v in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


Key = tuple[str, Callable[[Any], bool], str]


def _keys(*keys: Key) -> dict[str, Key]:
    return {key[0]: key for key in keys}


_ANSWERS = _keys(("answers", _is_texts, "a list of texts"))
_PHRASES = _keys(("phrases", _is_texts, "a list of texts"))
_TEXT = _keys(("text", _is_text, "a text"))
_RANGE = _keys(("min", _is_count, "a whole number of 0 or more"), ("max", _is_count, "a whole number of 0 or more"))
_STRIP = _keys(("strip", lambda v: isinstance(v, bool), "true or false"))
_PATTERN = _keys(("pattern", _is_text, "a regular expression"))
_FLAGS = _keys(("flags", lambda v: isinstance(v, str) and set(v) <= set(FLAGS), "letters of i, m, s"))
_NAMES = _keys(("keys", _is_texts, "a list of texts"))
_CASE = _keys(("case", lambda v: v in ("lower", "upper"), "lower or upper"))
COUNTS: dict[str, Callable[[str], int]] = {
    "words": lambda text: len(text.split()),
    "sentences": lambda text: sum(bool(s.strip()) for s in SENTENCE_END.split(text)),
    "lines": lambda text: sum(bool(line.strip()) for line in text.splitlines()),
    "items": lambda text: sum(bool(ITEM.match(line)) for line in text.splitlines()),
    "characters": len,
}
TYPES: dict[str, tuple[Callable[[dict[str, Any]], Test], dict[str, Key], dict[str, Key]]] = {
    "exact": (_exact, _ANSWERS, _STRIP),
    "contains_answer": (_contains_answer, _ANSWERS, {}),
    "includes": (_includes, _PHRASES, {}),
    "excludes": (_excludes, _PHRASES, {}),
    "regex": (_regex, _PATTERN, _FLAGS),
    "json": (_json, {}, _NAMES),
    "case": (_case, _CASE, {}),
    "starts_with": (_starts_with, _TEXT, {}),
    "ends_with": (_ends_with, _TEXT, {}),
    **{name: (_count(count), {}, _RANGE) for name, count in COUNTS.items()},
}
