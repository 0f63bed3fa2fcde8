"""Reports from what lies in folders: draw one again, make one of a single model, follow a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from valign.data.jsonl import read_object, read_objects
from valign.engine.run import write_whole
from valign.errors import DataError, ValignError
from valign.evaluation.measure.recompute import COMPONENTS
from valign.evaluation.result import Result
from valign.evaluation.results_file import read_results
from valign.evaluation.section import FILE as SECTION
from valign.pipeline.evaluate import AGAIN, GOAL, RESULT, SAMPLES
from valign.pipeline.texts import once, read_texts

RUN = ("valign", "commit", "libraries", "sampling", "goal", "reward", "proxy", "gold", "judge", "beta", "by", "seed",
       "checkpoints", "base")  # fmt: skip  # of a Result's provenance: what one page has room for


def draw(
    source: Path, out: Path | None = None, *, before: Path | None = None, instruments: Sequence[Path] = ()
) -> Mapping[str, Path]:
    """The page of a report.json, of a result.json, or of the folder that holds one.

    before        the results of another policy on the same items: a before/after page, compared item by item
    instruments   folders that an instrument wrote (valign tax, overopt, efficiency, generality, value-risk): sections of the
                  page; a report that is there already keeps all it has
    """
    from valign.report import read_whole, redraw, write_report
    from valign.report.sections import extend

    file = _find(source)
    content = _content(file)
    if "sections" in content:
        if before is not None:
            raise ValignError("a report is drawn as it is", where=str(file),
                              how="--before needs two folders that valign evaluate or profile wrote")  # fmt: skip
        if out is None and not instruments:
            return {"json": file, "html": redraw(file)}
        report = read_whole(file)
        if instruments:
            extend(report, _sections(instruments))
        return write_report(report, out or file.parent)
    own = [file.parent] if file.with_name(SECTION).is_file() else []
    extra = _sections([*own, *instruments])
    return write_report(_of_results(file, None if before is None else _find(before), extra), out or file.parent)


def ran(results: Iterable[Result]) -> dict[str, Any]:
    """What a report says of its run: versions, commit, settings of the first Result that knows them."""
    known = next((r.provenance for r in results if "libraries" in r.provenance), {})
    return {k: known[k] for k in RUN if known.get(k) is not None}


def _sections(folders: Sequence[Path]) -> list[Mapping[str, Any]]:
    """What instruments wrote into folders, as sections of a report."""
    from valign.report.from_section import section_of

    found: list[Mapping[str, Any]] = []
    times = Counter[str]()
    for folder in folders:
        content, file = _instrument(folder)
        times[str(content.get("id"))] += 1
        try:
            found.append(section_of(content, times[str(content.get("id"))]))
        except (KeyError, TypeError) as error:
            raise DataError(f"not what an instrument writes: {error}", where=str(file)) from error
    return found


def _instrument(folder: Path) -> tuple[dict[str, Any], Path]:
    file = folder / SECTION if folder.is_dir() else folder
    if not file.is_file():
        raise ValignError("there is no section.json", where=str(folder),
                          how="name a folder that valign tax, overopt, efficiency, generality or value-risk wrote")  # fmt: skip
    return _content(file), file


def _of_results(file: Path, before: Path | None, extra: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The report on one file of results, or on two: the base's first."""
    from valign.pipeline.compare import goal_json
    from valign.report import method_report
    from valign.report.from_section import instrument_of

    subjects = [_stored_subject(f, base=before is not None and i == 0)
                for i, f in enumerate(f for f in (before, file) if f is not None)]  # fmt: skip
    names = [s.id for s in subjects]
    if len(names) == 2 and names[0] == names[1]:
        raise ValignError(f"both files are results of {names[0]}", where=f"{before}, {file}", how="name two policies")
    found = [r for s in subjects for r in s.results]
    metrics = {r.metric for r in found}
    # the primary is what was measured: the goal's benchmarks, else an order where there is one, else the profile
    primary = "profile" if "misalignment.M" not in metrics and "value.V" in metrics else "order"
    primary = "components" if COMPONENTS in metrics else primary
    level = next((r.level for r in found if not r.subject.startswith("baseline")), "value")
    title = names[0] if len(names) == 1 else f"{names[1]} against {names[0]}"
    whole = [r for f in (before, file) if f is not None for r in read_results(f, items=False)]
    goal = _stored_goal(file) or _named_goal(whole, level)
    instrument = None
    if len(names) == 1 and file.with_name(SECTION).is_file():
        content = _content(file.with_name(SECTION))
        title, instrument = str(content.get("title") or title), instrument_of(content)
    elif goal["id"] == "none" and level == "preference":
        goal = goal_json(None)
    return method_report(
        subjects, goal=goal, primary=primary, title=title, extra=extra, created=time.strftime("%Y-%m-%d"),
        instrument=instrument, ledger=_ledger(whole), provenance=ran(whole),
        texts=once(row for f in (file, before) if f is not None for row in read_texts(f.parent)),
    )  # fmt: skip


def _named_goal(results: Sequence[Result], level: str) -> dict[str, Any]:
    """The goal as far as Results name it; the id "none" where nothing was judged by one."""
    named: Mapping[str, Any] = next((r.provenance["goal"] for r in results if isinstance(r.provenance.get("goal"), Mapping)), {})
    known = {k: v for k, v in named.items() if isinstance(v, str)}
    return {"id": "none", "level": level, "text": "", **known}


def _ledger(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The data that Results name, each once."""
    found = [r.provenance["data"] for r in results if isinstance(r.provenance.get("data"), Mapping)]
    rows = {(str(d.get("file")), str(d.get("sha256"))): d for d in found}
    return [{**d, "n": d.get("rows"), "use": "measurement"} for d in rows.values()]


def _stored_goal(file: Path) -> dict[str, Any] | None:
    """The goal that judged the results of a file, as a report reads it; None where none is stored."""
    from valign.pipeline.compare import goal_json
    from valign.pipeline.policies import stored_goal

    place = file.with_name(GOAL)
    if not place.is_file():
        return None
    content = _content(place).get("goal")
    return goal_json(stored_goal(content)) if isinstance(content, Mapping) else None


def _stored_subject(file: Path, *, base: bool) -> Any:
    from valign.report import SubjectReport

    results, stored = read_results(file), file.with_name(SAMPLES)
    if not results and file.with_name(SECTION).is_file():  # an instrument that found nothing to count still has a page
        return SubjectReport(policy={"id": str(_content(file.with_name(SECTION)).get("title"))})
    if not results:
        raise ValignError("the file holds no results", where=str(file))
    first = next((r for r in results if not r.subject.startswith("baseline")), results[0])
    if file.with_name(SECTION).is_file():  # an instrument's results speak of several: the page is about one policy
        first = next((r for r in results if " vs " not in r.subject), first)
        results = [r for r in results if r.subject == first.subject]
    models = (r.provenance.get("model") for r in results if r.subject == first.subject)
    card = next((dict(m) for m in models if isinstance(m, Mapping) and m.get("id") == first.subject), {})
    samples = read_objects(stored, AGAIN) if stored.is_file() else []
    return SubjectReport(
        policy={**card, "id": first.subject}, results=results, samples=samples, base=base, method=str(card.get("method") or ""),
    )  # fmt: skip


def export(paths: Mapping[str, Path], *, csv: bool, png: bool, card: bool, policy: str | None = None) -> Mapping[str, Path]:
    """Tables, pictures and the model card of a report that was drawn, beside its page: {name: path}."""
    from valign.report.write import write_card, write_pictures, write_tables

    place = paths["html"].parent
    found: dict[str, Path] = {}
    if csv:
        found |= write_tables(paths["json"], place)
    if card:
        found["card"] = write_card(paths["json"], place, policy)
    if png:
        write_pictures(paths["html"], place / "figures")
        found["figures"] = place / "figures"
    return found


def follow(source: Path, every: float, out: Path | None = None) -> Iterator[tuple[Mapping[str, Any], Path]]:
    """(summary, page) of a run at every look, until it ends; the page is a small one that is kept up to date.

    source  a run's folder: the one with log.jsonl, or one that holds it (a policy folder, a comparison)
    every   seconds between two looks        out  the page, or the folder for it; default: the run's folder
    Raises `ValignError` where there is no run, neither finished nor running.
    """
    from valign.report import run_summary, watch_page

    while True:
        run = _run_of(source)
        # asked before the log is read: what the last look finds is then the end of the run
        running = is_running(source) or (run is not None and is_running(run))
        if run is not None:
            page = _page(out or run)
            write_whole(page, watch_page(run))
            yield run_summary(run), page
        elif not running:
            raise ValignError(
                "there is no log of a run",
                where=str(source),
                how="name a folder that valign align or run wrote",
            )
        if not running:
            return
        time.sleep(every)


def is_running(folder: Path) -> bool:
    """Whether a process that is alive owns the folder, or the `run` in it."""
    from valign.engine.lock import is_held

    return is_held(folder) or is_held(folder / "run")


def _page(out: Path) -> Path:
    return out if out.suffix else out / "watch.html"


def _find(source: Path) -> Path:
    if not source.exists():
        raise ValignError("there is no such file or folder", where=str(source),
                          how="name a report.json, a result.json or a run's folder")  # fmt: skip
    for name in ("", "report.json", RESULT, f"evaluation/{RESULT}"):
        file = source / name if name else source
        if file.is_file():
            return file
    raise ValignError(
        "there is no report.json and no result.json",
        where=str(source),
        how=["valign evaluate or valign run write them", "follow a training run with --watch"],
    )


def _content(file: Path) -> dict[str, Any]:
    return read_object(file, "name a report.json or a result.json")


def _run_of(source: Path) -> Path | None:
    """The folder of the newest log under `source`."""
    logs = [p for p in (source / "log.jsonl", source / "run" / "log.jsonl") if p.exists()]
    logs += source.glob("methods/*/run/log.jsonl")
    return max(logs, key=lambda p: p.stat().st_mtime).parent if logs else None
