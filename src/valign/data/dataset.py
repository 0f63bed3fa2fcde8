"""Dataset: groups together with where they came from, and ways to mix and split them.

Always true here: a dataset is a sequence of groups with unique ids, its report accounts for every row of the
source (rows = rows that became groups + dropped rows), and the same seed gives the same mixture and split.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from valign.data.group import Group
from valign.errors import DataError, require

NOT_STATED = "not stated"


@dataclass(frozen=True)
class ReadReport:
    """What happened to the rows of a source.

    rows     rows read; those not in `dropped` became one group or more (or belong to a group, as in a message
             tree)
    dropped  (line, field, reason) of each row left out
    flagged  (line, field, reason) of each row that is kept though something about it is unusual
    counts   how often each thing happened, by name
    fields   field names of the first row
    notes    sentences for people
    """

    rows: int = 0
    dropped: tuple[tuple[int, str, str], ...] = ()
    flagged: tuple[tuple[int, str, str], ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "rows": self.rows,
            "dropped": [list(d) for d in self.dropped],
            "flagged": [list(f) for f in self.flagged],
            "counts": dict(self.counts),
            "fields": list(self.fields),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Dataset(Sequence[Group]):
    """Groups and their provenance. Behaves as a sequence of groups; a slice keeps the provenance.

    format   name in `readers.READERS`, "builtin", or "groups" for groups made in memory
    source   path, "hub:owner/name", or a word on how the groups were made
    sha256   of the file's bytes (hex); for other sources of the groups' fingerprints
    licence  as the source states it, or "not stated"
    lines    source line of each group, from 1; () if unknown
    """

    groups: tuple[Group, ...]
    format: str = "groups"
    source: str = "memory"
    sha256: str = ""
    licence: str = NOT_STATED
    report: ReadReport = field(default_factory=ReadReport)
    lines: tuple[int, ...] = ()

    @classmethod
    def of(cls, groups: Iterable[Group], source: str = "memory", licence: str = NOT_STATED) -> Dataset:
        """A dataset of groups made in memory. Raises `DataError` when two groups have one id."""
        groups = tuple(groups)
        seen: set[str] = set()
        for g in groups:
            if g.id in seen:
                raise DataError(
                    f"two groups have the id {g.id!r}", where=source, how="give every group its own id"
                )
            seen.add(g.id)
        return cls(groups, "groups", source, content_sha256(groups), licence, ReadReport(rows=len(groups)))

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    @overload
    def __getitem__(self, at: int) -> Group: ...
    @overload
    def __getitem__(self, at: slice) -> Dataset: ...
    def __getitem__(self, at: int | slice) -> Group | Dataset:
        if isinstance(at, slice):
            return replace(self, groups=self.groups[at], lines=self.lines[at])
        return self.groups[at]

    def where(self, keep: Callable[[Group], bool]) -> Dataset:
        """The groups for which `keep` holds, with the same provenance."""
        kept = [i for i, g in enumerate(self.groups) if keep(g)]
        lines = tuple(self.lines[i] for i in kept) if self.lines else ()
        return replace(self, groups=tuple(self.groups[i] for i in kept), lines=lines)

    def of_split(self, name: str) -> Dataset:
        """The groups of one split. Raises `DataError` naming the splits there are when it has none."""
        found = self.where(lambda g: g.split == name)
        if not found:
            known = sorted({g.split or "(none)" for g in self.groups})
            raise DataError(
                f"no group is of split {name!r}", where=self.source, how=f"splits: {', '.join(known)}"
            )
        return found

    def map(self, change: Callable[[Group], Group]) -> Dataset:
        """Every group changed by one function (a conversion, for instance), with the same provenance."""
        return replace(self, groups=tuple(change(g) for g in self.groups))

    def summary(self) -> str:
        """One line for people: how many groups, what was read as what, what was left out, licence, sha256."""
        r = self.report
        return (
            f"{len(self)} groups read as {self.format} from {self.source} ({r.rows} rows, "
            f"{len(r.dropped)} dropped, {len(r.flagged)} flagged; licence {self.licence}; "
            f"sha256 {self.sha256[:12] or 'unknown'})"
        )


def content_sha256(groups: Iterable[Group]) -> str:
    """sha256 (hex) over the fingerprints of the groups, in order."""
    return hashlib.sha256("\n".join(g.fingerprint() for g in groups).encode()).hexdigest()


def largest_remainder(weights: Sequence[float], n: int) -> list[int]:
    """n as whole numbers in proportion to the weights, each within 1 of its exact share, summing to n."""
    exact = [n * w / sum(weights) for w in weights]
    counts = [int(x) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: n - sum(counts)]:
        counts[i] += 1
    return counts


def mixture(parts: Sequence[tuple[Sequence[Group], float]], seed: int = 0, n: int | None = None) -> Dataset:
    """n groups drawn from several datasets in proportion to weights, in random order.

    parts  (groups, weight) each; weights are >= 0 and need not sum to 1
    n      groups in all; default: as many as there are without repeating any
    Each part gives its share within rounding (largest remainder). Within a part groups are drawn without
    repetition;
    a part that is too small is gone through again, and its repeats get ids ending in "~2", "~3", ... (the
    cluster
    stays, so statistics still see one unit). Where two parts use one id, it is prefixed by the part's
    position.
    """
    require(len(parts) > 0, "parts", parts, "one (groups, weight) or more")
    weights = [float(w) for _, w in parts]
    require(all(w >= 0 for w in weights) and sum(weights) > 0, "weight", weights, "0 or more, not all 0")
    for i, (groups, w) in enumerate(parts):
        require(
            w == 0 or len(groups) > 0, f"parts[{i}]", "no groups", "a dataset with groups, or of weight 0"
        )
    if n is None:
        n = min(int(len(groups) * sum(weights) / w) for (groups, _), w in zip(parts, weights) if w > 0)
    require(n >= 1, "n", n, "at least 1")
    counts = largest_remainder(weights, n)
    rng = random.Random(f"mixture:{seed}")
    drawn = [(i, g) for i, ((groups, _), k) in enumerate(zip(parts, counts)) for g in _draw(groups, k, rng)]
    owners: dict[str, set[int]] = {}
    for i, g in drawn:
        owners.setdefault(g.id, set()).add(i)
    mixed = [replace(g, id=f"{i}:{g.id}") if len(owners[g.id]) > 1 else g for i, g in drawn]
    rng.shuffle(mixed)
    names = [getattr(groups, "source", "memory") for groups, _ in parts]
    licences = sorted({str(getattr(groups, "licence", NOT_STATED)) for groups, _ in parts})
    out = Dataset.of(mixed, source="mixture of " + " + ".join(map(str, names)), licence="; ".join(licences))
    notes = tuple(f"{k} groups from {name}" for k, name in zip(counts, names))
    return replace(out, report=replace(out.report, notes=notes))


def _draw(groups: Sequence[Group], k: int, rng: random.Random) -> Iterator[Group]:
    for turn in range(1, -(-k // max(len(groups), 1)) + 1):
        for g in rng.sample(list(groups), min(k - (turn - 1) * len(groups), len(groups))):
            yield g if turn == 1 else replace(g, id=f"{g.id}~{turn}", cluster=g.cluster or g.id)


def split(groups: Sequence[Group], share: float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
    """(train, dev): whole clusters are held out, so nothing of one situation stands on both sides.

    share  of the clusters that go to dev, in (0, 1); rounded to whole clusters, at least one on each side
    The choice depends on the seed and the set of cluster names only, not on the order of the groups. Their
    `split` becomes "train" or "dev".
    """
    require(0 < share < 1, "share", share, "between 0 and 1")
    data = groups if isinstance(groups, Dataset) else Dataset.of(groups)
    clusters = sorted({g.cluster or g.id for g in data})
    require(len(clusters) >= 2, "groups", f"{len(clusters)} cluster(s)", "of two clusters or more")
    clusters.sort(key=lambda c: hashlib.sha256(f"split:{seed}:{c}".encode(errors="surrogatepass")).digest())
    held = set(clusters[: min(max(round(share * len(clusters)), 1), len(clusters) - 1)])
    train = data.where(lambda g: (g.cluster or g.id) not in held).map(lambda g: replace(g, split="train"))
    dev = data.where(lambda g: (g.cluster or g.id) in held).map(lambda g: replace(g, split="dev"))
    return train, dev
