"""EndpointPolicy against a real server of a tiny model: what it asks, what it brings back, what it will not do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from valign.data.group import Group, Message, Response, text, user
from valign.errors import ModelError, UsageError, ValignError
from valign.models.catalog import models_at_hand
from valign.models.endpoint import EndpointPolicy
from valign.models.endpoint.client import Client
from valign.models.loading import load_model
from valign.models.policy import Policy, Sampling, has_likelihood
from valign.models.policy_folder import read_manifest

CHAT = (Message("system", "Be brief."), Message("user", "Why?"))


def test_it_is_a_policy_with_a_card(serve):
    policy = EndpointPolicy.named(serve().named(options="parallel=2"))
    assert isinstance(policy, Policy) and policy.kind == "endpoint" and not has_likelihood(policy)
    card = policy.card()
    assert json.loads(json.dumps(card)) == card and card["sha256"] is None and card["config"]["model"] == "tiny"


def test_chat_prompts_and_raw_text_take_their_own_ways(serve):
    """Messages as they are, text as it is; the whole sampling law is said, so no default of the server slips in."""
    server = serve()
    policy = EndpointPolicy.named(server.named(options="parallel=1"))
    law = Sampling(max_new_tokens=4, temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, stop=("x", "y"))
    policy.generate([CHAT, text("Once")], law)
    (chat, asked, _), (plain, raw, _) = server.seen
    assert (chat, plain) == ("/v1/chat/completions", "/v1/completions")
    assert asked["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert raw["prompt"] == "Once" and raw["seed"] != asked["seed"]
    said = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.0, "stop": ["x", "y"], "n": 1}
    for body in (asked, raw):
        assert said.items() <= body.items() and body["max_tokens"] == 4 and body["return_token_ids"] is True
    policy.generate([CHAT], Sampling())
    assert server.seen[2][1]["top_k"] == -1 and server.seen[2][1]["top_p"] == 1.0


def test_the_plain_protocol_sends_nothing_else(serve):
    server = serve()
    policy = EndpointPolicy.named(server.named("openai"))
    found = policy.generate([CHAT], Sampling(max_new_tokens=4))[0][0]
    known = {"model", "n", "max_tokens", "temperature", "top_p", "logprobs", "messages", "seed"}
    assert set(server.seen[0][1]) == known and found.ids == () and len(found.raw) > 0
    for law in (Sampling(top_k=3), Sampling(min_p=0.1)):
        with pytest.raises(UsageError, match="no way to set top_k or min_p"):
            policy.generate([CHAT], law)
    with pytest.raises(UsageError, match="continue a turn"):
        policy.generate([(*CHAT, Message("assistant", "Well,"))], Sampling())
    with pytest.raises(ValignError, match="at most 4"):
        policy.generate([CHAT], Sampling(stop=tuple("abcde")))


@pytest.mark.proof("E16")
def test_samples_are_those_of_the_served_model(serve):
    """E16 over the wire: the log-probs equal teacher forcing by the scorer, at every temperature; ids, stop reasons and
    text are the generator's."""
    from valign.engine.scorer import Scorer
    from valign.engine.tree import from_paths
    from valign.models.tiny import tiny_model

    model = tiny_model("llama", dtype="float64")
    policy = EndpointPolicy.named(serve(model).named())
    prompts = [CHAT, user("How?"), text("Once upon")]
    for temperature in (1.0, 0.7, 0.0):
        rows = policy.generate(prompts, Sampling(n=4, max_new_tokens=12, temperature=temperature))
        heads = model.template.prompt_ids_many(prompts)
        trees = [from_paths("", head, [s.ids for s in row]) for head, row in zip(heads, rows)]
        for row, scored in zip(rows, Scorer(model.model).score(trees)):
            for sample, log_probs in zip(row, scored):
                assert np.abs(sample.raw - log_probs).max() < 1e-6, "the wire keeps float32"
                assert (sample.finish == "stop") == (sample.ids[-1] in model.template.stop_ids)
                assert sample.text == model.template.decode(sample.ids)
                known = {1.0: sample.raw, 0.7: np.zeros(0), 0.0: np.zeros(len(sample.ids))}[temperature]
                assert np.array_equal(sample.law, known)


def test_token_ids_go_in_and_come_out(serve):
    server = serve()
    model, policy = server.model, EndpointPolicy.named(server.named())
    heads = model.template.prompt_ids_many([CHAT, user("How?")])
    a = policy.continue_ids(heads, Sampling(n=2, max_new_tokens=6), stop_ids=(2,), keys=["a", "b"])
    assert server.seen[0][1]["stop_token_ids"] == [2]
    assert sorted({tuple(b["prompt"]) for _, b, _ in server.seen}) == sorted(map(tuple, heads))
    b = policy.generate([CHAT, user("How?")], Sampling(n=2, max_new_tokens=6), keys=["a", "b"])
    assert [[s.ids for s in r] for r in a] == [[s.ids for s in r] for r in b], "one template, one seed: one sample"
    assert policy.prompt_ids([CHAT, user("How?")]) == [tuple(h) for h in heads]
    with pytest.raises(UsageError, match="vllm:tiny@"):
        EndpointPolicy.named(server.named("openai")).continue_ids(heads, Sampling())
    server.tells = {"ids"}
    quick = EndpointPolicy(policy.address, connect=lambda address: Client(address, sleep=lambda seconds: None))
    with pytest.raises(ModelError, match="no log-probs"):
        quick.continue_ids(heads[:1], Sampling(max_new_tokens=2))


def test_a_sample_has_its_own_seed(serve):
    """It depends on (seed, key, index) alone: not on its neighbours, nor on how many are drawn."""
    policy = EndpointPolicy.named(serve().named())
    law = Sampling(n=3, max_new_tokens=8)
    rows = policy.generate([CHAT, user("How?")], law, keys=["a", "b"])
    again = policy.generate([user("How?")], Sampling(n=2, max_new_tokens=8), keys=["b"])
    assert [s.ids for s in again[0]] == [s.ids for s in rows[1][:2]]
    assert len({s.ids for s in rows[0]}) == 3
    twice = policy.generate([CHAT, CHAT], law, keys=["a", "c"])
    assert twice[0][0].ids == rows[0][0].ids != twice[1][0].ids, "the key is part of the address"
    other = policy.generate([CHAT], Sampling(n=3, max_new_tokens=8, seed=1), keys=["a"])
    assert [s.ids for s in other[0]] != [s.ids for s in rows[0]]


def test_stop_texts_end_a_response(serve):
    server = serve()
    policy = EndpointPolicy.named(server.named())
    whole = policy.generate([CHAT], Sampling(max_new_tokens=20, seed=3))[0][0]
    mark = whole.text[5]
    cut = policy.generate([CHAT], Sampling(max_new_tokens=20, seed=3, stop=(mark,)))[0][0]
    assert cut.text == whole.text[: whole.text.index(mark)] and cut.finish == "stop"


def test_cost_counts_what_the_server_counted(serve):
    server = serve()
    policy = EndpointPolicy.named(server.named())
    told = []
    rows = policy.generate([CHAT, user("How?")], Sampling(n=2, max_new_tokens=5), progress=lambda *x: told.append(x))
    read = 2 * sum(len(server.model.template.prompt_ids(p)) for p in (CHAT, user("How?")))
    assert (policy.cost.calls, policy.cost.tokens_read) == (4, read) and policy.cost.seconds > 0
    assert policy.cost.tokens_generated == sum(len(s.ids) for row in rows for s in row)
    assert told == [(i, 4) for i in (1, 2, 3, 4)]
    server.faults.append(lambda reply: {k: v for k, v in reply.items() if k != "usage"})
    before = policy.cost
    (row,) = policy.generate([CHAT], Sampling(max_new_tokens=5))
    assert (policy.cost - before).tokens_generated == len(row[0].ids), "a server that does not count"


def test_scores_are_refused_in_words(serve):
    server = serve()
    policy = EndpointPolicy.named(server.named())
    with pytest.raises(ModelError, match="same weights as a local model"):
        policy.score([Group(id="g", prompt=CHAT, responses=(Response("x"),))])
    with pytest.raises(ModelError, match="weights are not here"):
        load_model(server.named())
    assert not server.seen, "nobody was asked"


def test_a_policy_folder_names_the_endpoint(serve, tmp_path, monkeypatch):
    from valign.pipeline.policies import load_policy

    monkeypatch.setenv("MY_KEY", "secret-of-mine")
    name = serve().named(options="key_env=MY_KEY,parallel=2")
    EndpointPolicy.named(name).save(tmp_path / "p")
    assert read_manifest(tmp_path / "p")["base"] == name
    back = load_policy(tmp_path / "p")
    assert isinstance(back, EndpointPolicy) and back.address.parallel == 2
    assert [m.kind for m in models_at_hand(tmp_path) if m.name.endswith("p")] == ["endpoint"]
    assert not any(b"secret-of-mine" in f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    with pytest.raises(ModelError, match="weights are not here"):
        load_model(tmp_path / "p")
