"""Operation: killed at random moments, asked in any order, batch and number, an evaluation gives one log and one result."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from valign.data.group import Comparison, Group, Response, user
from valign.evaluation.cached import CachedPolicy
from valign.evaluation.log import VOLATILE
from valign.models.policy import Cost, Sampling

KILLED_AT_RANDOM = r'''
import json, os, random, signal, sys, time
import numpy as np
from valign.data.group import Group, Response, user
from valign.evaluation.cached import CachedPolicy
from valign.models.policy import Cost, Sample, Sampling, Scored

class Slow:
    """Answers by content alone, a millisecond each, so that a kill lands anywhere: between chunks and within lines."""
    id, kind, cost = "slow", "weights", Cost()
    def card(self):
        return {"id": self.id, "kind": self.kind, "sha256": "s", "notes": []}
    def score(self, groups, *, progress=None):
        time.sleep(0.001)
        return [[Scored(np.full(40, -float(len(r.text)), np.float32)) for r in g.responses] for g in groups]
    def generate(self, prompts, sampling, *, keys=None, progress=None):
        time.sleep(0.001)
        x = np.full(40, -0.5, np.float32)
        return [[Sample(f"{k}:{i}", tuple(range(40)), x, x, "stop") for i in range(sampling.n)] for k in keys]

groups = [Group(f"g{i}", user(f"ask {i}"), (Response("yes"), Response("no way"))) for i in range(120)]

def run(path):
    policy = CachedPolicy(Slow(), path, chunk=3)
    policy.score(groups)
    policy.generate([g.prompt for g in groups], Sampling(n=2), keys=[g.id for g in groups])

def child(path, after):
    pid = os.fork()
    if pid == 0:
        run(path)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        try: os.kill(pid, signal.SIGKILL)
        except ProcessLookupError: pass
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

folder, kills = sys.argv[1], 0
began = time.perf_counter()
assert child(f"{folder}/whole", None) == 0
took, chance = time.perf_counter() - began, random.Random(0)
for _ in range(12):
    kills += child(f"{folder}/killed", took * chance.uniform(0.02, 0.35)) == -9
assert child(f"{folder}/killed", None) == 0
print(kills)
'''


def lasting(path):
    rows = (json.loads(x) for x in path.read_text().splitlines())
    return sorted(json.dumps({k: v for k, v in r.items() if k not in VOLATILE}, sort_keys=True) for r in rows)


def test_kill_9_at_random_moments_gives_the_identical_sorted_log(tmp_path):
    """Up to twelve kills of one evaluation (scoring and sampling): what is left at the end is what one run writes."""
    done = subprocess.run([sys.executable, "-c", KILLED_AT_RANDOM, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3, "the kills came too late to show anything"
    assert lasting(tmp_path / "killed") == lasting(tmp_path / "whole") and len(lasting(tmp_path / "whole")) == 240


@pytest.fixture(scope="module")
def tiny():
    """A function that makes the same tiny local policy again and again; in full float32 unless told otherwise."""
    from valign.engine.local import LocalEngine
    from valign.models.policy import LocalPolicy
    from valign.models.tiny import tiny_model

    model = tiny_model("llama", seed=1)
    return lambda precision="full": LocalPolicy(model, LocalEngine(precision))


GROUPS = [
    Group(f"g{i}", user(f"Question {i}, {'long ' * (i % 5)}?"), (Response(f"yes {i}"), Response("no" * (1 + i % 3))),
          feedback=(Comparison(chosen=0, rejected=1),))
    for i in range(23)
]  # fmt: skip
NOISE = 1e-4  # nats: what batch shape may change in float32 (evaluation notes 10.5)


def test_batch_order_and_cache_change_nothing_beyond_float_noise(tiny, tmp_path):
    """Chunks of 1, 5 and 32, items in order and reversed, answers fresh and from the log: the same samples token by token,
    log-probs within the stated noise, and the same Result."""
    from valign.evaluation.measure import measure_preference

    sampling = Sampling(n=2, max_new_tokens=6)
    found = {}
    for name, chunk, order in (("one", 1, 1), ("five", 5, 1), ("back", 32, -1), ("again", 32, 1)):
        path = tmp_path / ("back" if name == "again" else name)  # the fourth reads the third's log
        cached = CachedPolicy(tiny(), path, chunk=chunk)
        groups = GROUPS[::order]
        scored = cached.score(groups)[::order]
        samples = cached.generate([g.prompt for g in groups], sampling, keys=[g.id for g in groups])[::order]
        results = measure_preference(cached, None, groups)
        (result,) = [r for r in results if (r.metric, r.variant) == ("preference.accuracy", "sum")]
        numbers = np.concatenate([s.log_probs for row in scored for s in row])
        found[name] = (numbers, [[(s.ids, s.text, s.finish) for s in row] for row in samples], result)
        if name == "again":
            assert cached.cost.calls == 0, "everything was known"
    for name, (numbers, samples, result) in found.items():
        assert np.abs(numbers - found["one"][0]).max() < NOISE, name
        assert samples == found["one"][1], name  # (bf16 products, dtype auto, may flip a draw: see docs/statistics.md)
        one = found["one"][2]
        assert (result.value, result.n, result.interval) == (one.value, one.n, one.interval), name
    assert np.array_equal(found["again"][0], found["back"][0]), "the log keeps float32 whole"


def test_a_log_cut_anywhere_continues_to_the_same_bits(tiny, tmp_path):
    """Also where products are rounded to bf16 and a number depends on its batch: the batches of the second run are those of
    the first, so the sorted logs are equal as text."""
    sampling = Sampling(n=2, max_new_tokens=6)

    def run(path):
        cached = CachedPolicy(tiny("auto"), path, chunk=5)
        cached.score(GROUPS)
        cached.generate([g.prompt for g in GROUPS], sampling, keys=[g.id for g in GROUPS])

    run(tmp_path / "whole")
    content, rng = (tmp_path / "whole").read_bytes(), np.random.default_rng(0)
    for cut in rng.integers(0, len(content), 4):
        (tmp_path / "cut").write_bytes(content[:cut])
        run(tmp_path / "cut")
        assert lasting(tmp_path / "cut") == lasting(tmp_path / "whole"), cut


def test_a_named_store_answers_where_another_log_was_written(tiny, tmp_path, monkeypatch):
    """Whatever one log holds is asked of no model for another one, bit for bit, at the price of who asked; without the store
    it is asked."""
    prompts, keys = [g.prompt for g in GROUPS], [g.id for g in GROUPS]

    def answers(name):
        cached = CachedPolicy(tiny(), tmp_path / name, chunk=7)
        scored, drawn = cached.score(GROUPS), cached.generate(prompts, Sampling(max_new_tokens=5), keys=keys)
        return cached, [x.log_probs.tobytes() for row in scored for x in row], [s.text for row in drawn for s in row]

    monkeypatch.setenv("VALIGN_ANSWERS", str(tmp_path / "answers"))
    first, *told = answers("a")
    second, *told_again = answers("b")
    assert told_again == told and first.cost.calls > 0 and second.cost == Cost()
    assert second.cost_from_log.tokens_read == pytest.approx(first.cost.tokens_read, abs=1)
    assert len(second.log) == len(first.log)
    (tmp_path / "answers" / "answers.sqlite").write_bytes(b"no database")
    third, *computed = answers("c")
    assert computed == told and third.cost.calls == first.cost.calls, "a store that cannot be used costs time alone"
    monkeypatch.delenv("VALIGN_ANSWERS")
    assert answers("d")[0].cost.calls == first.cost.calls


def test_the_price_of_an_interrupted_evaluation_is_the_whole_price(tiny, tmp_path):
    """Tokens asked for now and tokens that the log remembers add up to what one run pays, each answer once."""
    prompts, keys = [g.prompt for g in GROUPS], [g.id for g in GROUPS]
    sampling = Sampling(max_new_tokens=5)
    straight = CachedPolicy(tiny(), tmp_path / "a", chunk=4)
    straight.score(GROUPS)
    straight.generate(prompts, sampling, keys=keys)
    CachedPolicy(tiny(), tmp_path / "b", chunk=4).score(GROUPS[:9])
    later = CachedPolicy(tiny(), tmp_path / "b", chunk=7)
    for _ in range(2):
        later.score(GROUPS)
        later.generate(prompts, sampling, keys=keys)
    total = later.cost + later.cost_from_log
    assert later.cost_from_log.tokens_read > 0 and straight.cost_from_log == Cost()
    assert total.tokens_read == pytest.approx(straight.cost.tokens_read, abs=0.1)
    assert total.tokens_generated == pytest.approx(straight.cost.tokens_generated, abs=0.1)


def test_every_result_says_what_it_cost(tiny, tmp_path):
    """Seconds, tokens and peak memory stand in the provenance of each Result; a second run states the same tokens."""
    from valign.evaluation.provenance import contradictions
    from valign.pipeline.evaluate import Plan, evaluate_policy

    plan = Plan(GROUPS, sampling=Sampling(max_new_tokens=4), kl_prompts=3)
    once, again = (evaluate_policy(CachedPolicy(tiny(), tmp_path / "log"), tiny(), plan).results for _ in range(2))
    for a, b in zip(once, again, strict=True):
        cost = a.provenance["cost"]
        assert cost["seconds"] > 0 and cost["peak_memory_bytes"] > 1e6 and cost["tokens_read"] > 0, a.metric
        if a.metric != "kl.policy_reference":  # its reference is asked again: it has no log here
            assert cost["tokens_read"] == pytest.approx(b.provenance["cost"]["tokens_read"], abs=2), a.metric
    assert contradictions([*once, *again]) == []
