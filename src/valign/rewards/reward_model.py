"""A trained reward model as a reward: the number of its scalar head at the end of a response.

Always true here: a response is read after its prompt under the model's own chat template, up to its last token; its
score depends on nothing else that is scored with it; what is read from a folder is verified against the folder's digest.
Training one lives in `methods`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from valign.data.group import Group
from valign.goals.base import Array, per_response, sha256
from valign.models.policy import Cost

if TYPE_CHECKING:
    from valign.engine.local import LocalEngine
    from valign.models.loaded import LoadedModel

KIND = "reward"


@dataclass(eq=False)
class RewardModel:
    """r(x, y) = w · h(x, y) - mean, h the last hidden state at the last token of y, the stop token included.

    model      a model with a scalar head        engine   what it computes with
    mean, sd   of the raw scores of training responses: the mean is the reward's zero, the sd says what is much. One unit
               is one nat of log-odds: the scale that it was fitted on stays
    """

    model: LoadedModel
    engine: LocalEngine
    mean: float = 0.0
    sd: float = 0.0
    cost: Cost = field(default_factory=Cost)
    kind = KIND

    @property
    def id(self) -> str:
        return self.model.id

    def score(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses,) float64 per group. A path longer than the model's positions loses the start of its prompt; NaN
        for the group of a response that alone is too long."""
        from valign.engine.prepare import response_tree

        began, model = time.perf_counter(), self.model
        trees = [
            response_tree(model.template, g, longest=model.max_positions, on_long="cut_prompt_left")
            if g.responses
            else None
            for g in groups
        ]
        kept = [t for t in trees if t is not None]
        found = iter(self.engine.scorer(model, readout="scalar_last").score(kept, budget=self.engine.budget))
        rows = [
            np.full(len(g.responses), np.nan) if t is None else np.concatenate(next(found)).astype(np.float64) - self.mean
            for g, t in zip(groups, trees)
        ]
        self.cost += Cost(sum(len(g.responses) for g in groups), sum(t.tokens for t in kept),
                          seconds=time.perf_counter() - began)  # fmt: skip
        return per_response(rows, groups, self.id)

    def fingerprint(self) -> str:
        """sha256 over the weights' digest and the mean."""
        return _fingerprint(self.model.digest, self.mean)

    def card(self) -> dict[str, Any]:
        """JSON: as a policy's card, with mean and sd."""
        return {**self.model.card(), "kind": KIND, "mean": self.mean, "sd": self.sd}

    def save(
        self, folder: Path, *, method: str | None = None, config: Mapping[str, Any] | None = None,
        goal: Mapping[str, Any] | None = None,
    ) -> RewardModel:  # fmt: skip
        """Write a folder that `load_reward` reads, atomically; the reward under its new identity."""
        from valign.models.gguf import quiet
        from valign.models.policy_folder import save_reward

        old = self.model.manifest or {}
        with quiet():
            saved = save_reward(
                self.model, Path(folder), method=method or old.get("method"), goal=goal,
                config=config if config is not None else old.get("config"), extra={"mean": self.mean, "sd": self.sd},
            )  # fmt: skip
        return replace(self, model=saved)


def load_reward(folder: str | Path, *, device: str = "auto", dtype: str = "auto") -> RewardModel:
    """The reward model of a folder that `valign align --method reward_model` wrote.

    dtype  of the weights; "auto": float32 weights, multiplied in bf16 where the device does so natively, as policies
    Raises `ModelError` for whatever is wrong with the folder.
    """
    from valign.engine.local import LocalEngine
    from valign.models.loading import load_scalar_model

    model = load_scalar_model(folder, device=device, dtype="float32" if dtype == "auto" else dtype)
    manifest = model.manifest or {}
    engine = LocalEngine(precision="auto" if dtype == "auto" else "full")
    return RewardModel(model, engine, float(manifest.get("mean", 0.0)), float(manifest.get("sd", 0.0)))


class LazyReward:
    """A reward model by its folder: the manifest is read now, the weights at the first response that is scored."""

    def __init__(self, folder: str | Path) -> None:
        from valign.models.loading import reward_manifest

        self.folder = Path(folder).expanduser().absolute()
        self.manifest = reward_manifest(self.folder)
        self.id = str(folder)

    @cached_property
    def loaded(self) -> RewardModel:
        """The reward model itself."""
        return load_reward(self.folder)

    def score(self, groups: Sequence[Group]) -> list[Array]:
        """See `RewardModel.score`."""
        return self.loaded.score(groups)

    def fingerprint(self) -> str:
        """See `RewardModel.fingerprint`."""
        return _fingerprint(str(self.manifest.get("digest")), float(self.manifest.get("mean", 0.0)))


def is_reward_folder(folder: str | Path) -> bool:
    """Whether a folder holds a reward model."""
    from valign.models.policy_folder import is_policy_folder, read_manifest

    folder = Path(folder).expanduser()
    return is_policy_folder(folder) and read_manifest(folder)["kind"] == KIND


def _fingerprint(digest: str, mean: float) -> str:
    return sha256(["reward model", digest, mean])
