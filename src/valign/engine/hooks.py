"""What may look at a run while it trains, and end it.

A hook is asked before step 0 and after every step, on every process alike; what it measures it measures on its own random
addresses, so that looking changes no step. It may end the run (`stop`) and have the weights of the step it found best put
back (`rollback`). A run that was killed asks it again from its log: `resume`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Look:
    """What a hook found after a step.

    stop    the run ends here            best  these are the weights to fall back on
    value   what they are best by, lower is better            events  (name, fields) for the run's log and its listeners
    """

    stop: bool = False
    best: bool = False
    value: float = 0.0
    events: tuple[tuple[str, Mapping[str, Any]], ...] = field(default_factory=tuple)


class Hook(Protocol):
    """See the module."""

    @property
    def rolls_back(self) -> bool:
        """Whether the run was ended so that the best weights are put back."""
        ...

    def begin(self) -> Look:
        """Look at the policy before step 0."""
        ...

    def resume(self, step: int) -> bool:
        """Take up what was found up to `step` from the run's log; True if it had ended the run there."""
        ...

    def after(self, step: int, steps: int, meters: Mapping[str, float]) -> Look:
        """Look after `step` of `steps`."""
        ...
