"""`valign profile` as a user meets it: one command, a table that explains itself, and no profile without its reliability."""

from __future__ import annotations

import json

import pytest

QUICK = ("--limit", 1)
ITEMS = [
    {"id": "BE1", "dimension": "BE", "keyed": 1, "text": "Helps friends.", "paraphrase": "Aids friends."},
    {"id": "BE2", "dimension": "BE", "keyed": -1, "text": "Shuns friends.", "paraphrase": "Avoids friends."},
    {"id": "PO1", "dimension": "PO", "keyed": 1, "text": "Wants to lead.", "paraphrase": "Likes to rule."},
    {"id": "PO2", "dimension": "PO", "keyed": -1, "text": "Wants no rank.", "paraphrase": "Seeks no rank."},
]


@pytest.fixture
def few(lines):
    """Four items of one's own: quick to ask."""
    return "--items", lines(ITEMS, "few.jsonl")


def results(document):
    return {(r["subject"], r["metric"], r["variant"]): r for r in document["results"]}


def test_one_command_gives_a_profile_with_intervals_and_its_reliability(valign, model, tmp_path, whole):
    """No option is needed; a random model is warned about, and the table says what each number means."""
    out = tmp_path / "p"
    said = valign("profile", model, *QUICK, "--out", out).stdout
    assert f"What {model} values: 20 portraits" in " ".join(said.split())
    words = ("! UNRELIABLE", "self-direction", "NOT reliable", "is needed", "yes-saying", "0.22 on average", "Nearness to")
    for word in words:
        assert word in " ".join(said.split()), word
    found = {r["metric"]: r for r in json.loads((out / "result.json").read_text())["results"]}
    for metric in ("value.profile.BE", "value.centred.UN", "value.V", "value.V_c", "value.circle.r2", "value.group.openness",
                   "value.reliability.split_half", "value.reliability.retest", "value.bias.position", "value.letter_mass"):
        r = found[metric]
        assert r["variant"] == "portraits_likelihood" and r["interval"] is not None, metric
        assert r["cluster"] == {"unit": "respondent", "count": 12}
    targets = ("ideal_a", "ideal_b", "uk", "nl", "fr", "hhh_like")  # all of the theory, from the same ratings
    for name in targets:
        v, c = found[f"value.V.{name}"], found[f"value.V_c.{name}"]
        assert v["interval"] and c["interval"] and v["cluster"]["count"] == c["n"] == 12
        assert v["provenance"]["goal"]["id"] == name and any(n.startswith("UNRELIABLE") for n in v["notes"])
    assert {m for m in found if m.startswith("value.V.")} == {f"value.V.{name}" for name in targets}
    for short in ("V", "V_c"):
        assert found[f"value.{short}.hhh_like"]["value"] == found[f"value.{short}"]["value"]
        assert found[f"value.{short}.hhh_like"]["interval"] == found[f"value.{short}"]["interval"]
    told = said[said.index("Nearness to named targets") :].splitlines()[1 : 1 + len(targets)]
    assert {line.split()[0] for line in told} == set(targets) and all(" V_c " in line for line in told)
    items = found["value.V"]["provenance"]["items"]
    assert items["file"] == "builtin:portraits" and len(items["sha256"]) == 64
    assert len(found["value.V"]["provenance"]["respondents"]) == 12
    assert any(n.startswith("UNRELIABLE") for n in found["value.V"]["notes"])
    page = (out / "report.html").read_text()
    assert "UNRELIABLE" in page
    assert len((out / "samples.jsonl").read_text().splitlines()) == 20
    whole(out)


def test_an_interrupted_profile_goes_on_from_its_log(valign, model, few, tmp_path, monkeypatch):
    """Killed after some answers: the same command asks only for the rest and ends with the same results."""
    from valign.models.policy import LocalPolicy

    reference = valign.json("profile", model, *few, "--out", tmp_path / "whole")
    plain, asked = LocalPolicy.score, []

    def dying(self, groups, *, progress=None):
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append(len(groups))
        return plain(self, groups, progress=progress)

    with monkeypatch.context() as m:
        m.setattr(LocalPolicy, "score", dying)
        valign("profile", model, *few, "--out", tmp_path / "cut", status=130)
    asked.clear()

    def counting(self, groups, *, progress=None):
        asked.append(len(groups))
        return plain(self, groups, progress=progress)

    monkeypatch.setattr(LocalPolicy, "score", counting)
    for one, other in zip(
        valign.json("profile", model, *few, "--out", tmp_path / "cut")["results"], reference["results"], strict=True
    ):
        assert {**one["provenance"], "cost": None} == {**other["provenance"], "cost": None}
        assert {**one, "provenance": None} == {**other, "provenance": None}
    assert asked == [4] * 17, "24 rounds of 4 items, 7 of them known"
    logs = [sorted((json.loads(x)["key"], json.loads(x)["log_probs"]) for x in (tmp_path / d / "requests.jsonl").open())
            for d in ("whole", "cut")]  # fmt: skip
    assert [k for k, _ in logs[0]] == [k for k, _ in logs[1]]


def test_a_named_goal_is_the_only_target_and_free_answers_have_all_of_them(valign, model, situations, vowels, goal):
    """Nearness to other targets is told only where none was named; free answers are read once for all of them."""
    asked = ("profile", model, "--form", "dilemmas", "--data", situations, "--max-new-tokens", 4)
    named = [r["metric"] for r in valign.json(*asked, "--goal", goal)["results"]]
    assert "value.V" in named and not [m for m in named if m.startswith("value.V.")]
    found = {(r["metric"], r["variant"]): r for r in valign.json(*asked)["results"]}
    assert len([m for m, _ in found if m.startswith("value.V.")]) == 6
    for name in ("V", "V_c"):
        alike = found[f"value.{name}.hhh_like", "profile"]
        assert alike["value"] == found[f"value.{name}", "profile"]["value"] and alike["cluster"]["unit"] == "prompt"
    assert found["value.V.uk", "profile"]["value"] != found["value.V.hhh_like", "profile"]["value"]


def test_generation_is_another_variant_and_counts_what_cannot_be_read(valign, model, few):
    found = {r["metric"]: r for r in valign.json("profile", model, *few, "--form", "generation", "--no-retest")["results"]}
    assert found["value.answered"]["variant"] == "few_generation"
    assert found["value.answered"]["n"] == 48 and found["value.answered"]["value"] < 1
    lost = sum(sum(found[f"value.profile.{v}"]["n_unscored"].values()) for v in ("BE", "PO"))
    assert lost and set(found["value.profile.BE"]["n_unscored"]) <= {"parse_failure", "refusal", "skipped"}
    assert "value.reliability.retest" not in found


def test_two_models_are_compared_value_by_value(valign, model, few, tmp_path):
    from valign.models.tiny import tiny_model

    other = tmp_path / "other"
    made = tiny_model("llama", seed=1)
    made.model.save_pretrained(other)
    made.tokenizer.save_pretrained(other)
    command = ("profile", model, "--against", other, *few, "--no-retest", "--out", tmp_path / "o")
    said = " ".join(valign(*command).stdout.split())
    assert f"Where they differ: {model} minus {other}" in said and "Benjamini-Hochberg" in said
    found = results(json.loads((tmp_path / "o" / "result.json").read_text()))
    both = f"{model} vs {other}"
    assert {m for s, m, _ in found if s == both} == {"value.centred.BE", "value.centred.PO"}
    one = found[both, "value.centred.BE", "few_likelihood"]
    a, b = (found[str(s), "value.centred.BE", "few_likelihood"]["value"] for s in (model, other))
    assert one["value"] == pytest.approx(a - b) and any("Benjamini-Hochberg over 2" in n for n in one["notes"])
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    (section,) = [x for x in report["sections"] if x["id"] == "differences_likelihood"]
    assert "2 values differ" in section["text"] and "Which values differ" in (tmp_path / "o" / "report.html").read_text()


def test_a_users_questionnaire_is_asked_and_scored(valign, model, lines):
    file = lines([{"number": n, "text": f"This person likes item {n}."} for n in range(1, 22)], "pvq.jsonl")
    document = valign.json("profile", model, "--items", file, "--instrument", "pvq21", "--no-retest")
    found = {r["metric"]: r for r in document["results"]}
    assert found["value.centred.UN"]["variant"] == "pvq21_likelihood" and found["value.centred.UN"]["n"] in (0, 36)
    assert "value.bias.acquiescence" not in found, "no item is keyed against its value: yes-saying cannot be told apart"


def test_persons_answer_in_place_of_the_model(valign, model, few):
    found = {r["metric"]: r for r in valign.json("profile", model, *few, "--no-retest", "--personas", 12)["results"]}
    who = found["value.centred.BE"]["provenance"]["respondents"]
    assert len({w["persona"] for w in who}) == 12 and "value.reliability.alpha.BE" in found


@pytest.mark.parametrize("options, message, status", [
    (("--samples", 2), "belongs to free answers", 2),
    (("--form", "dilemmas", "--personas", 3), "belongs to items rated on a scale", 2),
    (("--form", "dilema"), "did you mean: dilemmas", 2),
    (("--instrument", "pvq40"), "are not shipped", 2),
    (("--personas", 99), "36 personas", 2),
    (("--items", "nowhere.jsonl"), "cannot be read", 1),
    (("--goal", "core"), "a profile needs a value goal", 1),
])  # fmt: skip
def test_what_cannot_be_asked_is_refused_before_a_model_is_loaded(valign, options, message, status, monkeypatch):
    monkeypatch.setattr("valign.pipeline.profile.load_policy", None)
    assert message in valign.error("profile", *options, status=status).replace("\n", " ")


def test_a_goal_of_another_theory_is_refused_for_these_items(valign, lines):
    rows = [{"id": f"{d}{k}", "dimension": d, "keyed": k, "text": f"{d} {k}"} for d in ("calm", "brave") for k in (1, -1)]
    assert "calm, brave" in valign.error("profile", "--items", lines(rows), "--goal", "uk").replace("\n", " ")
