"""URIAL: one prefix for base and chat models, and how far an aligned model's tokens lie from a base's."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from valign.data.group import Group, Message, Response, text, user
from valign.engine.local import LocalEngine
from valign.errors import UsageError, ValignError
from valign.goals import load_goal
from valign.methods.context.urial import (
    EXAMPLES,
    SYSTEM,
    URIALConfig,
    token_shift,
    token_shift_report,
    urial,
    with_examples,
)
from valign.methods.target import Target
from valign.models.policy import LocalPolicy, Policy, Sampling
from valign.models.tiny import tiny_model, tiny_tokenizer
from valign.pipeline.policies import check_read, load_policy

QUESTION = user("What now?")


def base_model(kind="llama", seed=0):
    """A tiny model whose tokenizer has no chat template: a base model. Long enough for the prefix, one letter a token."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    made = tiny_model(kind, dtype="float64", seed=seed, tokenizer=tokenizer)
    return made


def policy_of(model):
    return LocalPolicy(model, LocalEngine(precision="full"))


SHORT = URIALConfig(examples=0, system="Be kind.")


# ----------------------------------------------------------------------------------------------------------- prefix


def test_the_prefix_is_system_examples_question():
    said = with_examples(QUESTION, URIALConfig())
    assert [m.role for m in said] == ["system", *["user", "assistant"] * 3, "user"]
    assert said[0].content == SYSTEM and said[-1:] == QUESTION
    assert [(q.content, a.content) for q, a in zip(said[1:-1:2], said[2:-1:2])] == list(EXAMPLES)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_fewer_examples_and_no_system_text(n):
    said = with_examples(QUESTION, URIALConfig(examples=n, system=""))
    assert len(said) == 2 * n + 1 and said[-1:] == QUESTION and all(m.role != "system" for m in said)


def test_the_prompts_own_system_turn_stays_after_ours():
    talk = (Message("system", "Be brief."), *user("Hi"), Message("assistant", "Hello"), *user("What now?"))
    said = with_examples(talk, URIALConfig(examples=1))
    assert said[0].content == f"{SYSTEM}\n\nBe brief." and said[3:] == talk[1:]


def test_raw_text_becomes_the_last_question():
    (said,) = with_examples(text("What now?"), URIALConfig())
    assert said.role == "text" and said.content.startswith(SYSTEM)
    assert said.content.endswith("User: What now?\n\nAssistant:") and said.content.count("User: ") == 4


@pytest.mark.parametrize("words", ["", "You care for others."])
def test_the_prefix_is_the_same_before_every_question(words):
    """Prefill shares it, the goal's words with it: the ids of all prompts begin alike."""
    template = base_model().template
    a, b = template.prompt_ids_many([with_examples(user(q), URIALConfig(), words) for q in ("What now?", "Who?")])
    same = next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)
    assert same > 0.9 * len(b)


def test_the_goal_is_said_at_the_end_of_the_system_text_and_false_is_the_published_form(tiny_policy):
    """Chat and raw text alike; two goals give two prefixes, and without a goal or with `goal=False` they are one."""
    goal, other = load_goal("schwartz10", benevolence=1), load_goal("schwartz10", power=1)
    chat, raw = ([user("Hi")], [text("Hi")])
    said = urial(tiny_policy, Target(goal), URIALConfig(examples=1))
    assert said.rewrite(chat)[0][0].content == f"{SYSTEM}\n\n{goal.describe('system')}"
    assert said.rewrite(raw)[0][0].content.startswith(f"{SYSTEM}\n\n{goal.describe('system')}\n\nUser: {EXAMPLES[0][0]}")
    assert urial(tiny_policy, Target(other), URIALConfig(examples=1)).rewrite(chat) != said.rewrite(chat)
    published = [with_examples(p, URIALConfig(examples=1)) for p in (*chat, *raw)]
    for target, config in ((Target(), URIALConfig(examples=1)), (Target(goal), URIALConfig(examples=1, goal=False))):
        assert urial(tiny_policy, target, config).rewrite([*chat, *raw]) == published


def test_a_goal_named_for_a_folder_takes_the_stored_ones_place_where_it_is_said(tiny_policy, tmp_path):
    """`valign generate FOLDER --goal`: read by the form that says it, refused by the published one."""
    base = tmp_path / "base"
    tiny_policy.save(base)
    for name, config in (("said", URIALConfig()), ("published", URIALConfig(goal=False))):
        urial(load_policy(base), Target(load_goal("schwartz10", power=1)), config).save(tmp_path / name)
    other = load_goal("schwartz10", benevolence=1)
    check_read(str(tmp_path / "said"), goal=True)
    (prompt,) = load_policy(tmp_path / "said", goal=other).rewrite([QUESTION])
    assert prompt[0].content.endswith(other.describe("system"))
    with pytest.raises(UsageError, match="urial does not read it"):
        check_read(str(tmp_path / "published"), goal=True)


# ----------------------------------------------------------------------------------------------- base and chat models


@pytest.mark.capability("C03")
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "qwen3"])
def test_it_runs_on_base_models(kind):
    """No chat template: the plain form of turns; answers are those to the prefixed prompt, batch by batch."""
    model = base_model(kind)
    assert model.template.is_fallback
    policy = urial(policy_of(model), Target(), SHORT)
    assert isinstance(policy, Policy)
    (row,) = policy.generate([QUESTION], Sampling(n=2, max_new_tokens=4))
    (same,) = policy_of(model).generate([with_examples(QUESTION, SHORT)], Sampling(n=2, max_new_tokens=4))
    assert [s.ids for s in row] == [s.ids for s in same]
    assert model.template.prompt_text(with_examples(QUESTION, SHORT)) == "Be kind.\n\nUser: What now?\nAssistant:"
    (scored,) = policy.score([Group(id="g", prompt=QUESTION, responses=(Response("yes"),))])
    assert scored[0].n_tokens == len(" yes") + 1 and policy.cost.calls == 3


@pytest.mark.capability("C03")
def test_it_runs_on_chat_models(tiny_policy):
    policy = urial(tiny_policy, Target(), SHORT)
    (row,) = policy.generate([QUESTION], Sampling(max_new_tokens=4, temperature=0))
    assert len(row) == 1 and policy.id == "urial(tiny-llama-0)"
    said = tiny_policy.model.template.prompt_text(with_examples(QUESTION, SHORT))
    assert said == "<s><|system|>Be kind.<|end|><|user|>What now?<|end|><|assistant|>"


# -------------------------------------------------------------------------------------------------------- token shift


@pytest.mark.capability("C03")
def test_shares_of_the_token_shift_sum_to_one():
    shares = token_shift([np.array([1, 1, 2]), np.array([3, 4, 900, 1])])
    assert shares == {"unshifted": 3 / 7, "marginal": 2 / 7, "shifted": 2 / 7}
    rng = np.random.default_rng(0)
    for n in range(1, 20):
        assert sum(token_shift([rng.geometric(0.3, n)]).values()) == pytest.approx(1)
    assert set(token_shift([]).values()) == {0.0}


@pytest.mark.capability("C03")
def test_a_model_is_not_shifted_from_itself_and_less_from_a_near_one():
    """Greedy tokens have rank 1 under the model that said them; the further the weights move, the more shift."""
    base = policy_of(base_model())
    prompts = [user(q) for q in ("What now?", "Who?", "Why not?")]
    reports = []
    for size in (0.0, 0.1, 1.0):
        moved = copy.deepcopy(base.model.model)
        torch.manual_seed(0)
        with torch.no_grad():
            for p in moved.parameters():
                p.add_(size * torch.randn_like(p))
        aligned = policy_of(replace(base.model, model=moved))
        reports.append(token_shift_report(base, aligned, prompts, max_new_tokens=12))
        shares = {k: v for k, v in reports[-1].items() if k != "tokens"}
        assert set(shares) == {"unshifted", "marginal", "shifted"} and sum(shares.values()) == pytest.approx(1)
    assert reports[0]["unshifted"] == 1 and reports[0]["tokens"] == 36
    assert reports[0]["unshifted"] > reports[1]["unshifted"] > reports[2]["unshifted"]
    assert reports[2]["shifted"] > 0.5


def test_ranks_are_read_after_the_same_prefix():
    """The report equals ranks that are counted by hand, one token at a time."""
    base, aligned = policy_of(base_model()), policy_of(base_model(seed=1))
    found = token_shift_report(base, aligned, [QUESTION], max_new_tokens=10)
    (sample,) = aligned.generate([QUESTION], Sampling(max_new_tokens=10, temperature=0))[0]
    head, ranks = aligned.model.template.prompt_ids(QUESTION), []
    with torch.no_grad():
        for t, token in enumerate(sample.ids):
            logits = base.model.model(torch.tensor([[*head, *sample.ids[:t]]])).logits[0, -1]
            ranks.append(1 + int((logits > logits[token]).sum()))
    assert found == {**token_shift([np.array(ranks)]), "tokens": 10.0}


def test_models_with_other_tokens_cannot_be_compared():
    other = tiny_model("llama", vocab="abc", dtype="float64")
    with pytest.raises(ValignError, match="other tokens"):
        token_shift_report(policy_of(base_model()), policy_of(other), [QUESTION])


@pytest.mark.real
def test_the_prefix_and_the_report_on_the_embedded_model(smollm2):
    """Three questions answered after the prefix; shares of a lightly moved copy sum to 1 and are mostly unshifted."""
    questions = [user("How do I keep basil alive?"), user("Why is the sky blue?")]
    answers = urial(smollm2, Target(), URIALConfig(examples=1)).generate(
        questions, Sampling(max_new_tokens=16, temperature=0)
    )
    assert all(len(row[0].text.split()) > 3 for row in answers)
    moved = copy.deepcopy(smollm2.model.model)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in moved.model.layers[-1].parameters():
            p.mul_(1 + 0.2 * torch.randn_like(p))
    report = token_shift_report(smollm2, policy_of(replace(smollm2.model, model=moved)), questions, max_new_tokens=16)
    print(f"\ntoken shift: {dict(report)}; after the prefix: {answers[0][0].text!r}")
    assert report["unshifted"] + report["marginal"] + report["shifted"] == pytest.approx(1)
    assert report["unshifted"] > 0.5 and report["tokens"] > 16
