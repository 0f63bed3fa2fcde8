"""What models are at hand without a download: the embedded default, policy folders, caches.

Always true here: nothing is loaded, hashed or fetched; a folder that cannot be read is left out or noted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from valign.errors import ModelError
from valign.models import embedded
from valign.models.cache import cache_root
from valign.models.policy_folder import is_policy_folder, read_manifest


@dataclass(frozen=True)
class ModelEntry:
    """A model that `load_model` (for kinds without weights the policy loader, for "reward" `load_reward`) finds by `name`.

    kind        "embedded", "weights", "adapter", "context", "decoding", "endpoint", "reward" or "hub"
    where       its folder or file; None when it is not installed
    size_bytes  bytes on disk
    """

    name: str
    kind: str
    where: Path | None
    size_bytes: int
    note: str = ""


def models_at_hand(folder: Path | None = None) -> list[ModelEntry]:
    """Every model that can be named without network, with policy folders in `folder`, two levels deep."""
    return [_embedded(), *_conversions(), *_policies(folder), *_hub_cache()]


def _embedded() -> ModelEntry:
    target = embedded.cached_folder()
    if (target / embedded.MANIFEST).exists():
        return ModelEntry(embedded.EMBEDDED, "embedded", target, _size(target), "135M parameters, ready")
    try:
        path = embedded.gguf_path()
    except ModelError as error:
        return ModelEntry(embedded.EMBEDDED, "embedded", None, 0, str(error).replace("\n", " "))
    note = "135M parameters, converted at first use"
    return ModelEntry(embedded.EMBEDDED, "embedded", path, path.stat().st_size, note)


def _conversions() -> Iterator[ModelEntry]:
    """Other folders in our cache: older conversions, which only take room."""
    for place in sorted((cache_root() / "models").glob("*/")):
        if place != embedded.cached_folder() and (place / embedded.MANIFEST).exists():
            yield ModelEntry(
                str(place), "weights", place, _size(place), "an older conversion; may be deleted"
            )


def _policies(folder: Path | None) -> Iterator[ModelEntry]:
    if folder is None or not folder.is_dir():
        return
    places = {p.parent for pattern in ("", "*/", "*/*/") for p in folder.glob(pattern + "policy.json")}
    for place in sorted(p for p in places if is_policy_folder(p) and p.suffix != ".partial"):
        try:
            manifest = read_manifest(place)
        except ModelError as error:
            yield ModelEntry(str(place), "weights", place, _size(place), f"unreadable: {error.what}")
            continue
        made = " on ".join(str(manifest[k]) for k in ("method", "base") if manifest.get(k))
        yield ModelEntry(str(place), manifest["kind"], place, _size(place), made)


def _hub_cache() -> Iterator[ModelEntry]:
    """Models in the hub's local cache."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return
    for repo in sorted(found.repos, key=lambda r: str(r.repo_id)):
        if repo.repo_type == "model":
            yield ModelEntry(
                repo.repo_id, "hub", Path(repo.repo_path), repo.size_on_disk, "in the local hub cache"
            )


def _size(place: Path) -> int:
    return sum(f.stat().st_size for f in place.rglob("*") if f.is_file())
