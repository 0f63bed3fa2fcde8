"""The one training loop, for every family.

What holds here: an optimizer step is a sum over its items divided by one normalizer that is known before the forward
pass; how the items are cut into micro-batches and dealt to processes changes memory and speed, never the gradient; a
step is a function of (seed, step, weights, optimizer state), so a run that was killed continues bit for bit. Processes
decide on sums that are equal on all of them, and only the leading one writes and speaks.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from valign.engine import checkpoint
from valign.engine.allocator import is_out_of_memory
from valign.engine.audit import AuditLine, audit_items, audit_rows, audit_start
from valign.engine.config import TrainConfig
from valign.engine.hooks import Hook, Look
from valign.engine.items import Item, Objective, collate
from valign.engine.memory import resident_bytes
from valign.engine.meters import Meters, Part, total
from valign.engine.optimizer import adamw, clip, learning_rate, load_state, state_tensors, trainable
from valign.engine.processes import SINGLE, World
from valign.engine.run import RunFolder, finite
from valign.engine.sampler import Sampler, Step, address
from valign.engine.scorer import Scorer, positions
from valign.engine.shards import SharedScorer
from valign.errors import ValignError

BAD_STEPS = 3  # non-finite steps in a row that stop a run
ECHO = 5.0  # seconds in which a second signal may be the launcher's copy of the first


class Interrupted(ValignError):
    """The run was stopped by a signal after finishing its step; everything is saved."""

    exit_code = 0


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves: steps done, the last meters, the best evaluation (or look of a hook that rolled back),
    and what it cost.

    by_hook   a hook ended it        kept   the step whose weights the model holds
    """

    steps: int
    meters: Mapping[str, float]
    best: tuple[int, float] | None
    tokens_trained: int
    seconds: float
    stopped_early: bool = False
    by_hook: bool = False
    kept: int = 0


@dataclass(frozen=True)
class HeldOut:
    """Items on which the objective's loss is evaluated, at the end and every `every` steps (0: only at the end).

    patience   stop after this many evaluations without a better one and keep the best weights; 0: never
    """

    items: Sequence[Item] = ()
    every: int = 0
    patience: int = 0


@dataclass
class _State:
    """The part of a run that a checkpoint holds beside weights and optimizer."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    bad: int = 0
    best_step: int = -1
    best_value: float = math.inf
    fallback_step: int = -1  # the step whose weights a hook found best, and how good they are
    fallback_value: float = math.inf
    waited: int = 0
    budget: int = 0  # positions of a micro-batch: the configured ones, halved by every out-of-memory
    meters: dict[str, float] = field(default_factory=dict)


def train(
    scorer: Scorer,
    sampler: Sampler,
    objective: Objective,
    config: TrainConfig,
    run: RunFolder,
    *,
    dev: HeldOut | None = None,
    stop_ids: Sequence[int] = (),
    audit: Sequence[AuditLine] = (),
    on_event: Callable[[str, Mapping[str, Any]], None] | None = None,
    world: World = SINGLE,
    hook: Hook | None = None,
) -> Outcome:
    """Train `scorer.model` until the sampler's steps are done, continuing from the run's newest good checkpoint.

    dev        what the objective's loss is evaluated on, and when that stops the run
    audit      findings of whoever prepared the data; fatal ones stop the run here, before it changes anything
    on_event   hears ("audit" | "step" | "eval" | "checkpoint" | "warning", fields); the run's log holds the same
    world      the processes that share the steps; all call `train` alike, and `run` writes on the leading one alone
    hook       looks at the run before step 0 and after every step, and may end it
    Raises `ValignError` for a run that is refused or that met three non-finite steps in a row (the last good state is
    kept), `Interrupted` after SIGINT or SIGTERM.
    """
    return _Loop(scorer, sampler, objective, config, run, dev or HeldOut(), on_event, world, hook).run_all(stop_ids, audit)


class _Loop:
    def __init__(self, scorer: Scorer, sampler: Sampler, objective: Objective, config: TrainConfig, run: RunFolder,
                 dev: HeldOut, on_event: Callable[[str, Mapping[str, Any]], None] | None, world: World,
                 hook: Hook | None) -> None:  # fmt: skip
        self.scorer, self.sampler, self.objective = scorer, sampler, objective
        self.config, self.run, self.dev, self.on_event, self.world = config, run, dev, on_event, world
        self.model: nn.Module = scorer.model
        self.hook = hook
        self.weights = trainable(self.model)
        self.optimizer = adamw(self.model, weight_decay=config.weight_decay)
        self.peak = config.peak(adapter=any("lora_" in n for n in self.weights))
        self.state = _State(budget=config.token_budget or scorer.budget)
        self.stop_signal, self.stop_time = 0, 0.0
        self.saved = _State(step=-1)  # what the newest checkpoint holds

    def run_all(self, stop_ids: Sequence[int], audit: Sequence[AuditLine]) -> Outcome:
        resumed = self._restore()
        if not resumed:
            self._audit(stop_ids, audit)
        stopped, ended = self._out_of_patience(), False  # so it may have been before the run was killed
        if self.hook is not None:
            ended = self.hook.resume(self.state.step) if self.state.step else self._heed(self.hook.begin())
            if not self.state.step and self._may_be_put_back():
                self._save()
        with self._signals():
            while self.state.step < self.sampler.steps and not (stopped or ended):
                self._step()
                stopped = self._evaluate_if_due()
                if self.hook is not None:
                    ended = self._heed(self.hook.after(self.state.step, self.sampler.steps, self.state.meters))
                self._checkpoint_if_due(stopped or ended)
        kept = self._keep_best()
        self.world.gather(None)  # nobody removes what another one still reads
        step, value = self._best()
        return Outcome(self.state.step, dict(self.state.meters), (step, value) if step >= 0 else None, self.state.tokens,
                       self.state.seconds, stopped or ended, ended, kept)  # fmt: skip

    # ------------------------------------------------------------------------------------------------- one step

    def _step(self) -> None:
        began, index = time.perf_counter(), self.state.step
        rate = learning_rate(
            index, self.sampler.steps, peak=self.peak, warmup=self.config.warmup, schedule=self.config.schedule
        )
        torch.manual_seed(address(self.config.seed, "step", index))  # adapter dropout; bodies have none
        step = self.sampler.step(index)
        loss, meters, tokens, pad = self._gradients(step)
        norm = clip(self.weights.values(), self.config.max_grad_norm)
        if math.isfinite(loss) and math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.state.bad = 0
        else:
            self._refuse_update(step, loss, norm)
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        self.state.step, self.state.tokens = index + 1, self.state.tokens + tokens
        self.state.seconds += seconds
        line = {"loss": loss, "learning_rate": rate, "grad_norm": norm, "tokens": tokens, "pad_share": pad,
                "tokens_per_second": tokens / seconds, **step.meters, **meters}  # fmt: skip
        self.state.meters = {k: float(v) for k, v in line.items()}
        left = round((self.sampler.steps - index - 1) * seconds, 1)
        self._tell("step", step=index + 1, steps=self.sampler.steps, seconds=round(seconds, 4), left=left,
                   memory=resident_bytes(self.scorer.device), **finite(line))  # fmt: skip

    def _gradients(self, step: Step) -> tuple[float, Mapping[str, float], int, float]:
        """Accumulate the gradient of one step; on out-of-memory halve the budget and start the step again."""
        while True:
            part, error = self._try_to_accumulate(step)
            parts = self.world.gather(part)
            if None not in parts:
                self.world.sum_gradients(self.weights.values())
                return total([p for p in parts if p is not None])
            self.optimizer.zero_grad(set_to_none=True)
            if self.state.budget <= max(positions(i.tree, self.scorer.path) for i in step.items):
                raise ValignError("out of memory on a single group", where=f"step {self.state.step}",
                                  how="shorten it (max_length) or train an adapter (adapter=lora)") from error  # fmt: skip
            self.state.budget //= 2
            self._tell("warning", text=f"out of memory: the token budget is halved to {self.state.budget}")

    def _try_to_accumulate(self, step: Step) -> tuple[Part | None, BaseException | None]:
        """This process's part, or None and the error where its memory ran out."""
        try:
            return self._accumulate(step.items), None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if self.world.sharded and self.world.size > 1:  # the others wait inside their pass: it cannot be redone
                raise ValignError(
                    f"out of memory on process {self.world.rank}", where=f"step {self.state.step}",
                    how=f"--set token_budget={self.state.budget // 2} --force: a smaller budget is another run, it starts again",
                ) from error  # fmt: skip
            return None, error

    def _accumulate(self, items: Sequence[Item]) -> Part:
        units = sum(i.units(self.objective.unit) for i in items)
        if units <= 0:
            raise ValignError("the step has no scored token", where=", ".join(i.tree.id for i in items[:5]))
        meters, tokens, computed, real = Meters(), 0, 0, 0
        for picked in self._micro_batches(items):
            scores = self.scorer([i.tree for i in picked])
            terms = self.objective(collate(picked, scores))
            loss = terms.losses.sum() / units
            if loss.requires_grad:
                (loss * self.world.loss_factor).backward()  # type: ignore[no-untyped-call]
            meters.add(loss, terms, scores.mask)
            tokens += sum(i.tree.tokens for i in picked)
            computed, real = computed + scores.tokens, real + scores.real
        value, sums = meters.read()  # the one look at the device: a wait in each micro-batch would leave it idle
        return Part(value, tokens, computed, real, sums)

    def _micro_batches(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """This process's micro-batches. Where it has fewer than others and weights are shards, it takes part in their
        passes with weight zero."""
        trees = [i.tree for i in items]
        for batch in self.world.share_out(trees, self.state.budget, self.scorer.path):
            if batch:
                yield [items[i] for i in batch]
            elif isinstance(self.scorer, SharedScorer):
                self.scorer.attend(min(trees, key=lambda t: t.tokens))

    def _refuse_update(self, step: Step, loss: float, norm: float) -> None:
        """Weights stay as they are; the groups' ids are kept for a look."""
        self.state.bad += 1
        ids = [i.tree.id for i in step.items]
        self.run.write(
            f"bad/step-{self.state.step}.json", json.dumps({"loss": str(loss), "norm": str(norm), "groups": ids})
        )
        self._tell("warning", text=f"step {self.state.step}: loss {loss}, gradient norm {norm}; no update was made")
        if self.state.bad >= BAD_STEPS:
            self.state.bad = 0
            self._save()
            raise ValignError(
                f"{BAD_STEPS} non-finite steps in a row; the last good weights are kept",
                where=str(self.run.path),
                how=["lower learning_rate", f"the groups are listed in {self.run.path / 'bad'}"],
            )

    # --------------------------------------------------------------------------- audit, evaluation, checkpoints

    def _audit(self, stop_ids: Sequence[int], given: Sequence[AuditLine]) -> None:
        lines = list(given)
        first = list(getattr(self.sampler, "items", ()))
        if first:
            lines += audit_items(first, stop_ids)
            lines += audit_rows(first, self.scorer, self.state.budget, self.config.batch_size)
            lines += audit_start(first, self.scorer, self.objective, self.state.budget)
        for line in lines:
            self._tell("audit", name=line.name, ok=line.ok, text=line.text)
        refused = [x for x in lines if x.fatal and not x.ok]
        if refused:
            raise ValignError(
                "the audit before step 0 refuses this run: " + "; ".join(f"{x.name}: {x.text}" for x in refused),
                where=str(self.run.path),
                how="nothing was trained",
            )

    def _evaluate_if_due(self) -> bool:
        """Evaluate on the dev items; True if patience has run out."""
        last = self.state.step >= self.sampler.steps
        every = self.dev.every
        if not self.dev.items or not (last or (every and self.state.step % every == 0)):
            return False
        value, meters = self._evaluate()
        better = value < self.state.best_value
        self.state.waited = 0 if better else self.state.waited + 1
        if better:
            self.state.best_value, self.state.best_step = value, self.state.step
        self._tell("eval", step=self.state.step, best=better, **finite({"loss": value, **meters}))
        return self._out_of_patience()

    def _heed(self, look: Look) -> bool:
        """Tell what the hook found and keep the weights it may fall back on; True if it ends the run."""
        for event, fields in look.events:
            self._tell(event, **fields)
        if look.best:
            self.state.fallback_value, self.state.fallback_step = look.value, self.state.step
        return look.stop

    def _out_of_patience(self) -> bool:
        return bool(self.dev.patience) and self.state.waited >= self.dev.patience

    @torch.no_grad()
    def _evaluate(self) -> tuple[float, Mapping[str, float]]:
        units, meters = sum(i.units(self.objective.unit) for i in self.dev.items), Meters()
        for picked in self._micro_batches(self.dev.items):
            scores = self.scorer([i.tree for i in picked])
            terms = self.objective(collate(picked, scores))
            meters.add(terms.losses.double().sum(), terms, scores.mask)
        loss, sums = meters.read()
        value, found, _, _ = total(self.world.gather(Part(loss, 0, 0, 0, sums)))
        return value / units, found

    def _may_be_put_back(self) -> bool:
        """Whether the run may end with the weights of this step: they need a checkpoint."""
        best = self.dev.patience and self.state.best_step == self.state.step
        return bool(best) or self.state.fallback_step == self.state.step

    def _checkpoint_if_due(self, stopped: bool) -> None:
        """After all that looks at a step has looked: who continues from here misses none of it."""
        every = self.config.checkpoint_every
        done = stopped or self.state.step >= self.sampler.steps
        interrupted = any(self.world.gather(self.stop_signal))  # a signal may reach one process before another
        if done or interrupted or self._may_be_put_back() or (every and self.state.step % every == 0):
            self._save()
        if not interrupted or done:
            return
        what, where = f"stopped after step {self.state.step} of {self.sampler.steps}", str(self.run.path)
        if self.saved.step == self.state.step:
            raise Interrupted(f"{what}; everything is saved", where=where, how="run the same command again to continue")
        last = f"the last checkpoint is of step {self.saved.step}" if self.saved.step >= 0 else "there is no checkpoint"
        raise ValignError(f"{what}; {last}", where=where, how="make room and run the same command again")

    def _save(self) -> None:
        if self.saved.step == self.state.step:
            return
        names = {id(p): n for n, p in self.weights.items()}
        try:
            checkpoint.save(
                self.run.checkpoints,
                self.state.step,
                self.weights,
                state_tensors(self.optimizer, names),
                vars(self.state),
                self.world,
            )
        except OSError as error:
            self._tell("warning", text=f"checkpoint not written ({error.strerror}); the last good one is kept")
            self._forget_unsaved()
            return
        self.saved = replace(self.state)
        good = {self.state.best_step, self.state.fallback_step}
        self.world.from_leader(lambda: checkpoint.prune(self.run.checkpoints, 2, good))
        self._tell("checkpoint", step=self.state.step)

    def _forget_unsaved(self) -> None:
        """Weights that are not on the disk cannot be put back: the best ones are those that are."""
        state, saved = self.state, self.saved
        if self.dev.patience and state.best_step == state.step:
            state.best_step, state.best_value = saved.best_step, saved.best_value
        if state.fallback_step == state.step:
            state.fallback_step, state.fallback_value = saved.fallback_step, saved.fallback_value

    def _restore(self) -> bool:
        path, notes = self.world.from_leader(lambda: checkpoint.newest(self.run.checkpoints))
        for note in notes:
            self._tell("warning", text=note)
        if path is None:
            return False
        saved = checkpoint.read(path, self.weights)
        self._load_weights(saved.weights)
        load_state(self.optimizer, dict(self.weights), saved.optimizer)
        self.state = _State(**saved.state)
        self.saved = replace(self.state)
        self._tell("resume", step=self.state.step)
        return True

    def _load_weights(self, weights: Mapping[str, Tensor]) -> None:
        if set(weights) != set(self.weights):
            raise ValignError("the checkpoint is of another model or adapter", where=str(self.run.checkpoints),
                              how="choose another --out, or remove the folder to start again")  # fmt: skip
        with torch.no_grad():
            for name, value in weights.items():
                self.weights[name].copy_(value)

    def _rolls_back(self) -> bool:
        return self.hook is not None and self.hook.rolls_back

    def _best(self) -> tuple[int, float]:
        """(step, value) that was best: as the hook saw it where it rolls back, else on the dev split; -1: none was."""
        if self._rolls_back():
            return self.state.fallback_step, self.state.fallback_value
        return self.state.best_step, self.state.best_value

    def _keep_best(self) -> int:
        """With early stopping the policy that is kept is the best one on the dev split; with a hook that rolls back, the one
        that it found best. Returns the step whose weights are kept."""
        step, value = self._best()
        if not (self.dev.patience or self._rolls_back()) or not 0 <= step != self.state.step:
            return self.state.step
        best = self.run.checkpoints / f"step-{step:06d}"
        self.world.from_leader(lambda: checkpoint.check(best))
        self._load_weights(checkpoint.read(best, self.weights).weights)
        self._tell("best", step=step, **({} if self._rolls_back() else {"loss": value}))
        return step

    # -------------------------------------------------------------------------------------------------- telling

    def _tell(self, event: str, **fields: Any) -> None:
        try:
            self.run.log(event, **fields)
        except OSError as error:
            event, fields = "warning", {"text": f"the log cannot be written ({error.strerror}); training goes on"}
        if self.on_event is not None:
            self.on_event(event, fields)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM finish the step, save and stop; a second signal stops at once."""

        def note(number: int, _frame: Any) -> None:
            echo = self.world.size > 1 and time.monotonic() - self.stop_time < ECHO
            if self.stop_signal and not echo:
                raise KeyboardInterrupt
            self.stop_signal, self.stop_time = number, self.stop_time or time.monotonic()

        before: dict[int, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, note)
        except ValueError:  # not the main thread: whoever runs us handles signals
            before = {}
        try:
            yield
        finally:
            for caught, handler in before.items():
                signal.signal(caught, handler)
