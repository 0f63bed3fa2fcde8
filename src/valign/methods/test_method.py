"""Settings become configs or clear errors, every setting has an effect, and the table says what is true."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from valign.engine.config import FeedbackConfig
from valign.errors import UsageError, ValignError
from valign.methods.method import Method
from valign.methods.table import METHODS, method
from valign.methods.target import Target
from valign.theory.coefficients import COEFFICIENTS

HERE = Path(__file__).parent
TRAINING = {n: m for n, m in METHODS.items() if m.trains}
ROWS = HERE.parents[2] / "docs" / "mission_rows.yaml"


# ------------------------------------------------------------------------------------------------------- settings


def test_settings_come_as_numbers_or_as_text():
    config = METHODS["grpo"].configure(
        {
            "learning_rate": "1e-5",
            "batch_size": "8",
            "group_size": 6.0,
            "clip": "0.1",
            "schedule": "linear",
            "adapter": "lora",
        }
    )
    assert (config.learning_rate, config.batch_size, config.group_size, config.clip) == (1e-5, 8, 6, 0.1)
    assert isinstance(config.batch_size, int) and isinstance(config.group_size, int)
    assert (config.schedule, config.adapter) == ("linear", "lora")
    assert METHODS["sft"].configure({"learning_rate": None}).learning_rate is None
    assert METHODS["value_instruction"].configure({"text": 5}).text == "5"


@pytest.mark.parametrize(
    ("name", "option", "near"),
    [
        ("dpo", "betta", "beta"),
        ("sft", "beta", ""),
        ("best_of_n", "temprature", "temperature"),
        ("urial", "example", "examples"),
    ],
)
def test_an_option_that_a_method_does_not_have_is_an_error_with_the_nearest(name, option, near):
    with pytest.raises(UsageError, match=f"method '{name}' has no option '{option}'") as caught:
        METHODS[name].configure({option: 1})
    text = caught.value.render()
    assert f"method.{option}" in text and "its options: " in text
    assert not near or f"did you mean: {near}" in text


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("dpo", "beta", "strong"),
        ("dpo", "beta", None),
        ("dpo", "beta", True),
        ("dpo", "beta", [0.1]),
        ("dpo", "learning_rate", "nan"),
        ("dpo", "learning_rate", float("inf")),
        ("sft", "batch_size", 2.5),
        ("sft", "batch_size", "inf"),
        ("sft", "max_steps", True),
        ("sft", "schedule", "cosin"),
        ("sft", "on_long", "cut"),
        ("sft", "train_on", "both"),
        ("value_instruction", "mode", "q_cot"),
        ("value_instruction", "text", ["a"]),
    ],
)
def test_a_value_of_the_wrong_type_names_its_option(name, option, value):
    with pytest.raises(ValignError) as caught:
        METHODS[name].configure({option: value})
    assert option in str(caught.value.where) and caught.value.exit_code in (1, 2)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("dpo", "beta", 0),
        ("cdpo", "label_noise", 0.5),
        ("cdpo", "label_noise", 0),
        ("robust_dpo", "label_noise", -0.1),
        ("grpo", "group_size", 1),
        ("grpo", "temperature", 0),
        ("grpo", "max_new_tokens", 0),
        ("grpo", "clip", 0),
        ("grpo", "clip", 1.5),
        ("rloo", "beta", -1),
        ("sft", "learning_rate", 0),
        ("sft", "batch_size", 0),
        ("sft", "warmup", 1),
        ("sft", "patience", 3),
        ("best_of_n", "n", 0),
        ("best_of_n", "temperature", 0),
        ("urial", "examples", 4),
        ("value_instruction", "consider_tokens", 0),
    ],
)
def test_a_number_out_of_range_says_which_range(name, option, value):
    with pytest.raises(ValignError) as caught:
        METHODS[name].configure({option: value})
    text = caught.value.render()
    assert option in text and str(value) in text


def test_the_targets_strength_takes_the_place_of_the_default_alone():
    dpo, sft = METHODS["dpo"], METHODS["sft"]
    assert dpo.with_beta(dpo.configure({}), Target(beta=0.7), {}).beta == 0.7
    assert dpo.with_beta(dpo.configure({"beta": 0.2}), Target(beta=0.7), {"beta": 0.2}).beta == 0.2
    assert dpo.with_beta(dpo.configure({}), Target(), {}).beta == 0.1
    assert sft.with_beta(sft.configure({}), Target(beta=0.7), {}) == sft.configure({})
    with pytest.raises(ValignError, match="beta"):
        Target(beta=0)


def test_a_target_without_goal_and_reward_says_what_is_missing():
    with pytest.raises(ValignError, match="needs a reward") as caught:
        Target().utility()
    assert "--goal" in caught.value.render()


# ------------------------------------------------------------------------------------------------ every field counts


def read_somewhere() -> set[str]:
    """Names of attributes that methods and engine read off a config."""
    engine = HERE.parent / "engine"
    files = [
        p for folder in (HERE, engine) for p in folder.rglob("*.py") if not p.name.startswith(("test_", "conftest"))
    ]
    read = {name for p in files for name in re.findall(r"config\.(\w+)", p.read_text(encoding="utf-8"))}
    return read | ({"learning_rate"} if "peak" in read else set())  # TrainConfig.peak gives the rate


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_read(name):
    """No option is accepted and ignored: each is an argument of the objective, or read by name."""
    m = METHODS[name]
    arguments = set(inspect.signature(m.objective).parameters) if m.objective is not None else set()
    unread = [f.name for f in fields(m.config) if f.name not in arguments | read_somewhere()]
    assert unread == []


@pytest.mark.parametrize("name", TRAINING)
def test_every_keyword_of_an_objective_is_a_setting(name):
    m = TRAINING[name]
    keywords = [p.name for p in inspect.signature(m.objective).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert set(keywords) <= {f.name for f in fields(m.config)}


def test_own_settings_of_each_method_reach_its_own_code():
    """The names above could be read by another method: these are those that are not of the loop or the data."""
    shared = {f.name for f in fields(FeedbackConfig)}
    own = {n: {f.name for f in fields(m.config)} - shared for n, m in METHODS.items()}
    rollouts = {"rollouts", "max_lag", "audit_every", "max_sampler_kl"}  # effects: test_train.py
    assert own == {
        "sft": {"train_on"},
        "dpo": {"beta"},
        "cdpo": {"beta", "label_noise"},
        "robust_dpo": {"beta", "label_noise"},
        "reward_model": {"label_noise", "center", "margin"},
        "reward_ranked_pairs": set(),
        "reward_plackett_luce": set(),
        "grpo": {"beta", "clip", "group_size", "max_new_tokens", "temperature"} | rollouts,
        "rloo": {"beta", "group_size", "max_new_tokens", "temperature"} | rollouts,
        "value_instruction": {"mode", "place", "text", "consider_tokens"},
        "urial": {"examples", "system", "goal"},
        "best_of_n": {"n", "temperature"},
    }, "a new setting: add it here, and a test that it has an effect"
    for name in ("value_instruction", "urial", "best_of_n"):
        source = Path(inspect.getfile(METHODS[name].config)).read_text(encoding="utf-8")
        assert all(f"config.{option}" in source for option in own[name])


# --------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("name", METHODS)
def test_each_method_says_where_it_comes_from(name):
    m = METHODS[name]
    rows = {row["id"] for family in yaml.safe_load(ROWS.read_text(encoding="utf-8")).values() for row in family["rows"]}
    assert m.name == name and m.row in rows and m.title and m.promise and not m.promise.endswith(".")
    assert all(re.fullmatch(r"\d{4}\.\d{4,5}", p) for p in m.paper.split(", "))
    assert m.config() is not None and len(fields(m.config)) <= 25
    assert m.trains != (m.wrap is not None), "it changes weights or it wraps"


@pytest.mark.parametrize("name", TRAINING)
def test_each_training_method_stands_in_the_table_of_coefficients(name):
    m = TRAINING[name]
    assert name in COEFFICIENTS or m.makes_reward, "coefficients are those of log-probs; rewards have formulas of their own"
    wanted = list(inspect.signature(m.objective).parameters)
    assert m.uses_reference == ("reference" in wanted)
    assert m.samples == ("advantage" in wanted) and (m.at_start is None or m.unit == "pair")
    full, adapter = m.config.rates
    assert 0 < full < adapter


def test_an_unknown_method_names_the_nearest():
    assert isinstance(method("dpo"), Method)
    with pytest.raises(ValignError, match="dppo") as caught:
        method("dppo")
    assert "dpo" in caught.value.render()
