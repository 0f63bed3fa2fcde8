"""Which methods can run, with the reason for each that cannot, and what settings mean."""

from __future__ import annotations

from valign.data.group import Comparison, Demonstration, Group, Response, user
from valign.methods.choose import catalogue, settings_of
from valign.methods.table import METHODS

PAIRS = [Group("g", user("Why?"), (Response("a"), Response("b")), (Comparison(chosen=0, rejected=1),))]
SHOWN = [Group("g", user("Why?"), (Response("a"),), (Demonstration(response=0),))]


REWARD_MODELS = {"reward_model", "reward_ranked_pairs", "reward_plackett_luce"}


def runs(**given):
    return {r["name"]: r for r in catalogue(METHODS.values(), **given)}


def test_nothing_is_judged_where_nothing_was_said():
    assert all(r["can_run"] is None and r["reason"] == "" for r in runs().values())


def test_each_method_runs_exactly_where_it_has_what_it_needs():
    """A reason stands with every exclusion and with no other method."""
    for given, expected in (
        ({"local": True, "groups": PAIRS, "has_goal": False}, {"sft", "dpo", "cdpo", "robust_dpo", "urial", *REWARD_MODELS}),
        ({"local": True, "groups": SHOWN, "has_goal": False}, {"sft", "urial"}),
        ({"local": True, "groups": PAIRS, "has_goal": True}, set(METHODS)),
        ({"local": False, "groups": PAIRS, "has_goal": True}, {"value_instruction", "urial", "best_of_n"}),
        ({"local": False, "groups": PAIRS, "has_goal": False}, {"urial"}),
    ):
        rows = runs(**given)
        assert {n for n, r in rows.items() if r["can_run"]} == expected
        assert all(bool(r["reason"]) != r["can_run"] for r in rows.values())
    assert "out of reach" in runs(local=False)["dpo"]["reason"]
    assert "no pairs" in runs(groups=SHOWN)["dpo"]["reason"]
    assert "no rankings" in runs(groups=SHOWN)["reward_plackett_luce"]["reason"]


def test_every_setting_of_every_method_says_what_it_means():
    for method in METHODS.values():
        rows = {r["name"]: r for r in settings_of(method)}
        assert [n for n, r in rows.items() if not r["meaning"] and n != "seed"] == []
        assert {n: r["default"] for n, r in rows.items()} == vars(method.config())
    rate = next(r for r in settings_of(METHODS["dpo"]) if r["name"] == "learning_rate")
    assert "5e-07 full weights, 1e-05 adapter" in rate["meaning"]
