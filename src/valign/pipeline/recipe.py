"""Recipes: what a run does, as YAML. Every key is known or refused; nothing in a recipe runs code.

name: hh-harmless
model: smollm2-135m-instruct
goal: preference
data: {path: pairs.jsonl.gz, rows: "0:800"}
method: {name: dpo, beta: 0.1}
evaluate: {data: {path: pairs.jsonl.gz, rows: "800:1200"}}
out: runs/hh
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from valign.errors import UsageError, require

PLACEHOLDER = "DATA"  # a path that the command line must give
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # YAML 1.1 reads 1e-5 as text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(_Strict):
    """Where groups come from."""

    path: str  # a file, builtin:NAME, or hub:OWNER/NAME
    format: str | None = None  # None: recognised by content
    split: str | None = None  # train, dev, test
    rows: str | None = None  # "800:1200", counted from 0
    limit: int | None = Field(default=None, ge=1)
    weight: float = Field(default=1.0, gt=0)

    def row_range(self, n: int) -> tuple[int, int]:
        """(first, last + 1) of `rows` for n groups."""
        first, sep, last = str(self.rows).partition(":")
        try:
            found = int(first or 0), int(last) if last else (n if sep else int(first) + 1)
            require(min(found) >= 0, "rows", self.rows, "counted from 0")
        except ValueError as error:
            raise UsageError(
                f"rows = {self.rows!r} is not FIRST:LAST", where="data.rows", how='for example "0:800"'
            ) from error
        return found


def _sources(value: Any) -> Any:
    """A path, a mapping, or a list of them."""
    items = value if isinstance(value, list) else [value]
    return [{"path": i} if isinstance(i, str) else i for i in items]


Sources = Annotated[list[Source], BeforeValidator(_sources)]


class MethodSpec(_Strict):
    """A method with its settings; every key that is not listed here is an option of the method."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str
    label: str = ""
    data: Sources | None = None  # takes the place of the recipe's data

    @property
    def settings(self) -> dict[str, Any]:
        """The method's own options."""
        return dict(self.model_extra or {})

    @property
    def title(self) -> str:
        return self.label or self.name


Named = Annotated[MethodSpec, BeforeValidator(lambda v: {"name": v} if isinstance(v, str) else v)]


class EvaluateSpec(_Strict):
    """What is measured."""

    data: Sources | None = None  # groups with labels, comparisons, choices, or prompts alone
    tax: Sources | None = None  # tasks with checks
    samples: int = Field(default=1, ge=1)  # responses per prompt
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.7, ge=0)
    kl_prompts: int = Field(default=16, ge=0)  # prompts whose samples estimate the KL; 0: no KL
    beta: float = Field(default=0.1, gt=0)  # scale of implicit rewards
    risks: list[str] = []  # rewards whose low side is told of the responses that are drawn for the goal
    margin: float | None = Field(default=None, gt=0)  # largest change of the primary that does not matter


class GuardSpec(_Strict):
    """What watches every method that trains (`valign.methods.guard`)."""

    gold: str  # the judge: a reward, the folder of a reward model, or a goal
    audit: Sources  # held-out prompts that it judges answers to
    every: int = Field(default=0, ge=0)  # steps between audits; 0: a tenth of the run
    action: Literal["warn", "stop", "rollback"] = "warn"
    max_kl: float | None = Field(default=None, gt=0)  # nats per response: an alarm above it


class Recipe(_Strict):
    """One run: a model, a goal, data, one method or several, and what is measured."""

    name: str
    model: str = "smollm2-135m-instruct"
    goal: str | dict[str, Any] | None = None
    data: Sources = []
    dev: Sources = []  # for evaluation while training and for early stopping
    method: Named | None = None
    methods: list[Named] = []
    guard: GuardSpec | None = None
    evaluate: EvaluateSpec = EvaluateSpec()
    out: str = ""
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    notes: str = ""

    @property
    def all_methods(self) -> list[MethodSpec]:
        return [*([self.method] if self.method else []), *self.methods]


def load_recipe(path: str | Path, overrides: Sequence[str] = (), data: str | None = None) -> Recipe:
    """A recipe from a YAML file or a built-in name, with the command line's `--set` and data file."""
    from valign.goals.files import read_yaml

    file = find_recipe(path)
    content = read_yaml(file)  # plain values only: no tags, no key given twice
    for override in overrides:
        set_key(content, override)
    if data is not None and not _asks(content):
        raise UsageError(
            "the recipe names its data itself: --data has no effect",
            where=str(file),
            how="change it with --set data.path=FILE, or write path: DATA in the recipe",
        )
    return parse(_place(content, data, str(file)), str(file))


def parse(content: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from a mapping. Raises `UsageError` with each key that is wrong and the nearest known one."""
    try:
        recipe = Recipe.model_validate(dict(content))
    except ValidationError as error:
        raise UsageError("the recipe is not valid", where=where, how=[_say(e) for e in error.errors()]) from error
    if not recipe.all_methods:
        raise UsageError("the recipe names no method", where=where, how="method: {name: dpo} or methods: [...]")
    titles = [m.title for m in recipe.all_methods]
    for title in titles:  # each becomes a folder's name
        if title != Path(title).name or title in ("", ".", "..", "base"):
            raise UsageError(
                f"{title!r} cannot name a method",
                where=f"{where}: methods",
                how='a label holds no slash, and "base" is the model before alignment',
            )
    twice = sorted({t for t in titles if titles.count(t) > 1})
    if twice:
        raise UsageError(
            f"two methods are called {', '.join(twice)}", where=f"{where}: methods", how="give each a label"
        )
    return recipe


def find_recipe(path: str | Path) -> Path:
    """A file, or a recipe that valign ships, by its name."""
    file = Path(path)
    if file.is_file():
        return file
    own = Path(__file__).resolve().parent.parent / "recipes"
    for candidate in (own / file.name, own / f"{file.name}.yaml"):
        if candidate.is_file():
            return candidate
    names = sorted(p.stem for p in own.glob("*.yaml"))
    raise UsageError("no such recipe", where=str(path), how=f"a YAML file, or one of: {', '.join(names)}")


def set_key(content: dict[str, Any], override: str) -> None:
    """Apply one KEY=VALUE: `method.beta=0.2` for the one method, `methods.dpo.beta=0.2` for that name."""
    key, sep, text = override.partition("=")
    if not sep or not key:
        raise UsageError(f"{override!r} is not KEY=VALUE", where="--set", how="for example --set method.beta=0.2")
    value = parse_value(text)
    node: Any = content
    *path, last = _of_methods(content, key.split("."), key)
    for part in path:
        if isinstance(node, list):
            node = _named(node, part, key)
            continue
        if node.get(part) is None:
            node[part] = {}
        elif isinstance(node[part], str) and part in ("data", "dev", "tax"):
            node[part] = {"path": node[part]}
        elif isinstance(node[part], str) and part == "method":
            node[part] = {"name": node[part]}
        node = node[part]
        if not isinstance(node, (dict, list)):
            raise UsageError(f"{part!r} holds a value, not keys", where=f"--set {key}")
    if isinstance(node, list):
        raise UsageError("this key is a list", where=f"--set {key}", how="name the entry: methods.NAME.KEY=VALUE")
    node[last] = value


def _of_methods(content: Mapping[str, Any], parts: list[str], key: str) -> list[str]:
    """`method.KEY` where the recipe has `methods`: their only one, or an error that names them."""
    listed = content.get("methods")
    if parts[0] != "method" or len(parts) < 2 or content.get("method") is not None or not isinstance(listed, list):
        return parts
    names = [_names(m)[0] for m in listed if _names(m)]
    if len(names) != 1:
        raise UsageError(
            "the recipe has several methods",
            where=f"--set {key}",
            how=f"name one: methods.NAME.{parts[-1]}=VALUE, NAME one of {', '.join(names)}",
        )
    return ["methods", names[0], *parts[1:]]


def parse_value(text: str) -> Any:
    """A value as YAML reads it, with numbers such as 1e-5 as numbers."""
    if _NUMBER.fullmatch(text.strip()):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _named(items: list[Any], name: str, key: str) -> Any:
    """The entry of that label or name, as a mapping that can be changed."""
    for i, item in enumerate(items):
        if name in _names(item):
            items[i] = {"name": item} if isinstance(item, str) else item
            return items[i]
    known = [_names(i)[0] for i in items if _names(i)]
    raise UsageError(f"there is no {name!r}", where=f"--set {key}", how=f"known: {', '.join(known)}")


def _names(item: Any) -> list[str]:
    """Label and name of an entry of `methods`, the label first."""
    if isinstance(item, str):
        return [item]
    return [str(item[k]) for k in ("label", "name") if item.get(k)] if isinstance(item, dict) else []


def _place(content: Any, data: str | None, where: str) -> Any:
    """The recipe with the command line's file where it says DATA."""
    if isinstance(content, dict):
        return {k: _place(v, data, where) for k, v in content.items()}
    if isinstance(content, list):
        return [_place(v, data, where) for v in content]
    if content == PLACEHOLDER:
        if data is None:
            raise UsageError("the recipe leaves the data file to the command line", where=where, how="--data FILE")
        return data
    return content


def _asks(content: Any) -> bool:
    """Whether the recipe says DATA somewhere."""
    if isinstance(content, dict):
        return any(map(_asks, content.values()))
    return any(map(_asks, content)) if isinstance(content, list) else content == PLACEHOLDER


def _say(error: Any) -> str:
    """One line for one problem of pydantic's."""
    at = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        last = str(error["loc"][-1])
        near = difflib.get_close_matches(last, _known_keys(), n=1)
        return f"{at}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    return f"{at}: {error['msg'][0].lower()}{error['msg'][1:]}, got {error.get('input')!r}"


def _known_keys() -> list[str]:
    models = (Recipe, EvaluateSpec, GuardSpec, Source, MethodSpec)
    return sorted({name for m in models for name in m.model_fields})
