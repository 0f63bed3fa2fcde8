"""A judge behind an endpoint is part of the measurement: logged, resumed, paid for, and asked why it gave no verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from valign.errors import ValignError

PRICED = ("--price-read", 1, "--price-generated", 4)
SMALL = ("--max-new-tokens", 4)
USAGE = {"prompt_tokens": 900, "completion_tokens": 250}
PRICE = (900 + 4 * 250) / 1e6  # of one verdict


@pytest.fixture
def judge(serve):
    """A server that gives its verdict on the reply to the prompt `What now, NUMBER?` by the number: no on every third.
    `judge.says(number)` may say something else, or what the whole choice is."""
    server = serve()
    server.says = lambda number: "yes" if number % 3 else "no"

    def answer(path, body):
        text = body["messages"][-1]["content"]
        word, number = text.rsplit("verdict ", 1)[1][:8], int(text.split("What now, ")[1][0])
        said = server.says(number)
        content = f"Hm.\nverdict {word}: {said}" if said in ("yes", "no") else said
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": {"role": "assistant", "content": content}}
        choice |= said if isinstance(said, dict) else {}
        return {"choices": [choice], "usage": USAGE, "model": server.name}

    server.answer = answer
    return server


@pytest.fixture
def kind(judge, tmp_path) -> Path:
    """A goal file whose one principle that judge decides."""
    scorer = {"kind": "judge", "model": judge.named(options="parallel=1,attempts=1"), "orders": 1}
    goal = {"level": "principle", "id": "kind", "principles": [{"id": "kind", "text": "Be kind."}], "scorer": scorer}
    (tmp_path / "kind.yaml").write_text(yaml.safe_dump(goal))
    return tmp_path / "kind.yaml"


def utility(folder: Path) -> dict:
    rows = json.loads((folder / "result.json").read_text())["results"]
    return next(r for r in rows if r["metric"] == "goal.utility")


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def test_a_local_model_with_a_paid_judge_has_a_price_and_a_ceiling(valign, model, judge, kind, situations, tmp_path, whole):
    """Tokens and money of the judge stand in the cost; the ceiling stops it; the same command with more asks only the rest."""
    args = ("evaluate", model, "--data", situations, "--goal", kind, *SMALL, *PRICED)
    valign(*args, "--out", tmp_path / "free")
    cost = utility(tmp_path / "free")["provenance"]["cost"]
    assert len(judge.seen) == 6 and utility(tmp_path / "free")["n"] == 6
    assert cost["money"] == pytest.approx(6 * PRICE) and cost["tokens_generated"] >= 6 * 250
    assert json.loads((tmp_path / "free" / "cost.json").read_text())["spent"] == pytest.approx(6 * PRICE)
    out = tmp_path / "e"
    assert "the cost ceiling is reached" in valign.error(*args, "--out", out, "--max-cost", 4 * PRICE)
    answered = lines(out / "judge.jsonl")
    assert 0 < answered < 6 and len(judge.seen) == 6 + answered and not (out / "result.json").exists()
    assert json.loads((out / "cost.json").read_text())["spent"] <= 4 * PRICE
    whole(out)
    valign(*args, "--out", out, "--max-cost", 20 * PRICE)
    assert len(judge.seen) == 12, "no verdict was paid for twice"
    again = utility(out)
    assert (again["value"], again["items"]) == (utility(tmp_path / "free")["value"], utility(tmp_path / "free")["items"])
    assert again["provenance"]["cost"]["tokens_generated"] == pytest.approx(cost["tokens_generated"], abs=1)


def test_an_evaluation_that_died_asks_its_judge_only_for_the_rest(valign, model, judge, kind, situations, tmp_path):
    """One chunk of 32 verdicts is logged before the last of 36 requests fails for good; the other four are asked again."""
    judge.faults.extend([None] * 35 + [401])
    args = ("evaluate", model, "--data", situations, "--goal", kind, "--samples", 6, *SMALL, "--out", tmp_path / "e")
    assert "the key" in valign.error(*args)
    assert lines(tmp_path / "e" / "judge.jsonl") == 32
    valign(*args)
    assert len(judge.seen) == 36 + 4 and utility(tmp_path / "e")["n"] == 36
    valign(*args, "--force")
    assert len(judge.seen) == 36 + 4


def test_an_answer_without_a_verdict_says_why(valign, model, judge, kind, situations, tmp_path):
    """What cannot be read is no error of the judge, what it did not answer is no failure to read, and neither is a refusal: in
    words, by the server's own field, or withheld by its filter. The log tells the same when it is read again."""

    def says(number: int) -> str | dict:
        if number == 1:
            raise ValignError("too long")  # the server refuses the request
        said = {0: "I would say yes.", 2: "I can't rate this."}
        said |= {3: {"message": {"role": "assistant", "content": None, "refusal": "Better not."}}}
        said |= {4: {"finish_reason": "content_filter", "message": {"role": "assistant", "content": ""}}}
        return said.get(number, "yes")

    judge.says = says
    args = ("evaluate", model, "--data", situations, "--goal", kind, *SMALL, "--out", tmp_path / "e")
    for more in ((), ("--force",)):
        valign(*args, *more)
        found = utility(tmp_path / "e")
        assert found["n_unscored"] == {"parse_failure": 1, "judge_error": 1, "refusal": 3} and found["n"] == 1
        reasons = {i["id"]: i["reason"] for i in found["items"] if "reason" in i}
        assert reasons == {"s0#0": "parse_failure", "s1#0": "judge_error", **{f"s{i}#0": "refusal" for i in (2, 3, 4)}}


def test_a_policy_that_chooses_by_a_judge_pays_it_too(valign, model, judge, kind, situations, tmp_path):
    best, out = tmp_path / "best", tmp_path / "e"
    valign("align", model, "--method", "best_of_n", "--goal", kind, "--set", "n=3", "--out", best)
    before = len(judge.seen)
    args = ("evaluate", best, "--data", situations, "--goal", kind, *SMALL, *PRICED, "--out", out)
    valign(*args)
    spent = json.loads((out / "cost.json").read_text())["spent"]
    assert len(judge.seen) - before == 6 * 3 + 6 and spent == pytest.approx(24 * PRICE)
    assert utility(out)["provenance"]["cost"]["money"] == pytest.approx(spent)


def test_a_judge_that_is_asked_on_workers_is_logged_as_here(valign, model, judge, kind, situations, tmp_path):
    """Best of three by a judge, chosen on a Ray worker (starting Ray takes seconds): the same choices, each verdict in the log,
    its tokens in the cost; and this process reads that log."""
    pytest.importorskip("ray", reason="needs the extra valign[ray]")
    best = tmp_path / "best"
    valign("align", model, "--method", "best_of_n", "--goal", kind, "--set", "n=3", "--out", best)
    args = ("evaluate", best, "--data", situations, "--goal", kind, *SMALL, "--out")
    for name, more in (("here", ()), ("there", ("--workers", 1))):
        before = len(judge.seen)
        valign(*args, tmp_path / name, *more)
        assert len(judge.seen) - before == 24 == lines(tmp_path / name / "judge.jsonl")
    keys = [{json.loads(x)["key"] for x in (tmp_path / n / "judge.jsonl").read_text().splitlines()} for n in ("here", "there")]
    here, there = utility(tmp_path / "here"), utility(tmp_path / "there")
    assert keys[0] == keys[1] and (here["value"], here["items"]) == (there["value"], there["items"])
    spent = [r["provenance"]["cost"]["tokens_generated"] for r in (here, there)]
    assert spent[1] == pytest.approx(spent[0], abs=2) and spent[1] >= 24 * 250
    (tmp_path / "there" / "requests.jsonl").unlink()
    valign(*args, tmp_path / "there", "--force")
    assert len(judge.seen) == before + 24, "no verdict is asked for again"


def test_instruments_pay_their_judges_and_say_what_they_cost(valign, model, judge, kind, situations, tmp_path):
    """The same judge in an instrument: a ceiling, a log that a second run reads, and a price in every Result."""
    out = tmp_path / "g"
    args = ("generality", model, "--goal", kind, "--data", situations, "--attack", "story", *SMALL, *PRICED, "--out", out)
    assert "the cost ceiling is reached" in valign.error(*args, "--max-cost", 4 * PRICE)
    valign(*args, "--max-cost", 50 * PRICE)
    rows = json.loads((out / "result.json").read_text())["results"]
    assert rows and all(r["provenance"]["cost"]["tokens_generated"] >= 12 * 250 for r in rows)
    assert len(judge.seen) == 12 == lines(out / "judge.jsonl"), "the reversed goal asks nothing that was answered"
    valign(*args, "--max-cost", 50 * PRICE)
    assert len(judge.seen) == 12
    refused = ("tax", model, model, "--out", tmp_path / "t", "--price-read", 1)
    assert "nobody is paid" in " ".join(valign.error(*refused, status=2).split())
    assert not list((tmp_path / "t").glob("*.json"))


def test_answers_are_shared_between_folders_where_a_store_is_named(
    valign, serve, model, judge, kind, situations, tmp_path, monkeypatch
):
    """Neither the model nor the judge is asked twice, and the results are the same; without the store both are."""
    server = serve()
    args = ("evaluate", server.named(), "--data", situations, "--goal", kind, *SMALL)
    monkeypatch.setenv("VALIGN_ANSWERS", str(tmp_path / "answers"))
    for name in ("a", "b"):
        valign(*args, "--out", tmp_path / name)
    assert (len(server.seen), len(judge.seen)) == (6, 6)
    one, two = (utility(tmp_path / name) for name in ("a", "b"))
    assert (one["value"], one["items"]) == (two["value"], two["items"])
    for file in ("requests.jsonl", "judge.jsonl"):
        keys = [{json.loads(x)["key"] for x in (tmp_path / n / file).read_text().splitlines()} for n in ("a", "b")]
        assert keys[0] == keys[1] and len(keys[0]) == 6, "each folder is whole without the store"
    assert (tmp_path / "a" / "samples.jsonl").read_text() == (tmp_path / "b" / "samples.jsonl").read_text()
    monkeypatch.delenv("VALIGN_ANSWERS")
    valign(*args, "--out", tmp_path / "c")
    assert (len(server.seen), len(judge.seen)) == (12, 12)


def test_a_changed_goal_asks_its_judge_only_what_is_new(valign, model, judge, kind, situations, tmp_path):
    """Outputs judged again: verdicts that were given are read, new ones are logged beside all revisions, and an answer
    without a verdict says why, as it does when it is judged first."""
    out = tmp_path / "e"
    valign("evaluate", model, "--data", situations, "--goal", kind, *SMALL, "--out", out)
    stored = (out / "judge.jsonl").read_bytes()
    goal = yaml.safe_load(kind.read_text())
    rule = goal["principles"][0]

    def revised(version, *rules):
        file = tmp_path / f"v{version}.yaml"
        file.write_text(yaml.safe_dump({**goal, "version": version, "principles": list(rules)}))
        return file

    heavier = revised(2, rule | {"weight": 2})
    valign("goal", "rescore", out, "--goal", heavier)
    assert len(judge.seen) == 6, "the same verdicts under another weight"
    judge.says = lambda number: "I would say yes." if number == 0 else "yes"
    more = revised(3, rule, {"id": "brief", "text": "Be brief."})
    found = valign.json("goal", "rescore", out, "--goal", more)
    asked = len(judge.seen) - 6
    assert asked == 7, "the new rule, and once more what could not be read"
    result = next(r for r in found["results"] if r["metric"] == "goal.utility")
    assert result["n_unscored"] == {"parse_failure": 1} and result["n"] == 5
    assert result["provenance"]["cost"]["tokens_generated"] >= 12 * 250
    log = out / "rescored" / "judge.jsonl"
    assert found["files"]["judge"] == str(log)
    assert lines(log) == 6 + asked and (out / "judge.jsonl").read_bytes() == stored
    valign("goal", "rescore", out, "--goal", more)
    assert len(judge.seen) == 6 + asked
    valign("goal", "rescore", out, "--goal", more, "--out", tmp_path / "again")
    assert lines(tmp_path / "again" / "judge.jsonl") >= 6
    before = sorted(f.name for f in tmp_path.rglob("*"))
    valign("goal", "diff", kind, more, "--run", out)
    assert sorted(f.name for f in tmp_path.rglob("*")) == before, "a comparison writes nothing"
