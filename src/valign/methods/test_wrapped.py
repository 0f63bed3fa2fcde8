"""Wrapped policies: saved and loaded they read the same prompts; their cost is what went through their base."""

from __future__ import annotations

import json

import numpy as np
import pytest

from valign.data.group import user
from valign.errors import ValignError
from valign.methods.table import METHODS
from valign.methods.target import Target
from valign.models.policy import LocalPolicy, Policy, Sampling
from valign.models.tiny import tiny_model
from valign.pipeline.goals import make_goal
from valign.pipeline.policies import load_policy
from valign.rewards.base import length

PROMPTS = [user("Why?"), user("Who?")]
SAMPLING = Sampling(n=2, max_new_tokens=5, seed=2)
WRAPS = {
    "value_instruction": {"place": "after"},
    "urial": {"examples": 1, "system": "Be kind.", "goal": False},  # with the goal it is longer than a tiny model reads
    "best_of_n": {"n": 3},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_policy):
    """The tiny model from a folder, as users have theirs."""
    folder = tmp_path_factory.mktemp("base") / "model"
    LocalPolicy(tiny_model("llama"), tiny_policy.engine).save(folder)
    return load_policy(folder)


def make(name, base, settings=None):
    method = METHODS[name]
    target = Target(make_goal("hhh_like"), base, reward=length())
    return method.wrap(base, target, method.configure(WRAPS[name] if settings is None else settings))


def drawn(policy):
    return [[s.ids for s in row] for row in policy.generate(PROMPTS, SAMPLING)]


def test_every_method_that_wraps_is_here():
    assert set(WRAPS) == {n for n, m in METHODS.items() if m.wrap is not None}


@pytest.mark.parametrize("name", WRAPS)
def test_saved_and_loaded_it_answers_alike(tmp_path, base, name):
    """Same prompts to the base, so the same samples bit for bit; the folder names method, settings, goal and base."""
    policy = make(name, base)
    policy.save(tmp_path / "aligned")
    again = load_policy(tmp_path / "aligned", reward=length())
    assert isinstance(again, Policy) and again.kind == policy.kind == METHODS[name].family
    assert again.config == policy.config and drawn(again) == drawn(policy)
    if hasattr(policy, "rewrite"):
        assert again.rewrite(PROMPTS) == policy.rewrite(PROMPTS) != PROMPTS
    manifest = json.loads((tmp_path / "aligned" / "policy.json").read_text())
    assert (manifest["method"], manifest["kind"]) == (name, policy.kind)
    assert manifest["goal"] == make_goal("hhh_like").to_json()
    assert manifest["config"].items() >= WRAPS[name].items()


@pytest.mark.parametrize("name", WRAPS)
def test_the_card_says_what_stands_on_what(base, name):
    card = make(name, base).card()
    assert (card["method"], card["base"], card["kind"]) == (name, base.id, METHODS[name].family)
    assert card["id"] == f"{name}({base.id})" and card["config"].items() >= WRAPS[name].items()
    assert json.loads(json.dumps(card))["sha256"] == base.card()["sha256"]


def test_a_wrapped_policy_can_be_wrapped_and_saved(tmp_path, base):
    """Best of n over an instruction: both are loaded again from their folders."""
    inner = make("value_instruction", base)
    inner.save(tmp_path / "inner")
    outer = make("best_of_n", load_policy(tmp_path / "inner"))
    outer.save(tmp_path / "outer")
    assert drawn(load_policy(tmp_path / "outer", reward=length())) == drawn(outer) == drawn(make("best_of_n", inner))


def test_what_cannot_be_loaded_again_is_not_saved(tmp_path, base):
    outer = make("best_of_n", make("urial", base))
    with pytest.raises(ValignError, match="saved only when this one is"):
        outer.save(tmp_path / "outer")
    assert not (tmp_path / "outer").exists()


@pytest.mark.parametrize("name", WRAPS)
def test_the_cost_counts_all_that_went_through_the_base(base, name):
    policy = make(name, base)
    before = policy.cost
    policy.generate(PROMPTS, SAMPLING)
    spent = policy.cost - before
    assert spent.calls == 4 * WRAPS[name].get("n", 1)
    said = [p for p in (policy.rewrite(PROMPTS) if hasattr(policy, "rewrite") else PROMPTS)]
    assert spent.tokens_read == sum(len(base.model.template.prompt_ids(p)) for p in said)
    assert spent.tokens_generated > 0 and spent.seconds > 0


@pytest.mark.parametrize("name", WRAPS)
def test_batches_change_no_sample(base, name):
    """What a prompt gets depends on its key, not on the other prompts."""
    policy = make(name, base)
    both = policy.generate(PROMPTS, SAMPLING, keys=["a", "b"])
    alone = policy.generate(PROMPTS[1:], SAMPLING, keys=["b"])
    assert [s.ids for s in alone[0]] == [s.ids for s in both[1]]
    assert np.isfinite(np.concatenate([s.raw for s in both[0]])).all()
