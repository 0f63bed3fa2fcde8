"""Targets from a user's own survey file: a country's, a group's or one person's values.

Always true here: answers are centred within the respondent (who answers high everywhere values nothing more for it), and a
target names file, selection, respondents used and left out. Surveys are never shipped.

    survey:FILE                 everybody           t = centred mean / largest absolute centred mean in the file
    survey:FILE#COLUMN=VALUE    one group           the same, the largest taken over every group of the column
    person:FILE#ID              one respondent      centred / largest absolute of that person

A file is CSV, or JSONL with one mapping per line. It holds either scores by dimension (columns named as a theory's
dimensions), or answers to a questionnaire (columns ending in 1 .. N, such as q1 .. q40), or the European Social Survey's own
columns. Columns `id` and `weight` are read where they exist.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from valign.data.jsonl import json_lines
from valign.errors import DataError, UsageError, unknown
from valign.goals.base import Array
from valign.goals.targets import Target
from valign.goals.theory import Theory, load_theory, theories

SURVEY, PERSON = "survey:", "person:"
WEIGHTS = ("weight", "anweight", "pspwght")  # the first that the file has
# Variable names of the European Social Survey's human values scale in the order of the PVQ-21; 1 = very much like me.
ESS = (
    "ipcrtiv", "imprich", "ipeqopt", "ipshabt", "impsafe", "impdiff", "ipfrule", "ipudrst", "ipmodst", "ipgdtim", "impfree",
    "iphlppl", "ipsuces", "ipstrgv", "ipadvnt", "ipbhprp", "iprspot", "iplylfr", "impenv", "imptrad", "impfun",
)  # fmt: skip
NUMBERED = re.compile(r"^(?P<stem>.*?)(?P<number>\d+)$")
Row = Mapping[str, str]
Chosen = NDArray[np.bool_]  # (n,) which respondents


@dataclass(frozen=True)
class Answers:
    """What a file says: centred scores (n, K), NaN rows for respondents who cannot be scored, and who they are."""

    theory: Theory
    centred: Array
    weights: Array
    rows: Sequence[Row]
    source: str


def is_survey(spec: str) -> bool:
    """Whether a target's name is that of a file of answers."""
    return spec.startswith((SURVEY, PERSON))


def survey_target(spec: str) -> Target:
    """The target of "survey:FILE", "survey:FILE#COLUMN=VALUE" or "person:FILE#ID". Raises naming file, line and field."""
    kind = SURVEY if spec.startswith(SURVEY) else PERSON
    file, _, chosen = spec.removeprefix(kind).partition("#")
    answers = read_answers(Path(file))
    known: Chosen = np.array([not np.isnan(row).any() for row in answers.centred], dtype=bool)
    if not known.any():
        raise DataError("no respondent can be scored", where=file)
    if kind == PERSON:
        centred, who = _person(answers, chosen, file), f"respondent {chosen}"
        largest = np.abs(centred).max()
    elif chosen:
        means, who = _groups(answers, known, chosen, file)
        centred, largest = means[who], max(np.abs(m).max() for m in means.values())
        who = f"{chosen}: {sum(r[chosen.split('=')[0]] == who for r, k in zip(answers.rows, known) if k)} respondents"
    else:
        centred, who = _mean(answers, known), f"{int(known.sum())} respondents"
        largest = np.abs(centred).max()
    if largest == 0:
        raise DataError("all values are held alike: there is no target in these answers", where=file)
    left_out = f", {int((~known).sum())} left out" if not known.all() else ""
    return Target(
        id=f"{kind}{Path(file).name}{'#' + chosen if chosen else ''}",
        theory=answers.theory.id,
        values={d: float(x) for d, x in zip(answers.theory.ids, centred / largest)},
        source=f"{answers.source}; {who}{left_out}",
        licence="the user's own file",
    )


def read_answers(path: Path) -> Answers:
    """The respondents of a file. Raises `DataError` for a file that is no table or whose columns are not understood."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
    rows = _rows(content.decode("utf-8-sig", errors="replace"), path)
    theory, centred = _centred(rows, path)
    column = next((w for w in WEIGHTS if w in rows[0]), None)
    weights = _numbers(rows, [column], path)[:, 0] if column else np.ones(len(rows))
    if np.isnan(weights).any() or (weights < 0).any():
        raise DataError("must hold numbers of 0 or more", where=f"{path}: {column}")
    digest = hashlib.sha256(content).hexdigest()[:16]
    return Answers(theory, centred, weights, rows, f"{path.name} (sha256 {digest})")


def _rows(text: str, path: Path) -> list[Row]:
    if path.suffix == ".jsonl":
        found: list[Row] = []
        for number, line in enumerate(filter(str.strip, json_lines(text)), 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"not JSON: {error}", where=f"{path} line {number}") from error
            if not isinstance(row, dict):
                raise DataError("must be a mapping of columns to answers", where=f"{path} line {number}")
            found.append({str(k): "" if v is None else str(v) for k, v in row.items()})
    else:
        found = [{str(k).strip(): (v or "").strip() for k, v in row.items() if k is not None}
                 for row in csv.DictReader(io.StringIO(text))]  # fmt: skip
    if not found:
        raise DataError("holds no respondents", where=str(path), how="a CSV file needs a first line of column names")
    return found


def _centred(rows: Sequence[Row], path: Path) -> tuple[Theory, Array]:
    """(theory, (n, K) centred scores) by the columns a file has."""
    columns = list(rows[0])
    lower = {c.lower(): c for c in columns}
    if set(ESS) <= set(lower):
        theory = load_theory("schwartz10")
        codes = _numbers(rows, [lower[c] for c in ESS], path)
        codes[(codes < 1) | (codes > 6)] = np.nan  # refusals and "don't know" have codes above the scale
        return theory, theory.instrument("pvq21").centred(7 - codes, theory.ids)
    for name in ("schwartz10", *theories()):
        theory = load_theory(name)
        spelled = [next((lower[w] for w in (d.id.lower(), d.name.lower()) if w in lower), None) for d in theory.dimensions]
        if all(spelled):
            scores = _numbers(rows, [str(c) for c in spelled], path)
            return theory, scores - scores.mean(1, keepdims=True)
    return _questionnaire(rows, columns, path)


def _questionnaire(rows: Sequence[Row], columns: Sequence[str], path: Path) -> tuple[Theory, Array]:
    """Answers in columns that share a stem and are numbered from 1."""
    stems: dict[str, dict[int, str]] = {}
    for match in filter(None, map(NUMBERED.match, columns)):
        stems.setdefault(match["stem"].lower(), {})[int(match["number"])] = match.string
    known = {i.items: (load_theory(n), i) for n in reversed(theories()) for i in load_theory(n).instruments if i.key}
    for items in stems.values():
        if len(items) in known and set(items) == set(range(1, len(items) + 1)):
            theory, instrument = known[len(items)]
            return theory, instrument.centred(_numbers(rows, [items[i] for i in sorted(items)], path), theory.ids)
    sizes = ", ".join(f"{i.id} {n}" for n, (_, i) in sorted(known.items()))
    raise DataError(
        "the columns are neither a theory's dimensions nor a questionnaire's answers", where=f"{path} line 1",
        how=("name columns by dimension (self-direction, ...), or number the answers from 1: q1, q2, ...",
             f"questionnaires by number of answers: {sizes}"),
    )  # fmt: skip


def _numbers(rows: Sequence[Row], columns: Sequence[str], path: Path) -> Array:
    """(n, columns) floats; an empty cell is NaN."""
    out = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
        for k, column in enumerate(columns):
            text = row.get(column, "")
            try:
                out[i, k] = float(text) if text else np.nan
            except ValueError as error:
                raise DataError(f"{text!r} is not a number", where=f"{path} line {i + 2}: {column}") from error
    return out


def _mean(answers: Answers, chosen: Chosen) -> Array:
    """(K,) weighted mean of the chosen respondents."""
    weights = np.where(chosen, answers.weights, 0.0)
    if weights.sum() <= 0:
        raise DataError("the chosen respondents have no weight", where=answers.source)
    return np.asarray(weights @ np.nan_to_num(answers.centred) / weights.sum())


def _groups(answers: Answers, known: Chosen, chosen: str, file: str) -> tuple[dict[str, Array], str]:
    """(mean by group of the column, the group that was chosen)."""
    column, sep, value = chosen.partition("=")
    if not sep:
        raise UsageError(f"{chosen!r} is not COLUMN=VALUE", where=f"survey:{file}", how="for example #cntry=NL")
    if column not in answers.rows[0]:
        raise unknown("column", column, answers.rows[0], where=file)
    groups = sorted({row.get(column, "") for row, k in zip(answers.rows, known) if k})
    if value not in groups:
        raise unknown("group", value, groups, where=f"{file}: {column}")
    of = np.array([row.get(column, "") for row in answers.rows])
    return {g: _mean(answers, known & (of == g)) for g in groups}, value


def _person(answers: Answers, chosen: str, file: str) -> Array:
    """(K,) centred scores of one respondent, by `id` or, without such a column, by place from 1."""
    names = [row.get("id", str(i)) for i, row in enumerate(answers.rows, 1)]
    if chosen not in names:
        raise unknown("respondent", chosen, names[:50], where=file)
    row = answers.centred[names.index(chosen)]
    if np.isnan(row).any():
        raise DataError(f"respondent {chosen} cannot be scored: too many answers are missing or alike", where=file)
    return np.asarray(row)
