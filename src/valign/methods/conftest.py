"""What the methods' tests share: scripted and tiny policies, groups, and the sequence world with a real model in it.

The world's tokens are those of the theory notes, section 15.2, after one start token (id 0): without one a model
with rotary positions cannot tell "a a" from "a a a", and the analytic reference can.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from valign.data.group import Group, Prompt, Response, user
from valign.engine.items import Item, Objective, bind
from valign.engine.layout import Layout
from valign.engine.local import LocalEngine
from valign.engine.loop import train
from valign.engine.prefix import Prefix
from valign.engine.run import RunFolder
from valign.engine.sampler import Step
from valign.engine.scorer import Scorer
from valign.engine.tree import Leaf, Segment, Tree
from valign.methods.supervised.sft import SFTConfig, sft
from valign.methods.target import Target
from valign.methods.train import train_policy
from valign.models.loaded import LoadedModel
from valign.models.policy import Cost, LocalPolicy, Sample, Sampling, Scored
from valign.models.tiny import tiny_model
from valign.theory.divergence import kl_from_logs
from valign.theory.laws import log_softmax
from valign.theory.worlds import SequenceWorld

LETTERS = ".abcdn+-"  # ids 0..7 of the sequence world
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}.{% endif %}{% endfor %}"
PATHS = 32  # prefixes are visited by so many paths of one tree
VARIANTS = 14  # trees of one prompt, used in turn
MAX_KL = 0.01  # of the fitted reference to the analytic one


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------- small policies


class Scripted:
    """A policy that notes every prompt it reads and answers by two functions.

    answer(prompt) -> text        log_probs(prompt, response text) -> numbers
    """

    kind = "weights"

    def __init__(self, answer: Any = None, log_probs: Any = None, id: str = "scripted") -> None:
        self.id, self.cost = id, Cost()
        self.answer = answer or (lambda prompt: "yes")
        self.log_probs = log_probs or (lambda prompt, text: [-1.0])
        self.read: list[Prompt] = []
        self.asked: list[tuple[Sampling, tuple[str, ...] | None]] = []

    def card(self) -> dict[str, Any]:
        return {"id": self.id, "kind": self.kind, "sha256": "0" * 64, "notes": []}

    def generate(self, prompts: Any, sampling: Sampling, *, keys: Any = None, progress: Any = None) -> Any:
        self.read += prompts
        self.asked.append((sampling, None if keys is None else tuple(keys)))
        self.cost += Cost(calls=len(prompts) * sampling.n)
        return [[sampled(self.answer(p)) for _ in range(sampling.n)] for p in prompts]

    def score(self, groups: Any, *, progress: Any = None) -> Any:
        self.read += [g.prompt for g in groups]
        self.cost += Cost(calls=sum(len(g.responses) for g in groups))
        return [[Scored(np.array(self.log_probs(g.prompt, r.text), np.float32)) for r in g.responses] for g in groups]

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def sampled(text: str) -> Sample:
    zero = np.zeros(1, np.float32)
    return Sample(text, (0,), zero, zero, "stop")


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture(scope="session")
def tiny_policy() -> LocalPolicy:
    """A tiny random chat model in float64. Not to be changed."""
    return LocalPolicy(tiny_model("llama", dtype="float64"), LocalEngine(precision="full"))


@pytest.fixture(scope="session")
def smollm2() -> LocalPolicy:
    """The embedded default model in float32. Not to be changed: training copies it."""
    from valign.models.loading import load_model

    return LocalPolicy(load_model("smollm2-135m-instruct", dtype="float32"), LocalEngine(precision="full"))


# ------------------------------------------------------------------------------------------------ sequence world


def world_model(seed: int = 0) -> LoadedModel:
    """A random Llama of width 48 over the world's 8 tokens, restricted to the 6 that a response may hold."""
    import transformers
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    from valign.models.loading import assemble

    backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(LETTERS)}, unk_token="-"))
    splits = [pre_tokenizers.Split(Regex(r), behavior=b) for r, b in ((r"\s", "removed"), (".", "isolated"))]
    backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(["."])
    backend.post_processor = processors.TemplateProcessing(single=". $A", pair=". $A $B", special_tokens=[(".", 0)])
    wrapper: Any = transformers.PreTrainedTokenizerFast
    tokenizer = wrapper(tokenizer_object=backend, bos_token=".", eos_token=".", pad_token=".")
    tokenizer.chat_template = TEMPLATE
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config)
    return replace(assemble("world", model, tokenizer), allowed_tokens=SequenceWorld.allowed_tokens)


class TrimmedScorer(Scorer):
    """The engine's scorer, with layouts that are kept between steps and hold no token that nothing scored looks at.

    Of the 4686 tokens of all responses 780 are inner ones; the others end a path and are targets only.
    """

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model.model, allowed_tokens=model.allowed_tokens)
        self.pair_cost = float("inf")  # a tree keeps a row, and so a kept layout, of its own
        self._kept: dict[int, tuple[Tree, Layout]] = {}

    def layout(self, trees: Sequence[Tree], prefix: Prefix | None = None) -> Layout:
        for tree in trees:
            if id(tree) not in self._kept:
                self._kept[id(tree)] = (tree, trimmed(super().layout([tree])))
        return beside([self._kept[id(tree)][1] for tree in trees])


ROWS = ("ids", "pos", "enter", "exit", "real")


def trimmed(layout: Layout) -> Layout:
    """A layout of one row without the tokens that no scored position looks at."""
    enter, exit_, pos = layout.enter[0], layout.exit[0], layout.pos[0]
    q = np.unique(layout.read)
    sees = (enter[None] <= enter[q, None]) & (enter[q, None] < exit_[None]) & (pos[None] <= pos[q, None])
    kept = np.flatnonzero(sees.any(0) & layout.real[0])
    place = np.full(layout.ids.shape[1], -1)
    place[kept] = np.arange(len(kept))
    cut = {name: getattr(layout, name)[:, kept] for name in ROWS}
    return replace(layout, read=place[layout.read], last=place[layout.last], **cut)


def beside(parts: Sequence[Layout]) -> Layout:
    """One layout of many."""
    width, columns = max(p.ids.shape[1] for p in parts), max(p.mask.shape[1] for p in parts)
    first = np.cumsum([0, *(len(p.mask) for p in parts)])
    alone = np.arange(width)[None] + 1_000_000  # padding sees itself
    fill = {"ids": 0 * alone, "pos": 0 * alone, "enter": alone, "exit": alone + 1, "real": alone < 0}
    out: dict[str, Any] = {
        n: np.concatenate([np.concatenate([getattr(p, n), fill[n][:, p.ids.shape[1] :]], 1) for p in parts])
        for n in ROWS
    }
    return Layout(
        **out,
        read=np.concatenate([p.read + i * width for i, p in enumerate(parts)]),
        target=np.concatenate([p.target for p in parts]),
        response=np.concatenate([p.response + at for p, at in zip(parts, first)]),
        column=np.concatenate([p.column for p in parts]),
        last=np.concatenate([p.last + i * width for i, p in enumerate(parts)]),
        mask=np.concatenate([np.pad(p.mask, ((0, 0), (0, columns - p.mask.shape[1]))) for p in parts]),
        group=np.concatenate([p.group + i for i, p in enumerate(parts)]),
        plain=False,
    )


class Cycle:
    """A sampler that gives prepared steps in turn."""

    def __init__(self, rows: Sequence[Sequence[Item]], steps: int) -> None:
        self.rows, self.steps = rows, steps

    def step(self, index: int) -> Step:
        return Step(self.rows[index % len(self.rows)])


class Lab:
    """The sequence world with a model in it. Tables are (16, 3906) log-probs in listing order.

    start   the model fitted to the analytic reference, frozen         reference   its enumerated table
    """

    def __init__(self, folder: Path) -> None:
        self.world, self.folder, self.runs = SequenceWorld(), folder, 0
        self.prefixes = self.world.tree()
        self.children: list[list[int]] = [[] for _ in self.prefixes.prefixes]
        for node, parent in enumerate(self.prefixes.parent[1:], 1):
            self.children[parent].append(node)
        whole = self.prefixes.sum_up(self.world.reference_table())
        self.everything = [self.whole_tree(x, whole[x]) for x in range(16)]
        self.start = self.fit(world_model(), self.world.log_reference, steps=160)
        self.reference = self.enumerate(self.start)
        self.policy = LocalPolicy(self.start, LocalEngine(precision="full", rows=512))

    # ------------------------------------------------------------------------------------------- trees and tables

    def ids(self, x: int, control: Sequence[int] = ()) -> list[int]:
        """Start token, prompt, control word."""
        return [0, *self.world.token_ids(x, tuple(control))]

    def prompt(self, x: int, control: str = "") -> Prompt:
        return user("".join(LETTERS[i] for i in self.world.token_ids(x)) + control)

    def groups(self) -> list[Group]:
        """The 16 prompts."""
        return [Group(id=str(x), prompt=self.prompt(x)) for x in range(16)]

    def responses(self, indices: Sequence[int]) -> tuple[Response, ...]:
        """Responses by their place in the listing, as a sampler would have given them."""
        found = [self.world.response_list[i] for i in indices]
        return tuple(
            Response("".join(LETTERS[t] for t in y if t), ids=y, finish="stop" if y[-1] == 0 else "length")
            for y in found
        )

    def whole_tree(self, x: int, mass: Any, control: Sequence[int] = ()) -> Tree:
        """Every prefix once; the loss weight of a token is the probability that a response passes it."""
        return self._tree(x, {n: 1.0 for n, below in enumerate(self.children) if below}, mass, control)

    def path_tree(self, x: int, mass: Any, rng: np.random.Generator, control: Sequence[int] = ()) -> Tree:
        """Prefixes met by a few drawn paths, each with all its next tokens: the whole tree's loss in expectation."""
        visits: dict[int, float] = {}
        for _ in range(PATHS):
            node = 0
            while self.children[node]:
                visits[node] = visits.get(node, 0.0) + 1 / PATHS
                below = self.children[node]
                chance = np.cumsum(mass[below])
                node = below[min(int(np.searchsorted(chance, rng.random() * chance[-1])), len(below) - 1)]
        return self._tree(x, {n: v / mass[n] for n, v in visits.items()}, mass, control)

    def _tree(self, x: int, share: dict[int, float], mass: Any, control: Sequence[int]) -> Tree:
        head = self.ids(x, control)
        segments = [Segment(np.asarray(head, np.int32), -1, "prompt", np.zeros(len(head), np.float32), 0)]
        place, leaves = {0: 0}, []
        for node in sorted(share):
            for child in self.children[node]:
                prefix = self.prefixes.prefixes[child]
                at = len(head) + len(prefix) - 1
                weight = np.array([share[node] * mass[child]], np.float32)
                place[child] = len(segments)
                leaves.append(Leaf(len(segments), 1, len(leaves), at))
                segments.append(Segment(np.array(prefix[-1:], np.int32), place[node], "assistant", weight, at))
        return Tree(f"x{x}", tuple(segments), tuple(leaves))

    def enumerate(self, model: LoadedModel) -> Any:
        """log pi(y|x) of every response, through the engine's scorer."""
        rows = TrimmedScorer(model).score(self.everything, budget=4 * 4800)
        nodes = [n for below in self.children for n in below]
        steps = np.zeros((16, len(self.prefixes.prefixes)))
        steps[:, nodes] = [[float(a[0]) for a in row] for row in rows]
        table = self.prefixes.multiply_down(steps)
        assert np.abs(np.exp(table).sum(1) - 1).max() < 1e-4
        return log_softmax(table)  # exact sums, or a KL of 0 would be 1e-7

    def with_reference(self, items: Sequence[Item]) -> list[Item]:
        """The items with the start model's log-probs."""
        scored = TrimmedScorer(self.start).score([i.tree for i in items], budget=4 * 4800)
        return [i.with_tokens(reference=row) for i, row in zip(items, scored)]

    # ------------------------------------------------------------------------------------------------- training

    def config(self, kind: Any, **settings: Any) -> Any:
        """The method's defaults but for the rate and the number of steps, which the tiny model sets."""
        given = {"learning_rate": 1e-2, "batch_size": 16, "schedule": "linear", "warmup": 0.05} | settings
        known = {f.name for f in fields(kind)}
        return kind(token_budget=32 * 512, **{k: v for k, v in given.items() if k in known})

    def run(self, model: LoadedModel, rows: Sequence[Sequence[Item]], objective: Objective, config: Any) -> LoadedModel:
        """A trained copy: the engine's loop over prepared steps."""
        trained = replace(model, model=copy.deepcopy(model.model).requires_grad_(True))
        with RunFolder(self.next_folder()) as run:
            train(TrimmedScorer(trained), Cycle(rows, config.max_steps), objective, config, run)
        trained.model.requires_grad_(False)
        return trained

    def fit(
        self, model: LoadedModel, log_law: Any, *, steps: int, controls: Any = None, exact: bool = False
    ) -> LoadedModel:
        """SFT on a law's demonstrations. controls: control word -> log law, beside `log_law` for no word."""
        laws = {(): log_law, **(controls or {})}
        rng, rows = np.random.default_rng(0), []
        masses = {word: self.prefixes.sum_up(np.exp(law)) for word, law in laws.items()}
        for _ in range(1 if exact else VARIANTS):
            trees = [
                self.whole_tree(x, mass[x], word) if exact else self.path_tree(x, mass[x], rng, word)
                for word, mass in masses.items()
                for x in range(16)
            ]
            rows.append([Item(t) for t in trees])
        config = self.config(SFTConfig, max_steps=steps)
        return self.run(model, rows, bind(sft, config, "token"), config)

    def train(self, method: Any, groups: Sequence[Group], reward: Any = None, **settings: Any) -> Any:
        """`train_policy` from the start model, as a user runs it."""
        config = self.config(method.config, **settings)
        with RunFolder(self.next_folder()) as run:
            return train_policy(method, self.policy, Target(reward=reward), config, run, groups=groups)

    def next_folder(self) -> Path:
        self.runs += 1
        return self.folder / f"run-{self.runs}"

    def gold(self, groups: Sequence[Group]) -> list[Any]:
        """U_H as a reward."""
        index = self.world.response_index
        return [np.array([self.world.utilities[int(g.id), index(r.ids)] for r in g.responses]) for g in groups]

    def report(self, model: LoadedModel) -> Any:
        return self.world.report(self.enumerate(model), reference_log_probs=self.reference)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The world, its reference fitted once."""
    torch.set_num_threads(1)  # this stands before `_one_thread` of the first test
    made = Lab(tmp_path_factory.mktemp("world"))
    assert float(np.mean(kl_from_logs(made.world.log_reference, made.reference))) <= MAX_KL
    return made
