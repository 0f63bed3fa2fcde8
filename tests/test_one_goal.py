"""One goal object, every family: what the six nouns promise, in Python, on a tiny model."""

from __future__ import annotations

import numpy as np
import pytest

import valign as va
from valign.data.group import Group, Response, VectorScore, user
from valign.errors import ValignError

TEXTS = ("aaa eee iii", "bcd fgh", "zzz")
LABELS = ({"BE": 1.0}, {"BE": -1.0, "PO": 1.0}, {"PO": 0.5})


def groups(n: int, first: int = 0) -> list[Group]:
    """Situations with three responses, labelled with values."""
    return [
        Group(
            id=f"s{i}",
            prompt=user(f"What now, {i}?"),
            responses=tuple(map(Response, TEXTS)),
            feedback=tuple(VectorScore(response=k, theory="schwartz10", values=v) for k, v in enumerate(LABELS)),
        )
        for i in range(first, first + n)
    ]


@pytest.fixture
def policy(model):
    return va.load(model)


@pytest.fixture
def care(vowels):
    """A value goal with a scripted evaluator."""
    return va.goal("schwartz10", benevolence=1, power=-1)


SETTINGS = {
    "grpo": {"batch_size": 4, "group_size": 2, "max_new_tokens": 6, "max_steps": 2},
    "sft": {"batch_size": 4, "learning_rate": 1e-3},
    "dpo": {"batch_size": 4, "learning_rate": 1e-3},
    "value_instruction": {},
    "best_of_n": {"n": 3},
}


@pytest.mark.capability("G01")
def test_one_goal_drives_rl_sft_in_context_and_decoding_and_gives_comparable_scores(policy, care):
    """No data set names a preferred response: RL is rewarded by the goal, SFT and DPO learn what it finds
    best,
    the in-context method says it, best-of-n chooses by it; and every policy is measured on its one scale.
    """
    data = groups(8)
    aligned = [va.align(policy, va.Target(care, policy), method=m, data=data, **s) for m, s in SETTINGS.items()]
    assert [p.kind for p in aligned] == ["weights", "weights", "weights", "context", "decoding"]
    judged = va.evaluate(
        [policy, *aligned], care, groups(6, first=100), sampling=va.Sampling(max_new_tokens=6), kl_prompts=0
    )
    for metric, span in (("goal.utility", (-1, 0)), ("misalignment.M", (0, 1))):
        found = [next(r for r in m.results if r.metric == metric) for m in judged.measured]
        assert len({(r.variant, r.unit, r.direction, r.level) for r in found}) == 1, metric
        assert len({tuple(i.id for i in r.items) for r in found}) == 1  # item by item
        assert all(r.value is not None and span[0] <= r.value <= span[1] for r in found), metric
    goals = {
        m.results[-1].provenance.get("goal", {}).get("fingerprint") for m in judged.measured if m.results[-1].provenance
    }
    assert len(goals) == 1


def test_the_goal_decides_what_supervised_methods_learn(policy, care):
    """The responses with vowels become more probable than those without, by SFT and by DPO alike."""
    data = groups(8)
    before = policy.score(data[:1])[0]
    for method in ("sft", "dpo"):
        settings = {**SETTINGS[method], "learning_rate": 3e-2}
        moved = va.align(policy, va.Target(care, policy), method=method, data=data, **settings).score(data[:1])[0]
        gain = np.array([m.log_prob - b.log_prob for m, b in zip(moved, before)])
        assert gain.argmax() == 0, method


def test_best_of_n_answers_nearer_to_the_goal_than_its_base(policy, care):
    judged = va.evaluate(
        [policy, va.align(policy, care, "best_of_n", n=8)],
        care,
        groups(8),
        sampling=va.Sampling(max_new_tokens=6),
        kl_prompts=0,
    )
    plain, best = (judged.headline("goal.utility")[p.id] for p in judged.policies)
    assert best > plain


# ----------------------------------------------------------------------------------- the Python of the design


def test_the_six_nouns_from_python(policy, care, situations, tmp_path):
    data = va.read(situations)
    assert isinstance(data, va.Dataset)
    target = va.Target(care, reference=policy, beta=0.2)
    aligned = va.align(policy, target, method="dpo", data=data, out=tmp_path / "dpo", batch_size=3)
    assert aligned.card()["config"]["beta"] == 0.2  # the target's strength is the method's
    assert va.load(tmp_path / "dpo").card()["sha256"] == aligned.card()["sha256"]
    heard = []
    result = va.evaluate([policy, aligned], care, data, sampling=va.Sampling(max_new_tokens=4), kl_prompts=2,
                         on_event=lambda event, fields: heard.append(event))  # fmt: skip
    page = result.report(tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    assert "dpo(" in page.read_text()
    assert {"measuring", "progress"} <= set(heard)
    assert set(result.headline()) == {policy.id, aligned.id}
    result.save(tmp_path / "results")
    assert (tmp_path / "results" / "1" / "result.json").exists()


def test_the_policy_that_was_given_stays_as_it_was(policy, care):
    before = policy.score(groups(1))[0][0].log_prob
    va.align(policy, care, "sft", groups(4), batch_size=2, learning_rate=0.1)
    assert policy.score(groups(1))[0][0].log_prob == before


def test_a_finished_folder_is_read_again_as_the_same_policy(policy, pairs, tmp_path):
    data = va.read(pairs)
    for settings in ({}, {"adapter": "lora"}):
        out = tmp_path / f"out{len(settings)}"
        first = va.align(policy, va.Target(None, policy), "dpo", data, out=out, batch_size=6, **settings)
        again = va.align(policy, va.Target(None, policy), "dpo", data, out=out, batch_size=6, **settings)
        assert again.card() == first.card()


def test_mistakes_from_python_are_the_same_errors(policy, care, tmp_path):
    with pytest.raises(ValignError, match="did you mean: beta"):
        va.align(policy, care, "dpo", groups(2), betta=1)
    with pytest.raises(ValignError, match="unknown method"):
        va.align(policy, care, "dop", groups(2))
    with pytest.raises(ValignError, match="no policy"):
        va.evaluate([], care)
    with pytest.raises(ValignError, match="held-out data are needed"):
        va.evaluate(policy)
    unsaved = va.align(policy, care, "sft", groups(4), batch_size=4)
    with pytest.raises(ValignError, match="only when this one is"):
        va.align(unsaved, care, "value_instruction").save(tmp_path / "out")


# ---------------------------------------------------------------------------------------- the implicit reward


@pytest.mark.capability("R08")
def test_the_implicit_reward_orders_pairs_exactly_as_the_margin_of_the_training_loss(policy, pairs):
    """beta log pi/pi_ref of `preference.implicit_reward` is the margin inside the DPO loss, pair by pair."""
    from valign.engine.items import collate
    from valign.engine.reference import with_references
    from valign.evaluation.measure import measure_preference
    from valign.methods.feedback import prepare
    from valign.methods.supervised.dpo import dpo
    from valign.methods.table import METHODS

    data, beta = va.read(pairs), 0.3
    trained = va.align(policy, va.Target(None, policy), "dpo", data, batch_size=4, learning_rate=1e-2, beta=beta)
    config = METHODS["dpo"].configure({"beta": beta, "max_length": 512})
    items = prepare("pairs", data, policy.model.template, config).items
    engine = policy.engine
    items = with_references(items, engine.scorer(policy.model), "test", pairs.parent, budget=4096)
    tensors = collate(items, engine.scorer(trained.model)([i.tree for i in items]))
    terms = dpo(*(tensors[k] for k in ("policy", "reference", "mask", "pairs", "label")), beta=beta)
    margin = terms.metrics["margin"].detach().numpy()

    measured = next(r for r in measure_preference(trained, policy, list(data), beta=beta) if r.variant == "sum")
    by_pair = {i.id: i.detail["margin"] for i in measured.items}
    implicit = np.array([by_pair[i.tree.id] for i in items])
    assert np.abs(margin).max() > 0.01
    assert np.abs(implicit - margin).max() < 1e-4
    assert (np.argsort(implicit) == np.argsort(margin)).all()
    assert measured.value == pytest.approx(float(terms.metrics["correct"].mean()))
