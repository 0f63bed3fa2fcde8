"""Sharing changes nothing: scores and gradients of trees equal those of each path alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import valign.engine.scorer as scorer_room
from valign.engine.attention import Attention
from valign.engine.scorer import Scorer, micro_batches
from valign.engine.tree import from_chat, from_paths
from valign.errors import ValignError
from valign.models.tiny import tiny_model

PATHS = ("row", "plain")
SHAPES = (0, 12, 1, 6, 9, 13)  # seeds whose random trees have every shape between them; a test counts


def scored(scorer, trees):
    """One differentiable forward pass; the rows cut to their responses."""
    out = scorer(trees)
    lengths = [len(t.response_ids(leaf)) for t in trees for leaf in t.leaves]
    assert not any(row[n:].any() for row, n in zip(out.log_probs, lengths)), "numbers stand outside the responses"
    return [row[:n] for row, n in zip(out.log_probs, lengths)]


def weighted(rows, seed=0):
    """A loss that tells every token apart."""
    torch.manual_seed(seed)
    n = sum(map(len, rows))
    return sum((row * torch.randn(len(row), dtype=torch.float64)).sum() for row in rows) / n


# ------------------------------------------------------------------------------------------------ against
# the oracle


@pytest.mark.proof("E2")
@pytest.mark.parametrize("path", PATHS)
def test_sharing_changes_no_log_prob(tiny, oracle, worst, trees, kind, path):
    """E2: every path x model against the oracle: 1e-10 in float64."""
    model, forest = tiny(kind).model, trees(12)
    with torch.no_grad():
        assert worst(scored(Scorer(model, path=path), forest), [x for t in forest for x in oracle(model, t)]) < 1e-10


@pytest.mark.proof("E3")
@pytest.mark.parametrize("path", PATHS)
def test_sharing_changes_no_gradient(tiny, oracle, worst, gradients, trees, kind, path):
    """E3: gradients of all parameters against the oracle's autograd: 1e-12 with float64 norms."""
    model, forest = tiny(kind).model, trees(3, seed=1)
    ours = gradients(model, weighted(scored(Scorer(model, path=path), forest)))
    theirs = gradients(model, weighted([x for t in forest for x in oracle(model, t)]))
    # Mixtral's router has its softmax in float32, whatever the weights
    assert worst(ours, theirs) < (1e-7 if kind == "mixtral" else 1e-12)
    assert max(g.abs().max() for g in ours.values()) > 1e-3


@pytest.mark.proof("E2")
@pytest.mark.parametrize("path", PATHS)
def test_float32_is_close_per_sequence(tiny, oracle, trees, kind, path):
    """E2: float32 weights and stock norms, the sum of a response: 1e-4."""
    model, forest = tiny(kind, dtype="float32").model, trees(6, seed=2)
    with torch.no_grad():
        pairs = zip(scored(Scorer(model, path=path), forest), [x for t in forest for x in oracle(model, t)])
        assert max(abs(float(a.double().sum() - b.sum())) for a, b in pairs) < 1e-4


@pytest.mark.proof("E2", "E26")
def test_a_state_space_model_takes_the_plain_path(tiny, oracle, worst, trees):
    """E2: a model that cannot share a trunk is scored path by path, and `row` is refused with the reason."""
    model, forest = tiny("mamba").model, trees(4)
    assert Scorer(model).path == "plain"
    with torch.no_grad():  # mamba's own arithmetic has float32 in it
        assert worst(scored(Scorer(model), forest), [x for t in forest for x in oracle(model, t)]) < 1e-5
    with pytest.raises(ValignError, match="cannot share a trunk.*in order"):
        Scorer(model, path="row")


@pytest.mark.proof("E3")
@pytest.mark.parametrize("path", PATHS)
def test_gradients_with_stock_norms(tiny, oracle, worst, gradients, trees, kind, path):
    """E3: with the norms as models ship, float32 inside: 1e-6."""
    model, forest = tiny_model(kind, dtype="float64").model, trees(3, seed=1)
    if kind == "gemma2":  # the float32 softmax of eager attention makes NaN of padding beyond a float64 mask's window
        model.set_attn_implementation(tiny(kind).model.config._attn_implementation)
    ours = gradients(model, weighted(scored(Scorer(model, path=path), forest)))
    assert worst(ours, gradients(model, weighted([x for t in forest for x in oracle(model, t)]))) < 1e-6


def random_forest(branching, seed):
    rng = np.random.default_rng(seed)
    return [branching(rng, f"t{i}", roots=1 + (seed + i) % 3) for i in range(2)]


@pytest.mark.proof("E4")
@pytest.mark.parametrize("seed", SHAPES)
def test_random_trees(tiny, oracle, worst, gradients, branching, kind, seed):
    """E4: depth <= 4, fan-out <= 5, empty segments, duplicate and nested leaves, several roots; values, and gradients on
    both paths."""
    model, forest = tiny(kind).model, random_forest(branching, seed)
    theirs = [x for t in forest for x in oracle(model, t)]
    for path in PATHS if seed in SHAPES[:2] else ("row",):
        ours = scored(Scorer(model, path=path), forest)
        assert worst(ours, theirs) < 1e-10
        if seed in SHAPES[:2]:
            close = 1e-7 if kind == "mixtral" else 1e-12
            assert worst(gradients(model, weighted(ours)), gradients(model, weighted(theirs))) < close
            theirs = [x for t in forest for x in oracle(model, t)]


@pytest.mark.proof("E4")
def test_random_trees_have_every_shape(branching):
    """What the test above is meant to meet is there."""
    trees = [t for seed in SHAPES for t in random_forest(branching, seed)]
    depth = max(len(t.chain(i)) for t in trees for i in range(len(t.segments)))
    fan = max(sum(s.parent == i for s in t.segments) for t in trees for i in range(-1, len(t.segments)))
    assert depth == 4 and fan == 5
    assert any(len(s.ids) == 0 for t in trees for s in t.segments)
    assert max(sum(s.parent < 0 for s in t.segments) for t in trees) == 3
    ends = [[(x.segment, x.end) for x in t.leaves] for t in trees]
    assert any(len(set(e)) < len(e) for e in ends), "duplicate leaves"
    assert any(x.end < len(t.segments[x.segment].ids) for t in trees for x in t.leaves), "a leaf inside a segment"
    above = lambda t, a, b: a != b and a in t.chain(b)  # noqa: E731
    assert any(above(t, x.segment, y.segment) for t in trees for x in t.leaves for y in t.leaves), "nested leaves"


@pytest.mark.proof("E3")
@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral"])
@pytest.mark.parametrize("path", PATHS)
def test_activation_checkpointing_changes_no_gradient(tiny, worst, gradients, trees, family, path):
    """E3: blocks are computed again in the backward pass, and the model is afterwards what it was."""
    policy, forest = tiny(family, fresh=True), trees(3)
    plain = gradients(policy.model, weighted(scored(Scorer(policy.model, path=path), forest)))
    calls: list[int] = []
    layer = policy.model.model.layers[0]
    layer.self_attn.register_forward_hook(lambda *_: calls.append(1))
    again = Scorer(policy.model, path=path, recompute=True)
    assert worst(gradients(policy.model, weighted(scored(again, forest))), plain) < 1e-12
    assert len(calls) == 2
    assert not policy.model.training and not layer.training and not policy.model.is_gradient_checkpointing
    policy.model.gradient_checkpointing_enable()  # the caller's own switch stays as it was
    assert worst(gradients(policy.model, weighted(scored(again, forest))), plain) < 1e-12
    assert policy.model.is_gradient_checkpointing


@pytest.mark.proof("E6")
def test_temperature_divides_logits(tiny, oracle, worst, trees):
    model, forest = tiny().model, trees(3)
    with torch.no_grad():
        expected = [x for t in forest for x in oracle(model, t, temperature=0.7)]
        assert worst(scored(Scorer(model, temperature=0.7), forest), expected) < 1e-10


@pytest.mark.proof("E2")
def test_a_trained_conversation_is_scored_on_its_assistant_turns(tiny, oracle, worst):
    """E2 for from_chat: prompt and user tokens between trained turns score nothing."""
    rng = np.random.default_rng(0)
    tree = from_chat("c", rng.integers(7, 103, 30).tolist(), [0] * 6 + [1] * 5 + [0] * 9 + [1] * 10)
    with torch.no_grad():
        (row,) = scored(Scorer(tiny().model), [tree])
        assert worst([row], oracle(tiny().model, tree)) < 1e-10
    assert (row == 0).sum() == 9


@pytest.mark.proof("E6")
def test_frozen_layers_and_a_frozen_head_get_no_gradient(tiny, worst, gradients, trees):
    """E6 through the engine: what is trained has the same gradient, whatever else is frozen."""
    model, forest = tiny(fresh=True).model, trees(2)
    whole = gradients(model, weighted(scored(Scorer(model), forest)))
    for name, p in model.named_parameters():
        p.requires_grad_("layers.1." in name)
    part = gradients(model, weighted(scored(Scorer(model), forest)))
    assert part and worst(part, {n: whole[n] for n in part}) < 1e-12


# ----------------------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("path", PATHS)
def test_micro_batches_keep_the_budget(trees, path):
    """Longest first, each tree once, positions within the budget unless one tree alone is larger."""
    forest = trees(30)
    for budget in (50, 200, 1000):
        batches = micro_batches(forest, budget, path)
        assert sorted(i for b in batches for i in b) == list(range(30))
        for b in batches:
            rows = len(b) if path == "row" else sum(len(forest[i].leaves) for i in b)
            longest = max(forest[i].tokens if path == "row" else forest[i].longest for i in b)
            assert len(b) == 1 or rows * longest <= budget


@pytest.mark.proof("E13")
def test_the_trunk_runs_once(tiny, trees):
    """E13: positions through the body are the unique tokens plus padding, head rows are the distinct
    predecessors.
    """
    model, forest, seen = tiny().model, trees(8), []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].numel()))
    try:
        scores = Scorer(model)(forest)
    finally:
        hook.remove()
    longest = -(-max(t.tokens for t in forest) // 16) * 16
    assert seen == [len(forest) * longest] == [scores.tokens]
    assert scores.tokens < sum(t.unshared_tokens for t in forest)
    targets = sum(int((t.response_loss(leaf) != 0).sum()) for t in forest for leaf in t.leaves)
    assert scores.scored < targets, "first tokens of branches share one row of the head"


@pytest.mark.proof("E13")
def test_the_head_meets_each_row_once(tiny, branching, trees, monkeypatch, kind):
    """E13: head rows, counted where the head computes, are the distinct tokens that a scored token follows: counted
    from segments alone."""
    rows = []
    real = scorer_room.token_log_probs
    monkeypatch.setattr(scorer_room, "token_log_probs", lambda hidden, *x: rows.append(len(hidden)) or real(hidden, *x))
    rng = np.random.default_rng(4)
    for forest in ([branching(rng, f"t{i}") for i in range(3)], trees(4)):
        rows.clear()
        scores = Scorer(tiny(kind).model, path="row")(forest)
        before = set()
        for k, tree in enumerate(forest):
            for leaf in tree.leaves:
                places = [(s, at) for s in tree.chain(leaf.segment) for at in range(len(tree.segments[s].ids))]
                scored_at = np.flatnonzero(tree.response_loss(leaf)) + leaf.first
                before |= {(k, *places[at - 1]) for at in scored_at}
        assert rows == [len(before)] == [scores.scored]


# ------------------------------------------------------------------------------------------- the wrong
# mask must fail


@pytest.mark.proof("E26")
def test_a_forgotten_window_is_seen(tiny, oracle, worst, trees):
    """Negative: with the window left out of the mask the error is far above the tolerance of E2."""
    for family in ("mistral", "gemma3", "gemma2"):
        model, forest = tiny(family).model, trees(4)
        scorer = Scorer(model)
        scorer.attention = Attention("row")
        with torch.no_grad():
            assert worst(scored(scorer, forest), [x for t in forest for x in oracle(model, t)]) > 1e-3, family


@pytest.mark.proof("E2")
def test_a_visible_sibling_is_seen(tiny, oracle, worst, trees, monkeypatch):
    """Negative: a mask by position alone, where branches see each other, fails E2."""
    import valign.engine.attention as room

    model, forest = tiny().model, trees(4)

    def careless(layout, device, window=None, before=0):
        pos = torch.as_tensor(layout.pos)
        return (pos[:, None, :] <= pos[:, :, None])[:, None]

    monkeypatch.setattr(room, "visible", careless)
    with torch.no_grad():
        assert worst(scored(Scorer(model), forest), [x for t in forest for x in oracle(model, t)]) > 1e-3


@pytest.mark.proof("E2")
def test_columns_for_positions_are_seen(tiny, oracle, worst, trees, monkeypatch):
    """Negative: positions counted along the row instead of along the path fail E2."""
    model, forest = tiny().model, trees(4)
    scorer = Scorer(model)
    true = scorer.layout(forest)
    wrong = copy.copy(true)
    object.__setattr__(wrong, "pos", np.tile(np.arange(true.pos.shape[1]), (len(true.pos), 1)))
    monkeypatch.setattr(scorer, "layout", lambda *_: wrong)
    with torch.no_grad():
        assert worst(scored(scorer, forest), [x for t in forest for x in oracle(model, t)]) > 1e-3


# ---------------------------------------------------------------------------------------------------
# edges and errors


def test_a_path_longer_than_the_model_names_its_group(tiny):
    """What, where, how: before anything is computed."""
    tree = from_paths("long one", list(range(7, 100)) * 6, [[8, 9]])
    with pytest.raises(ValignError, match=r"group long one.*560 tokens.*512 positions[\s\S]*on_long"):
        Scorer(tiny().model).score([from_paths("short", [7], [[8]]), tree])


def test_trees_without_a_scored_token(tiny):
    """An empty response and an untrained chat give an empty row and a zero row, and a gradient of 0."""
    forest = [
        from_paths("a", [7, 8], [[]]),
        from_chat("b", [7, 8], [0, 0]),
        from_paths("c", [7], [[8, 9]], [[0, 0]]),
    ]
    scores = Scorer(tiny(fresh=True).model)(forest)
    assert scores.scored == 0 and not scores.log_probs.any() and not scores.mask.any()
    scores.log_probs.sum().backward()


def test_no_trees():
    assert Scorer(tiny_model().model).score([]) == []


def test_a_restricted_vocabulary_is_renormalized(tiny, worst):
    """`allowed_tokens`, in any order: the head is the softmax over them alone."""
    model = tiny().model
    tree = from_paths("a", [7, 8, 9], [[20, 30], [40]])
    allowed = [40, 20, 30, 2]
    ours = Scorer(model, allowed_tokens=allowed).score([tree])[0]
    expected = []
    for leaf in tree.leaves:
        ids = torch.as_tensor(tree.path(leaf).astype(np.int64))
        logits = model(ids[None]).logits[0].detach()
        inside = logits[:, allowed].logsumexp(-1)
        expected.append([logits[t - 1, ids[t]] - inside[t - 1] for t in range(3, len(ids))])
    assert worst(ours, [[float(x) for x in row] for row in expected]) < 1e-10


def test_a_token_outside_a_restricted_vocabulary_is_refused(tiny):
    """Not the log-prob of another token, in silence."""
    with pytest.raises(ValignError, match="21"):
        Scorer(tiny().model, allowed_tokens=[20, 22]).score([from_paths("a", [7], [[20, 21]])])


@pytest.mark.proof("E6")
@pytest.mark.parametrize("targets", [["lm_head"], ["lm_head", "q_proj"], ["embed_tokens"]])
def test_an_adapter_on_the_head_or_the_embedding_counts(oracle, worst, gradients, trees, targets):
    """A wrapped head is scored through its wrapper, values and gradients."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = tiny_model(dtype="float64").model
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False)).eval()
    forest = trees(3)
    ours, theirs = scored(Scorer(peft), forest), [x for t in forest for x in oracle(model, t)]
    assert worst(ours, theirs) < 1e-6, "stock norms"
    assert worst(gradients(peft, weighted(ours)), gradients(peft, weighted(theirs))) < 1e-6


@pytest.mark.proof("E6")
def test_a_head_trained_beside_the_adapter_counts(oracle, worst, trees):
    """`modules_to_save`: the copy that is trained is the one that scores."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = tiny_model(dtype="float64").model
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])).eval()
    with torch.no_grad():
        for p in peft.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn_like(p)
        assert worst(scored(Scorer(peft), trees(3)), [x for t in trees(3) for x in oracle(model, t)]) < 1e-6


def test_scoring_halves_what_does_not_fit(tiny, trees, monkeypatch, caplog):
    """Out of memory on more than two trees: the same scores from smaller micro-batches, one line, and none lost; a single
    tree that does not fit is named."""
    scorer, forest = Scorer(tiny("llama").model), trees(9)
    expected = scorer.score(forest)
    real, most = Scorer.__call__, 2

    def short_of_memory(self, given, prefix=None):
        if len(given) > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self, given, prefix)

    monkeypatch.setattr(Scorer, "__call__", short_of_memory)
    with caplog.at_level("WARNING", "valign"):
        found = scorer.score(forest)
    assert all(np.allclose(a, b, rtol=0, atol=1e-12) for x, y in zip(expected, found) for a, b in zip(x, y, strict=True))
    assert "micro-batches are halved, to at most 2 groups" in caplog.text
    most = 0
    with pytest.raises(ValignError, match="out of memory on a single group"):
        scorer.score(forest)
