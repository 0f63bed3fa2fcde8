"""Task instructions: published prompts to the letter, mixture rates, collections, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from valign.data import read
from valign.data.group import Demonstration
from valign.data.tasks import (
    Mixture,
    Task,
    Template,
    rates,
    read_collection,
    read_super_ni,
    read_templates,
    task_counts,
)
from valign.errors import DataError, UsageError, ValignError

PUBLISHED = Path(__file__).parents[4] / "tests" / "fixtures" / "tasks"


def task(id: str, n: int, **rest) -> Task:
    examples = [{"q": f"{id} question {i}", "label": i % 2} for i in range(n)]
    template = Template("plain", "{{ q }}? ||| {{ answer_choices[label] }}", "no ||| yes")
    return Task(id, examples, rest.pop("templates", [template]), **rest)


# ------------------------------------------------------------------------------------------------- the templates


@pytest.mark.capability("G02")
def test_a_published_prompt_of_promptsource_comes_out_to_the_letter():
    """Template file with its tags, answer choices by label, and stripping: the README's own example."""
    shown = json.loads((PUBLISHED / "promptsource_ag_news.json").read_text(encoding="utf-8"))
    template = read_templates(PUBLISHED / "promptsource_ag_news.yaml")["classify_question_first"]
    made = template.render(shown["example"])
    assert (made.prompt, made.target) == (shown["prompt"], shown["target"])
    assert made.choices == ("World politics", "Sports", "Business", "Science and technology")
    assert template.metrics == ("Accuracy",) and template.original_task and not template.choices_in_prompt


@pytest.mark.capability("G02")
def test_the_published_form_of_super_natural_instructions(tmp_path):
    """Definition, examples with explanation, instance; written out by hand from the form of 2204.07705."""
    file = tmp_path / "task900_turn.json"
    content = {
        "Definition": ["Turn the word around"], "Categories": ["Text Modification"],
        "Positive Examples": [{"input": "abc", "output": "cba", "explanation": "Read backwards."}],
        "Negative Examples": [{"input": "xy", "output": "xy!", "explanation": "Not turned"}],
        "Instances": [{"input": "lot?", "output": ["?tol", "tol"]}, {"input": "de", "output": "ed"}],
    }  # fmt: skip
    file.write_text(json.dumps(content), encoding="utf-8")
    shown = read_super_ni(file, positive=1, negative=1, explanations=True).ready[0]
    assert shown.prompt == (
        "Definition: Turn the word around.\n\n"
        " Positive Example 1 -\nInput: abc.\n Output: cba.\n Explanation: Read backwards.\n\n"
        " Negative Example 1 -\nInput: xy.\n Output: xy!\n Explanation: Not turned.\n\n"
        "Now complete the following example -\nInput: lot?\nOutput: "
    )
    assert shown.target == "?tol"
    plain = read_super_ni(file, positive=0).groups()
    assert plain[1].prompt_text == "Definition: Turn the word around.\n\n" \
        "Now complete the following example -\nInput: de.\nOutput: "  # fmt: skip
    assert plain[1].responses[0].text == "ed" and plain[1].meta["categories"] == ["Text Modification"]


@pytest.mark.capability("G02")
def test_the_five_encodings_of_tk_instruct(tmp_path):
    """yizhongw/Tk-Instruct, ni_collator.py: the instruction alone, examples alone, both, with negative ones, with reasons.
    Each part begins and ends as there; an instance or a reason without a word becomes its full stop.
    """
    positive = [{"input": f"p{i}", "output": f"P{i}", "explanation": ""} for i in (1, 2, 3)]
    negative = [{"input": f"n{i}", "output": f"N{i}", "explanation": "why"} for i in (1, 2, 3)]
    content = {"Definition": " Say it. ", "Positive Examples": positive, "Negative Examples": negative,
               "Instances": [{"input": " ", "output": "x"}]}  # fmt: skip
    file = tmp_path / "t.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    define, ask = "Definition: Say it.\n\n", "Now complete the following example -\nInput: .\nOutput: "
    good = "".join(f" Positive Example {i} -\nInput: p{i}.\n Output: P{i}.\n\n" for i in (1, 2))
    bad = "".join(f" Negative Example {i} -\nInput: n{i}.\n Output: N{i}.\n\n" for i in (1, 2))
    for options, published in (
        ({"positive": 0}, define + ask),
        ({"definition": False}, good + ask),
        ({}, define + good + ask),
        ({"negative": 2}, define + good + bad + ask),
        ({"explanations": True}, define + good.replace(".\n\n", ".\n Explanation: .\n\n") + ask),
    ):
        assert read_super_ni(file, **options).ready[0].prompt == published


@pytest.mark.capability("G02")
def test_the_published_form_of_flan():
    """{field} patterns and the block of options, written out by hand from the form of 2109.01652."""
    template = Template.from_pattern("nli", "{premise}\n\nSo is it true that {hypothesis}?\n\n{options_}", "{answer}")
    row = {"premise": "A man sleeps.", "hypothesis": "a man rests", "options": ["yes", "no"], "answer": "yes"}
    made = template.render(row)
    assert made.prompt == "A man sleeps.\n\nSo is it true that a man rests?\n\nOPTIONS:\n- yes\n- no"
    assert made.target == "yes" and made.choices == ("yes", "no")


@pytest.mark.capability("G02")
def test_flan_puts_fields_in_as_they_are():
    """google-research/FLAN, preprocessors.py and templates.py: a field is not cut, blanks at the ends stay, any brace that is
    no {field} is text, numbers become text, and ReCoRD calls its options {options_str}.
    """
    long = "word " * 600
    news = Template.from_pattern("multi_news", "Article:\n{text}Summary:\n", "{summary}")
    made = news.render({"text": long, "summary": "s\n"})
    assert (made.prompt, made.target) == (f"Article:\n{long}Summary:\n", "s\n")
    made = Template.from_pattern("x", "{a} { {{b}} {% c %} {# d", "{n}").render({"a": "{a}", "b": "|||", "n": 3})
    assert (made.prompt, made.target) == ("{a} { {|||} {% c %} {# d", "3")
    record = Template.from_pattern("record", "{passage}\n\n{query}\n\n{options_str}", "{answer}")
    made = record.render({"passage": "P", "query": "Q", "options": ["a", "b"], "answer": "a"})
    assert made.prompt == "P\n\nQ\n\nOPTIONS:\n- a\n- b" and made.choices == ("a", "b")


@pytest.mark.capability("G02")
def test_what_promptsource_does_with_a_row():
    """bigscience-workshop/promptsource, Template.apply: a separator of the row parts nothing, each choice and both sides are
    stripped, and what is printed is cut while a condition sees the whole.
    """
    jinja = " {% if text | length > 3000 %}{{ text }}{% endif %} {{ name }}? ||| {{ answer_choices[label] }} "
    made = Template("t", jinja, " no |||  {{ yes }} ").render({"text": "word " * 700, "name": "a|||b", "yes": "sure", "label": 1})
    assert made.prompt == "word " * 408 + "word... a|||b?" and (made.target, made.choices) == ("sure", ("no", "sure"))


def test_choices_loops_and_conditions_of_a_template():
    """By hand: a list printed in a loop, choices that depend on the row, an empty prompt where it does not fit."""
    template = Template(
        "t",
        "{% if label != -1 %}Which?{% for o in options %}\n{{ loop.index }}. {{ o }}{% endfor %} ||| "
        "{{ answer_choices[label] }}{% endif %}",
        "{{ options | join(' ||| ') }}",
    )
    made = template.render({"options": ["a|||b", "c"], "label": 0})
    assert (made.prompt, made.target) == ("Which?\n1. a|||b\n2. c", "a|||b")  # a row's own separator parts nothing
    assert template.render({"options": ["a"], "label": -1}) is None


def test_long_fields_are_cut_as_published():
    """P3 cuts a printed field at 2048 characters, at a blank, with three dots."""
    text = "word " * 500
    made = Template("t", "{{ text }} ||| x").render({"text": text})
    assert made.prompt == "word " * 408 + "word..."


def test_a_random_choice_belongs_to_the_key():
    template = Template("t", "{{ ['a', 'b', 'c', 'd'] | choice }} {{ [1, 2, 2] | most_frequent }} ||| x")
    drawn = [template.render({}, key=str(i)).prompt for i in range(60)]
    assert drawn == [template.render({}, key=str(i)).prompt for i in range(60)]
    assert {d[0] for d in drawn} == set("abcd") and drawn[0].endswith("[2]")


@pytest.mark.parametrize(
    "jinja, message",
    [
        ("{{ text }} ||| {{ absent }}", "'absent' is undefined"),
        ("{{ text ||| x", "is no valid template"),
        ("a ||| b ||| c", "2 separators"),
        ("{{ ''.__class__.__mro__ }} ||| x", "unsafe"),
        ("{{ text / 2 }} ||| x", "does not fit"),
    ],
)
def test_a_template_that_fails_says_why(jinja, message):
    with pytest.raises(DataError, match="template bad") as caught:
        Template("bad", jinja).render({"text": "t"})
    assert message in str(caught.value)


def test_a_template_file_cannot_run_code(tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text("templates: {a: !!python/object/apply:os.getcwd []}", encoding="utf-8")
    with pytest.raises(DataError, match="no YAML of templates"):
        read_templates(file)


# -------------------------------------------------------------------------------------------------- the mixtures


def test_rates_by_hand():
    """min(e, K)^(1/T): 100, 900 and 8000 with K = 2500; T = 2 takes roots (10, 30, 50)."""
    assert np.allclose(rates([100, 900, 8000], cap=2500), np.array([100, 900, 2500]) / 3500)
    assert np.allclose(rates([100, 900, 8000], cap=2500, temperature=2), np.array([10, 30, 50]) / 90)
    assert np.allclose(rates([1, 1], weights=[3, 1]), [0.75, 0.25])
    assert np.allclose(rates([5, 50_000], temperature=1e9), [0.5, 0.5])
    assert rates([1, 10**6], temperature=1e-3)[1] == 1


@pytest.mark.capability("G02")
def test_drawn_shares_keep_to_the_rates_within_sampling_error():
    """3,000 draws of five tasks: chi-square against the stated shares (false alarm 1 in 1,000, the seed is fixed), also
    under a cap, a temperature and the user's weights; the same draws fail against another mixture."""
    tasks = [task(str(k), size) for k, size in enumerate((3, 10, 30, 100, 300))]
    for mix, expected in (
        (Mixture(tasks), np.array([3, 10, 30, 100, 300])),
        (Mixture(tasks, cap=30, weights={"4": 2}), np.array([3, 10, 30, 30, 60])),
        (Mixture(tasks, temperature=2), np.sqrt([3, 10, 30, 100, 300])),
    ):
        drawn = mix.draw(3000, seed=1)
        counts = np.bincount([int(g.meta["task"]) for g in drawn], minlength=5)
        assert chisquare(counts, 3000 * expected / expected.sum()).pvalue > 1e-3
        assert chisquare(counts, np.full(5, 600.0)).pvalue < 1e-9
    assert [g.id for g in mix.draw(50, seed=1)] == [g.id for g in drawn[:50]]
    assert len({g.id for g in drawn}) == len(drawn)


def test_a_task_deals_out_all_examples_before_it_repeats_one():
    groups = Mixture([task("a", 4)]).draw(8)
    assert {g.cluster for g in groups[:4]} == {g.cluster for g in groups[4:]} == {f"a/{i}" for i in range(4)}


def test_a_dealt_mixture_has_exact_shares_and_no_example_twice():
    """By hand: 40, 10 and 30 examples; a cap of 20 with weight 2 for b is 20 : 20 : 20, and b has 10 examples only."""
    tasks = [task("a", 40), task("b", 10), task("c", 30)]
    for mixture, counts in (
        (Mixture(tasks), {"a": 40, "c": 30, "b": 10}),
        (Mixture(tasks, cap=20, weights={"b": 2}), {"a": 10, "b": 10, "c": 10}),
        (Mixture(tasks, weights={"c": 0}, n=20), {"a": 16, "b": 4}),
    ):
        groups = mixture.deal()
        assert task_counts(groups) == counts and len({g.cluster for g in groups}) == len(groups)
        assert [g.id for g in groups] == [g.id for g in mixture.deal()]
    assert [g.id for g in Mixture(tasks).deal()] != [g.id for g in Mixture(tasks, seed=1).deal()]
    assert len({g.meta["task"] for g in Mixture(tasks).deal()[:10]}) > 1  # mixed, not one task after the other
    with pytest.raises(DataError, match="90 groups are more than the data allow: they ask for 45 of a, which has 40") as caught:
        Mixture(tasks, n=90).deal()
    assert "n of 80 or less" in str(caught.value)
    never = task("d", 3, templates=[Template("never", "{% if 0 %}x{% endif %} ||| y")])
    with pytest.raises(DataError, match="no template fits any of its examples"):
        Mixture([*tasks, never]).deal()


def test_a_yaml_file_is_data_by_its_mixture(tmp_path):
    """Read as any file is: its own mixture, its counts in the report and in the data card of every result."""
    from valign.evaluation.provenance import data_card

    rows = [{"id": name, "patterns": [["Say {w}.", "{w}"]], "examples": [{"w": f"{name}{i}"} for i in range(n)]}
            for name, n in (("a", 12), ("b", 4))]  # fmt: skip
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"tasks": rows, "mixture": {"weights": {"b": 2}, "n": 10, "seed": 3}}), encoding="utf-8")
    data = read(file)
    assert data.format == "tasks" and task_counts(data) == {"a": 6, "b": 4} == dict(data.report.counts)
    assert data_card(data)["tasks"] == {"a": 6, "b": 4} and data_card(data[:5])["rows"] == 5
    assert [g.id for g in read(file, limit=3, split="train")] == [g.id for g in data[:3]]
    assert all(g.of(Demonstration) for g in data)


@pytest.mark.parametrize(
    "mixture, message",
    [
        ("{weights: {b: 1}}", "unknown task 'b'"),
        ("{n: 3}", "3 groups are more than the data allow"),
        ("{caps: 3}", "unknown key 'caps'"),
        ("{cap: many}", "must be a number, not 'many'"),
        ("{n: 1.5}", "must be a whole number"),
        ("{weights: [1]}", "a mapping of tasks to numbers"),
        ("[1]", "must be a mapping"),
    ],
)
def test_a_wrong_mixture_names_the_place(tmp_path, mixture, message):
    file = tmp_path / "c.yaml"
    rows = "[{id: a, patterns: [[x, y]], examples: [{w: 1}, {w: 2}]}]"
    file.write_text(f"tasks: {rows}\nmixture: {mixture}\n", encoding="utf-8")
    with pytest.raises(ValignError, match=message) as caught:
        read(file)
    assert "mixture" in str(caught.value) and str(file) in str(caught.value)


def test_templates_are_drawn_evenly_and_an_unfit_one_passes_on():
    ask, skip = Template("ask", "{{ q }} ||| x"), Template("skip", "{% if label %}L{{ q }}{% endif %} ||| x")
    names = [g.meta["template"] for g in task("a", 400, templates=[ask, skip]).groups()]
    assert len(names) == 400 and 60 < names.count("skip") < 140  # half of those that fit it
    with pytest.raises(DataError, match="no template fits"):
        Mixture([task("a", 2, templates=[Template("never", "{% if 0 %}x{% endif %} ||| y")])]).draw(1)


def test_groups_bring_the_check_that_decides():
    from valign.goals.instruction import InstructionGoal
    from valign.rewards.rules import check

    (group, *_) = task("a", 2, checks=[{"type": "words", "max": 3}]).groups()
    assert group.of(Demonstration) and group.meta["options"] == ["no", "yes"]
    assert InstructionGoal(check).utility([group])[0].tolist() == [1.0]


# ---------------------------------------------------------------------------------------------------------- files

COLLECTION = """
checkers: {short: {type: words, max: 5}}
tasks:
  - id: refund
    templates: [{name: plain, jinja: "{{ text }} Refund? ||| {{ answer_choices[label] }}", answer_choices: "no ||| yes"}]
    examples: [{text: "It broke.", label: 1}]
    checks: [short]
  - {id: news, promptsource: news.yaml, only: [classify_question_first], examples: rows.jsonl}
  - {id: flan, patterns: [["Say {word}.", "{word}"]], examples: [{word: hello}]}
  - {super_ni: task1.json}
"""


def test_a_collection_of_all_kinds(tmp_path):
    (tmp_path / "news.yaml").write_text((PUBLISHED / "promptsource_ag_news.yaml").read_text(), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"text": "Oil", "label": 2}\n{"text": "Goal", "label": 1}\n', encoding="utf-8")
    (tmp_path / "task1.json").write_text('{"Definition": "D", "Instances": [{"input": "i", "output": ["o"]}]}')
    (tmp_path / "c.yaml").write_text(COLLECTION, encoding="utf-8")
    tasks = read_collection(tmp_path / "c.yaml")
    assert [(t.id, t.size) for t in tasks] == [("refund", 1), ("news", 2), ("flan", 1), ("task1", 1)]
    refund, news, flan, _ = (t.groups()[0] for t in tasks)
    assert refund.meta["checks"] == [{"type": "words", "max": 5}, {"type": "exact", "answers": ["yes"]}]
    assert news.responses[0].text == "Business" and flan.prompt_text == "Say hello."


@pytest.mark.parametrize(
    "text, message",
    [
        ("tasks: []", "no list of tasks"),
        ("tasks: [{id: a, example: []}]", "unknown key 'example'"),
        ("tasks: [{id: a, examples: [{a: 1}]}]", "at least one template"),
        ("tasks: [{id: a, patterns: [[x, y]], examples: [{a: 1}], checks: [shrt]}]", "unknown checker"),
        ("tasks: [{templates: []}]", "id is missing"),
        ("task: []", "no list of tasks"),
        ("tasks: [{super_ni: t.json, limits: 1}]", "unknown key 'limits'"),
        ("tasks: [{id: a, patterns: [[x, y]], examples: []}]", "needs examples"),
    ],
)
def test_a_wrong_collection_names_the_place(tmp_path, text, message):
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValignError, match=message) as caught:
        read_collection(file)
    assert str(file) in str(caught.value)


def test_wrong_mixtures_are_refused():
    with pytest.raises(UsageError, match="unknown task 'b'"):
        Mixture([task("a", 1)], weights={"b": 1})
    for bad in ({"temperature": 0}, {"cap": 0}, {"weights": {"a": 0}}):
        with pytest.raises(ValignError, match="must be"):
            Mixture([task("a", 1)], **bad)


def test_rows_of_p3_xp3_and_flan(tmp_path):
    file = tmp_path / "p3.jsonl"
    rows = [
        {"inputs": [1], "targets": [2], "inputs_pretokenized": "Ask?\n", "targets_pretokenized": "\nyes",
         "answer_choices": ["yes", "no"]},
        {"inputs": [1], "targets": [2], "inputs_pretokenized": "Ask?", "targets_pretokenized": "maybe",
         "answer_choices": ["yes", "no"]},
    ]  # fmt: skip
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    found = read(file)
    assert found.format == "prompted" and len(found) == 1 and len(found.report.dropped) == 1
    assert (found[0].prompt_text, found[0].responses[0].text) == ("Ask?", "yes")
    assert found[0].meta["checks"] == [{"type": "exact", "answers": ["yes"]}]
    file.write_text('{"inputs": "Sag ja", "targets": "ja", "language": "de"}\n', encoding="utf-8")
    assert read(file)[0].meta["language"] == "de"
