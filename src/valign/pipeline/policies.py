"""Policies by name: local models with their engine, and wrapped policies from their folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valign.errors import ModelError, UsageError
from valign.goals.base import Goal
from valign.models.policy import Policy

if TYPE_CHECKING:
    from valign.models.endpoint import Budget

MANIFEST = "policy.json"


@dataclass(frozen=True)
class LoadOptions:
    """How local models are loaded, as the user asked for it (endpoints load nothing).

    dtype   number format of the weights; "auto" here means float32 weights, multiplied in bf16 where the
            device does so natively: policies that are compared share one number format, and trained ones
            keep what they learned
    budget  what endpoints may spend, all of them together
    """

    device: str = "auto"
    dtype: str = "auto"
    allow_pickle: bool = False
    trust_remote_code: bool = False
    budget: Budget | None = None


def load_policy(
    name: str | Path, options: LoadOptions | None = None, *, goal: Goal | None = None, reward: Any = None
) -> Policy:
    """A policy: the embedded default, a folder, a GGUF file, a hub id, an endpoint, or a folder that a method wrote.

    goal, reward  take the place of those stored with a wrapped policy, which may need them to choose
    Raises `ModelError` for whatever is wrong with it, a run that is not finished included.
    """
    from valign.engine.local import LocalEngine
    from valign.models.endpoint import EndpointPolicy, is_endpoint
    from valign.models.loading import load_model
    from valign.models.policy import LocalPolicy

    options = options or LoadOptions()
    if is_endpoint(name):
        return EndpointPolicy.named(str(name), options.budget)
    manifest = _manifest(Path(name))
    if manifest is not None and manifest.get("kind") == "endpoint":
        return EndpointPolicy.named(str(manifest.get("base")), options.budget)
    if manifest is not None and manifest.get("kind") in ("context", "decoding"):
        return _wrapped(Path(name), manifest, options, goal, reward)
    if manifest is None and (Path(name) / "run" / "request.json").exists():
        raise ModelError("the run in this folder is not finished: there is no policy yet", where=str(name),
                         how="run the same valign align command again; it continues")  # fmt: skip
    dtype = "float32" if options.dtype == "auto" else options.dtype
    model = load_model(
        name, device=options.device, dtype=dtype, allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )  # fmt: skip
    precision: Any = "auto" if options.dtype == "auto" else "full"
    return LocalPolicy(model, LocalEngine(precision=precision))


def check_read(name: str, *, goal: bool = False, reward: bool = False) -> None:
    """Raise `UsageError` for a goal or a reward that is given (True) and that the policy `name` would not read.

    Only a policy that was wrapped with an in-context or decoding method speaks or chooses by them.
    """
    from valign.methods.table import method

    manifest = _manifest(Path(name)) or {}
    wrapped = manifest.get("kind") in ("context", "decoding") and isinstance(manifest.get("method"), str)
    feedback = method(manifest["method"]).feedback if wrapped else "nothing"
    says_it = wrapped and bool((manifest.get("config") or {}).get("goal"))  # URIAL's setting
    reads = {"--goal": feedback in ("goal text", "reward") or says_it, "--reward": feedback == "reward"}
    for option, given in (("--goal", goal), ("--reward", reward)):
        if given and not reads[option]:
            by = f"{manifest['method']} does not read it" if wrapped else "the model answers by its weights alone"
            raise UsageError(
                f"it has no effect: {by}",
                where=option,
                how=("leave it out; evaluate --goal judges answers", "choose by it: valign align MODEL --method best_of_n"),
            )


def _wrapped(folder: Path, manifest: Mapping[str, Any], options: LoadOptions, goal: Goal | None, reward: Any) -> Policy:
    from valign.methods.table import method
    from valign.methods.target import Target
    from valign.models.endpoint import is_endpoint

    for key in ("method", "base"):
        if not isinstance(manifest.get(key), str):
            raise ModelError(f"{key} is missing", where=str(folder / MANIFEST), how="copy the folder again")
    if not is_endpoint(manifest["base"]) and Path(manifest["base"]).resolve() == folder.resolve():
        raise ModelError("the policy names itself as its base", where=str(folder / MANIFEST))
    chosen = method(manifest["method"])
    if chosen.wrap is None:
        raise ModelError(f"method {chosen.name!r} does not wrap a policy", where=str(folder / MANIFEST))
    goal = goal or (stored_goal(manifest["goal"]) if manifest.get("goal") else None)
    if reward is None and manifest.get("reward"):
        reward = _stored_reward(str(manifest["reward"]), folder)
    base = load_policy(manifest["base"], options)
    wrapped: Any = chosen.wrap(base, Target(goal, base, reward=reward), chosen.configure(manifest.get("config") or {}))
    wrapped.source = folder
    return wrapped  # type: ignore[no-any-return]


def _stored_reward(name: str, folder: Path) -> Any:
    """A reward by the name in a policy's file; a name that would import somebody's code is refused."""
    from valign.rewards.base import PREFIX
    from valign.rewards.registry import make

    if name.startswith(PREFIX):
        raise ModelError(
            f"this policy chooses by the function {name}, and no file runs code",
            where=str(folder / MANIFEST),
            how=f"if you trust it, name it yourself: --reward {name}",
        )
    return make(name)


def stored_goal(content: Mapping[str, Any]) -> Goal:
    """A goal from its JSON, with the default scorers attached."""
    from valign.pipeline.goals import make_goal

    return make_goal(content)


def _manifest(folder: Path) -> Mapping[str, Any] | None:
    if not (folder / MANIFEST).is_file():
        return None
    from valign.models.policy_folder import read_manifest

    return read_manifest(folder)
