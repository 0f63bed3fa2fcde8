"""Choices are scored as lm-evaluation-harness scored them: its own samples of the same tiny models, recorded.

The file is made by scripts/harness_samples.py; the models are made again here from the same seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from valign.data.group import Group, Response, text
from valign.engine.local import LocalEngine
from valign.evaluation.encoding import EncodedPair
from valign.evaluation.likelihood import _last_logits, _scorer, score_choices, score_pairs
from valign.models import embedded
from valign.models.loading import load_model
from valign.models.merging import merging_tokenizer
from valign.models.policy import LocalPolicy
from valign.models.tiny import tiny_model

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "fixtures" / "harness_samples.json").read_text(encoding="utf-8")
)
CLOSE = 1e-4  # nats per choice, float32 on both sides
GROUPS = [
    Group(i["id"], text(i["prompt"]), tuple(Response(f" {c}") for c in i["choices"]), choices=True)
    for i in RECORDED["items"]
]


@pytest.fixture(scope="module", params=sorted(RECORDED["models"]))
def recorded(request) -> tuple[Any, dict[str, Any]]:
    """(the model, what the harness said of it)."""
    said = RECORDED["models"][request.param]
    model = tiny_model("llama", seed=RECORDED["settings"]["seed"], tokenizer=merging_tokenizer(request.param))
    weights = sum(float(p.detach().double().abs().sum()) for p in model.model.parameters())
    assert weights == pytest.approx(said["weights"], rel=1e-6), "not the recorded model: run scripts/harness_samples.py"
    return model, said


@pytest.mark.proof("E29")
def test_every_choice_is_the_harness(recorded):
    """E29: log-likelihood to 1e-4, the greedy flag, and the chosen answer wherever two are not equal to within noise;
    contexts that end in blanks, merge over the border, are empty, or begin alike."""
    model, said = recorded
    found = score_choices(model, GROUPS, greedy=True)
    assert len(GROUPS) == len(said["samples"]) == 9
    for group, answers in zip(GROUPS, found):
        theirs = said["samples"][group.id]
        assert [a.log_prob for a in answers] == pytest.approx([x for x, _ in theirs], abs=CLOSE), group.id
        assert [a.is_greedy for a in answers] == [g for _, g in theirs]
        ours = [a.log_prob for a in answers]
        first, second, *_ = sorted((x for x, _ in theirs), reverse=True)
        assert ours.index(max(ours)) == [x for x, _ in theirs].index(first) or first - second < 2 * CLOSE


@pytest.mark.proof("E29")
def test_a_policy_scores_as_the_harness(recorded):
    """E29 by the other door: a policy's scores of groups with choices."""
    model, said = recorded
    for group, row in zip(GROUPS, LocalPolicy(model, LocalEngine(precision="full")).score(GROUPS)):
        assert [s.log_prob for s in row] == pytest.approx([x for x, _ in said["samples"][group.id]], abs=CLOSE)


@pytest.mark.proof("E29")
def test_requests_with_equal_ids_are_read_at_their_own_places(recorded):
    """E29: contexts [1, 2] + [3, 4] beside [1, 2, 3] + [5], in either order."""
    model, said = recorded
    pairs = [EncodedPair(tuple(a), tuple(b)) for a, b in RECORDED["tokens"]]
    for order in (1, -1):
        answers = score_pairs(_scorer(model), pairs[::order], _last_logits(model))[::order]
        assert [x for x, _ in answers] == pytest.approx([x for x, _ in said["tokens"]], abs=CLOSE)
        assert [g for _, g in answers] == [g for _, g in said["tokens"]]


def test_the_items_tell_rules_apart(recorded):
    """Negative: the answers glued to their contexts, each encoded alone, are other numbers."""
    model, said = recorded
    pairs = []
    for group in GROUPS[1:]:
        context = tuple(model.template.prompt_ids(group.prompt))
        pairs += [EncodedPair(context, tuple(model.tokenizer(r.text, add_special_tokens=False)["input_ids"]))
                  for r in group.responses]  # fmt: skip
    glued = [x for x, _ in score_pairs(_scorer(model), pairs)]
    theirs = [x for g in GROUPS[1:] for x, _ in said["samples"][g.id]]
    assert sum(abs(a - b) > 0.1 for a, b in zip(glued, theirs, strict=True)) >= 3


@pytest.mark.real
@torch.no_grad()
def test_float32_is_nearer_to_float64_than_passes_one_by_one():
    """Of the embedded model: sharing and the scaled query cost no digits. Worst and mean, against float64 passes one by one."""
    folder = embedded.folder()
    ours = LocalPolicy(load_model(folder, dtype="float32"), LocalEngine(precision="full"))
    found = [[float(s.log_prob) for s in row] for row in ours.score(GROUPS)]
    wide, narrow = ([one_by_one(load_model(folder, dtype=d), g) for g in GROUPS] for d in ("float64", "float32"))
    mine, theirs = (np.abs(np.concatenate(x) - np.concatenate(wide)) for x in (found, narrow))
    assert mine.max() < 5e-5 and mine.mean() < theirs.mean() and mine.max() < theirs.max()


def one_by_one(model: Any, group: Group) -> list[float]:
    """Log-likelihood of every choice by the model's own pass over it alone."""
    out = []
    for r in group.responses:
        path = model.template.encode_harness(group.prompt, r.text)
        log_probs = model.model(torch.tensor([path.ids])).logits[0].log_softmax(-1)
        out.append(float(sum(log_probs[t - 1, path.ids[t]].double() for t in range(path.n_prompt, len(path.ids)))))
    return out
