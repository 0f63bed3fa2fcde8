"""What in-context and decoding policies share: a base policy, a name, a running cost, and a folder to be saved in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from valign.data.group import Group, Prompt
from valign.errors import ValignError
from valign.goals.base import Goal
from valign.models.endpoint import EndpointPolicy
from valign.models.policy import Cost, LocalPolicy, Policy, Progress, Sample, Sampling, Scored, runtime_of


@dataclass(eq=False)
class Wrapped:
    """A policy around another one. Subclasses say how prompts or samples change."""

    base: Policy
    method: str
    config: Any
    goal: Goal | None = None
    extra: Cost = field(default_factory=Cost)
    family: Literal["context", "decoding"] = "context"
    source: Path | None = None  # the folder it was loaded from
    name: str = ""  # what it is called; empty: its method and base

    @property
    def id(self) -> str:
        return self.name or f"{self.method}({self.base.id})"

    @property
    def kind(self) -> Literal["context", "decoding"]:
        return self.family

    @property
    def drawn_to_score(self) -> int:
        """Longest response in tokens that it draws to a prompt in order to score given ones; 0: none is drawn."""
        return 0

    @property
    def cost(self) -> Cost:
        """The base policy's cost: everything that was computed went through it."""
        return self.base.cost + self.extra

    def card(self) -> dict[str, Any]:
        """See `Policy.card`."""
        return self.base.card() | {
            "id": self.id, "kind": self.kind, "base": self.base.id, "method": self.method, "config": asdict(self.config),
        }  # fmt: skip

    def runtime(self) -> dict[str, Any]:
        """That of the base: everything is computed there."""
        return runtime_of(self.base)

    def save(self, folder: Path) -> None:
        """A policy folder that names the base policy, the method, its settings and the goal."""
        from valign.models.policy_folder import write_policy_folder

        goal: Mapping[str, Any] | None = self.goal.to_json() if self.goal is not None else None
        write_policy_folder(Path(folder), kind=self.family, base=loadable(self.base), method=self.method,
                            config=asdict(self.config), goal=goal)  # fmt: skip


def loadable(policy: Policy) -> str:
    """The name by which a policy is loaded again from any working directory: its folder or file, else its id.

    Raises `ValignError` for a policy that a method made and that lies nowhere on disk.
    """
    if isinstance(policy, EndpointPolicy):
        return policy.address.text
    source = policy.source if isinstance(policy, Wrapped) else None
    if isinstance(policy, LocalPolicy) and policy.model.manifest is not None:
        source = policy.model.source
    if source is None and Path(policy.id).expanduser().exists():
        source = Path(policy.id).expanduser()
    if source is not None:
        return str(source.resolve())
    if policy.card().get("method"):
        raise ValignError("a policy that stands on this one can be saved only when this one is", where=policy.id,
                          how="give it a folder first: align(..., out=FOLDER)")  # fmt: skip
    return policy.id


@dataclass(eq=False)
class ContextPolicy(Wrapped):
    """A policy that reads other prompts than it is given.

    shorter   how a user makes what it adds shorter
    """

    shorter: ClassVar[str] = ""

    def rewrite(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts as the base policy reads them."""
        raise NotImplementedError("abstract: a context method says how prompts change")

    def foreseen(self, prompts: Sequence[Prompt]) -> tuple[list[Prompt], int]:
        """The prompts as far as they are known before anything is generated, and how many tokens may still come in between."""
        return self.rewrite(prompts), 0

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, keys: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[list[Sample]]:  # fmt: skip
        """See `Policy.generate`."""
        return self.base.generate(self.rewrite(prompts), sampling, keys=keys, progress=progress)

    def score(self, groups: Sequence[Group], *, progress: Progress | None = None) -> list[list[Scored]]:
        """See `Policy.score`: the responses as they are, after the rewritten prompts."""
        prompts = self.rewrite([g.prompt for g in groups])
        return self.base.score([replace(g, prompt=p) for g, p in zip(groups, prompts)], progress=progress)
