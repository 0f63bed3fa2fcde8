"""What a comparison knows of its methods before anything runs."""

from __future__ import annotations

import numpy as np
import pytest

from valign.errors import ValignError
from valign.evaluation.aggregate import summarize
from valign.evaluation.result import Item
from valign.evaluation.statistics import benjamini_hochberg, holm
from valign.pipeline.api import Evaluation
from valign.pipeline.compare import seed_groups
from valign.pipeline.data import read_source
from valign.pipeline.door import comparison_recipe, source
from valign.pipeline.evaluate import Measured
from valign.pipeline.recipe import MethodSpec


def test_runs_that_differ_in_their_seed_alone_share_a_group():
    specs = [
        MethodSpec(name="dpo", label="dpo-0", beta=0.1, seed=0), MethodSpec(name="dpo", label="dpo-1", beta=0.1, seed=1),
        MethodSpec(name="dpo", label="hot", beta=0.5, seed=0), MethodSpec(name="sft"),
    ]  # fmt: skip
    assert seed_groups(specs) == {"dpo-0": "dpo", "dpo-1": "dpo"}
    more = [*specs, MethodSpec(name="dpo", label="hot-1", beta=0.5, seed=1)]
    assert seed_groups(more) == {"dpo-0": "dpo (beta=0.1)", "dpo-1": "dpo (beta=0.1)", "hot": "dpo (beta=0.5)",
                                 "hot-1": "dpo (beta=0.5)"}  # fmt: skip


def test_seeds_on_the_command_line_become_runs_of_one_method():
    """Three trainings of each method that trains, one of what does not; a seed that is named stays."""
    recipe = comparison_recipe("m", ["dpo,beta=0.2", "urial", "sft,seed=9"], data=["x.jsonl"], test="y.jsonl", goal=None,
                               limit=None, seed=4, device="auto", dtype="auto", seeds=3, margin=0.01)  # fmt: skip
    assert [m.title for m in recipe.all_methods] == ["dpo-4", "dpo-5", "dpo-6", "urial", "sft"]
    assert [m.settings.get("seed") for m in recipe.all_methods] == [4, 5, 6, None, 9]
    assert seed_groups(recipe.all_methods) == {"dpo-4": "dpo", "dpo-5": "dpo", "dpo-6": "dpo"}
    assert recipe.evaluate.margin == 0.01


def test_an_evaluation_in_python_brings_its_paired_differences():
    """Two policies against the first: the primaries are one family, all other numbers another."""
    rng = np.random.default_rng(0)

    def measured(shift):
        return Measured([
            summarize([Item(f"i{k}", f"i{k}", float(x)) for k, x in enumerate(rng.normal(shift * (metric == "other"), 1, 40))],
                      metric=metric, variant="v", subject=str(shift), level="preference", direction="down")
            for metric in ("misalignment.M", "other", "third")
        ])  # fmt: skip

    found = Evaluation((), [measured(0), measured(1), measured(2)], [], None).differences(margins={"third": 9.0})
    assert [d.result.metric for d in found] == ["misalignment.M", "misalignment.M", "other", "third", "other", "third"]
    p = [d.p for d in found]
    assert [d.p_adjusted for d in found] == pytest.approx([*holm(p[:2]), *benjamini_hochberg(p[2:])])
    assert [d.conclusion for d in found[2:]] == ["worse", "no difference"] * 2


@pytest.mark.parametrize(("part", "train", "test"), [("", (0, 8), (8, 10)), ("#3:8", (3, 7), (7, 8)), ("#5:", (5, 9), (9, 10))])
def test_what_is_held_out_is_the_end_of_the_rows_that_were_named(tmp_path, part, train, test):
    """Not of the whole file: rows that the user left out stay out."""
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(f'{{"prompt": "Q{i}", "chosen": "yes", "rejected": "no"}}\n' for i in range(10)))
    recipe = comparison_recipe("m", ["dpo"], data=[f"{file}{part}"], test=None, goal=None, limit=None, seed=0, device="cpu",
                               dtype="auto")  # fmt: skip
    for sources, (first, last) in ((recipe.data, train), (recipe.evaluate.data or [], test)):
        (groups,) = map(read_source, sources)
        assert [g.prompt_text for g in groups] == [f"Q{i}" for i in range(first, last)]
    with pytest.raises(ValignError, match="counted from 0"):
        read_source(source(f"{file}#-3:"))
