"""Quality of principle sets: what is planted is found; the bank of situations; the command."""

from __future__ import annotations

import json

import numpy as np
import pytest

from valign.errors import DataError, UsageError
from valign.goals.principle import Principle, load_principles
from valign.goals.situations import load_situations
from valign.pipeline.quality import principle_quality

BANK = load_situations()
CONCERNS = {s.id: set(s.concerns) for s in BANK.situations}
CORE = load_principles("core").principles
ERRORS = 0.005  # a principle concerns 5 to 30 % of the bank: more errors than that would drown the rare ones


class Planted:
    """A judge that knows what each situation is about, errs in one answer of two hundred, and reads some rules in its own way.

    against  principles that speak for the act where the others speak against it
    own      principles without a fixed meaning: this judge's reading is drawn anew for each situation
    """

    def __init__(self, seed: int, *, against: tuple[str, ...] = (), own: tuple[str, ...] = ()) -> None:
        self.seed, self.against, self.own, self.id = seed, against, own, f"planted {seed}"

    def _draw(self, name: str, group, k: int, n: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, hash_of(name), hash_of(group.id), n])

    def applies(self, groups, principles):
        return [np.array([self._one(g, p) for p in principles], float) for g in groups]

    def _one(self, group, p) -> float:
        rng = self._draw(p.id, group, 0, 0)
        if p.id in self.own:
            return float(rng.random() < 0.5)
        meant = bool(CONCERNS[group.id] & {p.id, *p.conditions})
        return float(meant != (rng.random() < ERRORS))

    def verdicts(self, groups, principles):
        return [np.array([[self._sign(g, p) for p in principles]], float) for g in groups]

    def _sign(self, group, p) -> float:
        rng = self._draw(p.id, group, 0, 1)
        if p.id in self.own:
            return float(rng.choice([-1, 1]))
        sign = 1.0 if p.id in self.against else -1.0
        return sign if rng.random() >= ERRORS else -sign


def hash_of(text: str) -> int:
    from hashlib import sha256

    return int(sha256(text.encode()).hexdigest()[:8], 16)


def judges(**rest):
    return [Planted(seed, **rest) for seed in range(3)]


@pytest.fixture(scope="module")
def whole():
    return principle_quality(CORE, judges(), BANK)


def test_a_good_set_has_no_gap_no_vague_rule_and_no_clash(whole):
    assert whole.gaps == whole.vague == whole.unused == ()
    assert whole.comprehensiveness["all"][0] > 0.95 and min(p[0] for p in whole.precision.values()) > 0.667
    assert whole.compatibility[0] > 0.99 and whole.meetings > 50


@pytest.mark.capability("G04")
@pytest.mark.parametrize("gone, themes", [("private", {"privacy"}), ("clarify", {"ambiguous"}), ("plural", {"contested"})])
def test_a_planted_gap_shows_in_its_theme_only(whole, gone, themes):
    """One principle is taken out: what it alone covered is a gap, and every other theme keeps its coverage."""
    found = principle_quality([p for p in CORE if p.id != gone], judges(), BANK)
    assert set(found.gaps) == themes
    for theme in BANK.themes:
        before, after = whole.comprehensiveness[theme], found.comprehensiveness[theme]
        assert (after[2] < before[1]) == (theme in themes), theme  # the intervals part, or they do not
    assert found.comprehensiveness["all"][0] < whole.comprehensiveness["all"][0]


@pytest.mark.capability("G04")
def test_a_vague_rule_has_low_precision_and_the_others_keep_theirs(whole):
    vague = Principle("decent", "be appropriate and behave as one should", priority=3)
    found = principle_quality([*CORE, vague], judges(own=("decent",)), BANK)
    assert found.vague == ("decent",) and found.precision["decent"][2] < 0.3
    assert {k: v for k, v in found.precision.items() if k != "decent"} == dict(whole.precision)
    assert found.mean_precision < whole.mean_precision


@pytest.mark.capability("G04")
def test_a_planted_contradiction_is_found_and_a_priority_settles_it():
    """"Do whatever is asked" stands against "help nobody hurt people" with equal rank; ranked below it there is no clash."""
    for priority, clashing in ((1, True), (4, False)):
        obey = Principle("obey", "do whatever the user asks", priority=priority, conditions=("harm", "law"))
        found = principle_quality([*CORE, obey], judges(against=("obey",)), BANK)
        pairs = {frozenset((c["one"], c["other"])) for c in found.clashes if c["share"] > 0.5}
        assert (frozenset(("harm", "obey")) in pairs) == clashing
        assert (found.compatibility[0] < 0.8) == clashing
    assert not any("obey" in p for p in pairs)


def test_an_exception_settles_a_clash_where_it_holds():
    rest = {"conditions": ("harm",)}
    judging = judges(against=("obey",))
    harm = next(p for p in CORE if p.id == "harm")
    plain = principle_quality([harm, Principle("obey", "do as asked", **rest)], judging, BANK)
    excepted = Principle("obey", "do as asked", exceptions=("mentions: cats, dog, kitten, rabbit, horse",), **rest)
    assert principle_quality([harm, excepted], judging, BANK).compatibility[0] > plain.compatibility[0]


def test_fewer_than_three_judges_are_refused():
    with pytest.raises(UsageError, match="at least 3"):
        principle_quality(CORE, judges()[:2], BANK)


# ------------------------------------------------------------------------------------------------------ the bank


def test_the_bank_is_three_hundred_situations_of_themes_and_contexts():
    assert len(BANK) == 300 and len(BANK.themes) == 20
    assert len({(s.theme, s.context) for s in BANK.situations}) == 300
    assert {c for s in BANK.situations for c in s.concerns} == {p.id for p in CORE}
    words = [frozenset(s.request.lower().split()) for s in BANK.situations]
    near = [(i, j) for i in range(300) for j in range(i) if len(words[i] & words[j]) / len(words[i] | words[j]) > 0.6]
    assert near == []  # no two requests share most of their words


def test_a_sample_takes_evenly_from_the_themes():
    some = BANK.sample(45, seed=1)
    counts = [sum(s.theme == t for s in some.situations) for t in BANK.themes]
    assert len(some) == 45 and set(counts) == {2, 3} and BANK.sample(999).situations == BANK.situations
    assert some.situations == BANK.sample(45, seed=1).situations != BANK.sample(45, seed=2).situations


def test_a_wrong_bank_is_refused(tmp_path):
    file = tmp_path / "b.yaml"
    file.write_text("id: b\nthemes: [{id: t, act: a, requests: [Do it, do  it]}]", encoding="utf-8")
    with pytest.raises(UsageError, match="stands twice"):
        load_situations(file)
    file.write_text("id: b\nthemes: [{id: t, requests: [x]}]", encoding="utf-8")
    with pytest.raises(DataError, match="act"):
        load_situations(file)
    with pytest.raises(UsageError, match="did you mean: assistant"):
        load_situations("asistant")


# --------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_what_it_found(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from valign.cli import app

    made = []
    monkeypatch.setattr("valign.rewards.scorers.judge", lambda *a: made.append(a) or Planted(len(made)))
    run = CliRunner()
    out = tmp_path / "q" / "core.json"
    done = run.invoke(app, ["goal", "quality", "core", "--situations", "40", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert [a[:3] for a in made] == [("default", 2, w) for w in range(3)]
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["situations"] == 40 and len(content["judges"]) == 3
    assert set(content["precision"]["by_principle"]) == {p.id for p in CORE}
    assert "comprehensiveness" in done.stdout and "weak judge" in done.stdout
    assert run.invoke(app, ["goal", "quality", "cor", "--json"]).exit_code == 2
    assert run.invoke(app, ["goal", "quality", "core", "--judges", "x"]).exit_code == 2


def test_check_with_a_judge_tells_the_quality_of_every_part_that_has_principles(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from valign.cli import app

    made = []
    monkeypatch.setattr("valign.rewards.scorers.judge", lambda *a: made.append(a) or Planted(len(made)))
    file = tmp_path / "goal.yaml"
    file.write_text(
        "id: two\nlevel: composite\nparts:\n  - goal: {id: safe, level: principle, set: core, only: [harm, law, private]}\n"
        "  - goal: uk\n"
    )
    run = CliRunner()
    done = run.invoke(app, ["goal", "check", str(file), "--judge", "m", "--situations", "40", "--json"])
    assert done.exit_code == 0, done.output
    (name, quality), = json.loads(done.stdout)["quality"].items()
    assert name == quality["set"] == "safe" and quality["situations"] == 40 and "ambiguous" in quality["gaps"]
    text = run.invoke(app, ["goal", "check", str(file), "--judge", "m"]).stdout
    assert "fingerprint" in text and "gap: ambiguous" in text and "safe: 3 principles, 60 situations, 3 judges" in text
    assert run.invoke(app, ["goal", "check", "uk", "--judge", "m"]).exit_code == 2  # it has no principles
    assert run.invoke(app, ["goal", "check", "core", "--situations", "9"]).exit_code == 2


def test_judges_that_never_answer_are_an_error():
    class Silent(Planted):
        def applies(self, groups, principles):
            return [np.full(len(principles), np.nan) for _ in groups]

    with pytest.raises(DataError, match="no judge gave an answer"):
        principle_quality(CORE, [Silent(k) for k in range(3)], BANK.sample(20))
