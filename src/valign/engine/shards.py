"""Weights in shards (fsdp2): each process keeps a part of every weight, and the parts meet where a layer computes.

What holds here: weights, gradients and optimizer state lie in shards; a layer's weights are gathered whole for as long
as it computes; gradients are reduced in the format of the weights (float32), products run under the scorer's autocast as
in one process, so the numbers are those of one process. The head and the embedding belong to the root, which stays
gathered during a whole call of the scorer.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from valign.engine.prefix import Prefix
from valign.engine.processes import World
from valign.engine.scorer import Row, Scorer, Scores, causal_lm, halved, rows_of
from valign.engine.tree import Tree
from valign.errors import ValignError

T = TypeVar("T")


class Root(nn.Module):
    """What `fully_shard` takes for the whole model. Its forward pass is any work that calls the model inside.

    The scorer calls the body and reads the head's weight apart; as the root's forward pass both find whole weights,
    and the backward pass begins where the result ends.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)


def shard(model: nn.Module, world: World) -> Root:
    """Leave each process its part of every weight of `model`, block by block; the rest belongs to the root."""
    try:
        from torch.distributed.checkpoint import HuggingFaceStorageWriter  # noqa: F401 - the newest thing used
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise ValignError(f"torch {torch.__version__} is too old for fsdp2", where="--strategy",
                          how="pip install 'torch>=2.8', or --strategy ddp") from error  # fmt: skip
    mesh = init_device_mesh(world.device.partition(":")[0], (world.size,))
    names = set(getattr(causal_lm(model), "_no_split_modules", None) or ())
    for block in [m for m in model.modules() if type(m).__name__ in names]:
        fully_shard(block, mesh=mesh)
    root = Root(model)
    fully_shard(root, mesh=mesh)
    with torch.no_grad():
        root(lambda: None)  # the first pass settles who is the root: it must not be a block that samples
    root.reshard()  # type: ignore[operator]  # a forward pass leaves the root whole for a backward pass
    return root


def full(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every weight whole, one after the other. All processes must ask."""
    return {n: p.full_tensor() if is_shard(p) else p for n, p in weights.items()}  # type: ignore[attr-defined]


def is_shard(value: Tensor) -> bool:
    """Whether a tensor is this process's part of a larger one."""
    return hasattr(value, "full_tensor")


@contextmanager
def gathered(root: Root) -> Iterator[None]:
    """Inside, every process holds all weights whole and passes through the model without the others: for sampling,
    whose number of passes differs between processes."""
    from torch.distributed.fsdp import FSDPModule

    parts = [m for m in root.modules() if isinstance(m, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not root, recurse=False)


class SharedScorer(Scorer):
    """A scorer whose work several processes share: `batches`, and with it `score`, deals the trees out and gives every
    process all results. With sharded weights every call is a pass of all processes: all must call equally often.
    """

    def __init__(self, scorer: Scorer, world: World, root: Root | None = None) -> None:
        self.__dict__.update(vars(scorer))  # the same scorer; only who computes is another question
        self.world, self.root = world, root

    def __call__(self, *trees: Any) -> Scores:
        """See `Scorer.__call__`."""
        call = super().__call__
        if self.root is None:
            return call(*trees)
        scores = Scores(**self.root(lambda: vars(call(*trees))))
        if not torch.is_grad_enabled():
            self.root.reshard()  # type: ignore[operator]  # else the next pass would miss weights that were loaded
        return scores

    def attend(self, tree: Tree) -> None:
        """A pass of weight zero, backward too where gradients are on: the others need this process's shards."""
        total = self([tree]).values.sum()
        if total.requires_grad:
            (total * 0.0).backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def batches(self, trees: Sequence[Tree], *, budget: int | None = None) -> Iterator[dict[int, list[Row]]]:
        """See `Scorer.batches`; a round of micro-batches, one on each process, is one of its parts. Where memory runs out
        on a process with whole weights it halves its own; with shards the others wait inside the pass: `ValignError`."""
        if not trees:
            return
        waiting = self.world.share_out(trees, budget or self.budget, self.path)
        small = min(trees, key=lambda t: t.tokens)
        left = any(self.world.gather(len(waiting)))
        while left:
            found: dict[int, list[Row]] = {}
            batch = waiting.pop(0) if waiting else []
            if batch:
                picked = [trees[i] for i in batch]
                scores = self._tried(picked, None)
                if scores is None:
                    waiting = halved([batch, *waiting])
                else:
                    found = dict(zip(batch, rows_of(scores, picked)))
            elif self.world.sharded:
                self.attend(small)
            told = self.world.gather((found, len(waiting)))
            left = any(n for _, n in told)
            yield {i: arrays for part, _ in told for i, arrays in part.items()}

    def _tried(self, trees: Sequence[Tree], prefix: Prefix | None) -> Scores | None:
        scores = super()._tried(trees, prefix)
        if scores is None and self.world.sharded and self.world.size > 1:
            raise ValignError(
                f"out of memory on process {self.world.rank}",
                where=f"{len(trees)} groups side by side",
                how="a smaller --set token_budget, or more processes",
            )
        return scores


def led(scorer: Scorer, work: Callable[[Scorer], T]) -> T:
    """What `work(scorer)` gives on the leading process, which alone runs it; the others compute their share of what it
    scores. For work that reads and writes files on the way."""
    if not isinstance(scorer, SharedScorer) or scorer.world.size == 1:
        return work(scorer)
    world = scorer.world
    if world.leads:
        result = work(_Leading(scorer, world, scorer.root))
        world.tell((result, None))
        return result
    while True:
        heard: tuple[Any, Any] = world.tell((None, None))
        asked = heard[1]
        if asked is None:
            return heard[0]  # type: ignore[no-any-return]
        for _ in scorer.batches(asked[0], budget=asked[1]):
            pass


class _Leading(SharedScorer):
    """What the leading process scores with inside `led`: the others hear what is wanted."""

    def batches(self, trees: Sequence[Tree], *, budget: int | None = None) -> Iterator[dict[int, list[Row]]]:
        self.world.tell((None, (list(trees), budget)))
        yield from super().batches(trees, budget=budget)


# ----------------------------------------------------------------------------------------------------- checkpoints


def write_shards(folder: FilePath, tensors: Mapping[str, Tensor]) -> None:
    """Every process writes its parts, as safetensors. Raises OSError everywhere where one process could not."""
    import torch.distributed.checkpoint as dcp

    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        dcp.save(dict(tensors), storage_writer=writer)
    except dcp.api.CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise OSError(getattr(first, "errno", None), str(first)) from error


def read_shards(folder: FilePath, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `write_shards` wrote, by however many processes, or one.

    like  tensors by name: where one of them is a shard, and for what an optimizer keeps beside it (NAME/KEY), only this
          process's part is read; all else whole
    """
    import torch.distributed.checkpoint as dcp

    stored = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    places = {name: _place(name, about, like) for name, about in stored.items()}
    alone = not any(map(is_shard, places.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one process loads alone is meant so
        dcp.load(places, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=alone)
    return places


def _place(name: str, about: Any, like: Mapping[str, Tensor]) -> Tensor:
    """An empty tensor for a stored one."""
    owner = like.get(name, like.get(name.rpartition("/")[0]))
    if owner is not None and is_shard(owner) and owner.shape == about.size:
        return torch.empty_like(owner, dtype=about.properties.dtype, requires_grad=False)
    return torch.empty(about.size, dtype=about.properties.dtype)


def as_part(value: Tensor, owner: Tensor) -> Tensor:
    """This process's part of a whole tensor, laid out like `owner`; the whole where that is no shard."""
    if not is_shard(owner) or is_shard(value) or owner.shape != value.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    where: Any = owner
    # every process has read the whole: nothing need be sent
    return distribute_tensor(value.to(where.device), where.device_mesh, where.placements, src_data_rank=None)
