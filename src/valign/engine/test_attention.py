"""Which models may share a trunk: the ones that tests have proven; the others take the plain path and
say why.
"""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from valign.engine.attention import PROVEN, Attention, attention_of
from valign.engine.scorer import Scorer
from valign.errors import ValignError


def config(family, **more):
    return AutoConfig.for_model(family, **more)


@pytest.mark.proof("E26")
@pytest.mark.parametrize(
    ("family", "more", "expected"),
    [
        ("llama", {}, Attention("row")),
        ("mistral", {"sliding_window": 8}, Attention("row", window=8)),
        ("mistral", {"sliding_window": None}, Attention("row")),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 8}, Attention("row")),
        (
            "gemma3_text",
            {
                "sliding_window": 8,
                "num_hidden_layers": 2,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            Attention("row", window=8, kinds=("sliding_attention", "full_attention")),
        ),
    ],
)
def test_windows_are_read_from_the_config(family, more, expected):
    """E26: the config's rule for every proven shape of window."""
    assert attention_of(config(family, **more)) == expected


@pytest.mark.proof("E26")
@pytest.mark.parametrize(
    ("family", "more", "reason"),
    [
        ("bloom", {}, "ALiBi"),
        ("mamba", {}, "state-space"),
        ("gpt_neo", {}, "not proven"),
        ("rwkv", {}, "not proven"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "longest position",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}},
            "longest position",
        ),
        ("llama4_text", {"num_hidden_layers": 4}, "not proven"),
    ],
)
def test_what_is_not_proven_takes_the_plain_path(family, more, reason):
    """E26: unknown families, column-bound positions, states and batch-dependent positions do not share a
    trunk.
    """
    found = attention_of(config(family, **more))
    assert found.path == "plain" and reason in found.reason


@pytest.mark.proof("E26")
def test_an_unproven_local_window_would_be_wrong(oracle, worst, trees):
    """Negative: GPT-Neo applies its own window by column. `row` is off by far more than E2 allows,
    `plain` is right.
    """
    torch.manual_seed(0)
    small = config(
        "gpt_neo",
        vocab_size=103,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        window_size=8,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    model = AutoModelForCausalLM.from_config(small).eval()
    forest = trees(3)
    expected = [[x.detach() for x in oracle(model, t)] for t in forest]
    assert worst(Scorer(model).score(forest), expected) < 1e-4
    forced = Scorer(model)
    forced.path, forced.attention = "row", Attention("row")
    assert worst(forced.score(forest), expected) > 1e-2


@pytest.mark.proof("E2")
@pytest.mark.parametrize("family", sorted(PROVEN))
def test_every_proven_family_shares_its_trunk(of_family, oracle, worst, trees, family):
    """E2 for each name on the list, a random model of 2 layers in float32 (some families know no
    float64): 1e-4.
    """
    model = of_family(family)
    scorer, forest = Scorer(model), trees(4)
    assert scorer.path == "row"
    with torch.no_grad():
        expected = [oracle(model, t) for t in forest]
    assert worst(scorer.score(forest), expected) < 1e-4
    assert max(float(x.abs().max()) for row in expected for x in row if len(x)) > 6


@pytest.mark.proof("E26")
def test_a_head_that_is_more_than_a_matrix_is_refused():
    """ModernBERT's decoder has layers of its own between body and head: refused at the door, not scored
    wrongly.
    """
    small = config(
        "modernbert-decoder",
        vocab_size=103,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    with pytest.raises(ValignError, match="modernbert-decoder"):
        Scorer(AutoModelForCausalLM.from_config(small).eval())
