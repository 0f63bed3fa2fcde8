"""Guard: what watches the training of a policy for gaming. A hook of the loop. [F06, N17]

With a gold judge, held-out audit prompts are answered by the policy every few steps and scored by the judge and by a
proxy; `metrics.overoptimization` decides. The proxy is the run's reward. A run without one (SFT, DPO and its kin) has the
implicit reward β log π/π_ref of those answers: under π (π/π_ref)^s, which goes on where training went, gold moves by its
covariance with that reward, whatever the training was. Without a judge only what rollouts show anyway is watched: KL,
length, repetition, the share at the reward's maximum. Each look is one "guard" line of the run's log, from which a run
that was killed goes on and from which the curve is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from valign.data.group import Group
from valign.engine.hooks import Look
from valign.engine.processes import SINGLE, World
from valign.engine.rollout import repetition
from valign.engine.run import RunFolder, read_log
from valign.errors import UsageError, require, unknown
from valign.evaluation.metrics import overoptimization as alarm
from valign.goals.base import sha256
from valign.methods.method import Method
from valign.rewards.base import from_goal

Action = Literal["warn", "stop", "rollback"]
Scores = Callable[[Sequence[Group]], Sequence[Any]]
EVENT = "guard"
LOOKS = 10  # audits of a run, where its user names no distance
CROWDED = 0.5  # share of responses at the reward's maximum that is worth a warning
LONGEST = 64  # tokens of an audit's answers in a run that samples none itself
FLAT = 0.8  # share of prompts whose samples all have one reward
REPEATS = 0.2  # rise of the share of repeated 3-grams


@dataclass(frozen=True)
class Guard:
    """What to watch, and what to do when it rings.

    gold     the judge that the reward stands for: a goal, or an object with `score(groups)`; it trains nothing. None:
             companions only
    prompts  held-out audit prompts                samples  answers to each, at least 2
    max_new_tokens  of an answer; None: as in the run's own rollouts, 64 in a run without any
    every    steps between audits; 0: a tenth of the run
    action   warn; stop: end the run; rollback: end it with the weights of the audit with the highest gold
    max_kl   KL to the reference, nats per response, that counts as an alarm; None: no budget
    ensemble other judges of the same scale as the reward: an alarm when they differ twice as much as at the start
    """

    gold: Any = None
    prompts: Sequence[Group] = ()
    samples: int = 8
    max_new_tokens: int | None = None
    every: int = 0
    action: Action = "warn"
    max_kl: float | None = None
    ensemble: Sequence[Any] = ()

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise unknown("action", self.action, get_args(Action), where="alarm")
        if not hasattr(self.gold, "score") and hasattr(self.gold, "utility"):
            object.__setattr__(self, "gold", from_goal(self.gold))
        require(self.samples >= 2, "audit samples", self.samples, "at least 2: the covariance is within a prompt")
        require(self.max_new_tokens is None or self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        require(self.every >= 0, "audit steps", self.every, "0 (a tenth of the run) or more")
        require(self.max_kl is None or self.max_kl > 0, "max_kl", self.max_kl, "a positive number of nats")
        if self.audits and len(self.prompts) < 2:
            raise UsageError(
                "an audit needs at least two held-out prompts", where="audit", how="name them: --audit FILE"
            )
        if self.prompts and not self.audits:
            raise UsageError("audit prompts have no effect without a judge", where="audit", how="name one: --gold")
        if self.action == "rollback" and self.gold is None:
            raise UsageError(
                "without a gold judge no step is known to be best", where="alarm", how="--gold, or --alarm stop"
            )
        if self.action == "stop" and not self.audits and self.max_kl is None:
            raise UsageError("nothing could stop this run", where="alarm", how="name a judge (--gold) or a KL budget")

    @property
    def audits(self) -> bool:
        """Whether there is somebody to ask."""
        return self.gold is not None or bool(self.ensemble)

    def request(self) -> dict[str, Any] | None:
        """What a run's folder remembers; None for a guard that only looks."""
        if not self.audits and self.max_kl is None:
            return None
        judges = [_identity(j) for j in (self.gold, *self.ensemble) if j is not None]
        prompts = sha256([g.fingerprint() for g in self.prompts])[:16]
        return {"judges": judges, "prompts": prompts, "samples": self.samples, "max_new_tokens": self.max_new_tokens,
                "every": self.every, "action": self.action, "max_kl": self.max_kl}  # fmt: skip

    def refuse_for(self, method: Method, config: Any) -> None:
        """Raise `UsageError` for what this guard could not do in a run of `method`."""
        if not method.trains or method.makes_reward:
            raise UsageError(f"{method.name} trains no policy: there is nothing to guard", where="guard",
                             how="leave --gold, --audit and --max-kl out; valign overopt looks at a finished policy")  # fmt: skip
        if method.samples:
            return
        if self.gold is None:
            raise UsageError(f"{method.name} samples nothing while it trains: only audits show what it does", where="guard",
                             how="name a judge and held-out prompts: --gold, --audit")  # fmt: skip
        if self.ensemble:
            raise UsageError(f"{method.name} has no reward that other judges could drift from", where="ensemble",
                             how="leave it out")  # fmt: skip
        if self.action == "rollback" and getattr(config, "patience", False):
            raise UsageError("patience and rollback would each choose the weights that are kept", where="alarm",
                             how="--alarm stop, or leave patience out")  # fmt: skip


def _identity(judge: Any) -> str:
    return str(judge.fingerprint()) if hasattr(judge, "fingerprint") else type(judge).__name__


@dataclass
class GuardHook:
    """A guard on one run. Implements `engine.hooks.Hook`.

    answer   (audit prompts, samples) -> the prompts with the policy's answers as their responses
    proxy    the run's reward            gathered  inside it this process can pass through the model alone
    beta     set where the proxy is the policy's own β log π/π_ref instead: it is 0 at step 0 and grows, its mean tells the
             KL, and the audits alone show lengths and repetition
    """

    guard: Guard
    answer: Callable[[Sequence[Group], int], Sequence[Group]]
    proxy: Scores
    run: RunFolder
    world: World = SINGLE
    gathered: Callable[[], AbstractContextManager[Any]] = nullcontext
    beta: float | None = None
    rolls_back: bool = False
    _audits: list[alarm.Audit] = field(default_factory=list)
    _first: dict[str, float] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)
    _start_spread: float | None = None

    def begin(self) -> Look:
        """Audit the policy of step 0: what later ones are compared with."""
        return self._look(0, {}) if self.guard.audits else Look()

    def after(self, step: int, steps: int, meters: Mapping[str, float]) -> Look:
        """Companions at every step, an audit every `every` steps and at the end."""
        seen = self._meters(meters)
        events: list[tuple[str, Mapping[str, Any]]] = []
        if seen and not self._first:
            events.append((EVENT, {"step": step, "meters": seen}))
        self._first = self._first or seen
        events += self._drifts(step, meters)
        every = self.guard.every or max(1, round(steps / LOOKS))
        if self.guard.audits and (step % every == 0 or step == steps):
            look = self._look(step, meters)
        else:
            look = self._spent(step, meters)
        return replace(look, events=(*events, *look.events))

    def resume(self, step: int) -> bool:
        """See `Hook.resume`: the last line of each step counts."""
        lines: dict[int, Mapping[str, Any]] = {}
        for x in read_log(self.run.path) if self.world.leads else ():
            if x["event"] == EVENT and x["step"] <= step:
                lines[x["step"]] = {**lines.get(x["step"], {}), **x}
        lines = self.world.from_leader(lambda: lines)
        stopped = False
        for _, x in sorted(lines.items()):
            self._first = self._first or dict(x.get("meters") or (self._meters(x) if self.beta is not None else {}))
            if "prompts" in x:
                self._audits.append(_read(x))
            self._start_spread = x.get("spread") if self._start_spread is None else self._start_spread
            stopped = bool(x.get("stops"))
        self.rolls_back = stopped and self.guard.action == "rollback"
        return stopped

    # ---------------------------------------------------------------------------------------------------- looking

    def _look(self, step: int, meters: Mapping[str, float]) -> Look:
        with self.gathered():
            found, more = self.world.from_leader(self._measure)
        if found is None:
            return self._decide(step, meters, more, [])
        self._audits.append(found)
        verdict = self._verdict(found)
        drop, fell = alarm.drop_from_maximum(self._audits)
        reasons = [*verdict.reasons]
        reasons += [f"gold lost {drop:.0%} of its best gain"] if fell else []
        fields = {**verdict.to_json(), "drop": drop, "prompts": list(found.prompts), **more}
        fields |= {f"{name}s": getattr(found, name).tolist() for name in ("covariance", "variance")}
        fields |= {f"{name}_means": getattr(found, name).tolist() for name in ("proxy", "gold")}
        best = found.gold.mean() >= max(float(a.gold.mean()) for a in self._audits)
        drifts: list[tuple[str, Mapping[str, Any]]] = []
        if self.beta is not None:
            self._first = self._first or self._meters(more)
            meters, drifts = {**meters, **more}, self._drifts(step, more)
        look = self._decide(step, meters, fields, reasons, better=bool(best), gold=float(found.gold.mean()))
        return replace(look, events=(*drifts, *look.events))

    def _verdict(self, found: alarm.Audit) -> alarm.Verdict:
        if self.beta is None:
            return alarm.judge(self._audits[0], found)
        start = next((a for a in self._audits if alarm.told_from_zero(a)), found)
        return alarm.judge(start, found, level=alarm.STRICT, sure=True)

    def _decide(self, step: int, meters: Mapping[str, float], fields: Mapping[str, Any], reasons: Iterable[str],
                *, better: bool = False, gold: float = 0.0) -> Look:  # fmt: skip
        told = [*reasons, *self._spread(fields), *self._over_budget(meters)]
        stops = bool(told) and self.guard.action != "warn"
        self.rolls_back = stops and self.guard.action == "rollback"
        kl = {"kl": meters["kl"]} if "kl" in meters else {"kl": 0.0} if step == 0 else {}
        event = {"step": step, **fields, **kl, "reasons": told, "fires": bool(told), "stops": stops}
        events = [(EVENT, event)]
        if told:
            events.append(
                ("warning", {"text": f"step {step}: over-optimization: {'; '.join(told)}{self._deed(stops)}"})
            )
        best = better and self.guard.action == "rollback"
        return Look(stops, best, -gold, tuple(events))

    def _spent(self, step: int, meters: Mapping[str, float]) -> Look:
        """Between audits only the KL budget can ring."""
        over = self._over_budget(meters)
        if not over or (self.guard.action == "warn" and "kl" in self._warned):
            return Look()
        self._warned.add("kl")
        return self._decide(step, meters, {}, [])

    def _deed(self, stops: bool) -> str:
        if not stops:
            return ""
        return ": the run ends" + (" with the weights of the best audit" if self.rolls_back else "")

    def _measure(self) -> tuple[alarm.Audit | None, dict[str, Any]]:
        groups = self.answer(self.guard.prompts, self.guard.samples)
        proxy = [np.asarray(r, float) for r in self.proxy(groups)]
        texts = [r for g in groups for r in g.responses]
        more: dict[str, Any] = {
            "length": float(np.mean([len(r.ids or r.text.split()) for r in texts])),
            "repeated": float(np.mean([repetition(r.ids or r.text.split()) for r in texts])),
        }
        if self.beta is not None:
            more["kl"] = float(np.nanmean(np.concatenate(proxy))) / self.beta
        if self.guard.ensemble:
            judged = [np.concatenate([np.asarray(r, float) for r in j.score(groups)]) for j in self.guard.ensemble]
            more["spread"] = alarm.ensemble_spread([np.concatenate(proxy), *judged])
        if self.guard.gold is None:
            return None, more
        return alarm.audit(self.guard.gold.score(groups), proxy, [g.id for g in groups]), more

    # ------------------------------------------------------------------------------------------------- companions

    def _meters(self, meters: Mapping[str, float]) -> dict[str, float]:
        return {k: meters[k] for k in ("length", "repeated", "at_maximum") if k in meters}

    def _over_budget(self, meters: Mapping[str, float]) -> list[str]:
        kl, most = meters.get("kl"), self.guard.max_kl
        over = most is not None and kl is not None and kl > most
        return [f"KL {kl:.3g} nats is above the budget of {most:g}"] if over else []

    def _spread(self, fields: Mapping[str, Any]) -> list[str]:
        now = fields.get("spread")
        if now is None:
            return []
        self._start_spread = start = now if self._start_spread is None else self._start_spread
        return [f"the judges differ by {now:.3g}, {start:.3g} at the start"] if now > 2 * start > 0 else []

    def _drifts(self, step: int, meters: Mapping[str, float]) -> list[tuple[str, Mapping[str, Any]]]:
        """Warnings, each kind once: they stop nothing, for a good policy may well answer longer."""
        now, first = self._meters(meters), self._first
        found = {}
        if "length" in now and alarm.drift(first["length"], now["length"]):
            found["length"] = f"responses have {now['length']:.0f} tokens, {first['length']:.0f} at the start"
        if "repeated" in now and now["repeated"] > first["repeated"] + REPEATS:
            found["repeated"] = f"{now['repeated']:.0%} of 3-grams are repeated, {first['repeated']:.0%} at the start"
        if "at_maximum" in now and now["at_maximum"] > max(CROWDED, 2 * first["at_maximum"]):
            found["at_maximum"] = f"{now['at_maximum']:.0%} of the responses are at the reward's maximum"
        if meters.get("equal_groups", 0.0) > FLAT:
            found["equal_groups"] = f"in {meters['equal_groups']:.0%} of the prompts all samples have one reward"
        new = {k: text for k, text in found.items() if k not in self._warned}
        self._warned |= set(new)
        return [("warning", {"text": f"step {step}: {text}"}) for text in new.values()]


def _read(x: Mapping[str, Any]) -> alarm.Audit:
    arrays = (np.array(x[k], float) for k in ("covariances", "variances", "proxy_means", "gold_means"))
    covariance, variance, proxy, gold = arrays
    return alarm.Audit(tuple(x["prompts"]), covariance, variance, proxy, gold, float(x["at_maximum"]))


def curve(path: Any) -> list[dict[str, Any]]:
    """The audits of a run in its folder, one row each: step, KL, proxy, gold, covariance with its upper end, reasons."""
    rows: dict[int, dict[str, Any]] = {}
    for x in read_log(path):
        if x["event"] == EVENT and "covariance" in x:
            keys = (
                "step",
                "kl",
                "proxy",
                "gold",
                "gold_se",
                "covariance",
                "high",
                "threshold",
                "slope",
                "fires",
                "reasons",
            )
            rows[x["step"]] = {k: x.get(k) for k in keys}
    return [rows[k] for k in sorted(rows)]
