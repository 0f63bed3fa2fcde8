"""Task: examples with the ways to ask them, and the groups they make.

Always true here: a group names its task and template in its meta data, brings the checks that decide whether an answer
is right (where a program can decide), and is decided by (task, position, seed) alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from valign.data.group import Demonstration, Group, Response, user
from valign.data.tasks.template import Rendered, Template
from valign.errors import DataError


@dataclass(frozen=True)
class Task:
    """One task.

    examples   the rows of its data set          templates   ways to ask them; each group takes one
    ready      prompts made elsewhere (Super-NaturalInstructions), in place of examples and templates
    checks     what every answer must pass, beside being the right choice (see `rewards.rules.check`)
    """

    id: str
    examples: Sequence[Mapping[str, Any]] = ()
    templates: Sequence[Template] = ()
    ready: Sequence[Rendered] = ()
    checks: Sequence[Mapping[str, Any]] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.ready and not (self.examples and self.templates):
            raise DataError("needs examples and at least one template", where=f"task {self.id}")

    @cached_property
    def size(self) -> int:
        """Examples, the number that mixing rates are made of."""
        return len(self.ready or self.examples)

    def group(self, i: int, seed: int = 0) -> Group | None:
        """The i-th example as a group; its template is drawn by (task, i, seed). None where no template fits it."""
        if self.ready:
            return self._made(self.ready[i], i, "")
        key = f"{self.id}|{i}|{seed}"
        first = int(hashlib.sha256(f"template|{key}".encode()).hexdigest(), 16) % len(self.templates)
        for k in range(len(self.templates)):  # a template that leaves the prompt empty passes the example on
            template = self.templates[(first + k) % len(self.templates)]
            if (rendered := template.render(self.examples[i], key=key)) is not None:
                return self._made(rendered, i, template.name)
        return None

    def groups(self, seed: int = 0) -> list[Group]:
        """Every example that a template fits."""
        return [g for i in range(self.size) if (g := self.group(i, seed)) is not None]

    def _made(self, rendered: Rendered, i: int, template: str) -> Group:
        checks = [dict(c) for c in self.checks]
        if rendered.choices and rendered.target:
            checks.append({"type": "exact", "answers": [rendered.target]})
        meta: dict[str, Any] = {"task": self.id, **self.meta}
        meta |= {"template": template} if template else {}
        meta |= {"options": list(rendered.choices)} if rendered.choices else {}
        meta |= {"checks": checks} if checks else {}
        name = f"{self.id}/{i}"
        return Group(
            id=f"{name}/{template}" if template else name, prompt=user(rendered.prompt), cluster=name, meta=meta,
            responses=(Response(rendered.target),) if rendered.target else (),
            feedback=(Demonstration(response=0),) if rendered.target else (),
        )  # fmt: skip
