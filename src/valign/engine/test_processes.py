"""Several processes train as one: the same gradients, the same steps, the same checkpoints, and one voice when they
fail.

The functions `check_...` run in each of the processes (tests/crew.py); the tests compare what they found.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from valign.engine.processes import deal, start
from valign.errors import UsageError, ValignError

STEPS = 5

# ------------------------------------------------------------------------------------------------- in the children


def make_loop(
    world: Any, shared: Any, folder: Path, unit: str = "pair", budget: int = 60, scorer: Any = None, dtype: str = "float64"
) -> Any:
    """A training loop over a fresh tiny model, with sharded weights where the world says so."""
    from valign.engine.config import TrainConfig
    from valign.engine.loop import HeldOut, _Loop
    from valign.engine.run import FollowedRun, RunFolder
    from valign.engine.sampler import DataSampler

    model = shared.build("llama_tied", dtype).model
    config = TrainConfig(learning_rate=1e-2, batch_size=3, token_budget=budget, checkpoint_every=2, weight_decay=0.1)
    run = RunFolder(folder) if world.leads else FollowedRun(folder)
    return _Loop(scorer or shared_scorer(model, world), DataSampler([], batch=1),
                 shared.objectives_by_unit()[unit], config, run, HeldOut(), None, world, None)  # fmt: skip


def shared_scorer(model: Any, world: Any) -> Any:
    from valign.engine.scorer import Scorer
    from valign.engine.shards import SharedScorer, shard

    scorer = Scorer(model)
    return SharedScorer(scorer, world, shard(model, world) if world.sharded else None)


def check_gradients(world: Any, shared: Any, folder: Path) -> Any:
    """The largest difference to one big batch in one process, and that of the loss, for every dtype, unit and budget; also
    with fewer groups than processes. In float32 the difference of the gradient is a share of its norm."""
    from valign.engine.items import collate
    from valign.engine.sampler import Step
    from valign.engine.scorer import Scorer
    from valign.engine.shards import full

    items = shared.pair_items(7, model=shared.build("llama").model)
    out: dict[str, dict[str, float]] = {"float64": {}, "float32": {}}
    for dtype, unit in itertools.product(out, ("token", "response", "pair")):
        loop = make_loop(world, shared, folder, unit, dtype=dtype)
        plain = shared.build("llama_tied", dtype).model
        for budget, some in ((1, items), (60, items), (10**6, items), (60, items[:1])):
            losses = loop.objective(collate(some, Scorer(plain)([i.tree for i in some]))).losses
            whole = losses.sum() / sum(i.units(unit) for i in some)
            expected = shared.gradients_of(plain, whole)
            loop.optimizer.zero_grad(set_to_none=True)
            loop.state.budget = budget
            loss, meters, tokens, _ = loop._gradients(Step(some))
            found = full({n: p.grad for n, p in loop.weights.items()})
            assert tokens == sum(i.tree.tokens for i in some) and meters
            apart = shared.distance(found, expected) if dtype == "float64" else share_of_norm(found, expected)
            out[dtype][f"{unit} {budget} {len(some)}"] = max(abs(loss - float(whole)), apart)
    return out


def share_of_norm(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The norm of the difference of two gradients, as a share of the second one's."""
    squares = [sum(float(x.double().square().sum()) for x in g) for g in (
        [found[n] - g for n, g in expected.items()], expected.values())]  # fmt: skip
    return float((squares[0] / squares[1]) ** 0.5)


def run_training(
    world: Any, shared: Any, folder: Path, until: int | None = None, dtype: str = "float64"
) -> dict[str, Any]:
    """Train five steps with references, dev split and checkpoints, or stop by a signal after step `until`."""
    from valign.engine.config import TrainConfig
    from valign.engine.loop import HeldOut, Interrupted, train
    from valign.engine.reference import with_references
    from valign.engine.run import FollowedRun, RunFolder
    from valign.engine.sampler import DataSampler
    from valign.engine.shards import full, led

    model = shared.build("llama_tied", dtype).model
    scorer = shared_scorer(model, world)
    config = TrainConfig(learning_rate=1e-2, batch_size=3, epochs=2, max_steps=STEPS, token_budget=60, weight_decay=0.1,
                         checkpoint_every=2)  # fmt: skip
    told: list[tuple[str, dict[str, Any]]] = []

    def listen(event: str, fields: Any) -> None:
        told.append((event, dict(fields)))
        if event == "step" and fields["step"] == until:
            os.kill(os.getpid(), signal.SIGTERM)  # this process alone: the others hear of it

    folder.mkdir(exist_ok=True)
    with RunFolder(folder) if world.leads else FollowedRun(folder) as run:
        rows = []
        for items in (shared.pair_items(8), shared.pair_items(3, seed=8)):
            found = led(scorer, lambda s, items=items: [
                i.tokens["reference"] for i in with_references(items, s, "start", folder, budget=60)])  # fmt: skip
            rows.append([i.with_tokens(reference=r) for i, r in zip(items, found)])
        sampler = DataSampler(rows[0], batch=3, epochs=2, max_steps=STEPS, seed=3)
        with contextlib.suppress(Interrupted):
            train(scorer, sampler, shared.objectives_by_unit()["pair"], config, run, dev=HeldOut(rows[1], every=2),
                  stop_ids=[2], world=world, on_event=listen if world.leads else None)  # fmt: skip
    named = {n: p for n, p in model.named_parameters()}
    weights = {n: p.detach().tolist() for n, p in full(named).items()}
    return {"weights": weights, "told": [x for x in told if x[0] in ("step", "eval", "resume", "checkpoint")]}


def check_training(world: Any, shared: Any, folder: Path) -> Any:
    return run_training(world, shared, folder / f"{world.strategy}-{world.size}")


def check_training_in_float32(world: Any, shared: Any, folder: Path) -> Any:
    return run_training(world, shared, folder / f"{world.strategy}-{world.size}", dtype="float32")


def check_two_steps(world: Any, shared: Any, folder: Path) -> Any:
    return run_training(world, shared, folder / "moving", until=2)


def check_one_more(world: Any, shared: Any, folder: Path) -> Any:
    return {**reload(world, shared, folder), **run_training(world, shared, folder / "moving", until=3)}


def check_the_rest(world: Any, shared: Any, folder: Path) -> Any:
    return {**reload(world, shared, folder), **run_training(world, shared, folder / "moving")}


def reload(world: Any, shared: Any, folder: Path) -> Any:
    """The newest checkpoint through this world's eyes: the sha256 of all its tensors, whole."""
    from valign.engine import checkpoint
    from valign.engine.shards import full
    from valign.models.loaded import weights_digest

    loop = make_loop(world, shared, folder / "moving")
    path, notes = checkpoint.newest(folder / "moving" / "checkpoints")
    assert path is not None and not notes
    saved = checkpoint.read(path, loop.weights)
    plain = checkpoint.load(path)
    parts = [weights_digest(full(t)) for t in (saved.weights, saved.optimizer)]
    return {"reload": parts, "plain": [weights_digest(t) for t in (plain.weights, plain.optimizer)], "step": saved.step}


def check_trouble(world: Any, shared: Any, folder: Path) -> Any:
    """NaN on one process is refused by all; memory that runs out on one halves the budget of all."""
    import torch

    from valign.engine.items import Objective
    from valign.engine.objective import Terms
    from valign.engine.sampler import DataSampler, Step
    from valign.engine.scorer import Scorer
    from valign.engine.shards import SharedScorer

    items, out = shared.pair_items(6), {}

    def poisoned(policy: Any, mask: Any) -> Terms:
        return Terms(-policy * mask * (float("nan") if world.rank == 1 else 1), unit="token")

    loop = make_loop(world, shared, folder / "nan", "token")
    loop.objective = Objective(poisoned, {}, "token")
    loop.sampler = DataSampler(items, batch=6)
    before = {n: p.detach().clone() for n, p in loop.weights.items()}
    loop._step()
    out["bad"] = loop.state.bad
    out["kept"] = all(torch.equal(p, before[n]) for n, p in loop.weights.items())

    class Starved(Scorer):
        def __call__(self, trees: Any, *more: Any) -> Any:
            if world.rank == 1 and len(trees) > 1:
                raise MemoryError
            return super().__call__(trees, *more)

    starved = make_loop(world, shared, folder / "oom", "token", 10**6, Starved(shared.build("llama_tied").model))
    rich = make_loop(world, shared, folder / "oom", "token", 10**6)
    losses = [x._gradients(Step(items))[0] for x in (starved, rich)]
    grads = [{n: p.grad for n, p in x.weights.items()} for x in (starved, rich)]
    out["budget"] = starved.state.budget
    out["gap"] = max(abs(losses[0] - losses[1]), shared.distance(*grads))
    trees = [i.tree for i in items]
    scored = [SharedScorer(s(shared.build("llama_tied").model), world).score(trees) for s in (Starved, Scorer)]
    out["scores"] = [[[v.tolist() for v in rows] for rows in s] for s in scored]
    return out


def check_rollouts(world: Any, shared: Any, folder: Path) -> Any:
    """Two steps of sampling, as ids, advantages, references and meters; then what the audit says."""
    from valign.engine.reference import Reference
    from valign.engine.rollout import RolloutSampler
    from valign.engine.shards import gathered, shard
    from valign.models.policy import Sampling

    policy, engine = shared.build("llama_tied"), shared.local_engine()
    reference = Reference(engine.scorer(shared.build("llama")))
    sampler = RolloutSampler(
        policy, engine, shared.toy_prompts(8),
        reward=lambda gs: [np.array([float(len(set(r.text))) for r in g.responses]) for g in gs],
        advantage=lambda r, h: r - r.mean() - h, sampling=Sampling(n=3, max_new_tokens=6), batch=3, steps=2, seed=3,
        reference=reference, world=world,
    )  # fmt: skip
    if world.sharded:
        root = shard(policy.model, world)
        sampler.gathered = lambda: gathered(root)
    out = []
    for index in range(2):
        step = sampler.step(index)
        for i in step.items:
            ids = [i.tree.path(leaf).tolist() for leaf in i.tree.leaves]
            out.append([i.tree.id, ids, i.values["advantage"].tolist(), [r.tolist() for r in i.tokens["reference"]]])
        out.append([dict(step.meters), vars(step.cost)])
    return {"steps": out, "audit": [(x.name, x.ok) for x in sampler.audit()]}


def check_failure(world: Any, shared: Any, folder: Path) -> Any:
    """Process 1 meets an error in its second step, while the others wait for its gradient."""
    from valign.engine.sampler import Step

    loop, items = make_loop(world, shared, folder / "failure"), shared.pair_items(6, model=shared.build("llama").model)
    loop._gradients(Step(items))
    if world.rank == 1:
        raise ValignError("the disk is on fire", where="process 1")
    loop._gradients(Step(items))
    return "not reached"


def check_death(world: Any, shared: Any, folder: Path) -> Any:
    """Process 1 is killed."""
    world.gather(0)
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.gather(1)
    return "not reached"


def check_one_command(world: Any, shared: Any, folder: Path) -> Any:
    """Processes that were asked for different things."""
    world.require_same("same", "data")
    world.require_same(world.rank, "data")


# ------------------------------------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def together(crew):
    """`together(check, size, strategy, folder)`: what each process of this file's check found."""
    return partial(crew, __file__)


def gap(a: Any, b: Any) -> float:
    """The largest difference over nested lists; infinite where they are not alike."""
    if isinstance(a, dict):
        return max((gap(a[k], b[k]) for k in a), default=0.0) if a.keys() == b.keys() else float("inf")
    if isinstance(a, list):
        return max(map(gap, a, b), default=0.0) if len(a) == len(b) else float("inf")
    if isinstance(a, (int, float)) and not isinstance(a, bool) and isinstance(b, (int, float)):
        return abs(a - b)
    return 0.0 if a == b else float("inf")


def steps_of(found: dict[str, Any]) -> list[Any]:
    """What the loop told of steps and evaluations, without times."""
    timed = ("seconds", "left", "tokens_per_second", "pad_share", "memory")  # padding depends on who computes what
    return [[event, {k: v for k, v in fields.items() if k not in timed}] for event, fields in found["told"]
            if event in ("step", "eval")]  # fmt: skip


def test_dealing_is_balanced_and_complete():
    """The dearest first, each to the least loaded; no share exceeds the mean by more than one tree."""
    assert deal([5, 4, 3, 3, 3], 2) == [[0, 3], [1, 2, 4]]
    assert deal([2, 2], 4) == [[0], [1], [], []]
    costs = np.random.default_rng(0).integers(1, 100, 57).astype(float).tolist()
    shares = deal(costs, 4)
    assert sorted(i for share in shares for i in share) == list(range(57))
    loads = [sum(costs[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= 100
    assert deal(costs, 1) == [list(range(57))]


@pytest.mark.proof("E10")
@pytest.mark.parametrize("size, strategy", [(2, "ddp"), (4, "ddp"), (2, "fsdp2"), (4, "fsdp2"), (1, "fsdp2")])
def test_the_gradient_does_not_depend_on_the_number_of_processes(together, tmp_path, size, strategy):
    """E10: units token, response and pair; micro-batches of one group, some, all; one group for all processes: 1e-12 in
    float64, 1e-6 in float32."""
    for found in together("gradients", size, strategy, tmp_path):
        assert len(found["float64"]) == 12 and max(found["float64"].values()) < 1e-12, found
        assert len(found["float32"]) == 12 and max(found["float32"].values()) < 1e-6, found


@pytest.fixture(scope="module")
def straight(together, tmp_path_factory) -> dict[str, Any]:
    """Five steps in one process."""
    return together("training", 1, "single", tmp_path_factory.mktemp("straight"))[0]


@pytest.mark.proof("E23")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_as_one(together, tmp_path, straight, strategy):
    """E23: five steps with references, clipping, weight decay and a dev split: weights, losses and all meters to 1e-12;
    only the leading process speaks."""
    lead, other = together("training", 2, strategy, tmp_path)
    assert gap(lead["weights"], straight["weights"]) < 1e-12
    assert lead["weights"] == other["weights"]
    assert gap(steps_of(lead), steps_of(straight)) < 1e-12 and not other["told"]
    assert len(steps_of(lead)) == STEPS + 3


@pytest.mark.proof("E23")
def test_two_processes_train_as_one_in_float32(together, tmp_path):
    """E23 with weights as they are used: 1e-6 of the weights' norm, losses to 1e-6."""
    flat = lambda found: np.concatenate([np.ravel(x) for x in found["weights"].values()])  # noqa: E731
    losses = lambda found: [fields["loss"] for _, fields in steps_of(found)]  # noqa: E731
    (alone,) = together("training_in_float32", 1, "single", tmp_path)
    for strategy in ("ddp", "fsdp2"):
        lead, _ = together("training_in_float32", 2, strategy, tmp_path)
        assert lead["weights"].keys() == alone["weights"].keys()
        assert np.linalg.norm(flat(lead) - flat(alone)) < 1e-6 * np.linalg.norm(flat(alone))
        assert gap(losses(lead), losses(alone)) < 1e-6


@pytest.mark.proof("E23")
@pytest.mark.parametrize(
    "strategies", [("ddp", "single", "ddp"), ("fsdp2", "single", "fsdp2"), ("fsdp2", "fsdp2", "ddp")]
)
def test_a_checkpoint_moves_between_numbers_of_processes(together, tmp_path, straight, strategies):
    """E23: two steps on 2 processes, one on 1, the rest on 4: read back bitwise by each, and the end is that of one
    process. A signal to one process stops all after the same step."""
    started = together("two_steps", 2, strategies[0], tmp_path)
    assert [x[1]["step"] for x in started[0]["told"] if x[0] == "step"] == [1, 2]
    for check, size, strategy, step in (("one_more", 1, strategies[1], 2), ("the_rest", 4, strategies[2], 3)):
        found = together(check, size, strategy, tmp_path)
        assert all(f["reload"] == f["plain"] == found[0]["reload"] and f["step"] == step for f in found)
        assert ["resume", {"step": step}] in found[0]["told"]
    assert gap(found[0]["weights"], straight["weights"]) < 1e-12
    assert all(f["weights"] == found[0]["weights"] for f in found)
    names = {p.name for p in (tmp_path / "moving").rglob("*")}
    assert not any(n.endswith((".partial", ".removed", "lock")) for n in names)


@pytest.mark.proof("E22")
def test_trouble_on_one_process_is_everybodys(together, tmp_path):
    """E22: no process updates after a NaN that one of them met; memory that ran out on one halves the budget of all,
    and the redone gradient is the same: 1e-12. Scores too: a process that lacks memory halves its own micro-batches."""
    found = together("trouble", 2, "ddp", tmp_path)
    assert all(f["bad"] == 1 and f["kept"] for f in found)
    assert found[0]["budget"] == found[1]["budget"] < 10**6
    assert all(f["gap"] < 1e-12 for f in found)
    assert all(gap(*f["scores"]) < 1e-12 for f in found)


def test_shards_that_lack_memory_name_the_process(tiny, trees, monkeypatch):
    """With sharded weights the others wait inside the pass: it cannot be halved, and the error says where and what to do."""
    from valign.engine.scorer import Scorer
    from valign.engine.shards import SharedScorer

    monkeypatch.setattr(Scorer, "_tried", lambda *_: None)
    scorer = SharedScorer(Scorer(tiny("llama").model), SimpleNamespace(sharded=True, size=2, rank=1))  # type: ignore[arg-type]
    with pytest.raises(ValignError, match=r"3 groups[\s\S]*out of memory on process 1[\s\S]*token_budget"):
        scorer._tried(trees(3), None)


@pytest.mark.proof("E18")
def test_samples_do_not_depend_on_who_drew_them(together, tmp_path):
    """E18: one process and two, with whole weights and with shards: equal ids, advantages, references, meters."""
    alone = together("rollouts", 1, "single", tmp_path)[0]
    for size, strategy in ((2, "ddp"), (2, "fsdp2"), (4, "ddp")):
        for found in together("rollouts", size, strategy, tmp_path):
            assert gap(found, alone) < 1e-12


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_one_failing_process_brings_all_down_with_its_own_message(together, tmp_path, strategy):
    """The one that failed keeps its error; the others fail at once, silently, and know why."""
    lead, other = together("failure", 2, strategy, tmp_path, whole=False)
    assert other["error"] == "process 1: the disk is on fire" and not other["silent"]
    assert lead["silent"] and "process 1 stopped the run" in lead["error"] and "on fire" in lead["error"]
    assert abs(lead["at"] - other["at"]) < 20, "not a collective's timeout"


def test_a_killed_process_is_told_apart_from_a_bug(together, tmp_path):
    lead, other = together("death", 2, "ddp", tmp_path, whole=False)
    assert not other and "another process ended without a word" in lead["error"]


def test_processes_with_different_data_refuse(together, tmp_path):
    found = together("one_command", 2, "ddp", tmp_path, whole=False)
    assert sorted(f["silent"] for f in found) == [False, True], "one of them speaks"
    assert all("the processes have different data" in f["error"] for f in found)


@pytest.mark.parametrize(
    "env, strategy, device, message",
    [
        ({}, "ddp", "auto", "ddp needs processes[\\s\\S]*torchrun"),
        ({}, "fsdp2", "auto", "fsdp2 needs processes"),
        ({}, "dpp", "auto", "unknown strategy 'dpp'"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "single", "auto", "single is one"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "ddp", "cuda:1", "cuda:1 is one device"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(monkeypatch, env, strategy, device, message):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message), start(strategy, device):
        pass


def test_one_process_joins_nothing(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with start() as world:
        assert (world.size, world.strategy, world.leads, world.loss_factor) == (1, "single", True, 1)
        assert world.gather(3) == [3] and world.from_leader(lambda: 4) == 4

