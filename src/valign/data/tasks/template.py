"""Template: an example of a data set becomes a prompt and its target, by a text with holes.

Two published notations are read: that of P3 (Jinja, prompt and target parted by `|||`, answer choices that may
themselves be a template; 2110.08207) and that of Flan (`{field}` in a pair of patterns, `{options_}` for the list of
options; 2109.01652). Always true here: a template is data and cannot run code (Jinja's sandbox, safe YAML); a field
that an example lacks is an error, not an empty place; what is random is decided by the example's key alone.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valign.errors import DataError

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

SEPARATOR = "|||"
PROTECTED = "\ue000\ue001\ue000"  # private signs: a separator inside an example's own text must not part the prompt
LONGEST_FIELD = 2048  # characters; P3 cuts longer fields at a blank and adds "..."
OPTIONS = ("options_", "options_str")  # Flan's names for the list of options, in most tasks and in ReCoRD
DRAW = "_draw"
PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Rendered:
    """A prompt with its target, and the choices that the target was among (empty: an open answer)."""

    prompt: str
    target: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """One way to ask a task.

    jinja           prompt and target, parted by `|||`
    answer_choices  a Jinja text of choices parted by `|||`, None for an open answer
    original_task   the task that the data set was made for (None: not stated); choices_in_prompt: they are shown
    literal         Flan's notation: fields are not cut, and blanks around prompt and target stay
    """

    name: str
    jinja: str
    answer_choices: str | None = None
    id: str = ""
    reference: str = ""
    original_task: bool | None = None
    choices_in_prompt: bool | None = None
    metrics: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    literal: bool = False

    @classmethod
    def from_pattern(cls, name: str, prompt: str, target: str, **rest: Any) -> Template:
        """A template from Flan's notation: `{field}` in both patterns; `{options_}` lists the example's `options`."""
        jinja = SEPARATOR.join(map(_of_pattern, (prompt, target)))
        shown = any(f"{{{name}}}" in prompt for name in OPTIONS)
        choices = "{{ options | join('|||') }}" if shown else None
        return cls(name, jinja, choices, choices_in_prompt=shown, literal=True, **rest)

    def render(self, example: Mapping[str, Any], *, key: str = "") -> Rendered | None:
        """The example as prompt and target; None where the template leaves the prompt empty: it does not fit.

        key  decides what the filter `choice` draws
        Raises `DataError` for a field that is missing, a template that is not valid, and more than one separator.
        """
        shared: dict[str, Any] = {k: _protected(v) for k, v in example.items()}
        if "options" in example:
            shared = dict.fromkeys(OPTIONS, _protected("OPTIONS:\n- " + "\n- ".join(map(str, example["options"])))) | shared
        shared[DRAW] = random.Random(hashlib.sha256(f"{self.name}|{key}".encode()).digest())
        choices = self._choices(shared)
        parts = self._text(self.jinja, {**shared, "answer_choices": choices}).split(SEPARATOR)
        if len(parts) > 2:
            raise DataError(f"{len(parts) - 1} separators {SEPARATOR}, not one", where=f"template {self.name}")
        prompt, target = (_free(p) if self.literal else _free(p).strip() for p in (*parts, "")[:2])
        return Rendered(prompt, target, tuple(map(_free, choices or ()))) if prompt.strip() else None

    def _choices(self, fields: Mapping[str, Any]) -> list[str] | None:
        if self.answer_choices is None:
            return None
        return [c.strip() for c in self._text(self.answer_choices, fields).split(SEPARATOR)]

    def _text(self, source: str, fields: Mapping[str, Any]) -> str:
        import jinja2

        where = f"template {self.name}"
        try:
            return str(_compiled(source, self.literal).render(**fields))
        except jinja2.UndefinedError as error:
            have = ", ".join(sorted(set(fields) - {DRAW, "answer_choices"}))
            raise DataError(f"the example does not fit: {error.message}", where=where, how=f"it has: {have}") from error
        except jinja2.TemplateError as error:
            raise DataError(f"is no valid template: {error}", where=where) from error
        except (TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise DataError(f"the example does not fit: {error}", where=where) from error


def read_templates(path: str | Path) -> dict[str, Template]:
    """The templates of a P3 file (`templates.yaml` of promptsource) by name. Raises `DataError`."""
    import yaml

    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"is no YAML of templates: {' '.join(str(error).split())}", where=str(path)) from error
    entries = content.get("templates") if isinstance(content, Mapping) else None
    if not isinstance(entries, Mapping) or not entries:
        raise DataError("holds no templates", where=str(path), how="a mapping `templates:` of id to template")
    made = [template_of(entry, f"{path}: templates.{key}", id=str(key)) for key, entry in entries.items()]
    if double := [name for name, n in Counter(t.name for t in made).items() if n > 1]:
        raise DataError(f"two templates are named {double[0]!r}", where=str(path))
    return {t.name: t for t in made}


def template_of(entry: Any, where: str, id: str = "") -> Template:
    """A template from its mapping: name, jinja, answer_choices (text or list), reference, metadata."""
    if not isinstance(entry, Mapping):
        raise DataError(f"must be a mapping, not {type(entry).__name__}", where=where)
    for name in ("name", "jinja"):
        if not isinstance(entry.get(name), str) or not entry[name].strip():
            raise DataError(f"{name} is missing", where=where)
    choices = entry.get("answer_choices")
    if isinstance(choices, list | tuple):  # the older files hold a list
        choices = f" {SEPARATOR} ".join(map(str, choices))
    about = entry.get("metadata") or {}
    return Template(
        name=entry["name"], jinja=entry["jinja"], answer_choices=choices or None, id=id or str(entry.get("id", "")),
        reference=str(entry.get("reference") or ""), original_task=about.get("original_task"),
        choices_in_prompt=about.get("choices_in_prompt"), metrics=tuple(about.get("metrics") or ()),
        languages=tuple(about.get("languages") or ()),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ the machinery


def _of_pattern(side: str) -> str:
    """A pattern with `{field}` places as Jinja; every other brace is a sign like any other."""
    parts = PLACE.split(side)
    return "".join(f"{{{{ {p} }}}}" if i % 2 else f"{{% raw %}}{p}{{% endraw %}}" if "{" in p else p for i, p in enumerate(parts))


@cache
def _environment(literal: bool) -> SandboxedEnvironment:
    from jinja2 import StrictUndefined, pass_context
    from jinja2.filters import do_truncate
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def shortened(value: Any) -> Any:
        """Every printed field is cut as P3 cuts it; what is undefined is left to raise."""
        return value if isinstance(value, StrictUndefined) else do_truncate(env, str(value), LONGEST_FIELD)

    kept = {"keep_trailing_newline": True} if literal else {"finalize": shortened}
    env = ImmutableSandboxedEnvironment(undefined=StrictUndefined, **kept)
    env.globals["zip"] = zip
    env.filters["choice"] = pass_context(lambda context, items: context[DRAW].choice(list(items)))
    env.filters["most_frequent"] = _most_frequent
    return env


@lru_cache(maxsize=1024)
def _compiled(source: str, literal: bool) -> Any:
    return _environment(literal).from_string(source)


def _most_frequent(items: Sequence[Any]) -> list[Any]:
    """The items that occur most often, in the order in which they come first."""
    counts = Counter(items).most_common()
    return [item for item, n in counts if n == counts[0][1]]


def _protected(value: Any) -> Any:
    """A value with the separators inside its texts hidden."""
    if isinstance(value, str):
        return value.replace(SEPARATOR, PROTECTED)
    if isinstance(value, Mapping):
        return {k: _protected(v) for k, v in value.items()}
    return [_protected(v) for v in value] if isinstance(value, list | tuple) else value


def _free(text: str) -> str:
    return text.replace(PROTECTED, SEPARATOR)


@cache
def _loader() -> Any:
    """Safe YAML in which promptsource's two tags are plain mappings; any other tag is refused."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def plain(loader: Any, node: Any) -> Any:
        return loader.construct_mapping(node, deep=True)

    for tag in ("!Template", "!TemplateMetadata"):
        Loader.add_constructor(tag, plain)
    return Loader
