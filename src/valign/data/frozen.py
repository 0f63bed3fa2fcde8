"""Mappings that cannot be changed, so that a group can hold labels and meta data and still be immutable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn


class Frozen(dict[str, Any]):
    """A dict that cannot be changed. It stays a dict so that JSON, equality, copying and pickling work as
    usual.
    """

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("data is immutable; make a new object with dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return Frozen, (dict(self),)


def frozen(value: Any) -> Any:
    """The same JSON value with every mapping in it frozen."""
    if isinstance(value, Mapping):
        return Frozen((k, frozen(v)) for k, v in value.items())
    return [frozen(v) for v in value] if isinstance(value, list) else value
