"""A policy on workers answers as one in this process, whoever dies; its log is everybody's."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from valign.data.group import Comparison, Group, Response, user
from valign.errors import ValignError
from valign.evaluation.cached import CachedPolicy
from valign.evaluation.sharded import BUNDLE, ShardedPolicy
from valign.models.policy import Sampling

GROUPS = [
    Group(id=f"g{i}", prompt=user(f"ask {i}"), responses=(Response(f"yes {i}"), Response("no"))) for i in range(30)
]
PROMPTS = [g.prompt for g in GROUPS]
SAMPLING = Sampling(n=2, max_new_tokens=4)


def maker(folder, *, deadly="", broken=""):
    """A function that makes a policy: it notes every request, kills its process once at the text `deadly`, and always
    fails at `broken`. Nested, so that it travels to the workers by value."""
    path = str(folder)

    def make():
        from valign.models.policy import Cost, Sample, Scored

        class Noted:
            id, kind, calls = "noted", "weights", 0

            @property
            def cost(self):
                return Cost(calls=self.calls, seconds=0.1 * self.calls)

            def card(self):
                return {"id": self.id, "kind": self.kind, "sha256": "s", "notes": []}

            def look(self, text):
                self.calls += 1
                with Path(path, f"asked-{os.getpid()}").open("a") as file:
                    file.write(f"{text}\n")
                mark = Path(path, "killed")
                if text == deadly and not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                if text == broken:
                    raise ValueError(f"cannot read {text!r}")

            def generate(self, prompts, sampling, *, keys=None, progress=None):
                out = []
                for prompt, key in zip(prompts, keys):
                    self.look(prompt[-1].content)
                    x = np.full(2, -float(len(key)), np.float32)
                    out.append([Sample(f"{key}:{k}", (7, k), x, x, "stop") for k in range(sampling.n)])
                return out

            def score(self, groups, *, progress=None):
                for g in groups:
                    self.look(g.prompt[-1].content)
                return [[Scored(np.arange(len(r.text), dtype=np.float32)) for r in g.responses] for g in groups]

        return Noted()

    return make


def told(samples, scored):
    """Answers as plain values."""
    return [[(s.text, s.ids, s.raw.tolist(), s.finish) for s in row] for row in samples], [
        [s.log_probs.tolist() for s in row] for row in scored
    ]


def asked(folder):
    return [line for f in folder.glob("asked-*") for line in f.read_text().splitlines()]


def answers(policy):
    return told(policy.generate(PROMPTS, SAMPLING, keys=[g.id for g in GROUPS]), policy.score(GROUPS))


@pytest.fixture
def expected(tmp_path):
    (tmp_path / "plain").mkdir()
    return answers(CachedPolicy(maker(tmp_path / "plain")(), tmp_path / "plain" / "log"))


def test_the_queue_answers_as_the_policy_does(tmp_path, expected):
    """Without Ray: the same answers, card and cost; asked again, from the log."""
    seen = []
    with ShardedPolicy(maker(tmp_path), 0, log=tmp_path / "log") as policy:
        assert (policy.id, policy.kind, policy.card()["sha256"]) == ("noted", "weights", "s")
        assert answers(policy) == expected and policy.cost.calls == 60
        policy.score([*GROUPS, GROUPS[0]], progress=lambda done, total: seen.append((done, total)))
        assert len(asked(tmp_path)) == 60 and not seen
    again = CachedPolicy(maker(tmp_path)(), tmp_path / "log")
    assert answers(again) == expected and len(asked(tmp_path)) == 60, "one log, whoever wrote it"


def test_progress_counts_requests(tmp_path):
    seen = []
    with ShardedPolicy(maker(tmp_path), 0) as policy:
        policy.score(GROUPS, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(min(k * BUNDLE, 30), 30) for k in range(1, 5)]


def test_a_driver_that_dies_loses_only_what_was_not_logged(tmp_path, expected):
    """Killed while it writes its third bundle, half a line included: the next one asks for the rest."""
    with ShardedPolicy(maker(tmp_path), 0, log=tmp_path / "log") as policy:
        policy.score(GROUPS)
    whole = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    (tmp_path / "log").write_bytes(b"".join(whole[: 2 * BUNDLE]) + whole[2 * BUNDLE][:20])
    before = len(asked(tmp_path))
    with ShardedPolicy(maker(tmp_path), 0, log=tmp_path / "log") as policy:
        assert told([], policy.score(GROUPS)) == ([], expected[1])
    assert len(asked(tmp_path)) - before == 30 - 2 * BUNDLE


def test_a_request_that_fails_three_times_is_named_when_all_others_are_answered(tmp_path):
    with ShardedPolicy(maker(tmp_path, broken="ask 12"), 0, log=tmp_path / "log") as policy:
        with pytest.raises(ValignError, match=r"1 requests failed three times[\s\S]*cannot read 'ask 12'"):
            policy.score(GROUPS)
        assert len(policy.log) == 29 and asked(tmp_path).count("ask 12") == 3


def asking(folder):
    """(a function that makes a policy which asks another one about each prompt, what finds whom it asks)."""
    make = maker(folder)

    class Asking:
        id, kind = "asking", "decoding"

        def __init__(self):
            self.base, self.judge = make(), type("Judge", (), {"policy": maker(folder)()})()

        cost = property(lambda self: self.base.cost)

        def card(self):
            return {"id": self.id, "kind": self.kind, "sha256": "a", "notes": []}

        def generate(self, prompts, sampling, *, keys=None, progress=None):
            self.judge.policy.generate(prompts, Sampling(), keys=[f"judged {k}" for k in keys])
            return self.base.generate(prompts, sampling, keys=keys)

    return Asking, lambda policy: [policy.judge]


@pytest.mark.parametrize("kept", [True, False])
def test_what_a_policy_asks_on_a_worker_is_logged_paid_and_read_again(tmp_path, kept):
    make, asks = asking(tmp_path)
    beside = {"asks": asks, "asked_log": tmp_path / "judge" if kept else None}
    keys = [g.id for g in GROUPS]
    with ShardedPolicy(make, 0, log=tmp_path / "log", **beside) as policy:
        policy.generate(PROMPTS, SAMPLING, keys=keys)
        assert policy.cost.calls == 60, "30 of its own, 30 of the judge"
    (tmp_path / "log").unlink()
    with ShardedPolicy(make, 0, log=tmp_path / "log", **beside) as policy:
        policy.generate(PROMPTS, SAMPLING, keys=keys)
        assert policy.cost.calls == (30 if kept else 60), "what the judge said is known"
    rows = [json.loads(x) for x in (tmp_path / "judge").read_text().splitlines()] if kept else []
    assert sorted(r["item"] for r in rows) == (sorted(f"judged {k}" for k in keys) if kept else [])


def model_maker(folder, deadly):
    """A function that makes a policy with a tiny random model in full float32; a worker that has scored the text `deadly` dies
    once, before it answers."""
    path = str(folder)

    def make():
        from valign.engine.local import LocalEngine
        from valign.models.policy import LocalPolicy
        from valign.models.tiny import tiny_model

        class Mortal(LocalPolicy):
            def score(self, groups, **more):
                found, mark = super().score(groups, **more), Path(path, "killed")
                if deadly in [g.prompt[-1].content for g in groups] and not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return found

        return Mortal(tiny_model("llama", seed=1), LocalEngine("full"))

    return make


@pytest.mark.proof("E24")
@pytest.mark.parametrize("workers, deadly", [(1, ""), (2, "ask 13")])
def test_a_model_answers_alike_on_any_number_of_workers_though_one_is_killed(tmp_path, workers, deadly):
    """E24 with a model: the same samples token by token, log-probs within what batches may change, and so the same values of
    the results, as in this process; each request once. With two workers, one dies between computing and answering."""
    pytest.importorskip("ray", reason="needs the extra valign[ray]")
    from valign.evaluation.measure import measure_preference

    pairs = [replace(g, feedback=(Comparison(chosen=0, rejected=1),)) for g in GROUPS]
    found = []
    for count in (0, workers):
        make = model_maker(tmp_path, deadly if count else "")
        with ShardedPolicy(make, count, log=tmp_path / f"log-{count}") as policy:
            (samples, scored), results = answers(policy), measure_preference(policy, None, pairs)
        found.append((samples, scored, {(r.metric, r.variant): (r.value, r.n) for r in results}))
        keys = [json.loads(line)["key"] for line in (tmp_path / f"log-{count}").read_text().splitlines()]
        assert len(keys) == len(set(keys)) == 60
    assert (tmp_path / "killed").exists() == bool(deadly)
    (samples, scored, results), (others, rescored, again) = found
    assert [[(text, ids, finish) for text, ids, _, finish in row] for row in samples] == [
        [(text, ids, finish) for text, ids, _, finish in row] for row in others
    ]
    for one, other in zip(scored, rescored, strict=True):
        for a, b in zip(one, other, strict=True):
            assert np.abs(np.subtract(a, b)).max() < 1e-4
    assert results.keys() == again.keys()
    for key, (value, n) in results.items():
        assert again[key] == (pytest.approx(value, abs=1e-4), n), key


@pytest.mark.proof("E24")
def test_workers_answer_alike_though_one_is_killed(tmp_path, expected):
    """E24: two actors on a local Ray, one killed in the middle of a bundle: the same set, each once. (The queue's own
    tests have 1, 2 and 4 workers.)"""
    pytest.importorskip("ray", reason="needs the extra valign[ray]")
    with ShardedPolicy(maker(tmp_path, deadly="ask 13"), 2, log=tmp_path / "log") as policy:
        assert answers(policy) == expected
        assert (tmp_path / "killed").exists() and policy.pool._owns
    keys = [json.loads(line)["key"] for line in (tmp_path / "log").read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 60
