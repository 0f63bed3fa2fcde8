"""A policy that remembers: every score and every sample is logged,
so that an evaluation can stop anywhere and go on.

A measurement that is given a `CachedPolicy` needs no change: what is in the log is read, the rest is asked
for in small chunks and logged at once.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from valign.data.group import Group, Prompt, Response
from valign.evaluation.answers import shared_answers
from valign.evaluation.log import VERSION, RequestLog, content_key
from valign.models.endpoint import CostCeiling
from valign.models.policy import Cost, Kind, Policy, Progress, Sample, Sampling, Scored, runtime_of

CHUNK = 32  # prompts asked for at once: a kill loses at most this many
T = TypeVar("T")


class CachedPolicy:
    """`policy` with a log. Answers are keyed by the policy's card, so another model never reads them.

    What the log does not hold is looked up in the store of $VALIGN_ANSWERS, where one is named, before it is asked for.
    """

    def __init__(self, policy: Policy, path: str | Path, *, chunk: int = CHUNK) -> None:
        self.policy = policy
        self.log = RequestLog(path)
        self.shared = shared_answers()
        self.chunk = chunk
        self.fingerprint = fingerprint(policy)
        self._failed: dict[str, list[Sample]] = {}  # answers that are not whole: told once, asked again next time
        self._stopped: CostCeiling | None = None
        self._asked_here: set[str] = set()
        self._counted: set[str] = set()
        self._from_log = Cost()

    @property
    def id(self) -> str:
        return self.policy.id

    @property
    def kind(self) -> Kind:
        return self.policy.kind

    @property
    def cost(self) -> Cost:
        """What was spent on requests that were not in the log."""
        return self.policy.cost

    @property
    def cost_from_log(self) -> Cost:
        """What earlier runs spent on the answers that were read from the log, each counted once."""
        return self._from_log

    def card(self) -> dict[str, Any]:
        return self.policy.card()

    def runtime(self) -> dict[str, Any]:
        return runtime_of(self.policy)

    def save(self, folder: Path) -> None:
        self.policy.save(folder)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        keys: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[list[Sample]]:
        """See `Policy.generate`. The address of a prompt's randomness is part of its key.

        Samples that an endpoint failed to give are not logged: asked again, they are asked for again.
        """
        addresses = list(keys) if keys is not None else [str(i) for i in range(len(prompts))]
        names = [self._generation_key(p, sampling, a) for p, a in zip(prompts, addresses, strict=True)]
        missing = self._missing(names)
        done, before = len(prompts) - len(missing), self.policy.cost
        for rows, samples, seconds in self._generated(prompts, sampling, addresses, names, missing):
            whole = [(i, found) for i, found in zip(rows, samples, strict=True) if not any(s.failure for s in found)]
            self._failed |= {names[i]: found for i, found in zip(rows, samples) if any(s.failure for s in found)}
            share = max(1, len(whole))  # what failed, or was not sent any more, is charged to the answers beside it
            self._keep(
                {"key": names[i], "v": VERSION, "kind": "generate", "item": addresses[i],
                 "seconds": seconds * len(rows) / share, "tokens": _tokens(self.policy.cost - before, share),
                 "samples": [_sample_json(s) for s in found]}
                for i, found in whole
            )  # fmt: skip
            if self._stopped is not None:
                self._failed = {}
                raise self._stopped
            done, before = done + len(rows), self.policy.cost
            _report(progress, done, len(prompts))
        failed, self._failed = self._failed, {}
        return [
            failed[name] if name in failed else [_sample(s) for s in self.log[name]["samples"]] for name in names
        ]

    def score(self, groups: Sequence[Group], *, progress: Progress | None = None) -> list[list[Scored]]:
        """See `Policy.score`. One line per group: its responses were scored on one trunk."""
        names = [self._score_key(g) for g in groups]
        missing = self._missing(names)
        done, before = len(groups) - len(missing), self.policy.cost
        for rows, scored, seconds in self._scored(groups, names, missing):
            self._keep(
                {
                    "key": names[i],
                    "v": VERSION,
                    "kind": "loglikelihood",
                    "item": groups[i].id,
                    "seconds": seconds,
                    "tokens": _tokens(self.policy.cost - before, len(rows)),
                    "log_probs": [[float(x) for x in s.log_probs] for s in found],
                }
                for i, found in zip(rows, scored, strict=True)
            )
            done, before = done + len(rows), self.policy.cost
            _report(progress, done, len(groups))
        return [[Scored(np.array(row, np.float32)) for row in self.log[name]["log_probs"]] for name in names]

    def _generated(
        self, prompts: Sequence[Prompt], sampling: Sampling, addresses: Sequence[str], names: Sequence[str],
        missing: Sequence[int],
    ) -> Iterator[tuple[Sequence[int], list[list[Sample]], float]]:  # fmt: skip
        """Answers to the missing requests: positions, samples, seconds for each."""

        def ask(rows: Sequence[int]) -> list[list[Sample]]:
            try:
                return self.policy.generate([prompts[i] for i in rows], sampling, keys=[addresses[i] for i in rows])
            except CostCeiling as stop:
                if stop.policy is not self.policy:  # the samples of a policy beneath are not this one's answers
                    raise
                self._stopped = stop
                return list(stop.partial)

        self._stopped = None
        return self._chunks(missing, ask)

    def _keep(self, rows: Iterable[dict[str, Any]]) -> None:
        """Log fresh answers, and share them where a store is named."""
        whole = list(rows)
        self.log.append(whole)
        if self.shared is not None:
            self.shared.write(whole)

    def _missing(self, names: Sequence[str]) -> list[int]:
        """Positions of the requests to ask; what the others cost an earlier run is added to `cost_from_log`."""
        missing = _first_of_each(names, self.log)
        if self.shared is not None and missing:
            self.log.append(self.shared.read(names[i] for i in missing))
            missing = [i for i in missing if names[i] not in self.log]
        self._asked_here |= {names[i] for i in missing}
        for name in {*names} - self._asked_here - self._counted:
            row = self.log[name]
            read, generated = row.get("tokens", (0, 0))
            self._from_log += Cost(0, read, generated, 0, row.get("seconds", 0.0))
            self._counted.add(name)
        return missing

    def _scored(
        self, groups: Sequence[Group], names: Sequence[str], missing: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], list[list[Scored]], float]]:
        return self._chunks(missing, lambda rows: self.policy.score([groups[i] for i in rows]))

    def _chunks(
        self, missing: Sequence[int], ask: Callable[[Sequence[int]], T]
    ) -> Iterator[tuple[Sequence[int], T, float]]:
        for start in range(0, len(missing), self.chunk):
            rows = missing[start : start + self.chunk]
            begin = time.perf_counter()
            found = ask(rows)
            yield rows, found, (time.perf_counter() - begin) / len(rows)

    def _generation_key(self, prompt: Prompt, sampling: Sampling, address: str) -> str:
        return content_key(
            {
                "v": VERSION,
                "kind": "generate",
                "model": self.fingerprint,
                "prompt": [[m.role, m.content] for m in prompt],
                "settings": dataclasses.asdict(sampling),
                "address": address,
            }
        )

    def _score_key(self, group: Group) -> str:
        return content_key(
            {
                "v": VERSION,
                "kind": "loglikelihood",
                "model": self.fingerprint,
                "choices": group.choices,
                "prompt": [[m.role, m.content] for m in group.prompt],
                "responses": [_response_json(r) for r in group.responses],
            }
        )


def fingerprint(policy: Policy) -> str:
    """What decides a policy's answers: its card (weights, template, method, settings) without its name."""
    card = {k: v for k, v in policy.card().items() if k not in ("id", "notes")}
    return f"sha256:{content_key(card)}"


def _first_of_each(names: Sequence[str], log: RequestLog) -> list[int]:
    """Positions of the requests to ask: those not logged, each key once."""
    first = {name: i for i, name in reversed(list(enumerate(names)))}
    return sorted(i for name, i in first.items() if name not in log)


def _tokens(cost: Cost, rows: int) -> list[float]:
    """[read, generated]: what one of `rows` requests that were asked together cost, on average."""
    return [round(cost.tokens_read / rows, 3), round(cost.tokens_generated / rows, 3)]


def _response_json(response: Response) -> list[Any]:
    """Ids replace the text where they exist: they are what is scored."""
    if response.ids is not None:
        return ["ids", list(response.ids), response.finish]
    return ["text", response.text, response.finish]


def _sample_json(sample: Sample) -> dict[str, Any]:
    return {
        "text": sample.text, "ids": list(sample.ids), "finish": sample.finish,
        "raw": [float(x) for x in sample.raw], "law": [float(x) for x in sample.law],
        **({"refused": True} if sample.refused else {}),
    }  # fmt: skip


def _sample(row: dict[str, Any]) -> Sample:
    raw, law = (np.array(row[k], np.float32) for k in ("raw", "law"))
    return Sample(row["text"], tuple(row["ids"]), raw, law, row["finish"], refused=row.get("refused", False))


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
