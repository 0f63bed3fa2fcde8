"""The page of figures, written from the result files and from nothing else: `python -m benchmarks.table`."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.equality import CHOICE, LOG_PROB, LOSS
from benchmarks.parts import PARTS
from benchmarks.ratio import HOW
from benchmarks.workloads import WORKLOADS

Result = Mapping[str, Any]
ROOT = Path(__file__).resolve().parent.parent
DISTURBED = 0.05  # a share of the processors that other programs may take before it is told
HEAD = "| workload | size | valign | peer | ratio | peak memory, valign / peer | target | |"
WRITTEN = "*Written by `python -m benchmarks.table` from `benchmarks/results/`; do not edit.*"
POSITIONS = """Padding is counted; what activation checkpointing computes again is not. The ratio is the product of the two
columns around it: positions that are not computed twice, and how much faster one position runs, head, draws, references
and overhead included. Both sides wait for the same matrix products, which take most of a position's time on a processor
([where the time goes](engine.md#where-the-time-goes)): where a target is missed, it asks for more than the data let be
shared at such a speed."""
PROTOCOL = f"""## Run it

```bash
python -m benchmarks --list         # the workloads
python -m benchmarks dpo            # one of them; its peer's environment is made on the first run
python -m benchmarks all            # all; one JSON file each in benchmarks/results/
python -m benchmarks --quick        # all on cut sizes, valign and its peer at its best once each: a smoke test
python -m benchmarks dpo --profile  # where the seconds of a run go, on both sides
python -m benchmarks.table          # this page
```

`--data DIR` names the folder with the data sets (they are not part of the project), `--size N` cuts or lengthens a
run, `--runs N` sets how often each side runs. `--quick` has two workloads under way at once; all of them took 13.4 minutes
on the older processor above, with every check of equality passed.

## How it is measured

- **Same for both sides:** model files, data, prompts, order of groups, batch, steps, learning rate, optimizer (AdamW),
  threads. Prompts are rendered and chosen once; both sides read that file.
- **Every run is a fresh process** in its side's own environment: valign in the project's, each peer in one made from a
  pinned requirement file (`benchmarks/peers/`). Runs alternate: valign, peer, valign, peer.
- **A warm-up is not counted:** each process makes one step (or scores and decodes a few items) on other data before the
  clock starts. Models are loaded before the clock starts.
- **Timed** is from text to the last number: tokens, references, every update or score. "References stored" counts the
  loop alone on both sides. Checkpoints are not counted; the peer writes none.
- **Equality first**, in float32 on both sides: log-probabilities of policy and reference within {LOG_PROB:g} nats per
  response, losses along ten steps within {LOSS:g} at a learning rate at which weights move, greedy tokens identical.
  Log-likelihoods of answer choices are compared in float64, within {CHOICE:g}, with equal accuracy (files that say 0.0001
  compared them in float32, where the harness itself is up to 0.0001 from float64). Without equality there is no ratio.
- **A peer runs twice.** *defaults*: TRL with its own defaults (activation checkpointing on, references computed in the
  loop) but weights loaded in the machine's fast number format without autocast, and a log line each step;
  lm-evaluation-harness with batch size 16; transformers with its growing cache. *best*: TRL with precomputed
  references, no activation checkpointing, batches of like lengths, float32 weights under autocast, no log lines; the
  harness with the fastest of five batch sizes and its cache of logits; transformers with the faster of two caches and
  prompts sorted by length.
- **valign** trains as it does by default: float32 weights, products in the fast format, no activation checkpointing.
  Scoring and decoding use weights in the fast format on both sides.
- **Rate** is units per second, the median over runs; the spread in brackets is from the slowest to the fastest run.
  **Ratio** is the rate of valign over the rate of the peer.
- **Interval:** {HOW}.
- **Peak memory** is the highest resident size of the process, model and libraries included.
- Targets are what was hoped for before anything was measured.
"""


def render(
    results: Sequence[Result], profiles: Sequence[Result] = (), elsewhere: Mapping[str, Sequence[Result]] | None = None
) -> str:
    """The page.

    elsewhere  title of another machine -> what was measured on it
    """
    if not results:
        return "# Benchmarks\n\nThere are no results yet: `python -m benchmarks all`.\n"
    parts = ["# Benchmarks", "", WRITTEN, "", _intro(results), "", *_figures(results)]
    for title, found in (elsewhere or {}).items():
        parts += [f"## {title}", "", _intro(found), "", *_figures(found, level=3)]
        parts += ["### What agreed", "", *_agreement(found), ""]
        parts += ["### Token positions computed", "", *_positions(found), ""]
    parts += [
        PROTOCOL,
        "## What agreed",
        "",
        *_agreement(results),
        "",
        "## Token positions computed",
        "",
        *_positions(results),
        "",
        POSITIONS,
        "",
        *_profiles(profiles),
        "## Settings",
        "",
        *_settings(results),
        "",
    ]
    return "\n".join(parts)


def _figures(results: Sequence[Result], level: int = 2) -> list[str]:
    """The table of a machine, what disturbed its runs, and how cost grows."""
    parts = [HEAD, "|---|---|---|---|---|---|---|---|"]
    for result in results:
        parts += rows(result)
    parts += ["", *_disturbed(results), *_broken(results)]
    for result in results:
        parts += _growth(result, level)
    return parts


def rows(result: Result) -> list[str]:
    """A workload's lines: one per variant of the peer, or one that says why there is none."""
    title, size = result["title"], f"{result['size']:,} {result['sized_in']}"
    sides, peer = result["sides"], result["peer"]
    ours = sides.get("valign")
    if peer is None:
        return [] if ours is None else [f"| {title} | {size} | {_rate(ours, result)} | – | – | {_memory(ours)} | – | |"]
    if ours is None or (not result["ratios"] and len(sides) < 2):
        return [f"| {title} | {size} | – | {peer} | – | – | {_targets(result)} | {_why(result)} |"]
    out = []
    for variant in [v for v in result["variants"] if v != "valign"]:
        theirs, ratio = sides.get(variant), result["ratios"].get(variant)
        name = f"{peer}, {variant}"
        target = result["targets"].get(variant)
        shown = f"{target:g} ×" if target else "–"
        goal = result["memory_target"]
        if goal and goal["variant"] == variant:
            shown += f", memory ≤ {goal['share']:.2f}"
        if theirs is None or ratio is None:
            why = result["problems"].get(variant, "").split("\n")[0] or _why(result)
            out.append(f"| {title} | {size} | {_rate(ours, result)} | {name} | – | – | {shown} | {why} |")
            continue
        memory = f"{_memory(ours)} / {_memory(theirs)} = {ratio['memory']:.2f}"
        out.append(
            f"| {title} | {size} | {_rate(ours, result)} | {name}: {_rate(theirs, result)} | {_ratio(ratio['rate'])} "
            f"| {memory} | {shown} | {verdict(result, variant)} |"
        )
    return out


def _disturbed(results: Sequence[Result]) -> list[str]:
    """Whose runs other programs disturbed, and by how much; of earlier files it is not known."""
    told, silent = [], []
    for result in results:
        runs = [run for side in result["sides"].values() for run in side["runs"]]
        shares = [run["others"] for run in runs if run.get("others") is not None]
        if len(shares) < len(runs):
            silent.append(result["title"])
        elif max(shares, default=0.0) > DISTURBED:
            told.append(f"{result['title']} ({min(shares):.0%} to {max(shares):.0%} of the processors)")
    lines = []
    if told:
        lines += [f"Other programs ran beside both sides of: {'; '.join(told)}.", ""]
    if silent:
        lines += [f"Whether other programs ran beside them was not recorded: {'; '.join(silent)}.", ""]
    return lines


def _broken(results: Sequence[Result]) -> list[str]:
    """Sides whose last run gave no answer though earlier ones did: their row shows a figure and would hide it."""
    told = [
        f"{result['title']}, {variant} (after {count} {'run' if count == 1 else 'runs'}: {text.splitlines()[0].rstrip(':')})"
        for result in results
        for variant, text in result["problems"].items()
        if (count := len(result["sides"].get(variant, {}).get("runs", [])))
    ]
    return [f"A run gave no answer, and none was tried after it: {'; '.join(told)}.", ""] if told else []


def verdict(result: Result, variant: str) -> str:
    """met or missed, for the rate and for the memory where there is a target; "" without one."""
    ratio, words = result["ratios"][variant], []
    target, goal = result["targets"].get(variant), result["memory_target"]
    if target:
        words.append("met" if ratio["rate"]["value"] >= target else "missed")
    if goal and goal["variant"] == variant:
        words.append("memory met" if ratio["memory"] <= goal["share"] else "memory missed")
    return ", ".join(words)


def read(folder: Path) -> list[Result]:
    """The results of a folder in the order of the workloads."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        found[result["workload"]] = result
    return [found[name] for name in WORKLOADS if name in found]


def read_elsewhere(folder: Path) -> dict[str, list[Result]]:
    """Title -> results of the folders that hold a machine's: those with a `machine.txt`, whose line is the title."""
    marks = sorted(folder.glob("*/machine.txt"))
    return {m.read_text(encoding="utf-8").strip(): read(m.parent) for m in marks}


def _intro(results: Sequence[Result]) -> str:
    """Machine, versions and commit; where files differ, every kind is named."""
    machines = _distinct(_machine(r) for r in results)
    models = _distinct(f"`{r['model']}`" for r in results)
    versions: dict[str, set[str]] = {}
    for result in results:
        for side in result["sides"].values():
            for package, number in side["versions"].items():
                versions.setdefault(package, set()).add(number)
    shown = ", ".join(f"{p} {' / '.join(sorted(v))}" for p, v in sorted(versions.items()))
    runs = _distinct(str(len(r["sides"]["valign"]["runs"])) for r in results if "valign" in r["sides"])
    return (
        f"Model {', '.join(models)}. Machine: {'; '.join(machines)}. Versions: {shown}. "
        f"Commit {_commits(results)}. Runs of each side: {', '.join(runs) or '0'}."
    )


def _machine(result: Result) -> str:
    about = result["hardware"]
    flags = ", ".join(about["flags"]) or "no special flags"
    memory = f", {about['memory_gib']:g} GiB" if about.get("memory_gib") else ""
    return (
        f"{about['processor']}, {about['cores']} cores ({flags}){memory}, {result['threads']} threads, "
        f"fast number format {result['fast_dtype']}"
    )


def _commit(result: Result) -> str:
    short = (result["commit"] or "unknown")[:10]
    return f"{short} with changes" if result["changed_since"] else short


def _commits(results: Sequence[Result]) -> str:
    """The commit that was measured; where there are several, each with its workloads."""
    found: dict[str, list[str]] = {}
    for result in results:
        found.setdefault(_commit(result), []).append(result["workload"])
    return ", ".join(found) if len(found) == 1 else ", ".join(f"{c} ({', '.join(names)})" for c, names in found.items())


def _agreement(results: Sequence[Result]) -> list[str]:
    lines = ["| workload | compared | numbers | worst difference | allowed | |", "|---|---|---|---|---|---|"]
    for result in results:
        for c in result["equality"]["checks"]:
            word = "equal" if c["passed"] else "**not equal**"
            lines.append(
                f"| {result['title']} | {c['name']} | {c['n']} | {c['worst']:.2g} | {c['tolerance']:g} | {word} |"
            )
    return lines


def _positions(results: Sequence[Result]) -> list[str]:
    """What went through the models in the timed part of a run, padding included: work saved, whatever the clock says, and
    what is then left of the ratio for each position."""
    lines = ["| workload | valign | peer | times as many | ratio | speed of a position | target |"]
    lines.append("|---|---|---|---|---|---|---|")
    for result in results:
        counts = {name: side["runs"][0].get("positions") for name, side in result["sides"].items()}
        for variant, ratio in result["ratios"].items():
            ours, theirs = counts.get("valign"), counts.get(variant)
            if ours and theirs:
                saved, rate = theirs / ours, ratio["rate"]["value"]
                lines.append(
                    f"| {result['title']} | {ours:,} | {result['peer']}, {variant}: {theirs:,} | {saved:.2f} | {rate:.2f} "
                    f"| {rate / saved:.2f} | {verdict(result, variant) or '–'} |"
                )
    return lines


def _profiles(profiles: Sequence[Result]) -> list[str]:
    """Seconds of each part of a run, both sides, and its share of them."""
    if not profiles:
        return []
    lines = [
        "## Where the time goes", "",
        "One run of each side under torch's profiler (`--profile`), which slows both: seconds for a unit of work, and their "
        "share. " + " ".join(f"*{_title(p)}*: {words}." for p, words in PARTS.items()), "",
        f"| workload | side | positions | all | {' | '.join(map(_title, PARTS))} |", f"|{'---|' * (4 + len(PARTS))}",
    ]  # fmt: skip
    for profile in profiles:
        for name, side in profile["sides"].items():
            who = name if name == "valign" else f"{profile['peer']}, {name}"
            units, whole = side["units"], sum(side["parts"].values())
            told = [f"{_number(side['parts'][p] / units)} ({side['parts'][p] / whole:.0%})" for p in PARTS]
            size = f"{profile['title']}, {profile['size']} {profile['sized_in']}"
            positions = f"{side['positions']:,}" if side["positions"] else "–"
            lines.append(f"| {size} | {who} | {positions} | {_number(side['seconds'] / units)} | {' | '.join(told)} |")
    shares = [s["others"] or 0.0 for p in profiles for s in p["sides"].values()]
    return [*lines, "", f"Commit {_commits(profiles)}; other programs took up to {max(shares):.0%} of the processors.", ""]


def _title(part: str) -> str:
    return part.capitalize()


def _settings(results: Sequence[Result]) -> list[str]:
    out = []
    for result in results:
        told = _words(result["settings"])
        out.append(f"- **{result['title']}**: {told or 'none'}.")
        chosen = {
            v: {k: r[k] for k in ("batch_size", "cache") if k in r}
            for v, side in result["sides"].items()
            for r in side["runs"][:1]
        }
        for variant, told_variant in result["variants"].items():
            if variant != "valign":
                out.append(f"    - {result['peer']}, {variant}: {_words({**told_variant, **chosen.get(variant, {})})}.")
    return out


def _growth(result: Result, level: int = 2) -> list[str]:
    """The points of the scaling workload, medians over its runs, under a heading of that level."""
    if result["workload"] != "scaling" or "valign" not in result["sides"]:
        return []
    runs, s = result["sides"]["valign"]["runs"], result["settings"]
    fits = [run["r_squared"] for run in runs if run["r_squared"]]
    fit = f" A straight line explains {min(fits):.4f} of it or more (target 0.99)." if fits else ""
    bounded = ("responses", "seconds", "relative", "bound")
    return [
        f"{'#' * level} How cost grows", "",
        f"Medians of {len(runs)} runs." if len(runs) > 1 else "One run.", "",
        f"Scoring, by the number of groups (prompt {s['short_prompt']}, one response of {s['short_response']}).{fit}", "",
        *_points(_medians(runs, "by_groups"), ("groups", "seconds", "tokens")),
        f"By responses per prompt (prompt {s['prompt']}, response {s['response']}, {s['repeat']} groups): time relative "
        "to one response, and the bound 1.25 (P + G R) / (P + R).", "",
        *_points(_medians(runs, "by_responses"), bounded),
        *_with_gradient(runs, bounded),
        f"By the prompt's length (one response of {s['response']}, {s['repeat']} groups).", "",
        *_points(_medians(runs, "by_prompt"), ("prompt", "seconds", "tokens")),
    ]  # fmt: skip


def _with_gradient(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Growth of scoring with gradient. Files from before the workload warmed up for it get no verdict."""
    points = _medians(runs, "by_responses_gradient")
    if all(run.get("warmed") for run in runs):
        return ["The same with gradient.", "", *_points(points, names)]
    for p in points:
        p.pop("", None)
    cold = "The first point paid for memory that the process had not held before: the relative numbers are too low, no verdict."
    return [f"The same with gradient. {cold}", "", *_points(points, names)]


def _medians(runs: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Each point's numbers, the median over runs; where a bound stands beside, whether it is kept."""
    points = [{k: statistics.median(p[k] for p in same) for k in same[0]} for same in zip(*(run[name] for run in runs))]
    for p in points:
        if "bound" in p:
            p["relative"] /= points[0]["relative"]
            p[""] = "met" if p["relative"] <= p["bound"] else "missed"
    return points


def _points(points: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    names = [*names, *([""] if points and "" in points[0] else [])]
    head = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    told = lambda x: x if isinstance(x, str) else _number(x)  # noqa: E731
    return [*head, *(f"| {' | '.join(told(p[n]) for n in names)} |" for p in points), ""]


def _rate(side: Mapping[str, Any], result: Result) -> str:
    rate = side["rate"]
    between = f" [{_number(rate['low'])}, {_number(rate['high'])}]" if len(side["rates"]) > 1 else ""
    return f"{_number(rate['median'])}{between} {result['unit']}/s"


def _ratio(ratio: Mapping[str, Any]) -> str:
    between = f" [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio["low"] is not None else " (single runs)"
    return f"**{ratio['value']:.2f}**{between}"


def _memory(side: Mapping[str, Any]) -> str:
    return f"{side['peak_bytes']['median'] / 2**30:.1f} GiB"


def _targets(result: Result) -> str:
    return ", ".join(f"{t:g} ×" for t in dict.fromkeys(result["targets"].values())) or "–"


def _why(result: Result) -> str:
    """Why there is no ratio, in a few words."""
    if result["problems"]:
        return "; ".join(text.split("\n")[0] for text in result["problems"].values())
    wrong = [c for c in result["equality"]["checks"] if not c["passed"]]
    if wrong:
        return "not equal: " + ", ".join(f"{c['name']} by {c['worst']:.2g} (allowed {c['tolerance']:g})" for c in wrong)
    return "not run"


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in settings.items())


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(values))


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    told = parser.parse_args()
    here, elsewhere = read(told.results), read_elsewhere(told.results)
    page = render(here, read(told.results / "profiles"), elsewhere)
    told.page.write_text(page, encoding="utf-8")
    print(told.page)


if __name__ == "__main__":
    main()
