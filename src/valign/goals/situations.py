"""Situation banks: requests to an assistant, by risk theme and context of life, on which a set of principles is tried.

Always true here: a situation is a group whose prompt is the request and whose one response is the act under judgement, in
words; the bank's own note of which principles were meant (`concerns`) is for tests, and is never shown to a judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from valign.data.group import Group, Response, user
from valign.errors import UsageError, require, unknown
from valign.goals.files import DATA, Reader, builtin_names, read_yaml


@dataclass(frozen=True)
class Situation:
    """One request in its context, and what the assistant would do about it."""

    id: str
    theme: str
    context: str
    request: str
    act: str
    concerns: tuple[str, ...] = ()

    def group(self) -> Group:
        """The situation as judges get it."""
        meta = {"theme": self.theme, "context": self.context}
        return Group(self.id, user(self.request), (Response(f"[{self.act}]"),), cluster=self.theme, meta=meta)


@dataclass(frozen=True)
class SituationBank:
    """Situations with their themes in order."""

    id: str
    situations: tuple[Situation, ...]
    source: str = ""
    license: str = ""

    def __len__(self) -> int:
        return len(self.situations)

    @property
    def themes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.theme for s in self.situations))

    def sample(self, n: int, seed: int = 0) -> SituationBank:
        """n situations, as many from each theme as from any other (give or take one); all of them for n >= size."""
        require(n >= 1, "n", n, "at least 1")
        rng = np.random.default_rng(seed)
        by_theme = [[s for s in self.situations if s.theme == t] for t in self.themes]
        dealt = [[own[i] for i in rng.permutation(len(own))] for own in by_theme]
        rounds = [own[k] for k in range(max(map(len, dealt))) for own in dealt if k < len(own)][:n]
        kept = {s.id for s in rounds}
        return SituationBank(self.id, tuple(s for s in self.situations if s.id in kept), self.source, self.license)


def load_situations(spec: str | Path = "assistant") -> SituationBank:
    """A built-in bank by name, or one from a YAML file of the same form (see the head of data/situations/assistant.yaml)."""
    if str(spec) in builtin_names("situations"):
        return _builtin(str(spec))
    path = Path(spec)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return _bank(Reader(read_yaml(path), str(path)))
    raise unknown("situation bank", str(spec), builtin_names("situations"))


@cache
def _builtin(name: str) -> SituationBank:
    path = DATA / "situations" / f"{name}.yaml"
    return _bank(Reader(read_yaml(path), path.name))


def _bank(r: Reader) -> SituationBank:
    contexts = r.texts("contexts", default=[])
    found = []
    for part in r.parts("themes"):
        theme, act = part.text("id"), part.text("act")
        part.text("title", default="")
        concerns = tuple(part.texts("concerns", default=[]))
        for i, request in enumerate(part.texts("requests")):
            context = contexts[i % len(contexts)] if contexts else ""
            found.append(Situation(f"{theme}-{i + 1:02d}", theme, context, request, act, concerns))
    r.integer("version", default=1)
    bank = SituationBank(r.text("id"), tuple(found), r.text("source", default=""), r.text("license", default=""))
    r.done()
    _check(bank.situations, r.where)
    return bank


def _check(situations: Sequence[Situation], where: str) -> None:
    if not situations:
        raise UsageError("holds no situation", where=where)
    seen: set[str] = set()
    for s in situations:
        key = " ".join(s.request.lower().split())
        if key in seen:
            raise UsageError(f"the request {s.request[:60]!r} stands twice", where=f"{where}: {s.id}")
        seen.add(key)
