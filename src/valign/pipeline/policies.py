"""Policies by name: local models with their engine, and wrapped policies from their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valign.errors import ModelError
from valign.goals.base import Goal
from valign.models.policy import Policy

MANIFEST = "policy.json"


@dataclass(frozen=True)
class LoadOptions:
    """How models are loaded, as the user asked for it.

    dtype   number format of the weights; "auto" here means float32 weights, multiplied in bf16 where the device does so
            natively: policies that are compared share one number format, and trained ones keep what they learned
    """

    device: str = "auto"
    dtype: str = "auto"
    allow_pickle: bool = False
    trust_remote_code: bool = False


def load_policy(name: str | Path, options: LoadOptions | None = None, *, goal: Goal | None = None) -> Policy:
    """A policy: the embedded default, a folder, a GGUF file, a hub id, or a folder that a method wrote.

    goal  takes the place of the goal stored with a wrapped policy (its scorer may be needed to choose among samples)
    """
    from valign.engine.local import LocalEngine
    from valign.models.loading import load_model
    from valign.models.policy import LocalPolicy

    options = options or LoadOptions()
    manifest = _manifest(Path(name))
    if manifest is not None and manifest.get("kind") in ("context", "decoding"):
        return _wrapped(Path(name), manifest, options, goal)
    dtype = "float32" if options.dtype == "auto" else options.dtype
    model = load_model(
        name, device=options.device, dtype=dtype, allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )  # fmt: skip
    precision: Any = "auto" if options.dtype == "auto" else "full"
    return LocalPolicy(model, LocalEngine(precision=precision))


def _wrapped(folder: Path, manifest: Mapping[str, Any], options: LoadOptions, goal: Goal | None) -> Policy:
    from valign.methods.table import method
    from valign.methods.target import Target

    chosen = method(manifest["method"])
    if chosen.wrap is None:
        raise ModelError(f"method {chosen.name!r} does not wrap a policy", where=str(folder / MANIFEST))
    goal = goal or (stored_goal(manifest["goal"]) if manifest.get("goal") else None)
    base = load_policy(manifest["base"], options)
    return chosen.wrap(base, Target(goal, base), chosen.configure(manifest.get("config") or {}))


def stored_goal(content: Mapping[str, Any]) -> Goal:
    """A goal from its JSON, with the default scorers attached."""
    from valign.pipeline.goals import make_goal

    return make_goal(content)


def _manifest(folder: Path) -> Mapping[str, Any] | None:
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except ValueError as error:
        raise ModelError(f"policy.json is not readable: {error}", where=str(path)) from error
