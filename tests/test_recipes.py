"""Recipes: what they may say, how the command line changes them, and what a run of one leaves."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from valign.errors import ValignError
from valign.pipeline.recipe import Recipe, find_recipe, load_recipe, parse_value


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


SEVERAL = "name: x\nmethods: [{name: dpo}, {name: dpo, label: wide, beta: 0.5}, urial]\n"


# ----------------------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize("name", ["demo", "families", "hh_harmless"])
def test_the_recipes_that_ship_are_whole(name):
    from valign.methods.table import method

    loaded = load_recipe(name, data="pairs.jsonl" if name == "hh_harmless" else None)
    assert loaded.all_methods
    for spec in loaded.all_methods:
        method(spec.name).configure(spec.settings)


def test_set_reaches_the_one_method_or_the_one_that_is_named(recipe):
    one = load_recipe(recipe("name: x\nmethod: dpo\n"), ["method.beta=0.2", "evaluate.samples=3", "data=a.jsonl"])
    assert (one.all_methods[0].settings, one.evaluate.samples) == ({"beta": 0.2}, 3)
    assert [s.path for s in one.data] == ["a.jsonl"]
    single = load_recipe(recipe("name: x\nmethods: [{name: dpo}]\n"), ["method.beta=0.2"])
    assert single.all_methods[0].settings == {"beta": 0.2}
    several = load_recipe(recipe(SEVERAL), ["methods.wide.beta=0.3", "methods.dpo.epochs=2"])
    assert [m.settings for m in several.all_methods] == [{"epochs": 2}, {"beta": 0.3}, {}]


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("name: x\nmodle: y\nmethod: dpo\n", [], ["modle: unknown key", "did you mean 'model'"]),
        ("name: x\nmethod: dpo\nevaluate: {sample: 3}\n", [], ["evaluate.sample: unknown key", "'samples'"]),
        ("name: x\nmethod: dpo\ndata: {path: a, wieght: 2}\n", [], ["wieght: unknown key", "'weight'"]),
        ("name: x\nmethod: dpo\n", ["evaluate.betta=3"], ["evaluate.betta: unknown key", "'beta'"]),
        ("name: x\nmethod: dpo\n", ["methd.beta=3"], ["methd: unknown key", "'method'"]),
        ("name: x\nmethod: dpo\nevaluate: {samples: 0}\n", [], ["evaluate.samples", "equal to 1"]),
        ("name: x\n", [], ["names no method"]),
        ("name: x\nname: y\nmethod: dpo\n", [], ["'name' is given twice"]),
        ("name: [x\n", [], ["not one YAML document"]),
        ("- dpo\n", [], ["must hold one mapping"]),
        ("name: x\nmethods: [dpo, dpo]\n", [], ["two methods are called dpo", "label"]),
        ("name: x\nmethods: [{name: dpo, label: base}]\n", [], ["cannot name a method"]),
        (SEVERAL, ["method.beta=1"], ["several methods", "dpo, wide, urial"]),
        (SEVERAL, ["methods.grpo.beta=1"], ["there is no 'grpo'", "dpo, wide"]),
        (SEVERAL, ["methods.beta=1"], ["this key is a list"]),
        ("name: x\nmethod: dpo\n", ["beta"], ["not KEY=VALUE"]),
        ("name: x\nmethod: dpo\n", ["name.beta=3"], ["holds a value"]),
        ("name: x\nmethod: dpo\ndata: DATA\n", [], ["leaves the data file", "--data FILE"]),
    ],
)  # fmt: skip
def test_what_a_recipe_must_not_say_is_an_error_that_names_it(recipe, text, overrides, says):
    with pytest.raises(ValignError) as error:
        load_recipe(recipe(text), overrides)
    for part in says:
        assert part in str(error.value)


def test_data_of_the_command_line_goes_where_the_recipe_asks_for_it(recipe):
    asks = recipe(
        "name: x\nmethod: dpo\ndata: {path: DATA, rows: '0:8'}\nevaluate: {data: {path: DATA, rows: '8:12'}}\n"
    )
    loaded = load_recipe(asks, data="mine.jsonl")
    assert [(s.path, s.rows) for s in (*loaded.data, *(loaded.evaluate.data or ()))] == [
        ("mine.jsonl", "0:8"),
        ("mine.jsonl", "8:12"),
    ]
    with pytest.raises(ValignError, match="--data has no effect"):
        load_recipe(recipe("name: x\nmethod: dpo\ndata: other.jsonl\n"), data="mine.jsonl")


def test_an_unknown_recipe_lists_those_that_ship():
    with pytest.raises(ValignError, match="demo, families, hh_harmless"):
        find_recipe("dem")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("2E3", 2000.0),
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("false", False),
        ("null", None),
        ("", None),
        ("{benevolence: 1}", {"benevolence": 1}),
        ("[1, 2]", [1, 2]),
        ("one two", "one two"),
        ("e", "e"),
        ("a: b: c", "a: b: c"),
    ],
)
def test_values_of_the_command_line_are_read_as_yaml_with_plain_numbers(text, value):
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


def test_a_recipe_is_frozen_and_goes_through_json():
    loaded = load_recipe("demo")
    assert Recipe.model_validate(json.loads(json.dumps(loaded.model_dump()))) == loaded


# ----------------------------------------------------------------------------------------------- what it does


@pytest.fixture
def several(valign, model, pairs, situations, goal, vowels, recipe, tmp_path):
    """(command, output) of a recipe with three families toward one goal; data are mixed by weight."""
    path = recipe(
        f"name: three\nmodel: {model}\ngoal: '{goal}'\n"
        f"data: [{{path: {pairs}, weight: 0.5}}, {{path: {pairs}, rows: '0:6', weight: 0.25}}]\n"
        f"dev: {{path: {pairs}, limit: 3}}\n"
        "methods:\n- {name: dpo, batch_size: 6, eval_every: 1}\n"
        "- {name: value_instruction, label: words}\n- {name: best_of_n, n: 2}\n"
        f"evaluate: {{data: {situations}, kl_prompts: 2, max_new_tokens: 4, risks: [length]}}\n"
        f"out: {tmp_path / 'out'}\n"
    )
    return ("run", path), tmp_path / "out"


def test_a_recipe_runs_to_one_report_and_goes_on_with_one_more_method(valign, several, whole):
    command, out = several
    report = valign.json(*command)
    assert [s["label"] for s in report["subjects"]] == ["base", "dpo", "words", "best_of_n"]
    assert {p.name for p in out.iterdir()} >= {
        "recipe.json",
        "report.json",
        "report.html",
        "methods",
        "evaluation",
    }
    for name in ("dpo", "words", "best_of_n"):
        assert (out / "methods" / name / "policy.json").exists()
        found = {r["metric"] for r in json.loads((out / "evaluation" / name / "result.json").read_text())["results"]}
        assert {"goal.utility", "misalignment.M", "risk.length"} <= found
    policies = (out / "evaluation" / name for name in ("base", "dpo", "words", "best_of_n"))
    linked = valign.json("value-risk", *policies, "--risk", "length", "--out", out.parent / "risks")
    assert {"value_risk.BE.risk.length", "value_risk.PO.risk.length"} <= {r["metric"] for r in linked["results"]}
    trained = [json.loads(x) for x in (out / "methods" / "dpo" / "run" / "log.jsonl").read_text().splitlines()]
    assert any(e["event"] == "eval" for e in trained)
    whole(out)

    before = (out / "methods" / "dpo" / "model.safetensors").stat().st_mtime_ns
    done = valign(*command, "--set", "methods.best_of_n.label=best of two")  # a method that is not there yet
    assert "step 1/" not in done.stderr
    assert (out / "methods" / "dpo" / "model.safetensors").stat().st_mtime_ns == before
    assert (out / "methods" / "best of two" / "policy.json").exists()


def test_a_guard_watches_every_method_that_trains_and_its_curves_are_in_the_report(
    valign, recipe, model, pairs, situations, goal, vowels, tmp_path
):
    """SFT and DPO sample nothing, GRPO does: all three are audited, best of n trains nothing."""
    text = (
        f"name: guarded\nmodel: {model}\ngoal: '{goal}'\ndata: {pairs}\n"
        "methods:\n- {name: dpo, batch_size: 6}\n- {name: sft, batch_size: 6}\n- {name: best_of_n, n: 2}\n"
        "- {name: grpo, batch_size: 4, group_size: 8, max_new_tokens: 6, max_steps: 2}\n"
        f"guard: {{gold: '{goal}', audit: {situations}, every: 1}}\n"
        f"evaluate: {{data: {situations}, kl_prompts: 0, max_new_tokens: 4}}\nout: {tmp_path / 'out'}\n"
    )
    valign("run", recipe(text))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    section = next(s for s in report["sections"] if s["id"] == "overoptimisation")
    titles = [p["title"] for p in section["figures"][0]["data"]["panels"]]
    assert [t.partition(":")[0] for t in titles] == ["dpo", "dpo", "sft", "sft", "grpo", "grpo"]
    code, idle = text.replace(f"gold: '{goal}'", "gold: 'python:os.getcwd'"), text.replace("name: dpo", "name: urial, label: u")
    assert "runs no code" in valign.error("run", recipe(code), status=2)
    for name in ("sft", "grpo"):
        idle = "\n".join(x for x in idle.splitlines() if f"name: {name}" not in x)
    assert "nothing to guard" in valign.error("run", recipe(idle.replace(", batch_size: 6", "")), status=2)


def test_a_method_begins_without_the_weights_of_those_before_it(valign, recipe, model, pairs, tmp_path, monkeypatch):
    """Else a comparison would need the memory of all its models together, and charge the later ones with it."""
    from valign.pipeline import compare

    trained, alive, align = [], [], compare.align_policy

    def watched(*args, **options):
        gc.collect()
        alive.append(sum(made() is not None for made in trained))
        aligned = align(*args, **options)
        trained.append(weakref.ref(aligned.policy.model.model))
        return aligned

    monkeypatch.setattr(compare, "align_policy", watched)
    text = f"name: x\nmodel: {model}\ndata: {pairs}\nmethods: [{{name: dpo, batch_size: 6}}, {{name: sft, batch_size: 6}}]\n"
    valign("run", recipe(f"{text}evaluate: {{data: {pairs}, kl_prompts: 2, max_new_tokens: 4}}\nout: {tmp_path / 'out'}\n"))
    gc.collect()
    assert alive == [0, 0] and [made() for made in trained] == [None, None]


def test_a_changed_method_is_refused_and_the_folder_still_says_what_it_holds(valign, several):
    command, out = several
    valign(*command)
    stored = (out / "recipe.json").read_text()
    said = valign.error(*command, "--set", "methods.dpo.beta=0.3")
    assert "beta (0.1 -> 0.3)" in said
    assert (out / "recipe.json").read_text() == stored
    valign(*command, "--set", "methods.dpo.beta=0.3", "--force")
    assert (out / "recipe.json").read_text() != stored


def test_a_risk_that_is_not_there_is_found_before_anything_is_loaded(valign, several):
    command, out = several
    assert "unknown reward" in valign.error(*command, "--set", "evaluate.risks=[lenght]", status=2)
    said = valign.error(*command, "--set", "goal=null", status=2)
    assert "evaluate.risks" in said and "no responses are drawn" in said and not out.exists()


@pytest.mark.parametrize(
    ("method", "says", "mend"),
    [
        ("urial", "urial needs ", "fewer worked examples (examples=1, or 0)"),
        ("{name: value_instruction, mode: q_if_cot, consider_tokens: 490}", "value_instruction needs ", "fewer consider_tokens"),
        ("{name: best_of_n, n: 2, label: two}", None, ""),  # what it can do, it may
        ("{name: grpo, max_new_tokens: 500}", "grpo needs ", "lower max_new_tokens"),
    ],
)
def test_what_does_not_fit_the_model_is_said_before_another_method_is_trained(
    valign, recipe, model, pairs, goal, vowels, tmp_path, monkeypatch, method, says, mend
):
    """512 positions: too few for the three worked examples, for long considerations, for long samples."""
    from valign.pipeline import compare

    def none_is_computed(*args, **options):
        raise ValignError("the work begins")

    monkeypatch.setattr(compare, "evaluate_policy", none_is_computed)
    monkeypatch.setattr(compare, "align_policy", none_is_computed)
    path = recipe(f"name: x\nmodel: {model}\ngoal: '{goal}'\ndata: {pairs}\nmethods: [dpo, {method}]\n"
                  f"evaluate: {{data: {pairs}, max_new_tokens: 4}}\n")  # fmt: skip
    if says is None:
        assert "the work begins" in valign.error("run", path, "--out", tmp_path / "out")
        return
    said = valign.error("run", path, "--out", tmp_path / "out", status=2)
    assert says in said and " positions (" in said and "has 512: 12 of 12 prompts do not fit" in said and mend in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "says", "status"),
    [("value_instruction", "nothing to say", 1), ("best_of_n", "needs a reward", 1), ("grpo", "needs a goal or a reward", 2)],
)
def test_a_method_without_its_goal_is_found_before_another_one_is_trained(
    valign, recipe, model, pairs, tmp_path, monkeypatch, method, says, status
):
    from valign.pipeline import compare

    monkeypatch.setattr(compare, "evaluate_policy", lambda *a, **o: pytest.fail("the work began"))
    path = recipe(f"name: x\nmodel: {model}\ndata: {pairs}\nmethods: [dpo, {method}]\nevaluate: {{data: {pairs}}}\n")
    done = valign("run", path, "--out", tmp_path / "out", status=status)
    assert says in done.stderr and not (tmp_path / "out").exists()


def test_options_that_a_method_does_not_have_are_found_before_anything_is_loaded(valign, recipe, pairs):
    path = recipe(f"name: x\nmodel: nowhere\ndata: {pairs}\nmethod: {{name: dpo, betta: 1}}\n")
    assert "did you mean: beta" in valign.error("run", path, status=2)


def test_compare_needs_no_recipe(valign, model, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("valign.pipeline.door.TAX", [])
    report = valign.json(
        "compare",
        model,
        "--method",
        "dpo,batch_size=4",
        "--method",
        "dpo,beta=0.3,label=firm",
        "--data",
        pairs,
        "--out",
        tmp_path / "out",
    )
    assert [s["label"] for s in report["subjects"]] == ["base", "dpo", "firm"]
    assert {d["use"]: d["n"] for d in report["ledger"]} == {"training": 10, "evaluation": 2}
    assert "no method" in valign.error("compare", model, "--data", pairs, status=2)


# --------------------------------------------------------------------------------------------------- watching


def test_a_running_run_is_watched_until_it_ends(valign, model, pairs, tmp_path, monkeypatch):
    from valign.engine.sampler import DataSampler

    real = DataSampler.step

    def slowly(self, index):
        time.sleep(0.3)
        return real(self, index)

    monkeypatch.setattr(DataSampler, "step", slowly)
    out = tmp_path / "out"
    command = ("align", model, "--method", "dpo", "--data", pairs, "--out", out, "--set", "batch_size=3")
    runner = threading.Thread(target=lambda: valign.quiet(*command))
    runner.start()
    try:
        while runner.is_alive() and not (out / "run" / "lock").exists():
            time.sleep(0.01)
        seen = [s["step"] for s, _ in _follow(out)]
    finally:
        runner.join()
    assert seen[-1] == 4
    assert len(set(seen)) > 1


def _follow(folder: Path):
    from valign.pipeline.reports import follow

    return follow(folder, every=0.05)


def test_a_run_that_was_killed_is_not_watched_for_ever(valign, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").write_text("host here, pid 1")  # nobody holds it
    (tmp_path / "run" / "log.jsonl").write_text('{"event": "step", "step": 1, "steps": 9, "time": 1.0, "seconds": 1}\n')
    assert valign.json("report", tmp_path, "--watch")["step"] == 1
    assert "no log of a run" in valign.error("report", tmp_path / "nowhere", "--watch")


def test_a_preference_goal_needs_no_reward_to_train_and_measure_on_pairs(valign, recipe, model, pairs, tmp_path):
    """The recipe that the recipes' own page shows: comparisons carry the goal."""
    out = tmp_path / "out"
    text = (
        f"name: pairs\nmodel: {model}\ngoal: preference\n"
        f"data: {{path: {pairs}, rows: '0:8'}}\nmethod: {{name: dpo, beta: 0.1, batch_size: 4}}\n"
        f"evaluate: {{data: {{path: {pairs}, rows: '8:12'}}, kl_prompts: 2, max_new_tokens: 4}}\nout: {out}\n"
    )
    valign("run", recipe(text))
    results = json.loads((out / "evaluation" / "dpo" / "result.json").read_text())["results"]
    found = {(r["metric"], r["variant"]): r for r in results}
    assert found["preference.implicit_reward", "sum"]["n"] == 4
    assert found["misalignment.M", "log_prob"]["value"] is not None
