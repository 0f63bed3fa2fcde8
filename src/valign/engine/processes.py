"""The processes of a run: who they are, what each of them computes, and sums over all of them.

What holds here: every process plans the same step and takes its own part of it, so no plan is ever sent; sums are added
in the order of the ranks, so all processes hold the same bits and decide alike; whoever fails says why before the
others notice. Processes are started by torchrun; this room reads what it left in the environment. Sharded weights are
`engine/shards.py`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from valign.engine.attention import Path
from valign.engine.scorer import micro_batches, positions
from valign.engine.tree import Tree
from valign.errors import UsageError, ValignError

Strategy = Literal["single", "ddp", "fsdp2"]
STRATEGIES = ("auto", "single", "ddp", "fsdp2")
BUCKET = 2**24  # numbers of a gradient sum that travel together: 64 MB of float32
TORCHRUN = "torchrun --nproc-per-node 2 -m valign align ..."
_starts = itertools.count()  # names the keys of each start: a process may start more than one run
T = TypeVar("T")


class Lost(ValignError):
    """This process stopped because another one did, which has said why; nothing more is printed."""

    silent = True

    def __init__(self, rank: int, reason: str, exit_code: int = 1) -> None:
        super().__init__(f"process {rank} stopped the run: {reason}")
        self.exit_code = exit_code


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    rank, size  which of how many            device  where this process computes; "auto": any
    strategy    single: one process; ddp: each holds all weights; fsdp2: each holds a part of every weight
    """

    rank: int = 0
    size: int = 1
    strategy: Strategy = "single"
    device: str = "auto"

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether weights are shards, so that every pass through the model needs all processes."""
        return self.strategy == "fsdp2"

    @property
    def loss_factor(self) -> int:
        """What a loss is multiplied by before its backward pass, so that gradients are sums over processes: sharded
        weights average theirs. The one place where that is undone."""
        return self.size if self.sharded else 1

    def gather(self, value: T) -> list[T]:
        """The value of every process, by rank; the same list everywhere."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, value)
        return out

    def tell(self, value: T) -> T:
        """The leading process's value, everywhere."""
        box: list[Any] = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[no-any-return]

    def from_leader(self, work: Callable[[], T]) -> T:
        """What `work` gives on the leading process, which alone runs it. What it raises is raised everywhere."""
        if self.size == 1:
            return work()
        result: Any = None
        failed: Exception | None = None
        if self.leads:
            try:
                result = work()
            except Exception as error:
                failed = error
        result, failed = self.tell((result, failed))
        if failed is not None:
            raise failed
        return result  # type: ignore[no-any-return]

    def require_same(self, value: object, what: str) -> None:
        """Raise `ValignError` unless all processes hold an equal value: they would train different things."""
        if any(other != value for other in self.gather(value)):
            raise ValignError(f"the processes have different {what}", where="torchrun",
                              how="start all of them with the same command, on the same files")  # fmt: skip

    def share_out(self, trees: Sequence[Tree], budget: int, path: Path) -> list[list[int]]:
        """This process's micro-batches, as indices of `trees`.

        Trees go longest first to the process with the least work; each process cuts its own by the token budget.
        Sharded weights meet in every pass, so there all processes get equally many micro-batches: some may be empty.
        """
        shares = deal([positions(t, path) for t in trees], self.size)
        cuts = [
            [[share[i] for i in batch] for batch in micro_batches([trees[i] for i in share], budget, path)]
            for share in shares
        ]
        mine = cuts[self.rank]
        return mine + [[]] * (max(map(len, cuts)) - len(mine)) if self.sharded else mine

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        """Put the sum over all processes in the place of every gradient (sharded ones are summed already).

        Gradients of one dtype are added in flat buckets, in at least float32. A weight that got a gradient nowhere
        keeps none, as in one process; where only some processes have one, the others count as 0.
        """
        if self.size == 1 or self.sharded:
            return
        listed = list(weights)
        given = torch.tensor([p.grad is not None for p in listed], dtype=torch.uint8)
        dist.all_reduce(given, dist.ReduceOp.MAX)
        for bucket in _buckets([p for p, g in zip(listed, given.tolist()) if g]):
            wide = torch.promote_types(bucket[0].dtype, torch.float32)
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([x.reshape(-1).to(wide) for x in parts])
            dist.all_reduce(flat)
            for p, total in zip(bucket, flat.split([p.numel() for p in bucket])):
                p.grad = total.view_as(p).to(p.dtype)


SINGLE = World()


def deal(costs: Sequence[float], size: int) -> list[list[int]]:
    """Indices for each of `size` processes: the dearest first, each to the one with the least so far.

    Equal costs and loads go by number, so every process deals alike. Each share is in the order given.
    """
    shares: list[list[int]] = [[] for _ in range(size)]
    load = [0.0] * size
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = load.index(min(load))
        shares[least].append(i)
        load[least] += costs[i]
    return [sorted(share) for share in shares]


def _buckets(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Weights of one dtype and device, about `BUCKET` numbers at a time."""
    for _, same in itertools.groupby(
        sorted(enumerate(weights), key=lambda x: (str(x[1].dtype), str(x[1].device), x[0])),
        key=lambda x: (x[1].dtype, x[1].device),
    ):
        bucket: list[Tensor] = []
        for _, p in same:
            if bucket and sum(q.numel() for q in bucket) + p.numel() > BUCKET:
                yield bucket
                bucket = []
            bucket.append(p)
        if bucket:
            yield bucket


# ------------------------------------------------------------------------------------------------- starting, failing


def is_one_of_many() -> bool:
    """Whether torchrun started this process together with others."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def start(strategy: str = "auto", device: str = "auto") -> Iterator[World]:
    """Join the processes that torchrun started; one process alone is a `World` of its own and joins nothing.

    strategy  auto: ddp where several processes were started, else single
    device    "auto": the GPU of this process's local rank where there are GPUs, else the CPU
    Inside, the first process that raises has its error; all others then raise `Lost`, with its reason.
    Raises `UsageError` for a strategy or a device that does not fit how the processes were started.
    """
    several = is_one_of_many()
    chosen = ("ddp" if several else "single") if strategy == "auto" else strategy
    if chosen not in STRATEGIES:
        raise UsageError(f"unknown strategy {strategy!r}", where="--strategy", how=f"one of {', '.join(STRATEGIES)}")
    if chosen == "single" and several:
        raise UsageError("torchrun started several processes, and single is one", where="--strategy",
                         how="leave it out, or start without torchrun")  # fmt: skip
    if chosen == "single":
        yield World(device=device)
        return
    if "RANK" not in os.environ:
        raise UsageError(f"{chosen} needs processes", where="--strategy", how=TORCHRUN)
    own = _device(device)
    store, rank, size = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"valign/{next(_starts)}", store)
    # gloo carries what is on the CPU, and with it all that is decided together
    dist.init_process_group("cpu:gloo,cuda:nccl" if own.startswith("cuda") else "gloo",
                            store=store, rank=rank, world_size=size)  # fmt: skip
    whole = False
    try:
        with _fail_together(rank, store):
            yield World(rank, size, chosen, own)  # type: ignore[arg-type]
        whole = True
    finally:
        # closes the connections: whoever waits for this process learns of it at once. NCCL would first wait for a pass
        # that was broken off, and with it the message; there the end of the process does it
        if whole or own == "cpu":
            dist.destroy_process_group()


@contextmanager
def _fail_together(rank: int, store: dist.Store) -> Iterator[None]:
    """The first process that fails leaves its reason in the store; those that fail after it are silent."""
    try:
        yield
    except BaseException as error:
        said = f"{rank} {_reason(error)}"
        try:
            first = store.compare_set("failed", "", said).decode()
        except RuntimeError:  # the store went with the process that kept it
            first = "0 it ended without a word"
        if first != said:
            other, _, reason = first.partition(" ")
            raise Lost(int(other), reason, getattr(error, "exit_code", 1)) from error
        if _is_connection(error):
            raise ValignError("another process ended without a word", where=f"process {rank}",
                              how="look for one that ran out of memory or was killed; the last checkpoint is kept",
                              ) from error  # fmt: skip
        raise


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, ValignError) else f"{type(error).__name__}: {error}"


def _is_connection(error: BaseException) -> bool:
    """Whether an error only says that another process is gone: gloo has no exception of its own."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _device(asked: str) -> str:
    """The device of this process, made the current one."""
    if asked not in ("auto", "cpu", "cuda"):
        raise UsageError(f"{asked} is one device, and every process needs its own", where="--device",
                         how="leave it out, or say cpu or cuda")  # fmt: skip
    if asked == "cpu" or not torch.cuda.is_available():
        return "cpu" if asked == "auto" else asked
    local, here = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= here:
        raise UsageError(f"{here} GPUs cannot hold process {local}", where="torchrun",
                         how=f"--nproc-per-node {here}, or --device cpu")  # fmt: skip
    torch.cuda.set_device(local)
    return f"cuda:{local}"
