"""The instruments from the command line, on a tiny model: files are whole, repeats are free, errors are clear."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from valign.evaluation.results_file import read_results

TASKS = [{"id": f"i{i}", "split": "test", "kind": "exact", "prompt": f"Say {i}", "reference": "x",
          "checks": [{"type": "characters", "min": 1 + i}]} for i in range(6)]  # fmt: skip
SMALL = ("--max-new-tokens", 4)
SIGNS = "python:signs_reward.score"


@pytest.fixture
def signs(tmp_path, monkeypatch):
    """A reward of the user's own that differs between any two answers, as `SIGNS` names it."""
    (tmp_path / "signs_reward.py").write_text("def score(prompt, response):\n    return sum(map(ord, response)) % 17\n")
    monkeypatch.syspath_prepend(tmp_path)


def metrics(folder):
    return {r.metric for r in read_results(folder / "result.json")}


def lasting(rows):
    """The Results of a section without the seconds and bytes of a run."""
    return [{**r, "provenance": {k: v for k, v in r["provenance"].items() if k != "cost"}} for r in rows]


def test_tax_of_a_model_against_itself_is_nothing(valign, model, situations, lines, vowels, goal, tmp_path):
    """A/A through the door: no gain, no flips, KL 0, and the same command again computes nothing."""
    tasks = lines(TASKS, "instructions.jsonl")
    command = ("tax", model, model, "--reward", goal, "--data", situations, "--tasks", tasks, "--text", situations, *SMALL,
               "--out", tmp_path / "tax")  # fmt: skip
    section = valign.json(*command)
    by = {r["metric"]: r for r in section["results"]}
    assert by["reward.gain"]["value"] == 0 and by["tax.per_gain"]["value"] is None
    assert abs(by["kl.policy_reference"]["value"]) < 0.02 and by["text.bits_per_byte.change"]["value"] == 0
    flips = next(f for f in section["figures"] if f["id"] == "flips")["data"]["items"]
    assert all(not x["lost"] and not x["won"] for x in flips.values())
    log = (tmp_path / "tax" / "base.jsonl").read_text()
    assert all(r["provenance"]["cost"]["tokens_read"] > 0 for r in section["results"])
    again = valign.json(*command)["results"]
    assert lasting(again) == lasting(section["results"]) and (tmp_path / "tax" / "base.jsonl").read_text() == log
    assert "other settings" in valign.error(*command, "--seed", 1)
    assert "give both or none" in valign.error("tax", model, model, "--reward", goal, "--out", tmp_path / "x", status=2)


def test_generality_and_explain_write_what_they_say(valign, model, situations, pairs, vowels, goal, tmp_path):
    valign("generality", model, "--goal", goal, "--data", situations, "--ood", pairs, "--attack", "story", *SMALL, "--out",
           tmp_path / "g")  # fmt: skip
    assert {f"generality.gap.{s}" for s in ("ood", "jailbreak", "value_swap")} <= metrics(tmp_path / "g")
    assert "stand in both" in valign.error("generality", model, "--goal", goal, "--data", situations, "--ood", situations,
                                           "--out", tmp_path / "h", status=2)  # fmt: skip
    done = valign("explain", model, "Why?", "--data", situations, "--limit", 2, "--reference", model, "--goal", goal, *SMALL,
                  "--out", tmp_path / "e")  # fmt: skip
    records = [json.loads(x) for x in (tmp_path / "e" / "explained.jsonl").read_text().splitlines()]
    assert len(records) == 1 + 2 * 3, "one answer to the prompt, three given ones to each situation"
    for r in records:
        tokens = r["implicit"]["tokens"]
        assert abs(sum(t["credit"] for t in tokens) - r["implicit"]["reward"]) < 1e-6 and all(t["text"] for t in tokens)
        assert set(r) >= {"reward", "flip", "values"}
    given = next(r for r in records if r["text"] == "aaa eee")
    assert "".join(t["text"] for t in given["implicit"]["tokens"]).startswith("aaa eee")
    assert "implicit reward" in done.stdout and metrics(tmp_path / "e") == {"explain.residual"}
    for folder in ("g", "e"):
        assert all(r.provenance["cost"]["tokens_read"] > 0 for r in read_results(tmp_path / folder / "result.json"))
    assert "nothing could explain" in valign.error("explain", model, "Why?", "--out", tmp_path / "x", status=2)


def test_explain_names_the_nearest_training_groups_of_the_run(valign, model, pairs, vowels, goal, tmp_path, monkeypatch):
    """The run remembers its data, and a digest tells whether they are the same; gone or changed data are an error."""
    dpo = tmp_path / "dpo"
    valign("align", model, "--method", "dpo", "--data", f"{pairs}#0:8", "--set", "max_steps=1", "--out", dpo)

    def ask(out, *options, **more):
        return valign("explain", dpo, "Question 3?", "--goal", goal, *SMALL, "--out", tmp_path / out, *options, **more)

    done = ask("a")
    (record,) = [json.loads(x) for x in (tmp_path / "a" / "explained.jsonl").read_text().splitlines()]
    near = record["training"]["nearest"]
    assert len(near) == 3 and record["training"]["n"] == 8 and near[0]["similarity"] >= near[1]["similarity"]
    assert {x["prompt"] for x in near} <= {f"Question {i}?" for i in range(8)}
    assert f"near training group {near[0]['id']}" in done.stdout
    section = json.loads((tmp_path / "a" / "section.json").read_text())
    assert section["figures"][0]["data"]["rows"][0]["training"] == record["training"]
    sections, page = drawn(valign, tmp_path / "a")
    (shown,) = sections["instrument_explain"]["nearest"]["rows"]
    assert [x["value"] for x in shown["near"]] == [x["similarity"] for x in near] and "Nearness is no cause" in page
    ask("b", "--nearest", 0)
    assert "training" not in json.loads((tmp_path / "b" / "explained.jsonl").read_text())
    ask("c", "--training", pairs, "--nearest", 2)
    record = json.loads((tmp_path / "c" / "explained.jsonl").read_text())
    assert record["training"]["n"] == 12 and len(record["training"]["nearest"]) == 2
    assert "has no effect" in ask("d", "--training", pairs, "--nearest", 0, status=2).stderr
    pairs.write_text(pairs.read_text().replace("of course", "sure"))
    assert "other data than the policy was trained on" in ask("e", "--nearest", 1, status=1).stderr
    pairs.unlink()
    assert "training data are not found" in ask("e", "--nearest", 1, status=1).stderr
    assert "no nearest training groups" in ask("f").stderr
    said = valign.error("explain", model, "Why?", "--goal", goal, "--nearest", 1, "--out", tmp_path / "g")
    assert "training data are not known" in said and "--training FILE" in said


def test_overopt_samples_once_and_reads_both_laws(valign, model, situations, vowels, signs, goal, tmp_path):
    command = ("overopt", model, "--proxy", SIGNS, "--gold", goal, "--data", situations, "--samples", 8, *SMALL, "--out",
               tmp_path / "o")  # fmt: skip
    section = valign.json(*command)
    data = section["figures"][0]["data"]
    assert data["best_of_n"]["n"] == [1, 2, 4, 8] and data["prompts"] <= 6 and data["tilted"]["strength"][0] == 0
    proxy = data["best_of_n"]["proxy"]
    assert all(a <= b + 1e-12 for a, b in pairwise(proxy)), "best of more is never worse by the proxy itself"
    assert data["best_of_n"]["kl_bound"][1] == pytest.approx(0.193147, abs=1e-6)
    assert "a proxy, a gold judge" in valign.error("overopt", model, "--out", tmp_path / "x", status=2)
    assert "own proxies" in valign.error("overopt", "worlds", "--proxy", "length", "--out", tmp_path / "x", status=2)


def test_a_guarded_run_from_the_command_line(valign, model, situations, vowels, signs, goal, tmp_path):
    """Reward: the user's own; gold: the goal. Audits stand in the log and on the run's page, also of a run that samples
    nothing; what trains no policy has nothing to guard."""
    small = ("--set", "max_steps=2", "--set", "batch_size=3", "--set", "group_size=3", "--set", "max_new_tokens=4")
    valign("align", model, "--method", "rloo", "--data", situations, "--reward", SIGNS, "--gold", goal, "--audit", situations,
           "--audit-steps", 1, *small, "--out", tmp_path / "run")  # fmt: skip
    log = [json.loads(x) for x in (tmp_path / "run" / "run" / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in log if x["event"] == "guard" and "covariance" in x] == [0, 1, 2]
    valign("align", model, "--method", "sft", "--data", situations, "--goal", goal, "--gold", goal, "--audit", situations,
           *small[:4], "--out", tmp_path / "sft")  # fmt: skip
    log = [json.loads(x) for x in (tmp_path / "sft" / "run" / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in log if x["event"] == "guard" and "covariance" in x] == [0, 1, 2]
    valign("report", tmp_path / "sft", "--watch")
    assert "gain of gold and proxy" in (tmp_path / "sft" / "run" / "watch.html").read_text()
    assert "nothing to guard" in valign.error("align", model, "--method", "urial", "--gold", goal, "--audit", situations,
                                              "--out", tmp_path / "x", status=2)  # fmt: skip
    assert "no audit" in valign.error("align", model, "--method", "rloo", "--data", situations, "--reward", SIGNS,
                                      "--audit-steps", 2, "--out", tmp_path / "y", status=2)  # fmt: skip


def test_choose(valign):
    rows = {a["family"]: a for a in valign.json("choose", "--feedback", "pairs", "--prompt-tokens", 2000)}
    assert [f for f, a in rows.items() if a["feasible"]] == ["in_context", "sft_ranking"]
    assert "1. in_context" in valign("choose", "--feedback", "pairs", "--prompt-tokens", 2000).stdout
    assert "pairs" in valign.error("choose", "--feedback", "pair", status=2)
    assert "--parameters" in valign.error("choose", "--feedback", "pairs", "--memory", 8, status=2)


class Letters:
    """A scripted value evaluator in which all ten values differ between any two texts."""

    id, theory = "letters", "schwartz10"

    def values(self, groups):
        return [np.array([[np.cos(k + sum(map(ord, r.text))) for k in range(10)] for r in g.responses]) for g in groups]


@pytest.mark.capability("N20")
def test_each_value_meets_each_risk_that_evaluate_wrote(valign, situations, signs, goal, tmp_path, monkeypatch):
    """Four checkpoints, one goal, two risks, by the documented commands alone; nothing is drawn for a risk; the report shows
    the table. Four models are loaded: that takes its time."""
    from valign.models.policy import LocalPolicy
    from valign.models.tiny import tiny_model

    monkeypatch.setattr("valign.rewards.registry.default_scorers", lambda model=None: {"value": Letters()})
    asked, plain = [], LocalPolicy.generate

    def counting(self, prompts, *args, **options):
        asked.append(len(prompts))
        return plain(self, prompts, *args, **options)

    monkeypatch.setattr(LocalPolicy, "generate", counting)
    folders, risks = [tmp_path / f"c{i}" for i in range(4)], ("--risk", "toxicity", "--risk", SIGNS)
    for i, folder in enumerate(folders):
        made = tiny_model("llama", seed=i)
        made.model.save_pretrained(folder / "model")
        made.tokenizer.save_pretrained(folder / "model")
        command = ("evaluate", folder / "model", "--data", situations, "--goal", goal, "--samples", 2, *SMALL)
        found = valign.json(*command, *risks, "--out", folder)["results"]
        r = next(r for r in found if r["metric"] == "risk.signs_reward.score")
        assert (r["direction"], r["n"], r["cluster"]) == ("down", 12, {"unit": "prompt", "count": 6}) and r["interval"]
        assert r["provenance"]["reward"]["fingerprint"] and r["provenance"]["sampling"]["n"] == 2
        assert {r["variant"] for r in found if r["metric"] == "risk.toxicity"} == {"rate", "any", "max"}
    assert sum(asked) == 4 * 6, "each prompt is asked once, for the goal and both risks"
    assert "other settings: risks" in valign.error(*command, "--out", folders[-1])

    out = tmp_path / "risks"
    section = valign.json("value-risk", *folders, "--base", folders[0], "--risk", "signs_reward", "--out", out)
    names = ("AC", "BE", "CO", "HE", "PO", "SD", "SE", "ST", "TR", "UN")
    assert [r["metric"] for r in section["results"]] == [f"value_risk.{v}.risk.signs_reward.score" for v in names]
    rows = section["figures"][0]["data"]["rows"]
    assert all(-1 <= r["value"] <= 1 and r["p"] <= r["p_adjusted"] <= 1 for r in rows)
    assert all("after Benjamini-Hochberg over 10" in r["notes"][-1] and r["n"] == 4 for r in section["results"])
    toxic = valign.json("value-risk", *folders, "--risk", "toxicity", "--out", tmp_path / "toxic")
    assert {r["metric"] for r in toxic["results"]} == {f"value_risk.{v}.risk.toxicity" for v in names}
    assert "at least 4" in valign.error("value-risk", folders[0], "--out", tmp_path / "y")

    sections, page = drawn(valign, out)
    data = sections["instrument_value_risk"]["value_risk"]
    assert [row["name"] for row in data["rows"]] == list(names) and len(data["risks"]) == 1
    assert [row["cells"][0]["value"] for row in data["rows"]] == [r["value"] for r in rows]
    assert "Values: 10, risks: 1, checkpoints: 4" in page and "after Benjamini-Hochberg over the table" in page


def test_a_risk_without_answers_is_refused_before_anything_is_computed(valign, model, pairs, vowels, goal, tmp_path):
    """A wrong name, one name twice, a goal that judges no new responses."""
    command = ("evaluate", model, "--data", pairs, "--out", tmp_path / "e")
    assert "toxicity" in valign.error(*command, "--goal", goal, "--risk", "toxicty", status=2)
    assert "named twice" in valign.error(*command, "--goal", goal, "--risk", "length", "--risk", "length", status=2)
    assert "no responses are drawn" in valign.error(*command, "--goal", "preference", "--risk", "length", status=2)
    assert not (tmp_path / "e").exists()


# ------------------------------------------------------------------------------------------- instruments in a report


def drawn(valign, *folders):
    """The report's JSON after `valign report FOLDER [--with FOLDER]`: section -> its figures."""
    first, *others = folders
    paths = valign.json("report", first, *(x for f in others for x in ("--with", f)), "--out", first / "page")
    report = json.loads(Path(paths["json"]).read_text())
    return {s["id"]: {f["type"]: f["data"] for f in s["figures"]} for s in report["sections"]}, Path(paths["html"]).read_text()


def test_what_instruments_wrote_becomes_sections_of_a_page(
    valign, model, situations, lines, pairs, vowels, signs, goal, tmp_path
):
    """Every number of a figure is the instrument's own: tax, splits and the pushed proxy on one page."""
    tax, splits, push = (tmp_path / n for n in ("tax", "splits", "push"))
    tasks = lines(TASKS, "instructions.jsonl")
    valign("tax", model, model, "--reward", goal, "--data", situations, "--tasks", tasks, *SMALL, "--out", tax)
    valign("generality", model, "--goal", goal, "--data", situations, "--ood", pairs, *SMALL, "--out", splits)
    valign("overopt", model, "--proxy", SIGNS, "--gold", goal, "--data", situations, "--samples", 4, *SMALL, "--out", push)
    sections, page = drawn(valign, tax, splits, push, tax)
    (bill,) = sections["instrument_tax"]["tax"]["policies"]
    assert [r["benchmark"] for r in bill["rows"]] and all(r["lost"] == r["won"] == 0 for r in bill["rows"])
    assert sections["instrument_tax_2"].keys() == {"tax"}, "the same instrument twice"
    assert {s["id"] for s in sections["instrument_generality"]["generality"]["splits"]} >= {"iid", "ood"}
    best, *_ = sections["instrument_overopt"]["overoptimisation"]["panels"]
    curve = json.loads((push / "section.json").read_text())["figures"][0]["data"]["best_of_n"]
    gold = next(s for s in best["series"] if s["name"] == "gold")
    assert [p["value"] for p in gold["points"]] == [v for v in curve["change"] if v is not None]
    assert "Over-optimization" in page and "Alignment tax" in page
    # a report that is there takes further sections, keeps the others, and the same one again takes its own place
    whole = json.loads((tax / "page" / "report.json").read_text())
    for _ in range(2):
        more = json.loads(Path(valign.json("report", tax / "page", "--with", push, "--with", splits)["json"]).read_text())
        assert sorted(s["id"] for s in more["sections"]) == sorted(s["id"] for s in whole["sections"])
    table, old = (next(s for s in r["sections"] if s["id"] == "measured")["figures"][0]["data"] for r in (more, whole))
    named = lambda data: {(g["metric"], g["variant"], len(g["results"])) for g in data["groups"]}  # noqa: E731
    assert named(table) == named(old)


def test_the_bench_is_a_page_of_its_own_and_wrong_folders_are_named(valign, model, tmp_path):
    valign("overopt", "worlds", "--out", tmp_path / "worlds")
    sections, _ = drawn(valign, tmp_path / "worlds")
    panels = sections["instrument_overopt_worlds"]["overoptimisation"]["panels"]
    assert len(panels) == 8 and sum(any(m["kind"] == "alarm" for m in p["marks"]) for p in panels) == 4
    assert "no section.json" in valign.error("report", tmp_path / "worlds", "--with", tmp_path)
