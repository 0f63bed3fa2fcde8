"""The law that samples is the law that scores, and randomness has an address."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from valign.engine.sampling import draw, sampling_law, uniforms
from valign.models.policy import Sampling


def law(logits, **settings):
    return sampling_law(torch.tensor([logits], dtype=torch.float64), Sampling(**settings))[0].exp().numpy()


@pytest.mark.proof("E17")
def test_golden_sampling_law(golden):
    """E17: temperature, top-p with the crossing token, top-k and min-p equal numbers from elsewhere to
    1e-9.
    """
    case = golden("sampling_law")
    logits, p, expected = case["inputs"]["logits"], case["params"], case["expected"]
    assert np.abs(law(logits, temperature=p["temperature"]) - expected["temperature"]).max() < 1e-9
    both = law(logits, temperature=p["temperature"], top_p=p["top_p"])
    assert np.abs(both - expected["temperature_top_p"]).max() < 1e-9
    assert np.abs(law(logits, top_k=p["top_k"]) - expected["top_k"]).max() < 1e-9
    assert np.abs(law(logits, min_p=p["min_p"]) - expected["min_p"]).max() < 1e-9
    assert abs(np.log(both[1]) - expected["log_prob_token_1_law"]) < 1e-9
    assert abs(np.log(law(logits)[1]) - expected["log_prob_token_1_raw"]) < 1e-9


def test_greedy_is_the_limit_of_cold_sampling():
    assert law([0.1, 2.0, 1.9, -1.0], temperature=0).tolist() == [0, 1, 0, 0]
    assert law([0.1, 2.0, 1.9, -1.0], temperature=0.001) == pytest.approx([0, 1, 0, 0], abs=1e-12)


def test_a_closed_token_has_no_mass():
    assert law([1.0, -np.inf, 0.0, -np.inf])[[1, 3]].tolist() == [0, 0]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=12),
    st.floats(0.05, 3),
    st.floats(0.01, 1),
    st.integers(0, 12),
    st.floats(0, 1),
)
def test_truncation_renormalizes_and_keeps_the_best(logits, temperature, top_p, top_k, min_p):
    """Whatever is cut: the mass is 1, the order of tokens stands, the most probable token stays."""
    full = law(logits, temperature=temperature)
    cut = law(logits, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    assert cut.sum() == pytest.approx(1, abs=1e-12)
    assert cut[int(np.argmax(full))] > 0
    kept = cut > 0
    assert cut[kept] == pytest.approx(full[kept] / full[kept].sum(), rel=1e-9)
    assert full[kept].min() >= full[~kept].max(initial=0) - 1e-12


@pytest.mark.proof("E17")
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"temperature": 0.7},
        {"top_p": 0.8},
        {"top_k": 2},
        {"min_p": 0.3},
        {"temperature": 1.5, "top_p": 0.9},
    ],
)
def test_draws_follow_the_law(more):
    """E17: 20 000 draws on four tokens. chi-square p > 0.001: false alarm 1 in 1000 per case, 6 cases,
    fixed seeds.
    """
    sampling = Sampling(seed=3, **more)
    logits = torch.tensor([[0.4, -0.6, 1.1, 0.0]], dtype=torch.float64)
    rows = sampling_law(logits, sampling)
    u = np.array([uniforms(3, str(k), 0, 1)[0] for k in range(20_000)])  # one address each, as a generator has
    tokens = draw(rows.expand(len(u), -1), torch.as_tensor(u)).numpy()
    p = rows[0].exp().numpy()
    counts = np.bincount(tokens, minlength=4)
    assert counts[p == 0].sum() == 0
    assert chisquare(counts[p > 0], 20_000 * p[p > 0] / p.sum()).pvalue > 0.001


@pytest.mark.parametrize("u", [0.0, np.nextafter(1, 0)])
def test_no_uniform_leaves_the_support(u):
    """The ends of [0, 1) meet the first and the last token that has mass, for laws whose sum is not
    exactly 1.
    """
    rng = np.random.default_rng(0)
    for _ in range(200):
        logits = torch.as_tensor(rng.normal(size=(1, 50)) * 4)
        logits[0, [0, -1]] = float("-inf")
        rows = sampling_law(logits, Sampling(top_p=0.9))
        token = int(draw(rows.float(), torch.tensor([u])))
        support = torch.isfinite(rows[0]).nonzero().flatten()
        assert token == int(support[0 if u == 0 else -1])


@pytest.mark.parametrize("vocabulary", [2, 255, 256, 1000, 49152])
def test_blocks_draw_what_the_whole_cumulated_law_draws(vocabulary):
    """Equal to the plain inverse in float64, also where whole blocks have no mass."""
    rng = np.random.default_rng(1)
    logits = torch.as_tensor(rng.normal(size=(64, vocabulary)) * 3)
    logits[::2, : vocabulary // 2] = float("-inf")
    rows = torch.log_softmax(logits, -1)
    u = torch.as_tensor(rng.random(64))
    cumulated = rows.exp().cumsum(-1)
    naive = torch.searchsorted(cumulated, u[:, None] * cumulated[:, -1:], right=True)[:, 0]
    assert draw(rows, u).tolist() == naive.tolist()
    near = (draw(rows.float(), u) - naive).abs()
    assert (near > 0).float().mean() < 0.05, "in float32 a draw at the very edge of two tokens may fall to the other"


def test_uniforms_have_an_address():
    """A token's number depends on seed, key, sample and place; not on how many are asked for."""
    first = uniforms(1, "a", 0, 8)
    assert uniforms(1, "a", 0, 3).tolist() == first[:3].tolist()
    others = [uniforms(2, "a", 0, 8), uniforms(1, "b", 0, 8), uniforms(1, "a", 1, 8)]
    assert all(not np.intersect1d(first, x).size for x in others)
    assert uniforms(1, "a|0", 1, 2).tolist() != uniforms(1, "a", 1, 2).tolist()


def test_uniforms_are_uniform():
    """Over addresses, not only within one: Kolmogorov-Smirnov p > 0.001, false alarm 1 in 1000, fixed
    seeds.
    """
    assert kstest([uniforms(0, f"p{k}", k % 4, 3)[2] for k in range(5000)], "uniform").pvalue > 0.001
