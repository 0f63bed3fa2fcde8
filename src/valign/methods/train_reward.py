"""Train a reward model: the engine's one loop, with a scalar head where the vocabulary's was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Comparison, Group
from valign.engine.loop import Outcome
from valign.engine.processes import SINGLE, World
from valign.engine.run import RunFolder
from valign.errors import DataError
from valign.methods.method import Method
from valign.methods.target import Target
from valign.methods.train import Job, Listen, local_engine, trainable_copy, whole
from valign.models.loaded import LoadedModel, memory_digest
from valign.models.policy import LocalPolicy
from valign.models.scalar_head import attach_head, first_head
from valign.rewards.reward_model import RewardModel

MEAN_GROUPS = 256  # groups whose scores set the zero: their mean is known to a sixteenth of a standard deviation
FirstHead = Callable[[int, int], NDArray[np.float64]]


@dataclass(frozen=True)
class TrainedReward:
    """The reward model and what the loop says of the run."""

    reward: RewardModel
    outcome: Outcome
    planned: int  # bytes that the memory plan expected this process to take at most


def train_reward(
    method: Method, policy: LocalPolicy, config: Any, run: RunFolder, *,
    groups: Sequence[Group], dev: Sequence[Group] = (), head: FirstHead = first_head,
    on_event: Listen | None = None, world: World = SINGLE,
) -> TrainedReward:  # fmt: skip
    """Train a reward model that starts from `policy`, which stays as it is.

    groups   feedback: pairs or rankings        dev  held out for evaluation and early stopping
    head     (width, seed) -> (width,) weights that the head begins with
    run      the open run folder: continued where it was left
    world    the processes that train together: all call this alike, and each ends with the whole reward model
    An adapter is merged into the weights at the end: a reward model stands on its own.
    """
    engine = local_engine(policy)
    world.require_same(policy.model.digest, "weights")
    _require_effect(config, groups)
    model = _scalar_copy(policy.model, config, head)
    job = Job(method, policy.model, model, engine, Target(), config, run, on_event, world)
    outcome, planned = job.on_feedback(groups, dev)
    if world.sharded:
        model = whole(model, _scalar_copy(policy.model, config, head))
    if model.adapter is not None:
        from valign.models.adapters import merge

        model = merge(model)
    model.model.requires_grad_(False)
    model = replace(model, id=f"{method.name}({policy.id})", digest=memory_digest(model.model), base=policy.id,
                    base_digest=None, manifest={"method": method.name, "config": asdict(config)}, source=None)  # fmt: skip
    raw = RewardModel(model, engine)
    mean, sd = world.from_leader(lambda: scale_of(raw, groups))
    return TrainedReward(replace(raw, mean=mean, sd=sd), outcome, planned)


def scale_of(reward: RewardModel, groups: Sequence[Group]) -> tuple[float, float]:
    """Mean and standard deviation of the reward over the responses of up to 256 of the groups, spread evenly.

    The mean becomes the reward's zero (2203.02155, section 3.5); (0, 0) where nothing could be scored.
    """
    several = [g for g in groups if len(g.responses) > 1]
    some = several[:: -(-len(several) // MEAN_GROUPS)] if several else []
    scores = np.concatenate([np.zeros(0), *reward.score(some)])
    known = scores[np.isfinite(scores)]
    return (float(known.mean()), float(known.std())) if known.size else (0.0, 0.0)


def _scalar_copy(model: LoadedModel, config: Any, head: FirstHead) -> LoadedModel:
    """A copy whose weights (or adapter) can move, with the first scalar head."""
    out = trainable_copy(model, config)
    attach_head(out.model, head(int(out.model.config.get_text_config().hidden_size), config.seed))
    return replace(out, allowed_tokens=None)


def _require_effect(config: Any, groups: Sequence[Group]) -> None:
    """A margin asks for graded labels."""
    if getattr(config, "margin", 0.0) and not any(c.strength for g in groups for c in g.of(Comparison)):
        raise DataError("a margin has no effect: no comparison says how strong the preference is", where="method.margin",
                        how="leave it out, or give comparisons a strength")  # fmt: skip
