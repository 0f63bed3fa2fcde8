"""Averaged hidden states of tiny models: equal to a plain loop, whatever shares a batch; bad input is
refused.
"""

from __future__ import annotations

import numpy as np
import pytest

from valign.data.group import Group, Response, VectorScore, user
from valign.errors import DataError, ModelError, ValignError
from valign.rewards import ValueEvaluator
from valign.rewards.hidden_states import layers_of, mean_states
from valign.rewards.value_evaluator import labelled_states, middle_layers

torch = pytest.importorskip("torch")
SIGNS = {"warm": 1, "cold": -1}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    from valign.models.tiny import tiny_model

    return tiny_model(request.param)


def group(*texts: str, id: str = "g", prompt: str = "why") -> Group:
    return Group(id, user(prompt), tuple(map(Response, texts)))


def naive(model, group: Group, k: int, layer: int) -> np.ndarray:
    """One response at a time, without padding."""
    encoded = model.template.encode(group.prompt, group.responses[k])
    ids = encoded.ids[:-1]  # the stop token does not count
    with torch.inference_mode():
        states = model.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    return states[layer][0, encoded.n_prompt :].float().mean(0).numpy()


def test_states_equal_a_plain_loop(model):
    groups = [group("a", "a longer answer", id="1"), group("mid size", id="2", prompt="a longer prompt here")]
    layers = range(layers_of(model))
    for g, states in zip(groups, mean_states(model, groups, layers), strict=True):
        for k in range(len(g.responses)):
            for layer in layers:
                assert np.allclose(states[k, layer], naive(model, g, k, layer), atol=1e-5)


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_batches_change_nothing(model, budget):
    """The same numbers alone, in pairs and all together, in any order."""
    groups = [group("x" * n, "y" * (n // 2 + 1), id=str(n)) for n in (3, 17, 40, 8)]
    want = mean_states(model, groups, [1, 2])
    got = mean_states(model, groups, [1, 2], token_budget=budget)
    turned = mean_states(model, groups[::-1], [1, 2], token_budget=budget)[::-1]
    for a, b, c in zip(want, got, turned, strict=True):
        assert np.allclose(a, b, atol=1e-5) and np.allclose(a, c, atol=1e-5)


def test_an_empty_response_is_unscored(model):
    (states,) = mean_states(model, [group("", "a")], [1])
    assert np.isnan(states[0]).all() and np.isfinite(states[1]).all()
    assert mean_states(model, [], [1]) == []
    assert mean_states(model, [group()], [1])[0].shape[0] == 0


def test_a_path_beyond_the_models_positions_is_cut(model):
    """Long prompts lose their start, long responses their end; both are scored."""
    limit = model.max_positions
    long = [group("ok", prompt="p" * (limit + 50)), group("r" * (limit + 50))]
    for states in mean_states(model, long, [1]):
        assert np.isfinite(states).all()


@pytest.mark.parametrize("layers", [[], [-1], [99]])
def test_layers_that_do_not_exist(model, layers):
    with pytest.raises(ValignError, match="layers"):
        mean_states(model, [group("a")], layers)


def labelled(n: int = 12) -> list[Group]:
    """Situations whose two answers use letters that give the label away."""
    out = []
    for i in range(n):
        g = group("aaa" * (i % 4 + 1), "zzz" * (i % 3 + 1), id=str(i), prompt="q" * (i % 5 + 1))
        marks = [VectorScore(response=r, theory="schwartz10", values={"BE": s}) for r, s in ((0, 1), (1, -1))]
        out.append(g.with_feedback(*marks))
    return out


def test_users_fit_a_head_for_their_own_model(model, tmp_path):
    """Fit, save, load; the values of new answers have the planted sign, and the other dimensions stay 0."""
    made = ValueEvaluator.fit(model, labelled())
    made.save(tmp_path)
    again = ValueEvaluator.load(model, tmp_path)
    (values,) = again.values([group("aaaaa", "zzzzzzz", prompt="new")])
    assert values[0, 8] > 0.3 and values[1, 8] < -0.3
    assert np.allclose(np.delete(values, 8, axis=1), 0, atol=0.02)
    assert again.theory == "schwartz10" and model.id in again.id
    (calls,) = made.classes([group("aaaaa", "zzzzzzz")])
    assert calls[:, 8].tolist() == [1, -1]


def test_a_head_refuses_another_models_states(model, tmp_path):
    from valign.models.tiny import tiny_model

    ValueEvaluator.fit(model, labelled()).save(tmp_path)
    other = tiny_model("qwen3")
    with pytest.raises(ModelError, match=r"not tiny-qwen3(.|\n)*ValueEvaluator\.fit"):
        ValueEvaluator.load(other, tmp_path)
    with pytest.raises(ModelError, match="this head reads"):
        ValueEvaluator.load(other)


def test_fitting_needs_labels(model):
    with pytest.raises(DataError, match="value labels"):
        labelled_states(model, [group("a")], [1])
    with pytest.raises(DataError, match="no response"):
        labelled_states(model, [], [1])
    with pytest.raises(DataError, match="too few"):
        ValueEvaluator.fit(model, labelled(3))
    assert all(0 < k < layers_of(model) for k in middle_layers(model))
