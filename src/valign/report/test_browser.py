"""The page in a real browser: it draws, its scripts run, it asks for nothing, nothing overflows, everybody can use it."""

from __future__ import annotations

import csv
import io
import json
import math
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from valign.evaluation.aggregate import summarize
from valign.evaluation.result import Item
from valign.report import SubjectReport, items, method_report, tables
from valign.report.chromium import ENVIRONMENT, Browser, Page, find
from valign.report.conftest import BASE, VALUES, make_report, make_subjects, single
from valign.report.html import MAX_BYTES, render
from valign.report.node import Node, resolve, value
from valign.report.test_lines import AUDITS, extra, section
from valign.report.watch import watch_page
from valign.report.write import write_pictures, write_report

NO_BROWSER = f"no Chromium or Chrome here: apt-get install chromium (Debian), or {ENVIRONMENT}=/path/to/chrome"
NO_AXE = "axe is not here: make setup, or pip install --no-deps axe-playwright-python"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find() is None, reason=NO_BROWSER),
]
READY = "new Promise((done) => { const look = () => one('#items.ready') ? done(true) : setTimeout(look, 20); look(); })"
NEAR = {"name": "p1#0", "prompt": "?", "text": "an answer", "similarity": "words in common", "n": 480,
        "near": [{"name": "g7", "value": 0.4, "prompt": "a question", "text": "a text like it"}]}  # fmt: skip
SLOW = 10.0  # a loaded machine shares its cores; wall-clock limits are this much longer than the promise


def pixels(data: bytes) -> tuple[int, int, int]:
    """(width, height, distinct bytes of the picture's data) of a PNG."""
    width, height = struct.unpack(">II", data[16:24])
    parts, at = b"", 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            parts += data[at + 8 : at + 8 + size]
        at += 12 + size
    return width, height, len(set(zlib.decompress(parts)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, seven: dict[str, Any]) -> Path:
    page = tmp_path_factory.mktemp("page") / "report.html"
    page.write_text(render(seven), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def tab(browser: Browser, place: Path) -> Page:
    """The report of seven policies, opened once on a desktop in light colours."""
    page = browser.page()
    page.look(1280, 900)
    page.open(place)
    assert page.run(READY)
    return page


def test_the_page_is_drawn_without_a_complaint_or_a_request(tab: Page, place: Path):
    """Nothing is asked of any network: the page's own file is the only address."""
    assert tab.complaints() == []
    assert {address for address in tab.requests() if not address.startswith("data:")} == {place.as_uri()}
    width, height, colours = pixels(tab.picture())
    assert (width, height) == (1280, 900) and colours > 100, "a blank picture"


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_overflows_on_desktop_or_phone(browser: Browser, place: Path, run_folder: Path, dark: bool):
    """The page is as wide as the window: the report and the page of a run."""
    watch = run_folder / "watch.html"
    watch.write_text(watch_page(run_folder), encoding="utf-8")
    page = browser.page()
    for file in (place, watch):
        for width in (390, 1280):
            page.look(width, 800, dark=dark)
            page.open(file)
            assert page.run("document.documentElement.scrollWidth") == width, (file.name, width)


def test_every_number_among_the_items_is_the_jsons(tab: Page, seven: dict[str, Any]):
    """Of every measure's first page: each printed score names its place in the JSON and carries it in full."""
    root, seen = Node(seven), 0
    for index in range(len(items.table(seven)["measures"])):
        choose(tab, "item-measure", str(index))
        for at, written, text in tab.run("all('#item-list data').map((d) => [d.dataset.at, d.value, d.textContent])"):
            raw = value(resolve(root, at))
            assert (written == "") if raw is None else float(written) == raw, at
            number = None if raw is None else float(text.replace("\u2212", "-").split(" ")[0])
            assert text == "unscored" if number is None else abs(number - raw) < 0.006, at
            seen += 1
    choose(tab, "item-measure", "0")
    assert seen > 500


def test_filters_find_what_was_won_lost_and_disputed(tab: Page, seven: dict[str, Any]):
    """The counts on the buttons are those of the JSON, and the items shown are the ones counted."""
    rows = next(f["data"]["rows"] for s in seven["sections"] for f in s["figures"] if f["id"] == "samples")
    kinds = [{a["outcome"] for a in row["answers"]} for row in rows]
    expected = {
        "all": len(rows),
        "w": sum("won" in k for k in kinds),
        "l": sum("lost" in k for k in kinds),
        "s": sum("same" in k for k in kinds),
        "u": sum(any(a["score"] is None for a in row["answers"]) for row in rows),
        "split": sum({"won", "lost"} <= k for k in kinds),
        "flagged": sum(bool(row["flags"]) for row in rows),
    }
    counts = dict(tab.run("all('#item-outcomes button').map((b) => [b.value, Number(b.querySelector('span').textContent)])"))
    assert {k: counts[k] for k in expected} == expected
    tab.run("one('#item-outcomes button[value=flagged]').click()")
    assert tab.run("all('#item-list .sample').map((c) => c.dataset.id)") == [r["id"] for r in rows if r["flags"]]
    assert tab.run("one('#item-list details.harmful').open") is False, "harmful text is folded"
    tab.run("one('#item-outcomes button[value=all]').click()")
    find_text(tab, "لا.")
    assert tab.run("all('#item-list .sample').length") == sum("هل" in r["prompt"][0]["content"] for r in rows)
    find_text(tab, "no such word")
    assert tab.run("one('#item-count').textContent").startswith("none of")
    find_text(tab, "")
    assert styles(tab, "w") == styles(tab, "l"), "items won and items lost are equally prominent"


def choose(tab: Page, id: str, option: str) -> None:
    tab.run(f"(() => {{ const e = one('#{id}'); e.value = '{option}'; e.dispatchEvent(new Event('input')); }})()")


def find_text(tab: Page, text: str) -> None:
    tab.run(f"(() => {{ const e = one('#item-find'); e.value = {json.dumps(text)}; e.dispatchEvent(new Event('input')); }})()")


def styles(tab: Page, button: str) -> Any:
    names = ["font-size", "font-weight", "color", "background-color", "height"]
    return tab.run(f"(() => {{ const s = getComputedStyle(one('#item-outcomes button[value={button}]')); "
                   f"return {json.dumps(names)}.map((n) => s.getPropertyValue(n)); }})()")  # fmt: skip


def test_tables_and_json_saved_by_the_page_are_those_of_the_command(tab: Page, seven: dict[str, Any]):
    saved = tab.run("unpack('#report-data')")
    assert saved == seven
    for ours, theirs in (
        (tables.numbers_csv(seven), tab.run("unpack('#report-data').then((r) => page.numbersCsv(r))")),
        (tables.items_csv(items.table(seven)), tab.run("page.itemsCsv(page.items())")),
    ):
        mine, other = (list(csv.reader(io.StringIO(text, newline=""))) for text in (ours, theirs))
        assert len(mine) == len(other) > 40
        for a, b in zip(mine, other, strict=True):
            assert [same(x) for x in a] == [same(x) for x in b]


def same(cell: str) -> str | float:
    try:
        return float(cell)
    except ValueError:
        return cell


def test_every_figure_can_be_saved_as_svg_and_png(tab: Page, seven: dict[str, Any]):
    """The SVG is whole XML of the figure's size; the PNG has colours and twice as many pixels."""
    ids = tab.run("all('figure[id]').map((f) => f.id)")
    assert len(ids) > 6
    for id in ids:
        drawing = tab.run(f"page.drawing(document.getElementById('{id}'))")
        root = ElementTree.fromstring(drawing["text"])
        assert root.tag.endswith("svg") and int(root.get("width", "0")) == drawing["width"] > 300
    size = tab.run("page.picture(one('#figure-values')).then((b) => b.arrayBuffer()).then((b) => { "
                   "const v = new DataView(b); return [v.getUint32(16), v.getUint32(20), b.byteLength]; })")  # fmt: skip
    drawing = tab.run("(({ width, height }) => [width, height])(page.drawing(one('#figure-values')))")
    assert size[:2] == [2 * x for x in drawing] and size[2] > 20_000


def test_pictures_of_the_command(tmp_path: Path, report_of: Any, subjects: list[SubjectReport]):
    paths = write_report(json.loads(json.dumps(report_of(subjects[:2]))), tmp_path)
    made = write_pictures(paths["html"], tmp_path / "figures")
    assert {p.name for p in made} >= {"gaps.png", "values.png", "changes.png"}
    for path in made:
        width, height, colours = pixels(path.read_bytes())
        assert width > 600 and height > 100 and colours > 20, path.name


def test_keys_reach_everything_in_reading_order(browser: Browser, place: Path):
    """Tab meets the skip link first and then controls from top to bottom; Enter works on a filter."""
    page = browser.page()
    page.look(1280, 900)
    page.open(place)
    page.run(READY)
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    page.press("Enter")
    tops = []
    for _ in range(12):
        page.press("Tab")
        tops.append(page.run("document.activeElement.getBoundingClientRect().top + scrollY"))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none", "focus is not shown"
    assert tops == sorted(tops)
    page.run("one('#item-outcomes button[value=l]').focus()")
    page.press("Enter")
    assert page.run("one('#item-outcomes button[value=l]').getAttribute('aria-pressed')") == "true"
    assert page.run("all('[tabindex]').every((e) => Number(e.getAttribute('tabindex')) <= 0)")


def alone() -> dict[str, Any]:
    """An instrument's own page, without a goal; its items are scores of given responses."""
    given = [{"text": "Yes, of course. " * 40, "label": "chosen"}, {"text": "No.", "label": "rejected"}]
    texts = [{"id": f"q{i}", "prompt": f"Question {i}?", "responses": given} for i in range(5)]
    scored = [Item(f"q{i}", f"q{i}", i / 4) for i in range(5)]
    shape: dict[str, Any] = {"subject": "m", "level": "preference", "cluster_unit": "prompt"}
    results = [summarize(scored, metric="preference.accuracy", variant="sum", **shape),
               summarize(scored, metric="kl.policy_reference", variant="k1", **{**shape, "unit": "nats"})]  # fmt: skip
    return method_report(
        [SubjectReport(policy={"id": "m"}, results=results)], goal={"id": "none", "level": "preference", "text": ""},
        title="Nearest", instrument={"id": "near", "lead": "Where it may have been learned."}, texts=texts,
        extra=[section("near", "Near", "nearest", {"rows": [NEAR]})], provenance={"valign": "0.1.0"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Before and after; a comparison of four; a profile of one model; sections of every instrument, of which one is also alone.
    Five items each."""
    few = [replace(s, samples=s.samples[:5]) for s in make_subjects()]
    audited = replace(few[-1], audits=AUDITS)
    profile = {"values": dict.fromkeys(VALUES, 0.2), "low": dict.fromkeys(VALUES, 0.1), "high": dict.fromkeys(VALUES, 0.3)}
    rated = [replace(few[0], profile=profile, samples=[{**s, "judged": False} for s in few[0].samples])]
    shifts = {"id": "shifts", "title": "Which values differ", "results": [single("value.shift.BE", "paired", BASE, 0.1, 0.02)]}
    made = {
        "pair": make_report([few[0], few[5]]),
        "many": make_report([few[0], *few[3:6]]),
        "profile": make_report(rated, primary="profile", extra=[shifts]),
        "alone": alone(),
        "instruments": make_report([few[0], audited], extra=[*extra(), section("near", "Near", "nearest", {"rows": [NEAR]})]),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, report in made.items():
        (folder / f"{name}.html").write_text(render(json.loads(json.dumps(report))), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


# Light looks for everything, dark for contrast alone: nothing else depends on the colours.
LOOKS = [
    ("pair", 1280, False), ("pair", 390, True),
    ("many", 390, False), ("many", 1280, True),
    ("profile", 1280, False), ("profile", 390, True),
    ("instruments", 390, False), ("instruments", 1280, True),
    ("alone", 390, False), ("alone", 1280, True),
]  # fmt: skip


def test_given_responses_stand_above_the_scores_that_are_theirs(browser: Browser, pages: dict[str, Path]):
    """Under the prompt, by what they are called, found by their words, saved with the items; not beside other scores."""
    page = browser.page()
    page.look(390, 900)
    page.open(pages["alone"])
    assert page.run(READY) and page.complaints() == []
    assert page.run("[all('#item-list .sample').length, all('#item-list .given').length]") == [5, 0], "the KL is of its own words"
    choose(page, "item-measure", "1")
    cards = "all('#item-list .sample').map((c) => all('.given', c).map((e) => e.innerText.slice(0, 9).replace(/\\s+/g, ' ')))"
    assert page.run(cards) == [["chosen Ye", "rejected "]] * 5
    assert page.run("one('#item-list .turn').innerText").endswith("Question 0?")
    find_text(page, "question 3")
    assert page.run("all('#item-list .sample').length") == 1
    find_text(page, "of course")
    assert page.run("all('#item-list .sample').length") == 5
    find_text(page, "")
    assert page.run("page.itemsCsv(page.items())").count("rejected: No.") == 5
    assert tables.items_csv(items.table(alone())).count("rejected: No.") == 5
    assert page.run("[!!one('#goal'), document.documentElement.scrollWidth]") == [False, 390]


@pytest.mark.skipif(find_spec("axe_playwright_python") is None, reason=NO_AXE)
@pytest.mark.parametrize(("name", "width", "dark"), LOOKS)
def test_axe_finds_nothing_serious(browser: Browser, pages: dict[str, Path], name: str, width: int, dark: bool):
    """axe-core 4.12, folds open: no serious or critical violation on four kinds of page, phone and desktop, light and dark."""
    page = browser.page()
    page.look(width, 900, dark=dark)
    page.open(pages[name])
    page.run(READY)
    page.run("all('details').filter((d) => !d.closest('#measured')).forEach((d) => { d.open = true; })")
    page.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")  # the page has seen the new sizes
    page.run((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8") + "; 0")
    only = ", runOnly: ['color-contrast']" if dark else ""
    found = page.run("axe.run({ resultTypes: ['violations']" + only + " }).then((r) => r.violations.map((v) => "
                     "[v.impact, v.id, v.nodes.map((n) => n.html.slice(0, 120)).slice(0, 3)]))")  # fmt: skip
    assert [v for v in found if v[0] in ("serious", "critical")] == []
    shown = "all('.scroll').filter((e) => e.checkVisibility())"  # those inside closed folds are seen when the fold opens
    assert page.run(f"{shown}.every((e) => (e.scrollWidth > e.clientWidth) === (e.tabIndex === 0))"), "Tab stops elsewhere"
    assert page.run("document.documentElement.scrollWidth") == width, "the folds are open and the page is still no wider"


def many(n: int) -> dict[str, Any]:
    """A pair with n prompts of ordinary length."""
    words = ("the", "of", "a", "to", "and", "is", "in", "that", "it", "was", "for", "on", "are", "with", "they", "be", "at")

    def text(i: int, long: int) -> str:
        return " ".join(words[(i * 7 + k * k + k * (i % 13)) % len(words)] for k in range(long)) + f" {i}"

    def samples(shift: float) -> list[dict[str, Any]]:
        return [
            {"id": f"p{i:05d}", "prompt": text(i, 30), "score": math.sin(i) + shift * math.cos(3 * i),
             "responses": [{"text": text(i + int(shift), 60), "score": math.sin(i) + shift * math.cos(3 * i)}]}
            for i in range(n)
        ]  # fmt: skip

    one = SubjectReport(policy={"id": "a"}, samples=samples(0.0), base=True)
    return method_report([one, SubjectReport(policy={"id": "b"}, samples=samples(1.0))], goal={"id": "g"})


def test_ten_thousand_items_open_in_two_seconds(browser: Browser, tmp_path: Path):
    """The page's own work until the list stands is below two seconds of processor time; all items are inside."""
    paths = write_report(many(10_000), tmp_path)
    assert paths["html"].stat().st_size < MAX_BYTES
    page = browser.page()
    page.look(1280, 900)
    page.call("Performance.enable", timeDomain="threadTicks")
    before = metrics(page)["TaskDuration"]
    wall = page.open(paths["html"])
    assert page.run(READY)
    assert metrics(page)["TaskDuration"] - before < 2.0
    assert wall < 2.0 * SLOW
    assert page.run("one('#item-count').textContent") == "1 to 20 of 10000"
    page.run("one('#item-next').click()")
    assert page.run("[all('#item-list .sample').length, one('#item-page').textContent]") == [20, "page 2 of 500"]


def metrics(page: Page) -> dict[str, float]:
    return {m["name"]: m["value"] for m in page.call("Performance.getMetrics")["metrics"]}
