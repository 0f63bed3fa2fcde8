"""LocalEngine: what a local policy computes with. It joins templates to trees, the scorer and the generator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from valign.data.group import Group, Prompt
from valign.engine.attention import attention_of
from valign.engine.generator import ROWS, Generator
from valign.engine.prepare import response_tree
from valign.engine.scorer import Readout, Scorer, causal_lm
from valign.engine.tree import Tree, from_paths
from valign.models.loaded import LoadedModel
from valign.models.policy import Sample, Sampling, Scored
from valign.models.precision import bfloat16_is_fast

Precision = Literal["auto", "full"]


def product_dtype(model: LoadedModel, precision: Precision) -> torch.dtype | None:
    """The dtype of matrix products where it is narrower than the weights: bf16 for float32 weights on a device that
    multiplies it natively and precision "auto"; None: products in the dtype of the weights."""
    if precision == "auto" and model.dtype == torch.float32 and bfloat16_is_fast(model.device.type):
        return torch.bfloat16
    return None


@dataclass
class LocalEngine:
    """Scores and generates with models in this process.

    precision   "auto": float32 weights multiply in bf16 where the device does so natively; "full": never
    rows        samples decoded side by side        budget  positions of one scoring batch, None: as suits the device
    """

    precision: Precision = "auto"
    rows: int = ROWS
    budget: int | None = None

    def scorer(
        self, model: LoadedModel, temperature: float = 1.0, readout: Readout = "log_probs", *, compiled: bool = False
    ) -> Scorer:
        """The scorer of a model."""
        return Scorer(
            model.model,
            allowed_tokens=model.allowed_tokens,
            autocast=product_dtype(model, self.precision),
            temperature=temperature,
            readout=readout,
            compiled=compiled,
        )

    def generate(
        self,
        model: LoadedModel,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        keys: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Sample]]:
        """See `Policy.generate`."""
        generator = Generator(
            model.model,
            stop_ids=model.template.stop_ids,
            decode=model.template.decode,
            allowed_tokens=model.allowed_tokens,
            rows=self.rows,
        )
        with self._products(model):
            return generator(model.template.prompt_ids_many(prompts), sampling, keys=keys, progress=progress)

    def score(
        self, model: LoadedModel, groups: Sequence[Group], *, progress: Callable[[int, int], None] | None = None
    ) -> list[list[Scored]]:
        """See `Policy.score`. Choices of a multiple-choice item follow the encode-pair rule of lm-evaluation-harness."""
        trees = [self._tree(model, g) for g in groups]
        kept = [t for t in trees if t is not None]
        scored = iter(self.scorer(model).score(kept, budget=self.budget, progress=progress))
        out: list[list[Scored]] = []
        for tree in trees:
            if tree is None:
                out.append([])
                continue
            masks = [tree.response_loss(leaf) != 0 for leaf in tree.leaves]
            out.append([Scored(row[mask]) for row, mask in zip(next(scored), masks)])
        return out

    def runtime(self, model: LoadedModel) -> dict[str, Any]:
        """See `Engine.runtime`."""
        products = product_dtype(model, self.precision) or model.dtype
        path = attention_of(causal_lm(model.model).config).path
        return {"engine": path, "products": str(products).removeprefix("torch.")}

    def _tree(self, model: LoadedModel, group: Group) -> Tree | None:
        if not group.responses:
            return None
        if not group.choices:
            return response_tree(model.template, group)
        paths = [model.template.encode_harness(group.prompt, r.text) for r in group.responses]
        trunk = paths[0].ids[
            : paths[0].n_prompt
        ]  # the model reads the context's own encoding: the same for every choice
        return from_paths(group.id, trunk, [p.ids[p.n_prompt :] for p in paths])

    @contextlib.contextmanager
    def _products(self, model: LoadedModel) -> Iterator[None]:
        dtype = product_dtype(model, self.precision)
        if dtype is None:
            yield
            return
        # autocast keeps its narrow copies only of weights that ask for gradients; without them every decoding step
        # would cast the whole model again
        asked = [p.requires_grad for p in model.model.parameters()]
        model.model.requires_grad_(True)
        try:
            with torch.autocast(model.device.type, dtype=dtype):
                yield
        finally:
            for p, flag in zip(model.model.parameters(), asked):
                p.requires_grad_(flag)
