"""The page of an instrument alone: what it is stands on top, nothing empty is shown, no number stands twice."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from valign.data.group import Comparison, Group, Response, Score, user
from valign.errors import DataError
from valign.evaluation.aggregate import summarize
from valign.evaluation.measure.generality import generality_section
from valign.evaluation.measure.overopt import overopt_section
from valign.evaluation.measure.value_risk import value_risk
from valign.evaluation.provenance import provenance
from valign.evaluation.result import Item, Result
from valign.evaluation.section import Section, write_section
from valign.pipeline import reports
from valign.pipeline.efficiency import AXES, Point, efficiency_section
from valign.pipeline.explain import explain_section
from valign.pipeline.texts import prompt_rows, read_texts, text_rows, write_texts
from valign.report import read_whole
from valign.report.from_section import LEADS
from valign.rewards.base import FunctionReward

ABOUT = provenance()


def one(metric, value, subject="m", variant="mean", **more) -> Result:
    shape = {"level": "value", "unit": "score", "direction": "up", "n": 4, "provenance": ABOUT, **more}
    return Result(metric=metric, variant=variant, subject=subject, value=value, **shape)


def risks() -> Section:
    rng = np.random.default_rng(0)
    runs = {f"c{i}": [one("value.profile.PO", x), one("risk.toxicity", y, variant="rate", direction="down")]
            for i, (x, y) in enumerate(rng.uniform(size=(6, 2)))}  # fmt: skip
    return value_risk(runs)


def pushed() -> Section:
    groups = [Group(f"p{i}", user(f"{i}?"), tuple(Response(f"{i} {k}") for k in range(8))) for i in range(6)]
    loud = FunctionReward("loud", lambda g: [np.arange(8.0) + i for i, _ in enumerate(g)])
    kind = FunctionReward("kind", lambda g: [np.where(np.arange(8) == i, np.nan, -np.arange(8.0)) for i, _ in enumerate(g)])
    return overopt_section(groups, loud, kind, subject="m", about={**ABOUT, "proxy": "loud", "gold": "kind"})


def curves() -> Section:
    free = dict.fromkeys(AXES, 0.0)
    points = [Point("dpo", n, one("goal.utility", 0.4 + n / 10), free | {"labels": float(n)}) for n in (1, 2, 4)]
    return efficiency_section(one("goal.utility", 0.3), points, target=0.7)


def splits() -> Section:
    rng = np.random.default_rng(0)
    shape = {"metric": "goal.utility", "subject": "m", "level": "principle", "provenance": ABOUT}
    items = {name: [Item(f"g{i}{tail}", f"g{i}", float(x)) for i, x in enumerate(rng.uniform(size=20))]
             for name, tail in (("iid", ""), ("jailbreak", "|story"))}  # fmt: skip
    return generality_section({name: summarize(rows, variant=name, **shape) for name, rows in items.items()})


class Named:
    id = "m"


def explained(residual: float | None = 0.1) -> Section:
    rows = [{"id": "p0", "response": 0, "reward": {"residual": residual}, "prompt": "Why?", "text": "So."}]
    return explain_section(rows, Named(), ABOUT)


def bill() -> Section:
    shape = {"level": "capability", "unit": "share", "direction": "down"}
    rows = [one("tax.T", 0.1, **shape), one("tax.mmlu", 0.1, **shape), one("mmlu", 0.5, level="capability")]
    data = {"base": "b", "aligned": "m", "items": {"mmlu": {"lost": [{"id": "q1"}], "won": []}}}
    return Section("tax", "Alignment tax: m against b", rows, [{"id": "flips", "type": "flips", "data": data}])


MAKE = {"value_risk": risks, "overopt": pushed, "efficiency": curves, "generality": splits, "explain": explained, "tax": bill}


def page(section: Section, folder: Path, **more) -> tuple[dict, str]:
    write_section(section, folder)
    paths = reports.draw(folder, folder / "page", **more)
    return read_whole(paths["json"]), paths["html"].read_text("utf-8")


@pytest.mark.parametrize("name", MAKE)
def test_an_instrument_alone_says_what_it_is_and_shows_nothing_empty(name, tmp_path):
    section = MAKE[name]()
    report, html = page(section, tmp_path)
    assert report["instrument"] == name and report["sentences"]["lead"] == LEADS[name]
    body = unescape(html[: html.index('<script type="application/json"')])
    assert 'id="goal"' not in body and "#goal" not in body and "primary" not in body
    assert LEADS[name] in body and section.title in body and "one policy" not in body
    assert ("methods side by side" in body) == (name == "tax"), "only the tax has a number of the headline"
    assert "No data were listed" not in body and "Nothing was recorded" not in body and "was not." not in body
    card = (tmp_path / "page" / "MODEL_CARD.md").read_text("utf-8")
    assert "## Goal" not in card and ("## Results" in card) == (name == "tax") and "torch" in card
    groups = next(s for s in report["sections"] if s["id"] == "measured")["figures"][0]["data"]["groups"]
    told = [(g["metric"], g["variant"]) for g in groups for _ in g["results"]]
    assert sorted(told) == sorted((r.metric, r.variant) for r in section.results), "each number once"
    assert re.search(rf'<section id="instrument_{name}">', body)


def test_an_instrument_with_a_goal_names_it(tmp_path):
    section = splits()
    section = Section(section.id, section.title, [
        one(r.metric, r.value, variant=r.variant, provenance={**ABOUT, "goal": {"id": "kind", "fingerprint": "f" * 64}})
        for r in section.results
    ], section.figures)  # fmt: skip
    report, html = page(section, tmp_path)
    assert report["goal"]["id"] == "kind" and '<section id="goal">' in html and "kind" in html


def test_what_a_page_leaves_out_is_said_on_it(tmp_path):
    _, html = page(pushed(), tmp_path)
    assert "6 of 48 responses are unscored and left out (gold kind: judge error 6)" in html


def test_an_explanation_without_a_number_still_has_a_page(tmp_path):
    _, html = page(explained(None), tmp_path)
    assert "Why: m" in html and LEADS["explain"] in html


def test_items_show_the_texts_that_the_folder_holds(tmp_path):
    write_texts(tmp_path, prompt_rows([Group("p0", user("Why does it rain?"))]))
    report, _ = page(explained(), tmp_path)
    from valign.report import items

    assert items.table(report)["prompts"]["p0"] == [{"role": "user", "content": "Why does it rain?"}]


# ------------------------------------------------------------------------------------------------------ texts


def test_texts_hold_any_sign_and_broken_ones_are_named(tmp_path: Path):
    """A line ends at a newline alone: U+2028 and its like stand in what people write."""
    rows = prompt_rows([Group("p0", user("one\u2028two\x85three\u2029")), Group("p1", user("four"))])
    write_texts(tmp_path, rows)
    assert read_texts(tmp_path) == rows
    (tmp_path / "texts.jsonl").write_text(json.dumps(rows[0]) + "\n[1]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"texts.jsonl:2: not a JSON object[\s\S]*remove it"):
        read_texts(tmp_path)


def test_what_is_given_is_called_what_it_was_measured_as(tmp_path):
    two = (Response("yes"), Response("no"))
    pair = Group("a", user("A?"), two, feedback=(Comparison(chosen=1, rejected=0),))
    three = Group("b", user("B?"), (*two, Response("maybe")),
                  feedback=(Comparison(chosen=0, rejected=1), Comparison(chosen=2, rejected=1)))  # fmt: skip
    choice = Group("c", user("C?", system="Choose."), two, choices=True, gold=0)
    scored = Group("d", user("D?"), two, feedback=(Score(response=1, value=4.0),))
    rows = text_rows([pair, three, choice, scored], [pair, three])
    write_texts(tmp_path, [*rows, *prompt_rows([pair, Group("e", user("E?")), Group("f", user("F?"))])], known=["f"])
    found = {r["id"]: r for r in read_texts(tmp_path)}
    assert list(found) == ["a", "b", "b#0", "b#1", "c", "d", "e"]
    said = {k: [x["label"] for x in found[k]["responses"]] for k in "abcde"}
    assert said == {"a": ["rejected", "chosen"], "b": ["response 1", "response 2", "response 3"], "c": ["right answer", "option"],
                    "d": ["response 1", "response 2, score 4"], "e": []}  # fmt: skip
    assert found["b#1"] == {"id": "b#1", "of": "b", "chosen": 2, "rejected": 1} and found["a"]["prompt"] == "A?"
    assert found["c"]["prompt"] == [{"role": "system", "content": "Choose."}, {"role": "user", "content": "C?"}]
    write_texts(tmp_path, [])
    assert read_texts(tmp_path) == [] and json.dumps(rows)
