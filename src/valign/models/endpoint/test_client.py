"""Requests that fail: what passes is waited for, what stays is an item without an answer, what is wrong for all is an error.

Scripted faults of a real server on this machine; pauses are noted instead of slept.
"""

from __future__ import annotations

import email.utils
import time

import pytest

from valign.data.group import user
from valign.errors import ModelError
from valign.models.endpoint import EndpointPolicy
from valign.models.endpoint.address import parse
from valign.models.endpoint.client import LONGEST_PAUSE, Client, _retry_after
from valign.models.policy import Sampling

SHORT = Sampling(max_new_tokens=3)
ASKED = (user("Why?"),)


@pytest.fixture
def ask(serve):
    """`ask(faults...)`: (the sample, the pauses, the server) of one request to a server that misbehaves so."""

    def of(*faults, options="", protocol="vllm", answered=True, server=None):
        server = server or serve()
        server.faults.extend(faults)
        pauses: list[float] = []
        policy = EndpointPolicy(
            parse(server.named(protocol, options)),
            connect=lambda address: Client(address, sleep=pauses.append, jitter=lambda: 0.5),
        )
        policy._answered = answered
        return policy.generate(ASKED, SHORT)[0][0], pauses, server

    return of


@pytest.mark.parametrize("fault", [500, 502, 503, 429, 408, b"not json", b"[]", b'{"choices": []}', b'{"choi'])
def test_a_passing_fault_is_tried_again(ask, fault):
    """500, then the right answer: one sample, two requests, a pause of half a second (times the jitter's 1) between."""
    found, pauses, server = ask(fault)
    assert not found.failure and found.ids and len(server.seen) == 2
    assert pauses == [pytest.approx(0.5)]


def test_pauses_grow_and_end(ask):
    found, pauses, server = ask(*[500] * 9, options="attempts=9")
    assert len(server.seen) == 9 and found.failure == "HTTP 500: scripted (9 attempts)"
    assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE])


def test_retry_after_is_kept(ask):
    """Seconds or a date: no request before; a longer wait than two minutes is no pause but the end of it."""
    _, pauses, _ = ask((429, {"Retry-After": "7"}, "{}"))
    assert len(pauses) == 1 and 7 - 0.5 < pauses[0] <= 7.25 + 1e-6
    date = email.utils.formatdate(time.time() + 9, usegmt=True)
    _, pauses, _ = ask((503, {"Retry-After": date}, "{}"))
    assert 6 < pauses[0] < 9.5
    found, pauses, server = ask((429, {"Retry-After": "3600"}, "{}"))
    assert "asks to wait 3600 s" in found.failure and not pauses and len(server.seen) == 1
    assert _retry_after("soon") == _retry_after("-3") == _retry_after(None) == 0


def test_a_silent_server_is_given_up(ask):
    """The time limit, then the right answer; and where it stays silent, an item without an answer."""
    found, pauses, _ = ask(3.0, options="timeout=0.4")
    assert not found.failure and len(pauses) == 1
    found, _, _ = ask(3.0, 3.0, options="timeout=0.4,attempts=2")
    assert found.failure == "timeout: no byte for 0.4 s (2 attempts)" and not found.text and not len(found.raw)


def edited(**changes):
    return lambda reply: {**reply, "choices": [{**reply["choices"][0], **changes}]}


@pytest.mark.parametrize(
    "fault, said",
    [
        (lambda r: {**r, "choices": r["choices"] * 2}, "exactly one choice"),
        (edited(message=None), "no message"),
        (edited(message={"role": "assistant"}), "no text"),
        (edited(finish_reason=None), "finish_reason"),
        (edited(token_ids=[1, 2]), "log-probs for 2 tokens"),
        (edited(token_ids=["a"]), "token ids"),
        (edited(logprobs={"content": "x"}), "not a list"),
        (edited(logprobs={"content": [{"token": "a"}] * 3}), "not a number"),
        (edited(logprobs={"content": [{"logprob": 0.3}] * 3}), "at most 0"),
        (edited(logprobs={"content": [{"logprob": float("nan")}] * 3}), "not a number"),
    ],
)  # fmt: skip
def test_a_malformed_reply_is_never_half_used(ask, fault, said):
    found, _, server = ask(fault, fault, options="attempts=2")
    assert found.failure.startswith("malformed reply") and said in found.failure
    assert len(server.seen) == 2 and not found.text and not found.ids
    found, _, _ = ask(fault)
    assert not found.failure, "the next attempt was right"


def test_what_the_filter_withholds_is_not_asked_for_again(ask):
    for reason in ("content_filter", "refusal"):
        found, _, server = ask(edited(finish_reason=reason, message={"role": "assistant", "content": None}))
        assert reason in found.failure and found.refused and len(server.seen) == 1


def test_a_refusal_is_an_answer(ask):
    refusal = {"role": "assistant", "content": None, "refusal": "I would rather not."}
    found, _, _ = ask(edited(message=refusal, logprobs=None, token_ids=None), protocol="openai")
    assert found.text == "I would rather not." and found.refused and not found.failure


def test_an_item_that_the_server_refuses_is_unscored_and_not_repeated(ask):
    found, _, server = ask((400, {}, '{"error": {"message": "longer than the context"}}'))
    assert found.failure == "HTTP 400: longer than the context" and len(server.seen) == 1


@pytest.mark.parametrize(
    "fault, said",
    [
        (401, "key is missing"),
        (403, "key is missing"),
        (404, "no such model"),
        ((302, {"Location": "http://x/"}, ""), "elsewhere"),
    ],
)
def test_what_no_request_can_mend_is_an_error_at_once(ask, serve, fault, said):
    server = serve()
    with pytest.raises(ModelError, match=said):
        ask(fault, server=server)
    assert len(server.seen) == 1


def test_an_unknown_model_and_a_server_that_is_not_there(serve, ask):
    server = serve()
    server.name, name = "tiny", server.named().replace("tiny", "huge")
    with pytest.raises(ModelError, match="no such model"):
        EndpointPolicy.named(name).generate(ASKED, SHORT)
    server.close()
    with pytest.raises(ModelError, match="cannot be reached"):
        ask(server=server, options="attempts=2")


def test_an_endpoint_that_never_answered_is_an_error_one_that_did_has_unscored_items(ask):
    with pytest.raises(ModelError, match=r"no request was answered: HTTP 500: scripted \(2 attempts\)"):
        ask(500, 500, options="attempts=2", answered=False)
    assert ask(500, 500, options="attempts=2")[0].failure


def test_a_server_without_log_probs_is_asked_without_them(ask, caplog):
    """One that refuses the field is asked again without it, once for all; one that ignores it tells none."""
    refusal = (400, {}, '{"error": {"message": "logprobs is not supported"}}')
    found, _, server = ask(refusal)
    assert found.text and found.ids and not len(found.raw) and not found.failure
    assert "logprobs" in server.seen[0][1] and "logprobs" not in server.seen[1][1]
    assert "tells no log-probs" in caplog.text
    found, _, server = ask(options="logprobs=no")
    assert not len(found.raw) and "logprobs" not in server.seen[0][1]


def test_requests_run_side_by_side_but_never_more_than_allowed(serve):
    server = serve()
    server.delay = 0.05
    policy = EndpointPolicy.named(server.named(options="parallel=3"))
    rows = policy.generate([user(str(i)) for i in range(9)], SHORT)
    assert len(rows) == 9 and server.busiest == 3


def test_the_key_is_sent_and_never_shown(serve, ask, monkeypatch, caplog):
    """It stands in the header alone; a server that repeats it in an error does not bring it out."""
    secret = "not-a-known-form-of-key-17"
    monkeypatch.setenv("VALIGN_API_KEY", secret)
    found, _, server = ask()
    path, body, headers = server.seen[0]
    assert headers["authorization"] == f"Bearer {secret}" and secret not in f"{path}{body}"
    repeated = f'{{"error": {{"message": "bad key {secret}"}}}}'
    with pytest.raises(ModelError, match="is refused") as error:
        ask((401, {}, repeated))
    assert secret not in str(error.value) and "***" in str(error.value)
    failed = ask((400, {}, repeated))[0].failure
    assert "***" in failed and secret not in failed
    policy = EndpointPolicy.named(server.named())
    assert secret not in f"{policy} {policy.card()} {policy.id} {caplog.text} {found}"
