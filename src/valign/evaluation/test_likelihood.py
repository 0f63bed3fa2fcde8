"""The likelihood evaluator against goldens, the harness's rule, and one plain row at a time."""

from __future__ import annotations

import numpy as np
import pytest

from valign.data.group import Group, Response, text, user
from valign.evaluation.encoding import EncodedPair, encode_pair, rolling_windows, truncate
from valign.evaluation.likelihood import score_choices, score_pairs, score_text
from valign.evaluation.metrics.perplexity import bits_per_byte, word_perplexity

torch = pytest.importorskip("torch")


class GreedyTokenizer:
    """The goldens' toy tokenizer: the longest entry that matches from the left."""

    def __init__(self, vocabulary: list[str], bos: int) -> None:
        self.vocabulary, self.bos_token_id, self.eos_token_id = vocabulary, bos, bos

    def __call__(self, texts, **_):
        return {"input_ids": [self.encode(t) for t in texts]}

    def encode(self, rest: str) -> list[int]:
        out = []
        while rest:
            word = max((v for v in self.vocabulary if rest.startswith(v)), key=len)
            out.append(self.vocabulary.index(word))
            rest = rest[len(word) :]
        return out


def test_encode_pair_golden(evaluation_golden):
    from valign.models.chat import ChatTemplate

    g = evaluation_golden("likelihood.encode_pair")
    end = g.inputs["prefix_token"]
    toy = GreedyTokenizer(g.inputs["vocabulary"], end)
    template = ChatTemplate(toy, "", end, (end,), (), (), "", False)
    pairs = [encode_pair(template, text(c["context"]), c["continuation"]) for c in g.inputs["cases"]]
    g.check(
        {
            "pairs": [
                {
                    "context": list(p.context),
                    "continuation": list(p.continuation),
                    "border_merge": p.border_merge,
                    "unscorable": p.unscorable,
                }
                for p in pairs
            ]
        }
    )


def test_truncation_golden(evaluation_golden):
    g = evaluation_golden("likelihood.truncation")
    pair = EncodedPair(tuple(g.inputs["context"]), tuple(g.inputs["continuation"]))
    cut = truncate(pair, g.inputs["max_length"])
    read = (cut.context + cut.continuation)[:-1]
    g.check({"model_input": list(read), "scored": list(cut.continuation), "dropped": cut.dropped})
    assert truncate(pair, 2) is None, "a continuation longer than the model is never scored"
    assert truncate(pair, 100) == pair


def test_rolling_golden(evaluation_golden):
    g = evaluation_golden("likelihood.rolling")
    windows = rolling_windows(g.inputs["tokens"], g.inputs["prefix_token"], g.inputs["max_length"])
    g.check(
        {"windows": [{"context": list(w.context), "continuation": list(w.continuation)} for w in windows]}
    )
    assert rolling_windows([], 99, 4) == []


class ToyScorer:
    """The goldens' arithmetic language model over trees."""

    def logits(self, prefix):
        total = 7 * sum((i + 1) * int(t) for i, t in enumerate(prefix))
        v = np.arange(8)
        return ((total + 3 * v * v + 5 * v) % 11) / 3.0

    def row(self, path, first):
        out = []
        for at in range(first, len(path)):
            z = self.logits(path[:at])
            out.append(z[path[at]] - np.log(np.exp(z).sum()))
        return np.array(out)

    def score(self, trees):
        return [[self.row(t.path(leaf), leaf.first) for leaf in t.leaves] for t in trees]

    def last_logits(self, ids, n):
        return np.array([self.logits(ids[: len(ids) - n + 1 + k]) for k in range(n)])


def test_group_split_golden(evaluation_golden):
    """Requests that share ids are each read at their own positions."""
    g = evaluation_golden("likelihood.group_split")
    pairs = [EncodedPair(tuple(r["context"]), tuple(r["continuation"])) for r in g.inputs["requests"]]
    toy = ToyScorer()
    answers = score_pairs(toy, pairs, toy.last_logits)
    g.check({"logprob": [a[0] for a in answers], "is_greedy": [a[1] for a in answers]})
    assert [a[0] for a in score_pairs(toy, pairs[::-1])] == [a[0] for a in answers[::-1]]


# ----------------------------------------------------------------------------------------------- with a model


WORDS = ("the answer", "is  two", " a", "cat.", "the", "answer is the best", "é", "children!")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    from valign.models.merging import merging_tokenizer
    from valign.models.tiny import tiny_model

    return tiny_model("llama", dtype="float64", tokenizer=merging_tokenizer(request.param))


def items(n: int = 12) -> list[Group]:
    """Raw-text and chat items whose contexts end in blanks, merge over the border, or are empty."""
    rng, out = np.random.default_rng(0), []
    for k in range(n):
        context = " ".join(rng.choice(WORDS, size=rng.integers(1, 6))) + (" ", "", "\n")[k % 3]
        prompt = user(context) if k % 4 == 3 else text("" if k == 0 else context)
        choices = tuple(Response((" ", "")[k % 2] + w) for w in rng.choice(WORDS, size=3, replace=False))
        out.append(Group(f"item-{k}", prompt, choices, choices=True))
    return out


def harness_oracle(model, group, continuation):
    """lm-evaluation-harness's rule in its own words, one plain row in float64: (log-prob, is_greedy)."""
    tokenizer, template = model.tokenizer, model.template
    context = template.prompt_text(group.prompt)
    start = template.text_start if group.prompt[0].role == "text" else template.start

    def encode(words):
        return list(tokenizer(words, add_special_tokens=False)["input_ids"])

    blanks = len(context) - len(context.rstrip())
    if blanks:
        continuation, context = context[-blanks:] + continuation, context[:-blanks]
    if context:
        whole, first = [*start, *encode(context + continuation)], [*start, *encode(context)]
        rest = whole[len(first) :]
    else:
        first, rest = [template.empty_id], encode(continuation)
    with torch.no_grad():
        logits = model.model(torch.tensor([(first + rest)[:-1]])).logits[0, len(first) - 1 :].double()
    rows = logits.log_softmax(-1)[range(len(rest)), rest]
    return float(rows.sum()), logits.argmax(-1).tolist() == rest


def test_choices_equal_the_harness_one_row_at_a_time(model):
    """Shared trunks change no log-prob (float64, 1e-10) and no greedy flag."""
    from valign.models.tiny import float64_norms

    groups = items()
    with float64_norms(model):
        found = score_choices(model, groups, greedy=True)
        for group, row in zip(groups, found):
            for response, answer in zip(group.responses, row):
                log_prob, greedy = harness_oracle(model, group, response.text)
                if answer.n_tokens == 0:  # it merged into the context's last token
                    assert (answer.log_prob, answer.reason, log_prob) == (None, "empty_continuation", 0)
                    continue
                assert answer.log_prob == pytest.approx(log_prob, abs=1e-10)
                assert answer.is_greedy == greedy and answer.reason is None
                assert answer.n_chars == len(response.text.strip())


def test_a_greedy_continuation_is_seen_as_one(model):
    """The flag can be True: the model's own argmax after a context."""
    context = model.template.prompt_ids(text("the answer"))
    ids = list(context)
    with torch.no_grad():
        for _ in range(3):
            ids.append(int(model.model(torch.tensor([ids])).logits[0, -1].argmax()))
    from valign.evaluation.likelihood import _last_logits, _scorer

    pairs = [EncodedPair(tuple(context), tuple(ids[len(context) :])), EncodedPair(tuple(context), (5, 6))]
    assert [flag for _, flag in score_pairs(_scorer(model), pairs, _last_logits(model))] == [True, False]


def test_policy_scores_equal_the_evaluator(model):
    """`Policy.score` on groups with choices gives the same numbers."""
    from valign.engine.local import LocalEngine
    from valign.models.policy import LocalPolicy

    groups = items()
    for row, answers in zip(LocalPolicy(model, LocalEngine()).score(groups), score_choices(model, groups)):
        assert [s.log_prob for s in row] == pytest.approx([a.log_prob or 0 for a in answers], abs=1e-4)
        assert [s.n_tokens for s in row] == [a.n_tokens for a in answers]


def test_order_of_requests_changes_nothing(model):
    groups = items()
    forward, backward = score_choices(model, groups), score_choices(model, groups[::-1])[::-1]
    for a, b in zip(forward, backward):
        assert [x.log_prob for x in a] == pytest.approx([x.log_prob for x in b], abs=1e-9)


@pytest.fixture(scope="module")
def short():
    """A model with few positions: some items are too long for it."""
    from valign.models.tiny import tiny_model

    model = tiny_model("llama", dtype="float64")
    model.model.config.max_position_embeddings = 24
    return model


def test_too_long_items_are_unscored_or_cut_as_the_harness_cuts(short):
    long, fits = (
        Group(i, text(c), (Response(" ab"), Response(" " + "x" * k)), choices=True)
        for i, c, k in (("long", "q" * 40, 30), ("fits", "q" * 8, 2))
    )
    default = score_choices(short, [long, fits])
    assert [a.reason for a in default[0]] == ["over_length"] * 2 and default[0][0].log_prob is None
    assert [a.reason for a in default[1]] == [None, None]

    cut, beyond = score_choices(short, [long], on_long="harness")[0]
    assert cut.truncated and cut.reason is None and beyond.reason == "over_length"
    ids = short.template.encode_harness(long.prompt, " ab").ids[-25:]
    with torch.no_grad():
        rows = short.model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    assert cut.log_prob == pytest.approx(float(rows[range(21, 24), ids[-3:]].sum()), abs=1e-6)


def test_an_empty_continuation_is_unscored(short):
    (row,) = score_choices(short, [Group("e", text("ab"), (Response(""), Response("c")), choices=True)])
    assert row[0].reason == "empty_continuation" and row[1].reason is None


def test_rolling_text_predicts_every_token_once(short):
    """50 characters over 24 positions: the sum over windows, by hand."""
    words = "the quick brown fox jumps over the lazy dog and runs"
    found = score_text(short, words)
    ids = [short.template.empty_id, *short.tokenizer(words, add_special_tokens=False)["input_ids"]]
    total, n = 0.0, len(ids) - 1
    for start in range(0, n, 24):
        end = min(start + 24, n)
        window = ids[max(0, end - 24) : end + 1]
        with torch.no_grad():
            rows = short.model(torch.tensor([window[:-1]])).logits[0].double().log_softmax(-1)
        picked = rows[range(len(window) - 1), window[1:]]
        total += float(picked[-(end - start) :].sum())
    assert found.log_prob == pytest.approx(total, abs=1e-6) and found.n_tokens == n
    assert bits_per_byte(found.log_prob, words) == pytest.approx(-total / (len(words) * np.log(2)))
    assert word_perplexity(found.log_prob, words) == pytest.approx(np.exp(-total / 11))
    assert score_text(short, "").reason == "empty_continuation"
