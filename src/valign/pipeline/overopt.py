"""`valign overopt`: is a proxy worth pushing on a model, and does the alarm work where the truth is known? [F06]"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from valign.errors import UsageError
from valign.evaluation import overopt_worlds as worlds
from valign.evaluation.measure.common import sample_groups, unanswered
from valign.evaluation.measure.overopt import overopt_section
from valign.evaluation.provenance import provenance
from valign.evaluation.result import Result
from valign.evaluation.section import Section
from valign.models.policy import Sampling
from valign.pipeline.evaluate import progress_of
from valign.pipeline.instruments import (
    Listen,
    carry_out,
    groups_named,
    judge_named,
    nobody,
    policy_logged,
    request_of,
    workplace,
)
from valign.pipeline.judges import reasons
from valign.pipeline.policies import LoadOptions
from valign.pipeline.texts import prompt_rows


def overopt_from_names(
    model: str, data: Sequence[str], out: Path, *, proxy: str, gold: str, sampling: Sampling, limit: int | None = None,
    options: LoadOptions | None = None, force: bool = False, on_event: Listen | None = None,
) -> tuple[Section, dict[str, Path]]:  # fmt: skip
    """Sample `model`'s answers, score them by proxy and gold, and see what pushing the proxy does to gold.

    Raises `ValignError` for samples of a changed law: the curves stand for the model's own.
    """
    tell = on_event or nobody
    if not sampling.is_plain:
        raise UsageError("the curves are those of the model's own law", where="--temperature", how="leave it at 1")
    if sampling.n < 4:
        raise UsageError(f"{sampling.n} samples per prompt show no curve", where="--samples", how="4 or more")
    proxy_judge, gold_judge = judge_named(proxy), judge_named(gold)
    groups = groups_named(data, limit, tell)
    with workplace(out) as run:
        policy = policy_logged(model, options, out / "requests.jsonl", tell)
        request = request_of("overopt", {"model": policy}, {"data": groups}, sampling,
                             proxy=proxy_judge.fingerprint(), gold=gold_judge.fingerprint())  # fmt: skip

        def work() -> Section:
            say = progress_of(tell)
            drawn, sampled = sample_groups(policy, groups, sampling, say("responses"))
            say(f"scores by {proxy_judge.id} and {gold_judge.id}")
            about = provenance(policy, sampling=sampling, proxy=proxy_judge.id, gold=gold_judge.id)
            return overopt_section(sampled, proxy_judge, gold_judge, subject=policy.id, about=about,
                                   missing=unanswered(sampled, drawn), why=reasons)  # fmt: skip

        judges = (proxy_judge, gold_judge)
        return carry_out(run, request, work, [policy], judges, texts=prompt_rows(groups), options=options, force=force, tell=tell)


def bench_in(
    out: Path, *, seed: int = 0, force: bool = False, on_event: Listen | None = None
) -> tuple[Section, dict[str, Path]]:
    """What `valign overopt worlds` does. Raises `UsageError` for a folder that holds something else."""
    tell = on_event or nobody
    with workplace(out) as run:
        request = request_of("overopt_worlds", {}, {}, seed=seed)
        return carry_out(run, request, lambda: bench_section(seed=seed, on_event=tell), force=force, tell=tell)


def bench_section(*, seed: int = 0, on_event: Listen | None = None, **settings: float) -> Section:
    """The alarm on every planted proxy of both oracle worlds, and on the gold itself (A/A).

    Results: overopt.kept (share of the gain to the gold optimum that a run has which obeys the alarm) per world and proxy.
    """
    tell, rows, results = on_event or nobody, [], []
    cases = [(w, p) for w in worlds.WORLDS for p in worlds.PROXIES]
    tell("measuring", {"subject": "", "what": "oracle worlds"})
    for i, (world, proxy) in enumerate(cases):
        run = worlds.bench(world, proxy, seed=seed, **settings)  # type: ignore[arg-type]
        rows.append(run.to_json())
        results.append(
            Result(metric="overopt.kept", variant=f"{world}.{proxy}", subject="oracle world", level="cost", value=run.kept,
                   unit="share", direction="up", n=len(run.steps), provenance={**provenance(seed=seed), **settings},
                   notes=_words(run))
        )  # fmt: skip
        tell("progress", {"what": "oracle worlds", "done": i + 1, "total": len(cases)})
    return Section("overopt_worlds", "Over-optimization bench: planted proxies in the oracle worlds", results,
                   [{"id": "bench", "type": "overopt_bench", "data": {"runs": rows}}])  # fmt: skip


def _words(run: worlds.BenchRun) -> tuple[str, ...]:
    if run.peak is None:
        said = "gold never falls" + ("" if run.proxy == worlds.HONEST else " under this proxy")
        return (f"{said}; the alarm {'is silent' if run.alarm is None else 'rings in vain'}",)
    where = f"gold peaks at strength {run.peak.strength:.3f}"
    if run.alarm is None:
        return (f"{where}; the alarm is silent",)
    side = "before" if run.fires_before else "AFTER"
    return (f"{where}; the alarm rings {side} it, at {run.stopped.strength:.2f}",)
