"""`valign tax`: what alignment gained and what it cost, for any two checkpoints, from paired items. [F07]"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from valign.data.group import Group
from valign.errors import DataError, UsageError
from valign.evaluation import measure
from valign.evaluation.aggregate import summarize
from valign.evaluation.measure.common import cluster_of, judged_items, sample_groups, unanswered
from valign.evaluation.metrics.perplexity import bits_per_byte
from valign.evaluation.provenance import provenance
from valign.evaluation.result import Item, Result, compare
from valign.evaluation.section import Section
from valign.goals.base import ResponseScorer
from valign.models.policy import Policy, Sampling, has_likelihood, score_each
from valign.pipeline.evaluate import Plan, Say, kl_results, progress_of
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
from valign.pipeline.ranked import refuse_ranks
from valign.pipeline.texts import prompt_rows, text_rows

TASKS = ("builtin:instructions#test",)
TEXTS = ("builtin:demonstrations#dev",)


@dataclass(frozen=True)
class TaxPlan:
    """What both checkpoints are asked.

    tasks    name -> groups with checks or with choices: ability        prompts  what the reward judges answers to
    texts    held-out responses whose bits per byte are measured        kl_prompts  of the prompts, for the KL; 0: none
    """

    tasks: Mapping[str, Sequence[Group]]
    prompts: Sequence[Group] = ()
    reward: ResponseScorer | None = None
    texts: Sequence[Group] = ()
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7))
    kl_prompts: int = 16


def tax_section(base: Policy, aligned: Policy, plan: TaxPlan, *, say: Say | None = None) -> Section:
    """Reward gained, ability lost, KL spent, tax per unit of gain, bits per byte of held-out text, items lost and won.

    Both checkpoints answer the same items with the same random addresses; every difference is paired.
    """
    say = say or (lambda phase: None)
    before, after = (_abilities(p, plan, say) for p in (base, aligned))
    results = [*measure.measure_tax(before, after), *before, *after]
    notes: list[str] = []
    if plan.reward is not None and plan.prompts:
        rewards = [_rewards(p, plan, say) for p in (base, aligned)]
        gain = replace(compare(rewards[1], rewards[0]).result, metric="reward.gain")
        results += [*rewards, gain, measure.measure_tax_per_gain(before, after, gain)]
    if plan.prompts and plan.kl_prompts and has_likelihood(base) and has_likelihood(aligned):
        results += kl_results(aligned, base, plan.prompts[: plan.kl_prompts], Plan(sampling=plan.sampling), say)
    elif plan.kl_prompts and plan.prompts:
        notes.append("no KL: an endpoint tells no log-probs of given text")
    if plan.texts and has_likelihood(base) and has_likelihood(aligned):
        bits = [_bits(p, plan.texts, say) for p in (base, aligned)]
        results += [*bits, replace(compare(bits[1], bits[0]).result, metric="text.bits_per_byte.change")]
    flips = {r.metric: _flips(r, s) for r, s in zip(before, after)}
    data = {"base": base.id, "aligned": aligned.id, "items": flips}
    return Section("tax", f"Alignment tax: {aligned.id} against {base.id}", results,
                   [{"id": "flips", "type": "flips", "data": data}], notes)  # fmt: skip


def _abilities(policy: Policy, plan: TaxPlan, say: Say) -> list[Result]:
    from valign.rewards.rules import check

    out = []
    for name, groups in plan.tasks.items():
        if any(g.choices for g in groups):
            found = measure.measure_choices(policy, groups, "sum", progress=say(name))
        else:
            greedy = Sampling(temperature=0, max_new_tokens=plan.sampling.max_new_tokens, seed=plan.sampling.seed)
            found = measure.measure_instructions(policy, groups, check, greedy, progress=say(name))[0]
        out.append(replace(found, metric=f"{found.metric}.{name}") if len(plan.tasks) > 1 else found)
    return out


def _rewards(policy: Policy, plan: TaxPlan, say: Say) -> Result:
    assert plan.reward is not None
    drawn, groups = sample_groups(policy, plan.prompts, plan.sampling, say("responses"))
    scores = plan.reward.score(groups)
    items = judged_items(groups, scores, unanswered(groups, drawn), reasons(plan.reward))
    about = provenance(
        policy, sampling=plan.sampling, reward={"id": plan.reward.id, "sha256": plan.reward.fingerprint()}
    )
    return summarize(items, metric="reward.mean", variant=plan.reward.id, subject=policy.id,
                     level=getattr(plan.reward, "level", "preference"), unit="score", cluster_unit="prompt",
                     provenance=about)  # fmt: skip


def _bits(policy: Policy, texts: Sequence[Group], say: Say) -> Result:
    """Bits per byte of the responses, given their prompts: weighted by bytes, so that it is that of the whole text."""
    items = []
    for g, scored in zip(texts, score_each(policy, texts, say("held-out text")), strict=True):
        for k, r in enumerate(g.responses):
            size = len(r.text.encode())
            reason = "over_length" if scored is None else None if size else "empty_continuation"
            bits = None if reason or scored is None else bits_per_byte(scored[k].log_prob, r.text)
            items.append(Item(f"{g.id}#{k}", cluster_of(g), bits, reason, weight=float(size or 1)))
    return summarize(items, metric="text.bits_per_byte", variant="given_prompt", subject=policy.id, level="capability",
                     unit="bits", direction="down", cluster_unit="prompt", provenance=provenance(policy))  # fmt: skip


def _flips(base: Result, aligned: Result) -> dict[str, list[dict[str, Any]]]:
    """Items that only one of the two solved, both ways, with what each said."""
    before = {i.id: i for i in base.scored_items}
    out: dict[str, list[dict[str, Any]]] = {"lost": [], "won": []}
    for now in aligned.scored_items:
        then = before.get(now.id)
        if then is None or then.score == now.score:
            continue
        row = {"id": now.id, "base": then.score, "aligned": now.score}
        row |= {f"{k}_text": i.detail["text"] for k, i in (("base", then), ("aligned", now)) if "text" in i.detail}
        out["lost" if (now.score or 0) < (then.score or 0) else "won"].append(row)
    return out


def tax_from_names(
    base: str, aligned: str, out: Path, *, data: Sequence[str] = (), reward: str | None = None,
    tasks: Sequence[str] = TASKS, texts: Sequence[str] = TEXTS, sampling: Sampling, kl_prompts: int = 16,
    limit: int | None = None, options: LoadOptions | None = None, force: bool = False, on_event: Listen | None = None,
) -> tuple[Section, dict[str, Path]]:  # fmt: skip
    """What `valign tax` does; requests are logged in `out`, so an interrupted one goes on."""
    tell = on_event or nobody
    judge = judge_named(reward) if reward else None
    refuse_ranks(getattr(judge, "goal", None), "--reward", ("valign evaluate ALIGNED --reference BASE --goal GOAL ranks them",))
    named = {name: groups_named([task], limit, tell) for name, task in names_of(tasks).items()}
    for task, groups in zip(tasks, named.values()):
        if not any(g.choices or g.meta.get("checks") for g in groups):
            raise DataError("no group has checks or answer choices: no answer to it is right or wrong",
                            where=f"--tasks {task}", how="name tasks, such as builtin:instructions#test")  # fmt: skip
    plan = TaxPlan(named, groups_named(data, limit, tell) if data else (), judge,
                   groups_named(texts, limit, tell) if texts else (), sampling, kl_prompts)  # fmt: skip
    scored = [*(g for groups in named.values() for g in groups), *plan.texts]
    with workplace(out) as run:
        policies = {
            n: policy_logged(m, options, out / f"{n}.jsonl", tell) for n, m in (("base", base), ("aligned", aligned))
        }
        request = request_of("tax", policies, {**named, "prompts": plan.prompts, "texts": plan.texts}, sampling,
                             reward=judge.fingerprint() if judge else None, kl_prompts=kl_prompts)  # fmt: skip
        return carry_out(
            run, request, lambda: tax_section(policies["base"], policies["aligned"], plan, say=progress_of(tell)),
            [*policies.values()], [judge], texts=[*text_rows(scored), *prompt_rows(plan.prompts)],
            options=options, force=force, tell=tell,
        )  # fmt: skip


def names_of(tasks: Sequence[str]) -> dict[str, str]:
    """Name -> source of each benchmark: its file without folder, ending and split; the whole source where two would share
    one, or where it is the name of something else that is measured. Raises `UsageError` for one that stands there twice."""
    short = [Path(t.removeprefix("builtin:").partition("#")[0]).stem for t in tasks]
    taken = ("", "prompts", "texts")
    out = {t if s in taken or short.count(s) > 1 else s: t for t, s in zip(tasks, short)}
    if len(out) < len(tasks):
        twice = sorted({t for t in tasks if tasks.count(t) > 1})
        raise UsageError(f"{', '.join(twice)} is named twice", where="--tasks", how="name each benchmark once")
    return out
