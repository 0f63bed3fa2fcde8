"""`valign explain`: why a model's answers got their rewards, one JSON record per response. [F10]

OUT/explained.jsonl   the records        OUT/section.json, OUT/result.json   what a report draws
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from valign.data.group import Group, user
from valign.engine.prepare import response_tree
from valign.engine.run import write_whole
from valign.errors import UsageError, ValignError
from valign.evaluation.aggregate import summarize
from valign.evaluation.measure.common import sample_groups
from valign.evaluation.measure.explain import Question, explain
from valign.evaluation.measure.nearest import TrainingIndex, indexed
from valign.evaluation.provenance import provenance
from valign.evaluation.result import Item, Result
from valign.evaluation.section import Section
from valign.models.chat import ChatTemplate
from valign.models.policy import LocalPolicy, Policy, Sampling, has_likelihood
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
from valign.pipeline.policies import LoadOptions
from valign.pipeline.texts import text_rows, write_texts
from valign.pipeline.training_data import knows_its_data, training_groups

FILE = "explained.jsonl"


def token_texts(policy: Policy) -> Any:
    """What each scored token of a response says, as a function of groups; None where the policy's tokenizer is not at hand.

    Texts are differences of growing prefixes, so that a letter of several tokens stands at its last one; a special token
    is shown by its name.
    """
    inner: Any = policy
    while not isinstance(inner, LocalPolicy):
        inner = getattr(inner, "policy", None) or getattr(inner, "base", None)
        if inner is None:
            return None
    template = inner.model.template

    def of(groups: Sequence[Group]) -> list[list[list[str]]]:
        return [_of_group(template, g) for g in groups]

    return of


def _of_group(template: ChatTemplate, group: Group) -> list[list[str]]:
    tree = response_tree(template, group)
    assert tree is not None
    rows = []
    for leaf in sorted(tree.leaves, key=lambda x: x.response):
        ids = [int(i) for i, w in zip(tree.response_ids(leaf), tree.response_loss(leaf)) if w]
        said, row = "", []
        for i in range(len(ids)):
            now = template.decode(ids[: i + 1])
            # the sign of a letter that is not whole yet is not shown before it is
            whole = now.rstrip("\ufffd")
            row.append(whole[len(said) :] or str(template.tokenizer.convert_ids_to_tokens(ids[i])))
            said = whole if len(whole) > len(said) else said
        rows.append(row)
    return rows


def explain_from_names(
    model: str, out: Path, *, prompts: Sequence[str] = (), data: Sequence[str] = (), reference: str | None = None,
    goal: str | None = None, reward: str | None = None, beta: float = 0.1, by: Any = "sentence",
    threshold: float | None = None, sampling: Sampling, limit: int | None = None, options: LoadOptions | None = None,
    training: Sequence[str] = (), nearest: int | None = None, force: bool = False, on_event: Listen | None = None,
) -> tuple[Section, dict[str, Path]]:  # fmt: skip
    """What `valign explain` does: answers that the data hold are explained as they are, prompts without are answered first.

    training  the data that the model was aligned with; without it those that its run remembers
    nearest   how many training groups are told with each answer; 0: none; None: 3 where the data are known
    Raises `ValignError` where neither a reference nor a judge could explain anything, and where training groups are asked
    for and their data are not found.
    """
    from valign.pipeline.goals import make_goal

    tell = on_event or nobody
    if not prompts and not data:
        raise UsageError(
            "there is nothing to explain", where="PROMPT", how='valign explain MODEL "How are you?" or --data FILE'
        )
    if reference is None and goal is None and reward is None:
        raise UsageError(
            "nothing could explain a reward", where="--reference, --goal, --reward", how="name at least one"
        )
    made = make_goal(goal) if goal else None
    judge = judge_named(reward) if reward else judge_named(goal) if goal else None
    groups = [Group(id=f"p{i}", prompt=user(p)) for i, p in enumerate(prompts)]
    groups += groups_named(data, limit, tell) if data else []
    index, notes = _index(model, training, nearest, tell)
    with workplace(out) as run:
        policy = policy_logged(model, options, out / "requests.jsonl", tell)
        base = policy_logged(reference, options, out / "reference.jsonl", tell) if reference else None
        for p in (policy, base):
            if base is not None and p is not None and not has_likelihood(p):
                raise ValignError("token credits need log-probs of given text, and an endpoint tells none", where=p.id,
                                  how="leave --reference out, or name the same weights as a local model")  # fmt: skip
        ask = Question(
            policy if base is not None else None, base, beta, token_texts(policy), judge, made, by, threshold, index
        )
        request = request_of("explain", {"model": policy, "reference": base}, {"groups": groups, **_searched(index)}, sampling,
                             beta=beta, nearest=index.k if index else 0, by=by, threshold=threshold,
                             goal=made.fingerprint() if made else None, judge=judge.fingerprint() if judge else None)  # fmt: skip

        def work() -> Section:
            say = progress_of(tell)
            given = {g.id for g in groups if g.responses}
            answered = _answered(policy, groups, sampling, say)
            write_texts(out, text_rows(answered))
            records = [{**r, "sampled": r["id"] not in given} for r in explain(answered, ask, say("explanations"))]
            write_whole(out / FILE, "".join(json.dumps(r, ensure_ascii=False, allow_nan=False) + "\n" for r in records))
            named = {"id": made.id, "fingerprint": made.fingerprint()} if made else None
            about = provenance(policy, reference=base, sampling=sampling, beta=beta, by=by, goal=named,
                               judge=judge.id if judge else None)  # fmt: skip
            return explain_section(records, policy, about, notes)

        section, paths = carry_out(
            run, request, work, [policy, base], [made, judge], options=options, force=force, tell=tell
        )
        return section, {"records": out / FILE, **paths}


def _index(
    model: str, training: Sequence[str], nearest: int | None, tell: Listen
) -> tuple[TrainingIndex | None, list[str]]:
    """The training data to search, and what the reader must be told; an error only where somebody asked for them."""
    folder = Path(model)
    if training and nearest == 0:
        raise UsageError("--training has no effect: no training groups are told", where="--training", how="leave --nearest 0 out")
    if nearest == 0 or (nearest is None and not training and not knows_its_data(folder)):
        return None, []
    if training:
        groups = groups_named(training, None, tell)
    else:
        try:
            groups = training_groups(folder, tell)
        except ValignError as error:
            if nearest is not None:
                raise
            return None, [f"no nearest training groups: {error.where}: {error.what} (--training FILE names the data)"]
    tell("measuring", {"subject": model, "what": "training groups"})
    index, note = indexed(groups, 3 if nearest is None else nearest)
    return index, [note] if note else []


def _searched(index: TrainingIndex | None) -> dict[str, Sequence[Group]]:
    return {"training": index.groups} if index is not None else {}


def _answered(policy: Any, groups: Sequence[Group], sampling: Sampling, say: Any) -> list[Group]:
    open_ = [g for g in groups if not g.responses]
    answered = iter(sample_groups(policy, open_, sampling, say("responses"))[1] if open_ else ())
    return [g if g.responses else next(answered) for g in groups]


def explain_section(
    records: Sequence[dict[str, Any]], policy: Policy, about: dict[str, Any], notes: Sequence[str] = ()
) -> Section:
    """How complete the explanations are, and the records as a figure's data."""
    results: list[Result] = []
    for kind, variant, level in (("implicit", "tokens", "preference"), ("reward", "removal", "preference")):
        rows = [(r, r[kind]) for r in records if r.get(kind) is not None and r[kind]["residual"] is not None]
        if rows:
            items = [Item(f"{r['id']}#{r['response']}", r["id"], abs(x["residual"])) for r, x in rows]
            results.append(summarize(items, metric="explain.residual", variant=variant, subject=policy.id, level=level,
                                     unit="score", direction="down", cluster_unit="prompt", provenance=about))  # fmt: skip
    return Section(
        "explain",
        f"Why: {policy.id}",
        results,
        [{"id": "records", "type": "explained", "data": {"rows": list(records)}}],
        notes,
    )


def record_lines(record: dict[str, Any], most: int = 3) -> list[str]:
    """A record in a few lines for a terminal: what moved the reward most."""
    lines = [f"{record['id']}#{record['response']}: {record['text'][:100]!r}"]
    if implicit := record.get("implicit"):
        top = sorted(implicit["tokens"], key=lambda t: -abs(t["credit"]))[:most]
        lines.append(
            f"  implicit reward {implicit['reward']:+.3f}: "
            + ", ".join(f"{t['text']!r} {t['credit']:+.3f}" for t in top)
        )
    reward = record.get("reward")
    if reward and reward["score"] is not None:
        top = sorted((s for s in reward["segments"] if s["credit"] is not None), key=lambda s: -abs(s["credit"]))[:most]
        said = ", ".join(f"{s['text'].strip()[:40]!r} {s['credit']:+.3f}" for s in top)
        lines.append(f"  {reward['judge']} {reward['score']:+.3f} (unexplained {reward['residual']:+.3f}): {said}")
    if values := record.get("values"):
        top = sorted(values["dimensions"].items(), key=lambda d: -abs(d[1]["value"] or 0))[:most]
        lines.append("  values: " + ", ".join(f"{n} {d['value']:+.2f}" for n, d in top if d["value"] is not None))
    for p in sorted(record.get("principles", ()), key=lambda p: -abs(p["verdict"] or 0))[:most]:
        if p["verdict"]:
            lines.append(f"  principle {p['id']} {p['verdict']:+.2f}: {(p['quote'] or '')[:60]!r}")
    if training := record.get("training"):
        for near in training["nearest"]:
            said = near["prompt"] if near["text"] is None else near["text"]
            lines.append(f"  near training group {near['id']} {near['similarity']:.3f}: {said[:60]!r}")
    if flip := record.get("flip"):
        lines.append(
            f"  without {flip['removed'].strip()[:60]!r} it turns: {flip['before']:+.3f} to {flip['after']:+.3f}"
        )
    return lines
