"""The request log and the policy that remembers: killed anywhere, continued, the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

from valign.data.group import Group, Response, user
from valign.errors import DataError, ValignError
from valign.evaluation.cached import CachedPolicy, fingerprint
from valign.evaluation.log import VOLATILE, RequestLog, agree, canonical, content_key
from valign.models.policy import Sampling


def test_content_hash_golden(evaluation_golden):
    g = evaluation_golden("log.content_hash")
    record = g.inputs["record"]
    g.check({"canonical": canonical(record), "sha256": content_key(record)})


def test_floats_are_written_as_strings_and_order_does_not_matter():
    assert canonical({"b": 0.5, "a": [1, True, None, "é"]}) == '{"a":[1,true,null,"é"],"b":"0.5"}'
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1}) != content_key({"a": 1, "b": 2.0})


def line(key, value, **more):
    return {"key": key, "log_probs": [value], **more}


def test_a_line_cut_by_a_kill_is_answered_again(tmp_path):
    """Every place of the last line: what was whole stays, what was cut is gone, and the file goes on."""
    path = tmp_path / "log.jsonl"
    log = RequestLog(path)
    log.append([line("a", -1.0)])
    log.append([line("b", -2.0)])
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for cut in range(first, len(content)):
        path.write_bytes(content[:cut])
        reopened = RequestLog(path)
        assert set(reopened.rows) == {"a"} and path.read_bytes() == content[:first]
        reopened.append([line("b", -2.0)])
        assert path.read_bytes() == content


def test_lines_that_were_written_together_stand_or_fall_together(tmp_path):
    """A batch that a kill cut is answered again as the batch it was: its numbers depend on who was in it."""
    path = tmp_path / "log.jsonl"
    log = RequestLog(path)
    log.append([line("a", -1.0), line("b", -2.0)])
    first = len(path.read_bytes())
    log.append([line("c", -1.0), line("d", -2.0), line("e", -3.0)])
    content = path.read_bytes()
    for cut in range(first, len(content)):
        path.write_bytes(content[:cut])
        assert set(RequestLog(path).rows) == {"a", "b"} and path.read_bytes() == content[:first]
    path.write_bytes(content)
    again = RequestLog(path)
    assert len(again) == 5 and path.read_bytes() == content
    whole = RequestLog(tmp_path / "merged")
    whole.merge(path)
    assert len(RequestLog(tmp_path / "merged")) == 5


def test_a_broken_line_inside_is_no_kill(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"key": "a"\n{"key": "b"}\n')
    with pytest.raises(DataError, match="line 1"):
        RequestLog(path)
    path.write_text('{"no": "key"}\n')
    with pytest.raises(DataError, match="no key"):
        RequestLog(path)


def test_equal_keys_are_written_once_and_must_agree(tmp_path):
    log = RequestLog(tmp_path / "log.jsonl")
    log.append([line("a", -1.0, seconds=1.0)])
    log.append([line("a", -1.00005, seconds=9.0, engine="plain")])
    assert len(log.path.read_text().splitlines()) == 1
    with pytest.raises(ValignError, match="nondeterministic"):
        log.append([line("a", -1.01)])
    log.path.write_text(log.path.read_text() + json.dumps(line("a", -3.0)) + "\n")
    with pytest.raises(ValignError, match="nondeterministic"):
        RequestLog(log.path)


def test_answers_agree_only_if_their_shape_does():
    assert agree({"a": [1, None, "x", True]}, {"a": [1.00001, None, "x", True]})
    for a, b in (([1], [1, 2]), ({"a": 1}, {"b": 1}), ("x", "y"), (None, 0), (True, 1)):
        assert not agree(a, b)


def test_shards_merge(tmp_path):
    for name, rows in (("s0", [line("a", -1.0)]), ("s1", [line("b", -2.0), line("a", -1.0)])):
        RequestLog(tmp_path / name).append(rows)
    whole = RequestLog(tmp_path / "whole")
    whole.merge(tmp_path / "s0", tmp_path / "s1")
    assert sorted(whole.rows) == ["a", "b"]


# --------------------------------------------------------------------------------------- a remembering policy


class Killed(Exception):
    pass


GROUPS = [Group(f"g{i}", user(f"prompt {i}"), (Response("one"), Response("two words"))) for i in range(10)]
PROMPTS = [g.prompt for g in GROUPS]
KEYS = [g.id for g in GROUPS]


def words(prompt, response):
    return [-0.1 * len(prompt) - 0.01 * k for k in range(len(response.split()))]


def lasting(path):
    rows = (json.loads(x) for x in path.read_text().splitlines())
    return sorted(json.dumps({k: v for k, v in r.items() if k not in VOLATILE}) for r in rows)


@pytest.mark.parametrize("survives", [0, 1, 3])
def test_killed_and_restarted_ends_with_the_same_log(tmp_path, scripted, survives):
    """Whole chunks before the kill are never asked for again; the sorted log equals that of one run."""

    def run(policy, path):
        cached = CachedPolicy(policy, path, chunk=2)
        return cached.score(GROUPS), cached.generate(PROMPTS, Sampling(n=2), keys=KEYS)

    scored, sampled = run(scripted(words), tmp_path / "whole")
    dying, left = scripted(words), [survives]
    inner = dying.score

    def score(groups, **how):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return inner(groups, **how)

    dying.score = score
    with pytest.raises(Killed):
        run(dying, tmp_path / "log")
    fresh = scripted(words)
    again, resampled = run(fresh, tmp_path / "log")
    assert fresh.calls == 20 - 2 * survives
    assert lasting(tmp_path / "log") == lasting(tmp_path / "whole")
    for a, b in zip(scored, again):
        assert [s.log_prob for s in a] == [s.log_prob for s in b]
    for a, b in zip(sampled, resampled):
        assert [(s.text, s.ids, s.finish) for s in a] == [(s.text, s.ids, s.finish) for s in b]
        assert all(np.array_equal(x.raw, y.raw) and x.raw.dtype == np.float32 for x, y in zip(a, b))


def test_what_decides_an_answer_is_in_its_key(tmp_path, scripted):
    """Another model, sampling, address, response or kind of item is another request; a batch place is not."""
    policy = scripted(words)
    cached = CachedPolicy(policy, tmp_path / "log")
    cached.score(GROUPS)
    cached.generate(PROMPTS, Sampling(), keys=KEYS)
    assert policy.calls == 20
    cached.score(GROUPS[::-1])
    cached.generate(PROMPTS[::-1], Sampling(), keys=KEYS[::-1])
    assert policy.calls == 20, "only the order changed"
    cached.generate(PROMPTS[:1], Sampling(seed=1), keys=KEYS[:1])
    cached.generate(PROMPTS[:1], Sampling(), keys=["other"])
    for responses, choices in (((Response("one"),), False), (GROUPS[0].responses, True)):
        cached.score([Group("g0", GROUPS[0].prompt, responses, choices=choices)])
    assert policy.calls == 24
    other = scripted(words, id="other")
    CachedPolicy(other, tmp_path / "log").score(GROUPS[:1])
    assert other.calls == 1 and fingerprint(other) != fingerprint(policy)


def test_equal_requests_in_one_call_are_asked_once(tmp_path, scripted):
    policy = scripted(words)
    rows = CachedPolicy(policy, tmp_path / "log").score([GROUPS[0]] * 3)
    assert policy.calls == 1 and len(rows) == 3
    assert CachedPolicy(policy, tmp_path / "log").score([]) == []


def test_a_cached_policy_is_a_policy(tmp_path, scripted):
    from valign.models.policy import Policy

    policy = scripted(words)
    cached = CachedPolicy(policy, tmp_path / "log", chunk=4)
    assert isinstance(cached, Policy)
    assert (cached.id, cached.kind, cached.card()) == (policy.id, policy.kind, policy.card())
    seen = []
    cached.score(GROUPS, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 10), (8, 10), (10, 10)] and cached.cost.calls == 10
