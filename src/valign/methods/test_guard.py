"""The guard in real runs of the loop on a tiny model: it changes no step, rings when it must, stops, goes back, resumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from valign.data.group import Comparison, Demonstration, Group, Response, user
from valign.engine.run import RunFolder, read_log
from valign.errors import ValignError
from valign.methods.guard import EVENT, Guard, curve
from valign.methods.table import METHODS
from valign.methods.target import Target
from valign.methods.train import train_policy
from valign.report import run_summary, watch_page

FLAT = {"epochs": 8, "max_steps": 6, "schedule": "constant", "warmup": 0, "checkpoint_every": 1}


def vowels(groups):
    return [np.array([sum(c in "aeiou" for c in r.text) + 0.1 * len(r.text) for r in g.responses]) for g in groups]


class Judge:
    """A gold judge by a function of the proxy's scores; notes how often it was asked."""

    def __init__(self, of=lambda proxy, k: proxy):
        self.of, self.asked = of, 0

    def score(self, groups):
        self.asked += 1
        return [self.of(row, self.asked) for row in vowels(groups)]


def prompts(n, name):
    return [Group(id=f"{name}{i}", prompt=user(f"{name} {i}?")) for i in range(n)]


def guarded(judge=None, **more):
    more = {"every": 1, "samples": 4} | more
    return Guard(judge, prompts(4, "audit"), **more) if judge is not None else Guard(**more)


def trained(policy, folder, guard, listen=None, reward=vowels, **settings):
    config = METHODS["rloo"].configure(
        {"learning_rate": 1e-2, "batch_size": 3, "group_size": 3, "max_new_tokens": 5, "max_steps": 3, **settings}
    )
    with RunFolder(folder) as run:
        return train_policy(METHODS["rloo"], policy, Target(reward=reward), config, run, groups=prompts(6, "g"),
                            on_event=listen, guard=guard)  # fmt: skip


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.policy.model.model.parameters(), b.policy.model.model.parameters()))


def test_looking_changes_no_step_and_an_honest_reward_is_not_accused(tiny_policy, tmp_path):
    """A/A: gold is the reward. Bit for bit the run without a guard; an audit at step 0 and at every second step."""
    plain = trained(tiny_policy, tmp_path / "plain", None, **FLAT)
    judge = Judge()
    watched = trained(tiny_policy, tmp_path / "watched", guarded(judge, every=2, action="stop"), **FLAT)
    assert same(plain, watched) and watched.outcome.steps == 6 and not watched.outcome.stopped_early
    rows = curve(tmp_path / "watched")
    assert [r["step"] for r in rows] == [0, 2, 4, 6] and judge.asked == 4
    assert not any(r["fires"] for r in rows) and all(r["slope"] == pytest.approx(1) for r in rows)
    assert all(r["gold"] == pytest.approx(r["proxy"]) and r["kl"] is not None for r in rows)


def test_a_reward_that_works_against_the_judge_ends_the_run_before_step_0(tiny_policy, tmp_path):
    told = []
    found = trained(tiny_policy, tmp_path / "run", guarded(Judge(lambda r, k: -r), samples=16, action="stop"),
                    lambda e, f: told.append((e, f)))  # fmt: skip
    assert found.outcome.steps == 0 and found.outcome.stopped_early
    assert any(
        e == "warning" and "proxy and gold disagree" in f["text"] and "the run ends" in f["text"] for e, f in told
    )
    assert same(found, trained(tiny_policy, tmp_path / "again", guarded(Judge(), action="warn"), learning_rate=1e-30))


def later_against(row, k):
    """Agrees in the audits of steps 0, 1 and 2 (gold rising), then pays for the opposite."""
    return row + k if k <= 3 else -row


def test_rollback_puts_the_best_audits_weights_back(tiny_policy, tmp_path):
    """The audit of step 3 rings; what is left are bit for bit the weights of step 2."""
    found = trained(tiny_policy, tmp_path / "run", guarded(Judge(later_against), action="rollback"), **FLAT)
    assert found.outcome.steps == 3 and found.outcome.best[0] == 2
    two = trained(tiny_policy, tmp_path / "two", None, **{**FLAT, "max_steps": 2})
    assert same(found, two)
    stopped = trained(tiny_policy, tmp_path / "stop", guarded(Judge(later_against), action="stop"), **FLAT)
    assert stopped.outcome.steps == 3 and not same(stopped, two)
    warned = trained(tiny_policy, tmp_path / "warn", guarded(Judge(later_against), action="warn"), **FLAT)
    assert warned.outcome.steps == 6 and [r["fires"] for r in curve(tmp_path / "warn")] == [False] * 3 + [True] * 4


@pytest.mark.parametrize("step", [1, 3])
def test_a_run_that_was_killed_knows_what_the_guard_found(tiny_policy, tmp_path, step):
    """Killed after the checkpoint of a step and started again: the same audits, the same end, the same weights."""
    whole = trained(tiny_policy, tmp_path / "whole", guarded(Judge(later_against), action="rollback"), **FLAT)
    killed = False

    def kill(event, fields):
        nonlocal killed
        if event == "checkpoint" and fields["step"] == step and not killed:
            killed = True
            raise KeyboardInterrupt

    judge = Judge(later_against)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_policy, tmp_path / "cut", guarded(judge, action="rollback"), kill, **FLAT)
    rest = trained(tiny_policy, tmp_path / "cut", guarded(judge, action="rollback"), **FLAT)
    assert killed and same(whole, rest)
    assert [x["gold"] for x in curve(tmp_path / "cut")] == pytest.approx([x["gold"] for x in curve(tmp_path / "whole")])


def test_a_kl_budget_ends_a_run_without_any_judge(tiny_policy, tmp_path):
    found = trained(tiny_policy, tmp_path / "run", guarded(max_kl=1e-4, action="stop"), **FLAT)
    assert 1 < found.outcome.steps < 6 and found.outcome.stopped_early
    line = next(x for x in read_log(tmp_path / "run") if x["event"] == EVENT and x.get("fires"))
    assert "above the budget" in line["reasons"][0]


def test_judges_that_drift_apart_ring(tiny_policy, tmp_path):
    """The ensemble: a second judge equal to the reward up to a constant at first, far from it later."""
    other = Judge(lambda r, k: r + (1 if k < 3 else 9))
    guard = Guard(prompts=prompts(4, "audit"), samples=4, every=1, ensemble=(other,), action="stop")
    assert trained(tiny_policy, tmp_path / "run", guard, **FLAT).outcome.steps == 2


def test_every_run_that_samples_is_watched(tiny_policy, tmp_path):
    """Without judge or options: companions of the rollouts are logged, and a crowd at the reward's maximum is told."""
    told = []

    def capped(groups):
        return [np.minimum(row, 0.35) for row in vowels(groups)]

    trained(tiny_policy, tmp_path / "run", None, lambda e, f: told.append((e, f)), reward=capped)
    first = next(f for e, f in told if e == EVENT)
    assert set(first["meters"]) == {"length", "repeated", "at_maximum"}
    steps = [f for e, f in told if e == "step"]
    assert all(f["rollout_tokens"] > 0 and 0 < f["at_maximum"] <= 1 for f in steps)
    assert {"reward", "length", "repeated"} <= set(run_summary(tmp_path / "run")["curves"]["series"]), "and drawn"


# ------------------------------------------------------------------------------------ runs that sample nothing


def taught(n):
    """Groups that teach vowels, as pairs and as demonstrations."""
    labels = (Comparison(chosen=0, rejected=1), Demonstration(response=0))
    texts = (Response("aeiou aeiou"), Response("xyz xyz"))
    return [Group(id=f"t{i}", prompt=user(f"t {i}?"), responses=texts, feedback=labels) for i in range(n)]


def offline(policy, folder, guard, method="dpo", listen=None, dev=(), **settings):
    settings = {"learning_rate": 1e-2, "batch_size": 3, **FLAT, "max_steps": 4, **settings}
    with RunFolder(folder) as run:
        return train_policy(METHODS[method], policy, Target(), METHODS[method].configure(settings), run, groups=taught(6),
                            dev=dev, on_event=listen, guard=guard)  # fmt: skip


class Vowels:
    """Gold: the share of vowels (times `sign`); keeps the answers it was asked about."""

    def __init__(self, sign=1):
        self.sign, self.asked = sign, []

    def score(self, groups):
        self.asked.append(groups)
        return [np.array([self.sign * sum(c in "aeiou" for c in r.text) / 8 for r in g.responses]) for g in groups]


def audited(sign=1, **more):
    return Guard(Vowels(sign), prompts(8, "audit"), **{"every": 2, "samples": 12, "max_new_tokens": 8, **more})


@pytest.mark.parametrize(
    "method, settings", [("sft", {}), ("dpo", {"beta": 0.5}), ("cdpo", {}), ("robust_dpo", {}), ("dpo", {"adapter": "lora"})]
)
def test_a_run_that_samples_nothing_is_audited_and_stays_the_same_run(tiny_policy, tmp_path, method, settings):
    """Bit for bit the run without a guard. The proxy of its audits is β log π/π_ref of the policy's own answers: 0 at step
    0, at the end as two policies score them; its mean over β is the KL (β of SFT: 1)."""
    plain = offline(tiny_policy, tmp_path / "plain", None, method, **settings)
    guard = audited(samples=4)
    watched = offline(tiny_policy, tmp_path / "watched", guard, method, **settings)
    assert same(plain, watched)
    rows = curve(tmp_path / "watched")
    assert [r["step"] for r in rows] == [0, 2, 4] and len(guard.gold.asked) == 3
    assert rows[0]["proxy"] == rows[0]["kl"] == rows[0]["covariance"] == 0
    asked, beta = guard.gold.asked[-1], settings.get("beta", 0.1) if method != "sft" else 1.0
    scored = zip(watched.policy.score(asked), tiny_policy.score(asked), strict=True)
    ratios = [[a.log_prob - b.log_prob for a, b in zip(now, before)] for now, before in scored]
    assert rows[-1]["kl"] == pytest.approx(np.mean(ratios)) and rows[-1]["proxy"] == pytest.approx(beta * np.mean(ratios))
    assert abs(rows[-1]["kl"]) > 1e-3


def test_training_that_works_against_gold_rings_and_training_for_it_does_not(tiny_policy, tmp_path):
    """DPO teaches vowels. A gold that likes them is silent; one that does not ends the run beyond noise, or sends it back to
    step 0, whatever a dev split found best; the page of the run shows both curves."""
    good = offline(tiny_policy, tmp_path / "good", audited(action="stop"))
    assert good.outcome.steps == 4 and not good.outcome.by_hook and not any(r["fires"] for r in curve(tmp_path / "good"))
    ended = offline(tiny_policy, tmp_path / "ended", audited(-1, action="stop"), max_steps=8)
    assert ended.outcome.by_hook and ended.outcome.steps == ended.outcome.kept == 4
    (rang,) = [r for r in curve(tmp_path / "ended") if r["fires"]]
    assert rang["reasons"] == ["proxy and gold disagree: their covariance is below 0"] and rang["high"] < 0
    back = offline(tiny_policy, tmp_path / "back", audited(-1, action="rollback"), dev=taught(2), eval_every=1, max_steps=8)
    assert (back.outcome.steps, back.outcome.kept, back.outcome.best[0]) == (4, 0, 0)
    params = back.policy.model.model.parameters(), tiny_policy.model.model.parameters()
    assert all(torch.equal(p, q) for p, q in zip(*params))
    page = watch_page(tmp_path / "ended")
    assert "gain of gold and proxy" in page and "upper end, one-sided 99.5 %" in page


def test_a_killed_run_that_samples_nothing_goes_on_with_its_audits(tiny_policy, tmp_path):
    whole = offline(tiny_policy, tmp_path / "whole", audited())
    killed = False

    def kill(event, fields):
        nonlocal killed
        if event == "checkpoint" and fields["step"] == 2 and not killed:
            killed = True
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        offline(tiny_policy, tmp_path / "cut", audited(), listen=kill)
    rest = offline(tiny_policy, tmp_path / "cut", audited())
    assert killed and same(whole, rest)
    assert [(x["step"], x["kl"], x["gold"]) for x in curve(tmp_path / "cut")] == [
        (x["step"], x["kl"], x["gold"]) for x in curve(tmp_path / "whole")
    ]


def test_a_kl_budget_holds_at_the_audits_of_a_run_that_samples_nothing(tiny_policy, tmp_path):
    found = offline(tiny_policy, tmp_path / "run", audited(max_kl=1e-4, action="stop", every=1))
    assert found.outcome.by_hook and 1 <= found.outcome.steps < 4
    assert "above the budget" in curve(tmp_path / "run")[-1]["reasons"][0]


@pytest.mark.parametrize(
    "guard, method, settings, said",
    [
        (Guard(max_kl=3.0), "dpo", {}, "only audits"),
        (audited(ensemble=(Vowels(),)), "sft", {}, "no reward"),
        (audited(action="rollback"), "sft", {"patience": 1, "eval_every": 1}, "would each choose"),
        (audited(), "reward_model", {}, "trains no policy"),
        (audited(), "urial", {}, "nothing to guard"),
    ],
)
def test_a_guard_that_a_method_gives_nothing_to_do_is_refused(guard, method, settings, said):
    with pytest.raises(ValignError, match=said):
        guard.refuse_for(METHODS[method], METHODS[method].configure(settings))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"action": "halt"}, "halt"),
        ({"samples": 1}, "audit samples"),
        ({"action": "rollback"}, "no step is known"),
        ({"action": "stop"}, "nothing could stop"),
        ({"prompts": prompts(3, "a")}, "no effect without a judge"),
        ({"gold": Judge(), "prompts": prompts(1, "a")}, "two held-out prompts"),
        ({"max_kl": 0.0}, "max_kl"),
    ],
)
def test_a_guard_that_could_do_nothing_is_refused(options, said):
    with pytest.raises(ValignError, match=said):
        Guard(**options)
