"""Models that cannot share a trunk: each takes the plain path by rule, is scored as one path at a time, and is sampled from as
its own `generate` does, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import valign.engine.scorer as scorer_room
from valign.engine.attention import attention_of
from valign.engine.generator import Generator
from valign.engine.scorer import Scorer
from valign.engine.tree import from_paths
from valign.errors import ValignError
from valign.models.policy import Sampling

SWITCH = 32  # tokens after which the long-rope model takes its long factors: paths of the tests have 17 to 60
LONG_ROPE = {
    "sliding_window": None,
    "original_max_position_embeddings": SWITCH,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": SWITCH,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 4.0, 8.0, 16.0],
    },
}
M_ROPE = {"layer_types": ["full_attention", "full_attention"]}
# name -> (family, settings, why it is plain)
MODELS = {
    "jamba": ("jamba", {}, "state-space layers"),
    "bamba": ("bamba", {}, "linear_attention are not proven"),
    "falcon_h1": ("falcon_h1", {}, "hybrid are not proven"),
    "qwen3_next": ("qwen3_next", {}, "linear attention"),
    "qwen3_5": ("qwen3_5_text", {}, "linear_attention are not proven"),
    "recurrent_gemma": ("recurrent_gemma", {}, "not proven"),
    "mrope": ("qwen3_5_text", M_ROPE, "'qwen3_5_text' are not proven"),
    "long_rope": ("phi3", LONG_ROPE, "'longrope' depends on the longest position"),
}
SAMPLED = [name for name in MODELS if name != "recurrent_gemma"]


@pytest.fixture(scope="module")
def made(of_family):
    """`made(name)`: the model in float64."""
    kept = {}

    def of(name):
        if name not in kept:
            family, settings, _ = MODELS[name]
            kept[name] = of_family(family, **settings).double()
            if name in ("jamba", "qwen3_next"):
                kept[name].set_experts_implementation("eager")  # the grouped product knows no float64
        return kept[name]

    return of


def rows_of(scorer, forest):
    out = scorer(forest)
    lengths = [len(t.response_ids(leaf)) for t in forest for leaf in t.leaves]
    return [row[:n] for row, n in zip(out.log_probs, lengths)]


def weighted(rows):
    """A loss that tells every token apart."""
    torch.manual_seed(0)
    return sum((row * torch.randn(len(row), dtype=torch.float64)).sum() for row in rows) / sum(map(len, rows))


@pytest.mark.proof("E2", "E3", "E26")
@pytest.mark.parametrize("name", MODELS)
def test_scores_and_gradients_are_those_of_one_path_at_a_time(made, oracle, worst, gradients, trees, name):
    """E2, E3: 1e-10, and 1e-6 for gradients, whose norms, scans and gates transformers computes in float32."""
    model, forest = made(name), trees(4)
    found = attention_of(model.config)
    assert found.path == "plain" and MODELS[name][2] in found.reason
    scorer = Scorer(model)
    ours, theirs = rows_of(scorer, forest), [x for t in forest for x in oracle(model, t)]
    assert worst(ours, theirs) < 1e-10
    assert worst(scorer.score(forest, budget=100), [oracle(model, t) for t in forest]) < 1e-10, "in other company"
    ours, theirs = gradients(model, weighted(ours)), gradients(model, weighted(theirs))
    assert worst(ours, theirs) < 1e-6
    assert max(g.abs().max() for g in ours.values()) > 1e-3
    with pytest.raises(ValignError, match="cannot share a trunk"):
        Scorer(model, path="row")


@pytest.mark.proof("E26")
def test_rotary_factors_of_a_longer_neighbour_would_be_wrong(made, oracle, worst, trees, monkeypatch):
    """Negative: transformers gives the factors of the longest row to the whole batch."""
    model, forest = made("long_rope"), trees(4)
    lengths = [len(t.path(leaf)) for t in forest for leaf in t.leaves]
    assert min(lengths) < SWITCH < max(lengths)
    monkeypatch.setattr(scorer_room, "lengthwise", lambda *_: [])
    with torch.no_grad():
        assert worst(rows_of(Scorer(model), forest), [x for t in forest for x in oracle(model, t)]) > 1e-2
    assert "forward" not in vars(model.model.rotary_emb), "the model is as it was"


@pytest.mark.proof("E15", "E16")
@pytest.mark.parametrize("name", SAMPLED)
def test_samples_are_the_models_own(made, worst, name):
    """E15, E16: prompts of unequal length, forked, with rows that end early: greedy ids are `generate`'s, log-probs of samples
    are the scorer's (1e-5: a step and a whole pass sum their float32 parts in another order)."""
    model, rng = made(name), np.random.default_rng(0)
    lengths = (12, 3, 40) if name == "long_rope" else (12, 3, 20)  # 40 is past the switch, the others stay before it
    prompts = [[1, *rng.integers(7, 103, n).tolist()] for n in lengths]
    theirs = [
        model.generate(torch.tensor([p]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)[0, len(p) :]
        for p in prompts
    ]
    stop = int(theirs[0][2])
    until = [row[: row.index(stop) + 1] if stop in row else row for row in (x.tolist() for x in theirs)]
    greedy = Generator(model, stop_ids=[stop], decode=str)(prompts, Sampling(n=2, max_new_tokens=8, temperature=0))
    assert [[list(s.ids) for s in row] for row in greedy] == [[row, row] for row in until]
    assert len({len(row) for row in until}) > 1, "rows that ended have left the cache"
    samples = Generator(model, stop_ids=[], decode=str, rows=4)(prompts, Sampling(n=3, max_new_tokens=8))
    trees = [from_paths(str(i), p, [s.ids for s in row]) for i, (p, row) in enumerate(zip(prompts, samples))]
    assert worst(Scorer(model).score(trees), [[s.raw for s in row] for row in samples]) < 1e-5


def test_a_sample_across_the_switch_of_rotary_factors_is_refused(made):
    """Its cache would hold keys of a shorter text."""
    make = Generator(made("long_rope"), stop_ids=[], decode=str)
    with pytest.raises(ValignError, match=r"prompt 0: 30 prompt tokens.*cross 32 tokens[\s\S]*max_new_tokens to 2"):
        make([[7] * 30], Sampling(max_new_tokens=3))
    assert len(make([[7] * 30], Sampling(max_new_tokens=2))[0][0].ids) == 2


@pytest.mark.parametrize("family", ["recurrent_gemma", "minimax"])
def test_a_state_that_nothing_repeats_is_refused(of_family, family):
    """States inside modules, or in a cache of the family's own."""
    with pytest.raises(ValignError, match=f"{family}.*no key-value cache"):
        Generator(of_family(family), stop_ids=[], decode=str)([[1, 7, 8]], Sampling(max_new_tokens=2))
