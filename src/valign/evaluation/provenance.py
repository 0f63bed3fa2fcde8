"""Where a number came from: code, model, data, settings, library versions. No credentials,
no names of machines.

Two Results with equal provenance must have equal values; `contradictions` finds those that do not.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit, urlunsplit

import valign
from valign.data.dataset import Dataset
from valign.data.tasks import task_counts
from valign.data.tasks.dataset import FORMAT
from valign.evaluation.result import Result, plain
from valign.models.credentials import hide
from valign.models.policy import Policy, Sampling, runtime_of

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy", "scipy", "gguf")
SECRET = ("api_key", "apikey", "token", "password", "secret", "authorization", "credential")


@runtime_checkable
class DataSource(Protocol):
    """What a data set says about itself (`data.Dataset` does)."""

    @property
    def source(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def licence(self) -> str: ...
    def __len__(self) -> int: ...


def provenance(
    policy: Policy | None = None,
    *,
    reference: Policy | None = None,
    data: DataSource | None = None,
    sampling: Sampling | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """The provenance of a measurement as JSON values.

    settings   whatever else decided the number: protocol, goal fingerprint, prompt template, seeds; None is
               kept
    """
    out: dict[str, Any] = {"valign": valign.__version__, "commit": commit(), "libraries": libraries()}
    if policy is not None:
        out["model"] = model_card(policy)
    if reference is not None:
        out["reference"] = model_card(reference)
    if data is not None:
        out["data"] = data_card(data)
    if sampling is not None:
        out["sampling"] = {
            k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(sampling).items()
        }
    clean = without_secrets({**out, **settings})
    return dict(plain(clean, "provenance"))


def model_card(policy: Policy) -> dict[str, Any]:
    """The policy's card and what computes: tokenizer, start token, quantization, engine path; what cannot be known stays None.
    """
    return {"id": policy.id, "kind": policy.kind, **policy.card(), **runtime_of(policy)}


def data_card(data: DataSource) -> dict[str, Any]:
    """File, sha256, licence, rows, dropped rows, and of a mixture the groups of each task. Only the file's name is kept,
    not where it lies on this machine.
    """
    report = getattr(data, "report", None)
    tasks = {"tasks": task_counts(data)} if isinstance(data, Dataset) and data.format == FORMAT else {}
    return {
        "file": Path(data.source).name if "://" not in data.source else without_login(data.source),
        "sha256": data.sha256, "licence": data.licence, "rows": len(data),
        "dropped": len(getattr(report, "dropped", ())) if report is not None else None, **tasks,
    }  # fmt: skip


def libraries() -> dict[str, str | None]:
    """Versions of what computes, None for what is not installed."""
    out: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = None
    return out


def commit(package: Path | None = None) -> str | None:
    """The git commit of the source tree that the package runs from; None for an installed package.

    Reads .git itself: no process is started and no other repository above an environment is mistaken for
    ours.
    """
    folder = (package or Path(valign.__file__).parent).resolve()
    if folder.parent.name != "src":
        return None
    try:
        git = _git_folder(folder.parents[1] / ".git")
        if git is None:
            return None
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        ref = head.removeprefix("ref: ")
        # a linked working tree has a HEAD of its own and shares the branches
        shared = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        if (shared / ref).is_file():
            return (shared / ref).read_text().strip()
        packed = (shared / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {ref}")), None)
    except OSError:
        return None


def _git_folder(git: Path) -> Path | None:
    """The folder that `.git` is, or that the file `.git` of a linked working tree names."""
    if git.is_file() and (said := git.read_text().strip()).startswith("gitdir: "):
        return git.parent / said.removeprefix("gitdir: ")
    return git if git.is_dir() else None


def without_secrets(value: Any) -> Any:
    """The same structure with credentials blanked and logins cut from addresses."""
    if isinstance(value, Mapping):
        return {
            str(k): "(hidden)" if v is not None and _is_secret(str(k)) else without_secrets(v)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_secrets(v) for v in value]
    return without_login(value) if isinstance(value, str) and "://" in value else value


def without_login(address: str) -> str:
    """The address without user, password and query."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return hide(urlunsplit((parts.scheme, host + port, parts.path, "", "")))


def contradictions(results: Sequence[Result]) -> list[tuple[Result, Result]]:
    """Pairs with equal metric, variant, subject and provenance but different values: something is not
    repeatable.
    """
    seen: dict[str, Result] = {}
    out = []
    for r in results:
        origin = {k: v for k, v in r.provenance.items() if k != "cost"}  # seconds are never twice the same
        key = json.dumps([r.metric, r.variant, r.subject, origin], sort_keys=True, default=str)
        if seen.setdefault(key, r).value != r.value:
            out.append((seen[key], r))
    return out


def _is_secret(name: str) -> bool:
    lowered = name.lower()
    return any(lowered == s or lowered.endswith(f"_{s}") for s in SECRET)
