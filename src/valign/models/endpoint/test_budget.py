"""The ceiling holds whatever the server does, and what was paid for is kept."""

from __future__ import annotations

import json
import threading

import pytest

from valign.data.group import user
from valign.errors import DataError, ValignError
from valign.models.endpoint import Budget, CostCeiling, EndpointPolicy, Prices
from valign.models.endpoint.address import parse
from valign.models.endpoint.budget import FRAME, TURN, usage, worst_case
from valign.models.endpoint.client import Client
from valign.models.policy import Sampling

PRICES = Prices(read=1_000_000, generated=2_000_000)  # one coin a prompt token, two an answer's
SHORT = Sampling(max_new_tokens=5)


def priced(server, ceiling=None, path=None, options="", **budget):
    policy = EndpointPolicy(
        parse(server.named(options=options)), budget=Budget(PRICES, ceiling, path),
        connect=lambda address: Client(address, sleep=lambda s: None, jitter=lambda: 0.5),
    )  # fmt: skip
    policy._answered = True
    return policy


def test_the_worst_case_of_a_request():
    """Bytes of the prompt, a frame, and the longest answer."""
    body = {"messages": [{"role": "user", "content": "añ"}], "max_tokens": 7}
    assert worst_case(body) == (FRAME + TURN + 3, 7)
    assert worst_case({"prompt": "abc", "max_completion_tokens": 4}) == (FRAME + 3, 4)
    assert worst_case({"prompt": [1, 2, 3, 4], "max_tokens": 1}) == (FRAME + 4, 1)
    assert usage({"usage": {"prompt_tokens": 3, "completion_tokens": 2}}) == (3, 2)
    assert usage({"usage": {"prompt_tokens": True}}) is None and usage([]) is None


def test_money_is_what_the_server_counted(serve):
    server = serve()
    policy = priced(server)
    rows = policy.generate([user("Why?"), user("How?")], SHORT)
    read = sum(len(p) for p in server.model.template.prompt_ids_many([user("Why?"), user("How?")]))
    paid = read + 2 * sum(len(r[0].ids) for r in rows)
    assert policy.cost.money == policy.budget.spent == pytest.approx(paid) and policy.budget.held == 0
    assert policy.cost.retries == policy.cost.unanswered == 0


def test_the_ceiling_is_never_crossed_and_what_was_had_is_handed_over(serve):
    """Sixteen at once against a ceiling for a few: it stops below it, and the answers before stand in the error."""
    server = serve()
    prompts = [user(f"Question {i}?") for i in range(20)]
    free = priced(server)
    whole = free.generate(prompts, SHORT)
    one = max(PRICES.of(*worst_case(body)) for _, body, _ in server.seen)
    ceiling = one + 0.4 * free.budget.spent
    policy = priced(server, ceiling)
    with pytest.raises(CostCeiling, match="the cost ceiling is reached") as stop:
        policy.generate(prompts, SHORT)
    had = [row for row in stop.value.partial if not row[0].failure]
    assert 0 < len(had) < 20 and policy.budget.spent <= ceiling and policy.budget.held == 0
    assert policy.budget.spent + one > ceiling, "it stopped only where the next might not have fitted"
    for row, known in zip(stop.value.partial, whole):
        assert row[0].failure or row[0].ids == known[0].ids
    assert policy.cost.unanswered == 0, "requests that were not sent did not fail"


def test_attempts_that_may_have_been_billed_count_at_their_worst(serve):
    """A silence, a broken reply and one without a count: the worst case; a refusal: nothing."""
    server = serve()
    server.faults.extend([0.6, b"not json", 500, lambda r: {k: v for k, v in r.items() if k != "usage"}])
    policy = priced(server, options="timeout=0.3,parallel=1")
    policy.generate([user("Why?")], SHORT)
    one = PRICES.of(*worst_case(server.seen[0][1]))
    assert policy.budget.spent == pytest.approx(3 * one) and (policy.cost.calls, policy.cost.retries) == (4, 3)
    server.always = 500
    before = policy.budget.spent
    policy.generate([user("Why?")], SHORT)
    assert policy.budget.spent == before and policy.cost.unanswered == 1


def test_the_account_survives_a_kill(serve, tmp_path):
    """The next process goes on where the last one was, and takes what was under way as spent."""
    path = tmp_path / "cost.json"
    first = Budget(PRICES, 10_000, path)
    first.settle(first.reserve({"prompt": "abc", "max_tokens": 2}), (3, 2))
    held = first.reserve({"prompt": "abc", "max_tokens": 2})  # killed here
    again = Budget(PRICES, 10_000, path)
    assert again.spent == pytest.approx(7 + held) and again.held == 0
    assert json.loads(path.read_text())["held"] == held and not list(tmp_path.glob("*.partial"))
    path.write_text('{"spent": 1')
    with pytest.raises(DataError, match="cannot be read"):
        Budget(PRICES, 10, path)


def test_who_does_not_fit_now_waits_for_what_others_give_back():
    """A request that fits once another has settled is sent then, not refused."""
    body = {"prompt": "abc", "max_tokens": 5}
    amount = PRICES.of(*worst_case(body))
    budget = Budget(PRICES, 1.5 * amount)
    first, second = budget.reserve(body), []
    waiting = threading.Thread(target=lambda: second.append(budget.reserve(body)))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    budget.settle(first, (1, 1))
    waiting.join(5)
    assert second == [amount]
    assert budget.reserve(body, closing=lambda: True) is None
    budget.settle(amount, None)
    assert budget.reserve(body) is None, "nothing is under way, so nothing will come back"


def test_wrong_prices_are_refused():
    for wrong in (lambda: Prices(-1, 1), lambda: Prices(0, 0), lambda: Prices(float("nan"), 1), lambda: Budget(PRICES, 0)):
        with pytest.raises(ValignError):
            wrong()
