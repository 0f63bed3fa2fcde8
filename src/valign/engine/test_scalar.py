"""The scalar readout: one number per response at its last token, equal to each path alone, and nothing of the
vocabulary's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from valign.engine.items import Item, Objective, collate
from valign.engine.memory import head_bytes
from valign.engine.objective import Terms
from valign.engine.scorer import Scorer, body_of
from valign.engine.tree import Leaf, Segment, Tree, from_chat, from_paths
from valign.errors import ModelError, ValignError
from valign.models.scalar_head import attach_head, first_head

PATHS = ("row", "plain")
VOCABULARY = 103


@pytest.fixture
def scalar(tiny):
    """`scalar(kind)`: a tiny model with a scalar head, of one's own."""

    def of(kind="llama", dtype="float64"):
        network = tiny(kind, fresh=True, dtype=dtype).model
        attach_head(network, first_head(32, 0) * 10)
        return network.requires_grad_(True)

    return of


def one_by_one(network, trees):
    """The oracle: one path at a time, the head at its last token; no cache, no padding, no sharing."""
    out = []
    for tree in trees:
        for leaf in tree.leaves:
            ids = torch.as_tensor(tree.path(leaf).astype(np.int64))[None]
            hidden = body_of(network)(input_ids=ids, use_cache=False).last_hidden_state[0]
            out.append((hidden[-1] * network.score.weight[0]).sum())
    return torch.stack(out)


def weighted(values):
    """A loss that tells every response apart."""
    torch.manual_seed(0)
    return (values * torch.randn(len(values), dtype=values.dtype)).mean()


def scorer_of(network, path=None):
    return Scorer(network, path=path, readout="scalar_last")


@pytest.mark.proof("E2", "E3")
@pytest.mark.parametrize("path", PATHS)
def test_sharing_changes_no_scalar_and_no_gradient(scalar, worst, gradients, trees, kind, path):
    """E2, E3 for scalars: every path x model against the oracle, 1e-10 and 1e-12 in float64."""
    network, forest = scalar(kind), trees(6)
    ours, theirs = scorer_of(network, path)(forest).scalars, one_by_one(network, forest)
    assert ours.shape == theirs.shape and worst(ours, theirs) < 1e-10
    found = gradients(network, weighted(ours))
    # Mixtral's router has its softmax in float32, whatever the weights
    assert worst(found, gradients(network, weighted(theirs))) < (1e-7 if kind == "mixtral" else 1e-12)
    assert "score.weight" in found and min(g.abs().max() for g in (found["score.weight"],)) > 1e-3


@pytest.mark.proof("E4")
@pytest.mark.parametrize("seed", range(6))
def test_random_trees(scalar, worst, branching, seed):
    """E4: empty segments, duplicate and nested leaves, leaves that end inside a segment, several roots."""
    rng = np.random.default_rng(seed)
    network = scalar("gemma3")
    forest = [branching(rng, f"t{i}", roots=1 + (seed + i) % 3) for i in range(3)]
    assert worst(scorer_of(network)(forest).scalars, one_by_one(network, forest)) < 1e-10


def test_a_state_space_model_takes_the_plain_path(tiny, worst, trees):
    network = tiny("mamba", fresh=True).model
    attach_head(network, first_head(32, 0))
    assert scorer_of(network).path == "plain"
    with torch.no_grad():  # mamba's own arithmetic has float32 in it
        assert worst(scorer_of(network)(trees(3)).scalars, one_by_one(network, trees(3))) < 1e-5


@pytest.mark.proof("E5")
def test_micro_batches_prefix_and_joined_rows_change_nothing(scalar, worst):
    """E5 for scalars: any budget, prompts that begin alike in one row or behind one cached prefix: 1e-12."""
    rng = np.random.default_rng(0)
    start = rng.integers(7, VOCABULARY, 40).tolist()
    forest = [
        from_paths(f"g{i}", [*start, *rng.integers(7, VOCABULARY, 1 + i % 3).tolist()],
                   [rng.integers(7, VOCABULARY, n).tolist() for n in (1, 4, 2 + i)])
        for i in range(6)
    ]  # fmt: skip
    network = scalar()
    scorer = scorer_of(network)
    expected = one_by_one(network, forest).detach().numpy()
    assert scorer.prefix_of(forest).length == 40
    scorer.pair_cost = 0.0
    assert len(scorer.layout(forest).ids) < len(forest), "rows are joined"
    assert worst(scorer(forest).scalars, expected) < 1e-12
    for budget in (1, 60, 10**9):
        rows = scorer.score(forest, budget=budget)
        assert all(a.shape == (1,) for row in rows for a in row)
        assert worst([float(a[0]) for row in rows for a in row], expected.tolist()) < 1e-12


@pytest.mark.proof("E10")
def test_a_step_does_not_depend_on_its_micro_batches(scalar, worst, gradients, trees):
    """E10 for scalars: collated by the name `reward`, summed over one, two or all trees at a time: 1e-12."""
    network = scalar()
    items = [Item(t, rows={"pairs": np.array([[0, len(t.leaves) - 1]])}) for t in trees(6) if len(t.leaves) > 1]
    objective = Objective(lambda reward, pairs: Terms(torch.sin(reward[pairs]).sum(1), unit="pair"), {}, "pair")
    found = []
    for n in (1, 2, len(items)):
        total = 0
        for at in range(0, len(items), n):
            part = items[at : at + n]
            tensors = collate(part, scorer_of(network)([i.tree for i in part]))
            assert "policy" not in tensors
            total = total + objective(tensors).losses.sum()
        found.append(gradients(network, total))
    assert worst(found[0], found[1]) < 1e-12 and worst(found[0], found[2]) < 1e-12


class Shapes(TorchDispatchMode):
    """Every shape that a tensor has while something is computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                self.seen.add((func.overloadpacket.__name__, tuple(x.shape)))
        return out


def test_nothing_of_the_size_of_the_vocabulary_is_computed(scalar, trees):
    """Forward and backward: but for the embedding's own gradient no tensor has a side as long as the vocabulary."""
    network, forest = scalar(), [t for t in trees(4) if t.tokens != VOCABULARY]
    assert [n for n, p in network.named_parameters() if VOCABULARY in p.shape] == ["model.embed_tokens.weight"]
    scorer = scorer_of(network)
    with Shapes() as shapes:
        scores = scorer(forest)
        scores.scalars.sum().backward()
    wide = {name for name, shape in shapes.seen if VOCABULARY in shape}
    assert wide <= {"embedding_dense_backward", "detach", "new_empty_strided", "copy_"}
    assert scores.scored == sum(len(t.leaves) for t in forest) and head_bytes(scorer) == 0


def test_the_number_is_read_at_the_last_token(scalar, worst):
    """Negative: the state one token before, or of padding, is another number; loss weights play no part."""
    network = scalar()
    tree, cut = from_paths("a", [7, 8, 9], [[20, 21, 2], [30, 2]]), from_paths("a", [7, 8, 9], [[20, 21], [30]])
    ours, early = (scorer_of(network)([t]).scalars for t in (tree, cut))
    assert (ours - early).abs().min() > 1e-3
    unweighted = from_paths("a", [7, 8, 9], [[20, 21, 2], [30, 2]], [[0, 0, 0], [0, 0]])
    assert worst(ours, scorer_of(network)([unweighted]).scalars) < 1e-12
    chat = from_chat("c", [7, 8, 9, 20, 21, 2], [0] * 6)
    assert worst(ours[:1], scorer_of(network)([chat]).scalars) < 1e-12


def test_float32_heads_read_narrow_states_in_float32(scalar, trees):
    """Products of bf16 bodies end in a float32 number."""
    network = scalar(dtype="float32").requires_grad_(False)
    narrow = Scorer(network, autocast=torch.bfloat16, readout="scalar_last")(trees(3)).scalars
    wide = scorer_of(network)(trees(3)).scalars
    assert narrow.dtype == wide.dtype == torch.float32
    assert 0 < (narrow - wide).abs().max() < 0.2 * wide.abs().max()


def test_what_has_no_last_token_or_no_head_is_refused(scalar, tiny):
    zero = np.zeros(0, np.float32)
    empty = Tree("nothing", (Segment(zero.astype(np.int32), -1, "prompt", zero, 0),), (Leaf(0, 0, 0, 0),))
    with pytest.raises(ValignError, match=r"without tokens[\s\S]*nothing|nothing[\s\S]*without tokens"):
        scorer_of(scalar())([from_paths("a", [7], [[8]]), empty])
    with pytest.raises(ModelError, match="no scalar head"):
        scorer_of(tiny().model)([from_paths("a", [7], [[8]])])
