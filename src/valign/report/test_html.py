"""The page says what the JSON says, hides nothing, runs nothing of a model's, and asks no network."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from valign.errors import ValignError
from valign.evaluation.aggregate import summarize
from valign.evaluation.record import Item
from valign.report import SubjectReport, method_report
from valign.report.html import MAX_BYTES, PREVIEW, render, script, script_hash
from valign.report.markdown import model_card
from valign.report.node import Node, resolve, value
from valign.report.sections import all_results

NASTY = '</script><script>alert("x")</script><img src=http://evil.example/a.png onerror=alert(1)> "\'&'
HIDDEN = "safe\u202e gnp.exe\u202c\u200b \u2066a\u2069 \x1b[31mred"


class Page(HTMLParser):
    """What a browser would see: tags with attributes, texts, and the numbers with their places."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str, str]] = []  # (JSON pointer, value, text)
        self.ids: list[str] = []
        self.text: list[str] = []
        self._open: tuple[str, str] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        self.tags.append((tag, own))
        if own.get("id"):
            self.ids.append(str(own["id"]))
        if tag == "data":
            self._open = (own["data-at"] or "", own["value"] or "")

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._open is not None:
            self.numbers.append((*self._open, data))
            self._open = None


@pytest.fixture(scope="module")
def page(seven: dict[str, Any]) -> Page:
    return Page(render(seven))


def digits(text: str) -> float:
    """The number a reader sees, its sign included."""
    found = re.search(r"[\d.]+(?:e[+-]?\d+)?", text)
    assert found, text
    return float(found.group()) * (-1 if "−" in text else 1)


SCALES = {
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "min": 60,
    "h": 3600,
    "ms": 1e-3,
}


@pytest.mark.capability("E14")
def test_every_number_on_the_page_is_the_jsons(page: Page, seven: dict[str, Any]):
    """Each printed number names its place in the JSON, carries it in full, and reads as that number."""
    root = Node(seven)
    assert len(page.numbers) > 500
    for at, written, text in page.numbers:
        raw = value(resolve(root, at))
        assert written == ("" if raw is None else repr(raw)), at
        if raw is None:
            assert text == "unscored", at
            continue
        unit = text.split(" ")[-1] if " " in text else ""
        shown = digits(text) * SCALES.get(unit, 1)
        assert text == "< 0.001" or shown == pytest.approx(raw, rel=0.06, abs=0.006), (at, text, raw)


@pytest.mark.capability("E14")
def test_every_metric_is_on_the_page_with_interval_cost_and_provenance(page: Page, seven: dict[str, Any]):
    shown, text = {at for at, _, _ in page.numbers}, " ".join(page.text)
    for at, r in all_results(seven).items():
        assert f"{at}/value" in shown and f"{at}/n" in shown, at
        assert r["interval"] is None or {f"{at}/interval/low", f"{at}/interval/high"} <= shown, at
        assert r["metric"] in text and r["variant"] in text and r["cluster"]["unit"] in text
        assert all(f"{at}/n_unscored/{reason}" in shown for reason in r["n_unscored"])
    printed = {value(resolve(Node(seven), at)) for at in shown}
    assert all(spent in printed for cost in seven["cost"].values() for spent in cost.values() if spent)
    assert all(str(k) in text for k in seven["provenance"])


@pytest.mark.capability("E14")
def test_the_four_goal_levels_stand_on_one_page():
    """A metric of each level, each under the heading of its level with its value, interval, n, cluster and provenance."""
    rows = [
        summarize([Item(f"p{i}", f"p{i}", float((i + k) % 3 > 0)) for i in range(120)], metric=f"{level}.share", variant="v",
                  subject="m", level=level, cluster_unit="prompt", provenance={"seed": k})
        for k, level in enumerate(("instruction", "preference", "principle", "value"))
    ]  # fmt: skip
    made = method_report([SubjectReport(policy={"id": "m"}, results=rows)], goal={"id": "g", "level": "value", "title": "all"})
    page, found = Page(render(made)), all_results(made)
    shown, text = {at for at, _, _ in page.numbers}, " ".join(page.text)
    assert text.count("Level: ") == 4
    for level in ("instruction", "preference", "principle", "value"):
        (at,) = [at for at, r in found.items() if r["level"] == level]
        assert {f"{at}/value", f"{at}/n", f"{at}/interval/low", f"{at}/interval/high"} <= shown and f"{level}.share" in text
        assert found[at]["provenance"]["seed"] == rows.index(next(r for r in rows if r.level == level))
        assert found[at]["cluster"] == {"unit": "prompt", "count": 120}


def test_headline_figures_and_sections_are_there(page: Page, seven: dict[str, Any]):
    text = " ".join(page.text)
    assert seven["sentences"]["lead"] in text and all(m in text for m in seven["sentences"]["more"])
    assert all(w in text for w in seven["warnings"]) and seven["goal"]["text"] in text
    order = [i for i in page.ids if i in {"goal", "provenance", *(s["id"] for s in seven["sections"])}]
    assert order == [
        "goal",
        "methods",
        "gaps",
        "values",
        "misalignment",
        "tax",
        "frontier",
        "cost",
        "training",
        "samples",
        "measured",
        "provenance",
    ]
    for d in seven["ledger"]:
        assert d["file"] in text and d["licence"] in text
    assert len(page.ids) == len(set(page.ids))


def test_no_request_leaves_the_page(page: Page, seven: dict[str, Any]):
    html = render(seven)
    for tag, attrs in page.tags:
        assert tag not in ("iframe", "object", "embed", "form", "base", "audio", "video")
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            target = attrs.get(name) or ""
            assert target.startswith("#") or target in ("", "data:,"), (tag, name, target)
    assert "url(" not in html and "@import" not in html and "http://" not in html and "https://" not in html
    policy = next(
        a["content"] or "" for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy and script_hash(script()) in policy
    assert len(html.encode()) < MAX_BYTES


def nasty() -> dict[str, Any]:
    sample = {
        "id": NASTY,
        "prompt": NASTY + HIDDEN,
        "responses": [{"text": NASTY + HIDDEN}],
        "flags": [NASTY],
    }
    one = SubjectReport(
        policy={"id": NASTY, "base": NASTY, "config": {NASTY: NASTY}},
        label=NASTY,
        method=NASTY,
        samples=[sample],
        notes=[NASTY + HIDDEN],
        curve=[{"step": i, NASTY: i} for i in (1, 2)],
        profile={"values": {NASTY: 0.1, "b": 0.2, "c": 0.3}, "n": 3},
    )
    two = SubjectReport(policy={"id": "b"}, base=True, samples=[sample], profile=one.profile)
    return method_report(
        [two, one],
        goal={"id": NASTY, "text": NASTY, "target": {NASTY: 1.0}},
        title=NASTY + HIDDEN,
        warnings=[NASTY],
        provenance={NASTY: NASTY},
        ledger=[{"file": NASTY, "n": 1}],
    )


def test_text_of_models_is_only_text():
    """No tag, attribute or script of a model's reaches the page, wherever its text is shown."""
    page = Page(render(nasty()))
    scripts = [a.get("type") for t, a in page.tags if t == "script"]
    assert scripts == ["application/json", "application/json", None], "one script; the others are data"
    assert not any(t == "img" for t, _ in page.tags)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert 'alert("x")' in "".join(page.text), "the text itself must stay readable"


def test_characters_that_hide_are_shown():
    html = render(nasty())
    for hidden in ("\u202e", "\u202c", "\u200b", "\u2066", "\x1b"):
        assert hidden not in html and f"⟨U+{ord(hidden):04X}⟩" in html
    assert 'dir="auto"' in html


def test_joiners_of_real_scripts_stay():
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467 می\u200cخواهم"
    sample = {"id": "1", "prompt": family, "responses": [family]}
    assert family in render(
        method_report([SubjectReport(policy={"id": "a"}, samples=[sample])], goal={"id": "g"})
    )


def test_long_and_harmful_texts_are_folded():
    long = "word " * 2000
    samples = [{"id": "1", "prompt": "p", "responses": [long, ""], "flags": ["threat"]}]
    html = render(method_report([SubjectReport(policy={"id": "a"}, samples=samples)], goal={"id": "g"}))
    assert f"show all {len(long)} characters" in html and "more characters are in the JSON" in html
    assert "Responses folded: they may show threat" in html and "empty response" in html
    assert (
        html.index(long[:PREVIEW].rstrip() + "\u2026") > 0
        if long[:PREVIEW] == long[:PREVIEW].rstrip()
        else True
    )


def test_thin_reports_are_drawn(report_of: Any, subjects: list[SubjectReport]):
    """One policy, a pair, no results, no intervals: a page without a gap, never an error."""
    empty = SubjectReport(policy={"id": "a"})
    no_interval = {
        "metric": "misalignment.M",
        "variant": "v",
        "subject": "a",
        "level": "value",
        "value": None,
        "unit": "share",
        "direction": "down",
        "n": 0,
        "n_unscored": {"refusal": 4},
        "interval": None,
        "cluster": {"unit": "prompt", "count": 0},
        "items": [],
        "notes": ["nothing was scored"],
    }
    for report in (
        method_report([empty], goal={"id": "g"}),
        method_report([SubjectReport(policy={"id": "a"}, results=[no_interval])], goal={"id": "g"}),
        method_report([SubjectReport(policy={"id": "b"}), empty], goal={"id": "g"}),
        report_of(subjects[:1], frontier=None),
        report_of([subjects[0], subjects[-1]]),
    ):
        html = render(json.loads(json.dumps(report, allow_nan=False)))
        text = "".join(Page(html).text)
        assert "<h1>" in html and not re.search(r"\b(None|nan|NaN|Undefined)\b", text)
    assert "unscored" in render(
        method_report([SubjectReport(policy={"id": "a"}, results=[no_interval])], goal={"id": "g"})
    )


TAX = {
    "metric": "tax.T", "variant": "clip_last", "level": "capability", "unit": "share", "direction": "down", "n": 0,
    "n_unscored": {}, "interval": None, "cluster": {"unit": "item", "count": 0}, "items": [], "notes": [],
}  # fmt: skip


def test_the_base_is_the_reference_of_the_tax_and_an_unscored_tax_stays_unscored():
    """The base has no tax, for others are taxed against it; a tax that was measured without a score is no reference."""

    def two(*, of_base: bool) -> dict[str, Any]:
        rows = [{**TAX, "subject": "a vs b", "value": 0.2}]
        base = [{**TAX, "subject": "b", "value": None, "n_unscored": {"refusal": 4}}] if of_base else []
        return method_report([SubjectReport(policy={"id": "b"}, results=base, base=True),
                              SubjectReport(policy={"id": "a"}, results=rows)], goal={"id": "g"})  # fmt: skip

    def card(report: dict[str, Any]) -> str:
        html = render(json.loads(json.dumps(report)))
        return " ".join(Page(html[html.index('class="cards"') :].split("How to read")[0]).text)

    plain = two(of_base=False)
    assert "reference: others are compared with it" in card(plain) and "unscored" not in card(plain)
    table = methods_of(plain)
    assert [r["T"]["reference"] for r in table["rows"]] == [True, False] and not table["rows"][0]["M"]["reference"]
    assert "reference" in model_card(plain, "b").split("## Results")[1].split("##")[0]
    measured = two(of_base=True)
    assert "unscored" in card(measured) and "reference: others" not in card(measured)
    assert not any(r["T"]["reference"] for r in methods_of(measured)["rows"])


def methods_of(report: dict[str, Any]) -> dict[str, Any]:
    return next(f["data"] for s in report["sections"] for f in s["figures"] if f["id"] == "methods")


def test_large_reports_stay_below_the_limit():
    samples = [{"id": str(i), "prompt": "p" * 400, "responses": ["é" * 6000] * 4} for i in range(400)]
    report = method_report([SubjectReport(policy={"id": "a"}, samples=samples)], goal={"id": "g"})
    html = render(report, samples=400)
    assert len(html.encode()) < MAX_BYTES and "of <data" in html


def test_colour_is_never_alone(page: Page, seven: dict[str, Any]):
    """Every policy has a number beside its colour, and every drawing a title for those who do not see it."""
    marks = [a for t, a in page.tags if t == "span" and str(a.get("class", "")).startswith("mark ")]
    assert len({a["class"] for a in marks}) == len(seven["subjects"])
    drawings = sum(t == "svg" and a.get("role") == "img" for t, a in page.tags)
    assert drawings > 40 and sum(t == "title" for t, _ in page.tags) == drawings + 1


def test_tables_have_heads_and_drawings_have_words(page: Page, seven: dict[str, Any]):
    """What a screen reader needs: every column and row head says which it is, every drawing has a title, every
    control has a name."""
    heads = [a for t, a in page.tags if t == "th"]
    assert heads and all(a.get("scope") in ("col", "row") for a in heads)
    tables, bodies = (sum(t == name for t, _ in page.tags) for name in ("table", "thead"))
    assert tables == bodies > 3
    html = render(seven)
    for drawing in re.findall(r'<svg[^>]*role="img"[^>]*>(.{7})', html):
        assert drawing == "<title>"
    for save in (a for t, a in page.tags if t == "button" and a.get("data-save") in ("png", "svg")):
        assert str(save["aria-label"]).startswith("save the figure")
    named = html.count("<figure ")
    assert named == len({a["id"] for t, a in page.tags if t == "figure"}) == html.count('data-save="png"')


def test_warnings_come_before_the_numbers(seven: dict[str, Any]):
    html = render(seven)
    assert html.index("Read this first") < html.index('class="cards"') < html.index("How to read this page")


def test_other_json_is_refused():
    with pytest.raises(ValignError, match="schema"):
        render({"schema": 7})
