"""inspect: what a data set holds, before anything is trained on it.

Counts, lengths, repeats, label balance, what would be cut, and the first problems with line and field.
Nothing is changed here, and no model is needed: a tokenizer is passed in where lengths in tokens are wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from valign.data.dataset import Dataset
from valign.data.duplicates import exact_duplicates, near_duplicates
from valign.data.group import Comparison, Group, Score, VectorScore, Verdict

FIRST = 20  # problems and repeats that are named; all are counted
NEAR_LIMIT = 20_000  # texts compared for near repeats: about ten seconds on one core


@dataclass(frozen=True)
class Lengths:
    """Lengths of n texts in one unit; median and p95 are texts' own lengths (no interpolation)."""

    n: int
    min: int
    median: int
    mean: float
    p95: int
    max: int

    @classmethod
    def of(cls, values: Iterable[int]) -> Lengths:
        v = sorted(values) or [0]
        return cls(len(v), v[0], v[(len(v) - 1) // 2], sum(v) / len(v), v[int(0.95 * (len(v) - 1))], v[-1])


@dataclass(frozen=True)
class Problem:
    """Something to look at: the source line (0 if unknown), the field, the group, and what it is."""

    line: int
    field: str
    group: str
    reason: str


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found. Every number is a count unless its line says otherwise.

    feedback         items by kind
    prompt, response lengths by unit: "characters", "words", and "tokens" if a tokenizer was given
    repeats          "prompts equal", "responses equal", "prompts near", "responses near": texts that repeat
                     another
    labels           per label: how often each value occurs, e.g. {"harm": {"1": 1095, "-1": 370}}
    truncated        responses that would not fit into max_tokens with their prompt (None without a tokenizer)
    length_baseline  accuracy of "the longer answer is preferred", ties one half; None without pairs
    first_baseline   accuracy of "the answer listed first is preferred"; 1 where a format lists the chosen one
                     first
    """

    source: str
    format: str
    groups: int
    responses: int
    splits: Mapping[str, int]
    feedback: Mapping[str, int]
    prompt: Mapping[str, Lengths]
    response: Mapping[str, Lengths]
    repeats: Mapping[str, int]
    near_pairs: tuple[tuple[str, str, float], ...]
    labels: Mapping[str, Mapping[str, int]]
    empty_responses: int
    identical_pairs: int
    pairs: int
    length_baseline: float | None
    first_baseline: float | None
    max_tokens: int | None
    truncated: int | None
    dropped: int
    problems: tuple[Problem, ...]
    problem_counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self) | {"near_pairs": [list(p) for p in self.near_pairs]}


Encoder = Callable[[str], Any]


def inspect(
    data: Sequence[Group],
    tokenizer: Any = None,
    max_tokens: int | None = None,
) -> Inspection:
    """Look at groups as a person would before training on them.

    tokenizer   anything with `encode(text)`, or a function from text to token ids (or their number)
    max_tokens  longest prompt with response; needs a tokenizer. The template's own tokens are not counted.
    """
    dataset = data if isinstance(data, Dataset) else Dataset.of(data)
    groups = dataset.groups
    prompts = [g.prompt_text for g in groups]
    answers = [r.text for g in groups for r in g.responses]
    # answer choices repeat by nature ("Yes", "unknown"): only other responses are compared with each other
    open_ended = [(g.id, r.text) for g in groups if not g.choices for r in g.responses]
    count = _counter(tokenizer)
    problems = list(_problems(dataset))
    notes = list(dataset.report.notes)
    repeats, near = _repeats({"prompts": prompts, "responses": [t for _, t in open_ended]}, notes)
    names = {"prompts": [g.id for g in groups], "responses": [id for id, _ in open_ended]}
    pairs = [(g, c) for g in groups for c in g.of(Comparison) if not c.tie]
    truncated = _truncated(groups, count, max_tokens) if count and max_tokens else None
    if truncated:
        problems += [
            Problem(line, "response", g, "would be cut at max_tokens") for line, g in _at(dataset, truncated)
        ]
    return Inspection(
        source=dataset.source,
        format=dataset.format,
        groups=len(groups),
        responses=len(answers),
        splits=dict(Counter(g.split for g in groups)),
        feedback=dict(Counter(f.kind for g in groups for f in g.feedback)),
        prompt=_lengths(prompts, count),
        response=_lengths(answers, count),
        repeats=repeats,
        near_pairs=tuple((names[k][i], names[k][j], round(s, 3)) for k, i, j, s in near[:FIRST]),
        labels=_labels(groups),
        empty_responses=sum(not a.strip() for a in answers),
        identical_pairs=sum(p.reason == IDENTICAL for p in problems),
        pairs=len(pairs),
        length_baseline=_mean([_longer(g, c) for g, c in pairs]),
        first_baseline=_mean([float(c.chosen < c.rejected) for _, c in pairs]),
        max_tokens=max_tokens,
        truncated=None if truncated is None else len(truncated),
        dropped=len(dataset.report.dropped),
        problems=tuple(problems[:FIRST]),
        problem_counts=dict(Counter(p.reason for p in problems)),
        notes=tuple(notes),
    )


EMPTY, IDENTICAL = "a response is empty", "chosen and rejected are the same text"


def _problems(data: Dataset) -> Iterator[Problem]:
    """What reading found, then what the groups show."""
    for line, name, reason in data.report.dropped:
        yield Problem(line, name, "", f"dropped: {reason}")
    for i, g in enumerate(data.groups):
        line = data.lines[i] if data.lines else 0
        if not any(m.content.strip() for m in g.prompt):
            yield Problem(line, "prompt", g.id, "the prompt is empty")
        for j, r in enumerate(g.responses):
            if not r.text.strip():
                yield Problem(line, f"responses[{j}]", g.id, EMPTY)
        for c in g.of(Comparison):
            if not c.tie and g.responses[c.chosen].text.strip() == g.responses[c.rejected].text.strip():
                yield Problem(line, "feedback", g.id, IDENTICAL)


def _at(data: Dataset, positions: Sequence[int]) -> Iterator[tuple[int, str]]:
    return ((data.lines[i] if data.lines else 0, data.groups[i].id) for i in positions)


def _counter(tokenizer: Any) -> Callable[[str], int] | None:
    """text -> number of tokens."""
    if tokenizer is None:
        return None
    encode: Encoder = getattr(tokenizer, "encode", tokenizer)

    def count(text: str) -> int:
        ids = encode(text)
        return ids if isinstance(ids, int) else len(ids)

    return count


def _lengths(texts: Sequence[str], count: Callable[[str], int] | None) -> dict[str, Lengths]:
    if not texts:
        return {}
    out = {"characters": Lengths.of(map(len, texts)), "words": Lengths.of(len(t.split()) for t in texts)}
    return out | ({"tokens": Lengths.of(map(count, texts))} if count else {})


def _truncated(groups: Sequence[Group], count: Callable[[str], int], max_tokens: int) -> list[int]:
    """Position of the group of every response that does not fit, one entry per response."""
    out = []
    for i, g in enumerate(groups):
        room = max_tokens - count(g.prompt_text)
        out += [i for r in g.responses if count(r.text) > room]
    return out


def _repeats(
    kinds: Mapping[str, Sequence[str]], notes: list[str]
) -> tuple[dict[str, int], list[tuple[str, int, int, float]]]:
    """(texts that repeat another one, by kind and likeness; the near but not equal pairs, most alike
    first).
    """
    counts, pairs = {}, []
    for kind, texts in kinds.items():
        equal = set(exact_duplicates(texts))
        counts[f"{kind} equal"] = len({j for _, j in equal})
        looked = texts[:NEAR_LIMIT]
        if len(looked) < len(texts):
            notes.append(
                f"near repeats among {kind}: only the first {NEAR_LIMIT} of {len(texts)} were compared"
            )
        unlike = [(i, j, s) for i, j, s in near_duplicates(looked) if s < 1]
        counts[f"{kind} near"] = len({j for _, j, _ in unlike})
        pairs += [(kind, i, j, s) for i, j, s in unlike]
    return counts, sorted(pairs, key=lambda p: -p[3])


def _labels(groups: Sequence[Group]) -> dict[str, dict[str, int]]:
    """How often each label takes each value."""
    found: dict[str, Counter[str]] = {}

    def add(label: str, value: str) -> None:
        found.setdefault(label, Counter())[value] += 1

    for g in groups:
        if g.choices and g.gold is not None:
            add("gold position", str(g.gold))
        for f in g.feedback:
            match f:
                case Verdict():
                    add(f.principle, f"{f.value:g}")
                case VectorScore():
                    for name, value in f.values.items():
                        add(f"{f.theory}.{name}", f"{value:g}")
                case Score():
                    add(f"score {f.aspect}", f"{f.value:g}")
                case Comparison():
                    add("comparison", "tie" if f.tie else "order")
    return {label: dict(values) for label, values in sorted(found.items())}


def _longer(g: Group, c: Comparison) -> float:
    """1 if the preferred answer is longer (characters, outer blanks aside), 1/2 if both are as long, else
    0.
    """
    a, b = (len(g.responses[i].text.strip()) for i in (c.chosen, c.rejected))
    return 0.5 * ((a > b) + (a >= b))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
