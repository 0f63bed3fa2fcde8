"""A composite goal gets its numbers: parts standardized, multipliers fitted, relations measured, on samples of a model."""

from __future__ import annotations

from pathlib import Path

from valign.engine.run import write_whole
from valign.errors import UsageError
from valign.evaluation.measure.common import sample_groups
from valign.goals.composite import CompositeGoal
from valign.goals.loading import to_yaml
from valign.models.policy import Sampling
from valign.pipeline.data import Listen, read_sources
from valign.pipeline.door import source
from valign.pipeline.evaluate import progress_of
from valign.pipeline.goals import make_goal
from valign.pipeline.policies import LoadOptions, load_policy

LEAST = 2  # samples per prompt below which a constraint's multiplier cannot be fitted


def standardize_from_names(
    goal: str, model: str, data: str, out: Path, sampling: Sampling, *, limit: int | None = None,
    options: LoadOptions | None = None, on_event: Listen | None = None,
) -> CompositeGoal:  # fmt: skip
    """What `valign goal standardize` does: the goal with its numbers, written to `out` as a goal file.

    Raises `UsageError` for a goal that is no composite, or whose parts have no scorer.
    """
    made = make_goal(goal)
    if not isinstance(made, CompositeGoal):
        raise UsageError(f"the goal is of level {made.level}, and only a composite goal has parts to put on one scale",
                         where=goal)  # fmt: skip
    if made.constraints and sampling.n < LEAST:
        raise UsageError("a constraint is fitted on several samples per prompt", where="--samples", how="--samples 4")
    tell = on_event or (lambda event, fields: None)
    groups, _ = read_sources([source(data, limit)], sampling.seed, tell)
    tell("loading", {"name": model})
    policy = load_policy(model, options)
    _, sampled = sample_groups(policy, groups, sampling, progress_of(tell)("samples of the reference"))
    tell("measuring", {"subject": made.id, "what": "scores of the parts"})
    ready = made.standardized(sampled)
    write_whole(out, to_yaml(ready))
    return ready
