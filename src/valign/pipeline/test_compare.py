"""What a comparison knows of its methods before anything runs."""

from __future__ import annotations

from valign.pipeline.compare import seed_groups
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
