"""Commands on goals: list, show, check, diff, rescore, log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from valign.cli.goal_quality import SITUATIONS, show_quality
from valign.cli.options import DATA, MEASURE, OUTPUT, Command, Json, Judges, Limit, option
from valign.cli.progress import Watch
from valign.cli.shared import errors, print_json, result_line, say
from valign.errors import UsageError

goal_app = typer.Typer(
    help="Look at goals, check them, compare them, judge stored outputs by a changed one.", no_args_is_help=True
)

KINDS = ("sets", "theories", "targets")
SHOWN = 10  # flips that are printed; all are in the files and in --json
GoalName = Annotated[str, typer.Argument(help="A goal: a name (`core`, `uk`, `schwartz10:power=-1`) or a YAML file.")]
Results = Annotated[
    list[Path], typer.Argument(help="Folders that `valign evaluate` or `valign profile` wrote, or a comparison's folder.")
]


@goal_app.command("list", cls=Command)
def list_(
    kind: Annotated[str | None, typer.Argument(help=f"Only these: {', '.join(KINDS)}.")] = None, as_json: Json = False
) -> None:
    """Principle sets, value theories and targets that come with valign."""
    with errors(as_json):
        from valign.pipeline.goal_catalog import catalog

        found = catalog(kind, KINDS)
        if as_json:
            print_json(found)
            return
        for name, rows in found.items():
            say(f"{name}:")
            for row in rows:
                say(f"  {row['id']:<22} {row['size']:<16} {row['title']}")
        say("`valign goal show ID` prints one; any of them is a --goal, a theory with a target (schwartz10:benevolence=1)")


@goal_app.command("show", cls=Command)
def show(
    name: Annotated[str, typer.Argument(help="A principle set, theory or target, a goal's name, or a YAML file.")],
    as_json: Json = False,
) -> None:
    """Everything that a set, theory, target or goal says, with its source."""
    with errors(as_json):
        from valign.pipeline.goal_catalog import entries

        found = entries(name)
        if as_json:
            print_json(found)
            return
        for entry in found:
            _print_entry(entry)


@goal_app.command("check", cls=Command)
def check(
    goal: GoalName,
    run: Annotated[
        Path | None, option(DATA, "--run", help="Stored outputs: adds standardization numbers and conflicts on them.")
    ] = None,
    data: Annotated[str | None, option(DATA, help="The same on the responses of a file or builtin:NAME.")] = None,
    limit: Limit = None,
    judge: Judges = None,
    situations: Annotated[
        int | None, option(MEASURE, min=1, help="With --judge: how many situations it is asked about (60).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Is GOAL whole? Its level, parts, scorers, doubtful places, fingerprint; errors name file, line and field."""
    with errors(as_json):
        from valign.pipeline.goal_check import examine
        from valign.pipeline.goals import make_goal

        made = make_goal(goal)
        if situations is not None and not judge:
            raise UsageError("nobody is asked about situations", where="--situations", how="use it with --judge MODEL")
        qualities = _qualities(made, judge, situations or SITUATIONS, as_json) if judge else {}
        found = examine(*_with_responses(made, run, data, limit))
        if judge:
            found["quality"] = {name: q.to_json() for name, q in qualities.items()}
        if as_json:
            print_json(found)
            return
        _print_check(found)
        for q in qualities.values():
            show_quality(q)


@goal_app.command("diff", cls=Command)
def diff(
    before: GoalName,
    after: GoalName,
    run: Annotated[
        list[Path] | None, option(DATA, "--run", help="Stored outputs: also say what flips on them. May be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What changed from one goal to another, and with --run what that flips in stored outputs. Writes nothing."""
    with errors(as_json):
        from valign.goals.diff import differences
        from valign.pipeline.goals import make_goal

        old, new = make_goal(before), make_goal(after)
        changes = differences(old, new)
        found = _rescored(run, new, old) if run else None
        if as_json:
            print_json({"changes": [c.to_json() for c in changes], "rescored": found.to_json() if found else None})
            return
        for change in changes:
            say(change.text)
        say(f"{len(changes)} change{'s' * (len(changes) != 1)}" if changes else "the two goals say the same")
        if found is not None:
            _print_flips(found)


@goal_app.command("rescore", cls=Command)
def rescore(
    results: Results,
    goal: Annotated[str, option(DATA, "--goal", help="The goal as it is now: a name or a YAML file.")],
    old: Annotated[
        str | None, option(DATA, "--old", help="The goal as it was; default: the one stored with the outputs.")
    ] = None,
    out: Annotated[Path | None, option(OUTPUT, help="Where the new scores go; default: RESULTS/rescored/FINGERPRINT.")] = None,
    as_json: Json = False,
) -> None:
    """Judge stored outputs by a changed goal: what flipped, by which part; adds a line to the log of revisions."""
    with errors(as_json):
        from valign.pipeline.goals import make_goal
        from valign.pipeline.rescore import log_of, write_rescored
        from valign.pipeline.rescored_results import measured_again

        new = make_goal(goal)
        found = _rescored(results, new, make_goal(old) if old else None, keep=True, out=out)
        paths = write_rescored(found, out)
        if (log := log_of(found.outputs, out)).is_file():
            paths["judge"] = log
        measured = [r for p in range(len(found.outputs)) for r in measured_again(found, p).results]
        if as_json:
            files = {name: str(path) for name, path in paths.items()}
            print_json({**found.to_json(), "results": [r.to_json() for r in measured], "files": files})
            return
        for text in found.changes:
            say(text)
        _print_flips(found)
        for r in measured:
            say(result_line(r))
        for name, path in paths.items():
            say(f"{name}: {path}")


@goal_app.command("log", cls=Command)
def log(
    folder: Annotated[Path, typer.Argument(help="A folder of results, or its revisions.jsonl.")], as_json: Json = False
) -> None:
    """The revisions of the goal by which stored outputs were judged."""
    with errors(as_json):
        from valign.goals.revisions import FILE, read_revisions

        path = folder / FILE if folder.is_dir() else folder
        if not path.is_file():
            raise UsageError("there is no log of revisions", where=str(path), how="valign goal rescore writes one")
        rows = read_revisions(path)
        if as_json:
            print_json(rows)
            return
        for row in rows:
            counts = row["counts"]
            say(f"{row['n']}  {row['time']}  {_card(row['before'])} -> {_card(row['after'])}  "
                f"{counts['order_flips']} of {counts['pairs']} orders and {counts['standing_flips']} of "
                f"{counts['standing']} standings flipped")  # fmt: skip
            for text in row["changes"]:
                say(f"     {text}")


# ------------------------------------------------------------------------------------------------------ their work


def _with_responses(goal: Any, run: Path | None, data: str | None, limit: int | None) -> tuple[Any, Any]:
    """(the goal, the groups that it is tried on; None for none). Values that are stored with outputs are read there."""
    if run is not None and data is not None:
        raise UsageError("name stored outputs or data, not both", where="--run, --data")
    if run is not None:
        from valign.pipeline.stored import read_outputs, with_stored_values

        first, *more = read_outputs(run)
        if more:
            raise UsageError(f"holds the outputs of {len(more) + 1} policies", where=f"--run {run}",
                             how=f"name one: {first.folder}")  # fmt: skip
        return with_stored_values(goal, first), first.answered[:limit]
    if data is not None:
        from valign.pipeline.data import read_source
        from valign.pipeline.recipe import Source

        return goal, [g for g in read_source(Source(path=data, limit=limit)) if g.responses]
    if limit is not None:
        raise UsageError("there is nothing to limit", where="--limit", how="use it with --data or --run")
    return goal, None


def _qualities(goal: Any, judges: list[str], situations: int, quiet: bool) -> dict[str, Any]:
    """Comprehensiveness, precision and compatibility of the principles in a goal, by the goal or part they stand in."""
    from dataclasses import replace

    from valign.pipeline.goal_check import principles_of
    from valign.pipeline.quality import quality_from_names

    with Watch(quiet=quiet) as watch:
        return {
            name: replace(quality_from_names(rules, judges, situations=situations, on_event=watch), set=name)
            for name, rules in principles_of(goal).items()
        }


def _rescored(results: list[Path], new: Any, old: Any, *, keep: bool = False, out: Path | None = None) -> Any:
    """Outputs judged again. keep: what judges said is logged, in `out` or beside the outputs."""
    from valign.pipeline.goals import judging
    from valign.pipeline.rescore import log_of, old_goal
    from valign.pipeline.rescore import rescore as judge_again
    from valign.pipeline.stored import read_outputs
    from valign.rewards.registry import default_scorers

    outputs = [o for folder in results for o in read_outputs(folder)]
    old = judging(old) if old is not None else old_goal(outputs, default_scorers())
    return judge_again(outputs, judging(new), old, log_of(outputs, out) if keep else None)


# -------------------------------------------------------------------------------------------------------- printing


def _print_entry(entry: Mapping[str, Any]) -> None:
    say(f"{entry['id']}  ({entry['kind']})  {entry.get('title', '')}".rstrip())
    for key, value in entry.items():
        if key in ("id", "kind", "title") or value in (None, "", [], {}):
            continue
        if not isinstance(value, list):
            say(f"{key}: {value}")
            continue
        say(f"{key}:")
        for row in value:
            say(f"  {row}" if not isinstance(row, Mapping) else "  " + _row(row))


def _row(row: Mapping[str, Any]) -> str:
    """Texts as they are, numbers with their names."""
    head, *rest = [f"{k} {v:g}" if isinstance(v, int | float) else str(v) for k, v in row.items() if v not in ("", None, [], {})]
    return f"{head:<20} {'  '.join(rest)}"


def _print_check(found: Mapping[str, Any]) -> None:
    say(f"{found['id']}  version {found['version']}  level {found['level']}"
        + (f"  conflict {found['conflict']}" if "conflict" in found else ""))  # fmt: skip
    for part in found["parts"]:
        say("  " + _row(part))
    for row in found["scorers"]:
        say(f"scorer of {row['goal']} ({row['level']}): {row['scorer'] or 'none: only labels in the data can be read'}")
    if "standard" in found:
        standard = found["standard"]
        say("standard: " + (f"{standard}" if standard is not None else "not measured; use --run or --data with responses"))
    for c in found.get("conflicts", ()):
        say(f"conflict: {c['one']} and {c['other']} correlate {c['correlation']:+.2f} over {c['n']} responses")
        for text in c["examples"]:
            say(f"    {text[:100]}")
    if found.get("conflicts") == []:
        say("no conflict between parts on these responses")
    for text in found["findings"]:
        say(f"look: {text}")
    say(f"fingerprint: {found['fingerprint']}")


def _print_flips(found: Any) -> None:
    c = found.counts
    say(f"{_card(found.before.card)} -> {_card(found.after.card)} on {c['responses']} responses to {c['prompts']} prompts")
    if c["pairs"]:
        say(f"order: {c['order_flips']} of {c['pairs']} pairs flipped")
    if c["standing"]:
        say(f"standing: {c['standing_flips']} of {c['standing']} responses changed sides (good: better than neutral)")
    for name, n in found.by_part.items():
        say(f"  {n:>5}  decided by {name or 'no single part'}")
    for p in found.policies:
        sides = "  ".join(f"{k} {p[k]['difference']:+.3f}{_interval(p[k])}" for k in ("before", "after"))
        now = "FLIPPED" + ("" if p["sure"] else " (not sure)") if p["flipped"] else "same"
        say(f"{p['one']} minus {p['other']}, n={p['n']}: {sides}  {now}")
    for flip in found.flips[:SHOWN]:
        say("  " + _flip(flip))
    if len(found.flips) > SHOWN:
        say(f"  ... and {len(found.flips) - SHOWN} more")
    for note in found.notes:
        say(f"note: {note}")


def _flip(flip: Mapping[str, Any]) -> str:
    part = f"  by {flip['part']}" if flip["part"] else ""
    if flip["kind"] == "standing":
        return f"{flip['id']} #{flip['response']}: now {flip['now']}, {flip['before']:+.3f} -> {flip['after']:+.3f}{part}"
    up, down = flip["was_better"], flip["was_worse"]
    names = (f"#{up['response']}", f"#{down['response']}")
    if up["policy"] != down["policy"]:
        names = (f"{up['policy']} {names[0]}", f"{down['policy']} {names[1]}")
    return f"{flip['id']}: {names[1]} is now above {names[0]}{part}"


def _interval(side: Mapping[str, Any]) -> str:
    return "" if side["low"] is None else f" [{side['low']:+.3f}, {side['high']:+.3f}]"


def _card(card: Mapping[str, Any]) -> str:
    return f"{card['id']} v{card['version']}"
