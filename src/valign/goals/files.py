"""Reading goal files: YAML without code, and mappings whose every key must be known.

Always true here: a file is data (safe loading, tags refused, a key given twice refused), and whoever reads a
mapping through `Reader` names file, line and field in every error and cannot overlook a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml

from valign.errors import DataError, ValignError, unknown

DATA = Path(__file__).parent / "data"
MISSING: Any = object()


class Lines(dict[Any, Any]):
    """A mapping of a YAML file that knows the line it begins on, and the line of each of its keys."""

    line = 0
    lines: Mapping[Any, int] = {}


class _Loader(yaml.SafeLoader):
    """Safe loading that also refuses a key given twice, which plain YAML resolves in silence."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            line = key.start_mark.line + 1
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key.value!r} is given twice, line {line}"
            )
        seen.add(key.value)
    out = Lines(loader.construct_mapping(node, deep=True))
    out.line = node.start_mark.line + 1
    out.lines = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    return out


def plain(x: Any) -> Any:
    """The value without the lines that it was read from."""
    if isinstance(x, Mapping):
        return {k: plain(v) for k, v in x.items()}
    return [plain(v) for v in x] if isinstance(x, (list, tuple)) else x


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `DataError` for anything else, tags that ask for code included."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in a YAML text. See `read_yaml`."""
    try:
        content = yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain values only
    except yaml.constructor.ConstructorError as error:
        reason = str(error.problem)
        if "could not determine a constructor" in reason:
            reason = "a tag is not allowed: goal files hold data, never code"
        raise DataError(reason, where=where) from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"is not one YAML document: {reason}", where=where) from error
    if not isinstance(content, dict):
        raise DataError("must hold one mapping of keys to values", where=where)
    return content


@cache
def builtin_names(folder: str) -> tuple[str, ...]:
    """Names of the data files that ship in a folder."""
    return tuple(sorted(p.stem for p in (DATA / folder).glob("*.yaml")))


class Reader:
    """A mapping being read: each accessor takes one key and checks its type; `done` refuses keys nobody took.

    where   the file and field, put before every error
    """

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        if not isinstance(content, Mapping):
            raise DataError(f"must be a mapping, not {type(content).__name__}", where=where)
        self.content, self.where = content, where
        self.taken: list[str] = []

    def place(self, key: str) -> str:
        """Where a field stands: file, field and, where it is known, the line."""
        name, _, rest = key.partition(".")
        inner = self.content.get(name)
        line = inner.lines.get(rest, 0) if rest and isinstance(inner, Lines) else 0
        if not line and isinstance(self.content, Lines):
            line = self.content.lines.get(name, self.content.line)
        return f"{self.where}: {key}" + (f" (line {line})" if line else "")

    @contextmanager
    def placed(self, key: str = "") -> Iterator[None]:
        """Errors of what is made from this mapping (from one key of it) say where it stands, when they do not themselves."""
        try:
            yield
        except ValignError as error:
            if error.where.startswith(self.where) or not isinstance(self.content, Lines):
                raise
            start = self.where.split(":")[0]
            if error.where.startswith(start) and "(line" in error.where:
                raise
            if key:
                raise type(error)(error.what, where=self.place(key), how=error.how) from error
            field = error.where.rsplit(".", 1)[-1].split(" ")[-1]
            line = _line_of(self.content, field) or self.content.line
            where = f"{self.where}: {error.where}" if error.where else self.where
            raise type(error)(error.what, where=f"{where} (line {line})", how=error.how) from error

    def done(self) -> None:
        """Raise `UsageError` with the nearest known key for a key that was not read."""
        for key in self.content:
            if key not in self.taken:
                raise unknown("key", str(key), self.taken, where=self.place(str(key)))

    def fail(self, key: str, reason: str) -> NoReturn:
        """Raise `DataError` for a field."""
        raise DataError(reason, where=self.place(key))

    def raw(self, key: str, default: Any = MISSING) -> Any:
        """The value as it stands; the default when the key is absent. Raises when it is absent without
        default.
        """
        self.taken.append(key)
        if key in self.content and self.content[key] is not None:
            return self.content[key]
        if default is MISSING:
            self.fail(key, "is missing")
        return default

    def text(self, key: str, default: Any = MISSING) -> str:
        value = self.raw(key, default)
        return value if isinstance(value, str) else self.fail(key, f"must be text, not {value!r}")

    def choice(self, key: str, known: Sequence[str], default: Any = MISSING) -> str:
        value = self.text(key, default)
        if value not in known:
            raise unknown(key, value, known, where=self.place(key))
        return value

    def number(self, key: str, default: Any = MISSING) -> float:
        return self._number(key, self.raw(key, default))

    def integer(self, key: str, default: Any = MISSING) -> int:
        value = self.number(key, default)
        return int(value) if value == int(value) else self.fail(key, f"must be a whole number, not {value!r}")

    def texts(self, key: str, default: Any = MISSING) -> list[str]:
        value = self._list(key, default)
        return [v if isinstance(v, str) else self.fail(key, f"must hold texts, not {v!r}") for v in value]

    def numbers(self, key: str, default: Any = MISSING, length: int | None = None) -> list[float]:
        value = [self._number(key, v) for v in self._list(key, default)]
        if length is not None and len(value) != length:
            self.fail(key, f"must hold {length} numbers, not {len(value)}")
        return value

    def number_map(self, key: str, default: Any = MISSING) -> dict[str, float]:
        value = self.raw(key, default)
        if not isinstance(value, Mapping):
            self.fail(key, f"must be a mapping of names to numbers, not {value!r}")
        return {str(k): self._number(f"{key}.{k}", v) for k, v in value.items()}

    def parts(self, key: str, default: Any = MISSING) -> Iterator[Reader]:
        """A list of mappings, each with its own reader; their unread keys are refused when the list was
        walked.
        """
        for i, part in enumerate(self._list(key, default)):
            reader = Reader(part, f"{self.where}: {key}[{i}]")
            yield reader
            reader.done()

    def pairs(self, key: str, default: Any = MISSING) -> list[tuple[str, str]]:
        out = []
        for pair in self._list(key, default):
            if not isinstance(pair, list) or len(pair) != 2:
                self.fail(key, f"must hold pairs, not {pair!r}")
            out.append((str(pair[0]), str(pair[1])))
        return out

    def _list(self, key: str, default: Any) -> list[Any]:
        value = self.raw(key, default)
        return (
            list(value)
            if isinstance(value, list | tuple)
            else self.fail(key, f"must be a list, not {value!r}")
        )

    def _number(self, key: str, value: Any) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or value != value
            or abs(value) == float("inf")
        ):
            self.fail(key, f"must be a number, not {value!r}")
        return float(value)


def _line_of(content: Any, field: str) -> int:
    """The line of the first key of that name, however deep; 0 where there is none."""
    if isinstance(content, Lines):
        if field in content.lines:
            return content.lines[field]
        content = list(content.values())
    return next(filter(None, (_line_of(x, field) for x in content)), 0) if isinstance(content, list) else 0
