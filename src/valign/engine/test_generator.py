"""A sample depends on its address alone, and its log-probs are what the scorer says."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from valign.engine.attention import Attention
from valign.engine.generator import Generator
from valign.engine.scorer import Scorer
from valign.engine.slots import SlotDecoder
from valign.engine.stock import StockDecoder
from valign.engine.tree import from_paths
from valign.errors import ValignError
from valign.models.policy import Sampling


def generator(policy, rows=32, **more):
    return Generator(policy.model, stop_ids=policy.template.stop_ids, decode=policy.template.decode, rows=rows, **more)


def some_prompts(n, seed=0, longest=24):
    rng = np.random.default_rng(seed)
    return [[1, *rng.integers(7, 103, rng.integers(1, longest)).tolist()] for _ in range(n)]


def ids_of(samples):
    return [[s.ids for s in row] for row in samples]


@pytest.mark.proof("E15")
def test_greedy_equals_one_prompt_at_a_time_and_generate(tiny, kind):
    """E15: fork, left padding and early leaving change no id; the model's own `generate` says the same."""
    policy = tiny(kind)
    prompts = some_prompts(4)
    prompts.append(prompts[0])  # a repeated prompt is prefilled once and forked
    greedy = Sampling(max_new_tokens=12, temperature=0)
    free = Generator(policy.model, stop_ids=[], decode=str)(prompts[:1], greedy)[0][0]
    stops = [2, free.ids[4]]  # so that a row ends early
    together = Generator(policy.model, stop_ids=stops, decode=str)(prompts, greedy)
    for prompt, (sample,) in zip(prompts, together):
        alone = Generator(policy.model, stop_ids=stops, decode=str)([prompt], greedy)[0][0]
        theirs = policy.model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=stops, pad_token_id=0
        )[0, len(prompt) :].tolist()
        assert list(sample.ids) == list(alone.ids) == theirs
        assert sample.finish == ("stop" if theirs[-1] in stops else "length")
        assert (sample.law == 0).all()
    assert len(together[0][0].ids) <= 5 and together[0][0].finish == "stop"
    refilled = Generator(policy.model, stop_ids=stops, decode=str, rows=2)(prompts, greedy)
    assert ids_of(refilled) == ids_of(together), "five prompts in two rows: each that ends gives its place to another"


@pytest.mark.proof("E15", "E16")
def test_float32_samples_greedily_as_generate_does(tiny, worst, kind):
    """E15, E16 with weights as they are used: equal ids; log-probs of samples 1e-5 per token."""
    policy, prompts = tiny(kind, dtype="float32"), some_prompts(5, seed=2)
    samples = Generator(policy.model, stop_ids=[], decode=str, rows=2)(prompts, Sampling(max_new_tokens=10, temperature=0))
    for prompt, (sample,) in zip(prompts, samples):
        theirs = policy.model.generate(
            torch.tensor([prompt]), max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert list(sample.ids) == theirs[0, len(prompt) :].tolist()
    rows = generator(policy, rows=3)(prompts, Sampling(n=2, max_new_tokens=10, temperature=0.8))
    trees = [from_paths(str(i), p, [s.ids for s in row]) for i, (p, row) in enumerate(zip(prompts, rows))]
    for temperature, which in ((1.0, "raw"), (0.8, "law")):
        scored = Scorer(policy.model, temperature=temperature).score(trees)
        assert worst(scored, [[getattr(s, which) for s in row] for row in rows]) < 1e-5


@pytest.mark.proof("E16")
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_both_log_probs_are_the_scorers(tiny, worst, kind, temperature):
    """E16: `raw` = teacher forcing at temperature 1; `law` = teacher forcing at the temperature that
    drew: 1e-10.
    """
    policy, prompts = tiny(kind), some_prompts(4)
    sampling = Sampling(n=3, max_new_tokens=12, temperature=temperature)
    samples = generator(policy, rows=5)(prompts, sampling)
    trees = [from_paths(str(i), p, [s.ids for s in row]) for i, (p, row) in enumerate(zip(prompts, samples))]
    assert worst(Scorer(policy.model).score(trees), [[s.raw for s in row] for row in samples]) < 1e-10
    scorer = Scorer(policy.model, temperature=temperature)
    assert worst(scorer.score(trees), [[s.law for s in row] for row in samples]) < 1e-10


@pytest.mark.proof("E16")
def test_the_law_is_that_of_its_own_prefix(tiny):
    """E16: under top-p, `law` of each token equals the truncated law at its prefix, computed alone."""
    from valign.engine.sampling import sampling_law

    policy, prompts = tiny("qwen3"), some_prompts(3)
    sampling = Sampling(n=2, max_new_tokens=8, temperature=0.8, top_p=0.6)
    for prompt, row in zip(prompts, generator(policy)(prompts, sampling)):
        for sample in row:
            with torch.no_grad():
                logits = policy.model(torch.tensor([[*prompt, *sample.ids]])).logits[0, len(prompt) - 1 : -1]
            law = sampling_law(logits, sampling).gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
            assert np.abs(law.numpy() - sample.law).max() < 1e-10


@pytest.mark.proof("E18")
@pytest.mark.parametrize("rows", [3, 8])
def test_a_sample_does_not_depend_on_its_neighbours(tiny, kind, rows):
    """E18: in a batch of 32, refilled in fewer rows, in another order, alone: equal ids."""
    policy, prompts = tiny(kind), some_prompts(8)
    keys = [f"k{i}" for i in range(8)]
    sampling = Sampling(n=4, max_new_tokens=10, seed=7)
    whole = ids_of(generator(policy, rows=32)(prompts, sampling, keys=keys))
    assert ids_of(generator(policy, rows=rows)(prompts, sampling, keys=keys)) == whole
    turned = generator(policy, rows=rows)(prompts[::-1], sampling, keys=keys[::-1])
    assert ids_of(turned)[::-1] == whole
    (alone,) = generator(policy)([prompts[2]], Sampling(n=1, max_new_tokens=10, seed=7), keys=["k2"])
    assert [s.ids for s in alone] == whole[2][:1], "the first samples of a larger n"


def test_keys_and_seeds_address_the_randomness(tiny):
    """Other key, other seed or other index: other samples; the same address: the same sample."""
    policy, prompt = tiny(), some_prompts(1)
    make = generator(policy)
    first = ids_of(make(prompt, Sampling(max_new_tokens=20), keys=["a"]))
    assert first == ids_of(make(prompt, Sampling(max_new_tokens=20), keys=["a"]))
    assert first != ids_of(make(prompt, Sampling(max_new_tokens=20), keys=["b"]))
    assert first != ids_of(make(prompt, Sampling(max_new_tokens=20, seed=1), keys=["a"]))


@pytest.mark.proof("E17")
def test_first_tokens_follow_the_model(tiny):
    """E17 through the generator: 4000 first tokens on a vocabulary of 4. Chi-square p > 0.001, one false
    alarm in 1000.
    """
    policy, prompt = tiny("gpt2"), some_prompts(1)
    allowed = (10, 40, 20, 30)
    make = generator(policy, rows=500, allowed_tokens=allowed)
    (samples,) = make(prompt, Sampling(n=4000, max_new_tokens=1, seed=1))
    counts = [sum(s.ids[0] == t for s in samples) for t in allowed]
    with torch.no_grad():
        p = policy.model(torch.tensor(prompt)).logits[0, -1, list(allowed)].softmax(-1).numpy()
    assert sum(counts) == 4000
    assert chisquare(counts, 4000 * p / p.sum()).pvalue > 0.001


@pytest.mark.proof("E16")
def test_a_restricted_vocabulary_scores_as_it_samples(tiny, worst):
    """E16 with `allowed_tokens`: generator and scorer renormalize alike, whatever the order of the list."""
    policy, prompts = tiny(), some_prompts(3)
    allowed = [60, 2, 9, 33, 12]
    samples = generator(policy, allowed_tokens=allowed)(prompts, Sampling(n=2, max_new_tokens=9))
    assert {t for row in samples for s in row for t in s.ids} <= set(allowed)
    trees = [from_paths(str(i), p, [s.ids for s in row]) for i, (p, row) in enumerate(zip(prompts, samples))]
    scorer = Scorer(policy.model, allowed_tokens=allowed)
    assert worst(scorer.score(trees), [[s.raw for s in row] for row in samples]) < 1e-10


def test_a_stop_text_ends_a_sample(tiny):
    """The text is cut before it, the ids keep the tokens that spelled it; a text may span tokens."""
    policy, prompts = tiny(), some_prompts(1)
    free = generator(policy)(prompts, Sampling(max_new_tokens=20))[0][0]
    word = free.text[5:7]
    at = free.text.index(word)
    cut = generator(policy)(prompts, Sampling(max_new_tokens=20, stop=(word,)))[0][0]
    assert cut.finish == "stop" and cut.text == free.text[:at]
    assert policy.template.decode(cut.ids).endswith(word) and cut.ids == free.ids[: len(cut.ids)]


def test_a_stop_token_is_kept_and_a_cut_sample_has_none(tiny):
    policy = tiny()
    samples = [s for row in generator(policy)(some_prompts(8), Sampling(n=16, max_new_tokens=12)) for s in row]
    stopped = [s for s in samples if s.finish == "stop"]
    assert stopped and len(stopped) < len(samples)
    assert all(s.ids[-1] == 2 and 2 not in s.ids[:-1] for s in stopped)
    assert all(len(s.ids) == 12 and 2 not in s.ids for s in samples if s.finish == "length")
    assert all(len(s.raw) == len(s.law) == len(s.ids) for s in samples)


@pytest.mark.proof("E13")
def test_each_distinct_prompt_is_prefilled_once(tiny):
    """The prompt goes through the body once for all its samples."""
    policy, seen = tiny(), []
    hook = policy.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    try:
        generator(policy)([[7, 8, 9]] * 2 + [[7, 9]], Sampling(n=4, max_new_tokens=2))
    finally:
        hook.remove()
    assert seen[0] == (2, 3) and seen[1][1] == 1


def test_progress_is_told(tiny):
    told = []
    generator(tiny(), rows=4)(some_prompts(3), Sampling(n=3, max_new_tokens=2), progress=lambda *x: told.append(x))
    assert told == [(i, 9) for i in range(1, 10)]


@pytest.mark.parametrize(("prompt", "word"), [([], "no tokens"), ([7] * 500, "512")])
def test_a_prompt_that_cannot_be_continued_names_its_key(tiny, prompt, word):
    """Before anything is computed."""
    with pytest.raises(ValignError, match=rf"prompt mine.*({word})"):
        generator(tiny())([[7], prompt], Sampling(max_new_tokens=20), keys=["other", "mine"])


@pytest.mark.proof("E18")
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory left"), RuntimeError("DefaultCPUAllocator: can't")])
@pytest.mark.parametrize("moment, fine", [("admit", 0), ("step", 4)])
@pytest.mark.parametrize("decoder", [SlotDecoder, StockDecoder])
def test_samples_that_do_not_fit_begin_again_fewer_side_by_side(
    tiny, worst, monkeypatch, caplog, decoder, moment, fine, error
):
    """E18: memory runs out on more than three rows, in a prefill or after some steps: the samples of an undisturbed run, each
    given once, and a line. A single one that does not fit is an error that says what to change."""
    prompts, ask, told = some_prompts(6), Sampling(n=2, max_new_tokens=12, seed=5), []
    make = Generator(tiny().model, stop_ids=range(2, 12), decode=str, rows=9)
    if decoder is StockDecoder:
        make.attention = Attention("plain", "as if nobody had proven it")
    undisturbed, calls, most = make(prompts, ask), itertools.count(), 3
    real = getattr(decoder, moment)

    def short_of_memory(self, given, *more):
        if next(calls) >= fine and len(given) > most:
            raise error
        return real(self, given, *more)

    monkeypatch.setattr(decoder, moment, short_of_memory)
    with caplog.at_level("WARNING", "valign"):
        found = make(prompts, ask, progress=lambda *x: told.append(x))
    assert ids_of(found) == ids_of(undisturbed)
    assert worst([[s.raw for s in row] for row in found], [[s.raw for s in row] for row in undisturbed]) < 1e-12
    assert told == [(i, 12) for i in range(1, 13)]
    assert re.search(r"out of memory: rows are halved, to at most [23] samples side by side", caplog.text)
    most = 0
    with pytest.raises(ValignError, match=r"prompt .*out of memory on a single sample[\s\S]*lower max_new_tokens"):
        make(prompts, ask)


def test_another_error_while_sampling_is_not_taken_for_out_of_memory(tiny, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(SlotDecoder, "step", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        generator(tiny())(some_prompts(2), Sampling(max_new_tokens=3))


def test_no_prompts(tiny):
    assert generator(tiny())([], Sampling()) == []


def test_a_model_without_a_key_value_cache_is_refused(tiny):
    """A state-space model is scored, not sampled from; the message says so."""
    with pytest.raises(ValignError, match=r"mamba.*key-value cache"):
        generator(tiny("mamba"))(some_prompts(1), Sampling(max_new_tokens=2))
