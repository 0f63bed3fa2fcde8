"""Principle sets that ship: counts and weights of their sources, own wording, and no two rules that are one."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations

import pytest

from valign.errors import DataError, UsageError
from valign.goals import load_goal, load_principles, principle_sets
from valign.goals.words import overlap

# Goals notes section 2: how many principles each source has.
COUNTS = {
    "hhh": 3, "core": 12, "cai16": 16, "selfalign16": 16, "sparrow23": 23, "salmon31": 31, "palms8": 8, "harm14": 14,
    "gert10": 10, "udhr30": 30, "asimov3": 3, "asilomar23": 23,
}  # fmt: skip
ALIKE = 0.5  # share of words in common from which two rules count as one; the closest pair that ships has 0.44
# Short runs of words, some of them shortened, by which a reader knows the sources: Constitutional AI, Sparrow, SELF-ALIGN,
# SALMON, HHH, the laws of robotics, Asilomar.
PUBLISHED = (
    "harmful, unethical, racist, sexist, toxic, dangerous or illegal",
    "wise, ethical, polite and friendly person",
    "wise, peaceful and ethical",
    "politely point out problematic assumptions",
    "friendly, amiable, conscientious and socially acceptable",
    "physical or social harm",
    "claim to have a body or be able to move",
    "pretend to have a human identity or life history",
    "claim to have preferences, feelings, opinions or beliefs",
    "use stereotypes or harmful generalising statements about groups",
    "positive, interesting, helpful and engaging",
    "accurate, relevant and up-to-date information",
    "offensive, discriminatory or harmful content",
    "novel poems, stories, code, essays, songs",
    "perform the task or answer the question posed",
    "injure a human being or, through inaction, allow harm",
    "not undirected intelligence but beneficial intelligence",
    "human dignity, rights, freedoms and cultural diversity",
    "if a system causes harm, ascertain why",
)


@pytest.mark.capability("G03")
@pytest.mark.parametrize("name", principle_sets())
def test_each_set_loads_whole_with_id_text_and_source(name):
    """As many as the source has, each with words, negation, theme and source."""
    found = load_principles(name)
    assert found.id == name and len(found.principles) == COUNTS[name]
    assert found.wording == "own" and found.source and found.license_of_source and found.version >= 1
    for p in found.principles:
        assert p.id and p.text and p.negation and p.theme and p.source and p.license
        assert p.text != p.negation
    goal = load_goal({"level": "principle", "set": name})
    assert len(goal.principles) == COUNTS[name]


@pytest.mark.capability("G03")
def test_no_two_entries_are_duplicates_within_or_across_sets():
    rows = [(name, p) for name in principle_sets() for p in load_principles(name).principles]
    assert len(rows) == sum(COUNTS.values())
    alike = [(a, p.id, b, q.id) for (a, p), (b, q) in combinations(rows, 2) if overlap(p.text, q.text) >= ALIKE]
    assert alike == []


@pytest.mark.parametrize("words", PUBLISHED)
def test_no_wording_echoes_a_published_one(words):
    """Of a well-known run of words of a source, no text of ours has three words that carry meaning."""
    known = telling(words)
    echoes = [
        (name, p.id, text)
        for name in principle_sets()
        for p in load_principles(name).principles
        for text in (p.text, p.negation, p.critique, p.revision)
        if len(known & telling(text)) >= 3
    ]
    questions = [text for _, text in load_principles("cai16").questions if len(known & telling(text)) >= 3]
    assert echoes == questions == []


def telling(text: str) -> set[str]:
    return {w for w in re.findall(r"[a-z]+", text.lower()) if len(w) > 3 and w not in ("that", "with", "what", "have", "from")}


def test_overlap_finds_a_reworded_copy():
    """The threshold is not out of reach: a copy with small changes is over it, an unrelated rule far below."""
    assert overlap("do not help anyone hurt people or animals", "never help people hurt an animal or people") >= ALIKE
    assert overlap("do not help anyone hurt people or animals", "give reasons that support the conclusion") == 0


def test_all_sets_are_there():
    assert set(principle_sets()) == set(COUNTS)


def test_constitutional_set_has_requests_and_questions():
    """16 critique requests, each with a revision request, and 16 choice questions; all different."""
    found = load_principles("cai16")
    requests = [p.critique for p in found.principles] + [p.revision for p in found.principles]
    questions = [text for _, text in found.questions]
    assert all(requests) and len(set(requests)) == 32
    assert len(questions) == len(set(questions)) == 16
    assert max(overlap(a, b) for a, b in combinations(questions, 2)) < ALIKE
    assert found.principles[0].to_json()["critique"] == found.principles[0].critique


def test_constitutional_requests_stand_in_the_published_order():
    """What tells the requests of CritiqueRevisionInstructions.json apart, by their number there (harmful0 is the first)."""
    told = {2: "direction", 3: "assumptions", 4: "insensitivity", 5: "assumptions", 7: "age", 8: "drawn out", 9: "illegal", 10:
            "controversial", 11: "baiting", 12: "empathy", 13: "sexism", 14: "crime"}  # fmt: skip
    themes = [p.theme for p in load_principles("cai16").principles]
    assert {i: word for i, word in told.items() if word not in themes[i]} == {}
    assert [i for i, theme in enumerate(themes) if theme.startswith("harm of any kind")] == [0, 6, 15]


def test_salmon_weights():
    """The weights of goals notes section 2: at RL time 27 over 14 principles, against harm 36 over 11."""
    principles = load_principles("salmon31").principles
    rl = {"candor": 4, "honest": 3, "comprehensive-facts": 3, "natural-language": 3, "analytical-structure": 3, "ethical": 2}
    rl |= {"stand-alone": 2, "educational": 1, "creative": 1, "multilingual": 1, "consistent-reasoning": 1, "numerical": 1}
    rl |= {"vivid": 1, "privacy": 1}
    assert {p.id: p.weight for p in principles if "RL" in p.theme} == rl and len(rl) == 14
    harmless = [p.weight for p in principles if p.theme == "harmless"]
    assert sorted(harmless) == [1] * 5 + [4] * 4 + [5, 10]
    assert sum(p.theme.startswith("training") for p in principles) == 11


def test_sparrow_rules_stand_in_the_groups_of_the_paper():
    """2 on stereotypes, 5 on hate, 4 on what it says about itself, 7 on misinformation, 1 on harm of any kind, 4 on helping;
    identity and life history are one rule, and repetition is a rule.
    """
    themes = Counter(p.theme for p in load_principles("sparrow23").principles)
    assert list(themes.values()) == [2, 5, 4, 7, 1, 4]
    ids = {p.id for p in load_principles("sparrow23").principles}
    assert {"general-harm", "make-sense", "no-repetition", "human-identity"} <= ids and "life-history" not in ids


def test_core_is_the_set_of_the_notes():
    """Section 2.1: ids in order, and the priority classes."""
    classes = {1: {"harm", "law", "private"}, 2: {"truth", "fair", "autonomy", "self"}}
    classes[3] = {"help", "clarify", "uncertain", "reason", "plural"}
    found = load_principles("core").principles
    assert {p.id: p.priority for p in found} == {id: n for n, ids in classes.items() for id in ids}


def test_gert_rules_carry_what_justifies_a_violation():
    found = load_principles("gert10").principles
    assert all(len(p.exceptions) == 1 for p in found)
    assert [p.priority for p in found] == [1] * 5 + [2] * 5
    assert "unless" in found[0].words()


def test_rights_are_labels_with_their_article():
    for number, p in enumerate(load_principles("udhr30").principles, 1):
        assert p.id == f"article-{number}" and p.text.startswith(f"uphold article {number}: ")


# ---------------------------------------------------------------------------------------- rules of the user's own


def test_rules_of_law_and_morals_from_text(tmp_path):
    """One rule per line, word for word, with the line as its id; comments and empty lines are no rules."""
    path = tmp_path / "rules.txt"
    path.write_text("# statutes\nA cyclist must use a light at night.\n\nNo one may park on a crossing.\n")
    found = load_principles(f"opo:{path}")
    assert [(p.id, p.text) for p in found.principles] == [
        ("line-2", "A cyclist must use a light at night."),
        ("line-4", "No one may park on a crossing."),
    ]
    assert found.id == "opo" and found.wording == "quoted" and found.license_of_source == "the user's own texts"
    goal = load_goal({"level": "principle", "set": f"opo:{path}", "only": ["line-4"]})
    assert goal.ids == ("line-4",) and "crossing" in goal.describe()


def test_rules_of_law_and_morals_from_jsonl(tmp_path):
    path = tmp_path / "rules.jsonl"
    rows = [
        {"id": "tax", "text": "Income is declared yearly.", "type": "law", "source": "Tax Act, section 1"},
        {"text": "A doctor keeps silence.", "type": "professional morality", "exceptions": ["the patient is a danger"]},
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    first, second = load_principles(f"opo:{path}").principles
    assert (first.id, first.source, first.theme) == ("tax", "Tax Act, section 1", "law")
    assert second.words() == "A doctor keeps silence., unless the patient is a danger"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"text": "a", "typ": "law"}\n', "type"),
        ('{"text": "a", "type": "etiquette"}\n', "law"),
        ('{"text": "a"}\n{"text": "A"}\n', "line 1"),
        ("{\n", "not JSON"),
        ("\n", "no rules"),
    ],
)
def test_faulty_rule_files(tmp_path, text, words):
    path = tmp_path / "rules.jsonl"
    path.write_text(text)
    with pytest.raises((DataError, UsageError), match=words) as caught:
        load_principles(f"opo:{path}")
    assert "rules.jsonl" in caught.value.where
