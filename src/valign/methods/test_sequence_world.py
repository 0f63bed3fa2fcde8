"""Each family on the sequence world, through the real engine: does it end where theory says?

Gaps, M1, agreement, KL, gold and length before and after are printed (pytest -s); bounds are those of the theory
notes, section 16. Whole versions, with every response in every step and three seeds, are marked slow.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import chisquare

from valign.data.group import Comparison, Demonstration, Group
from valign.engine.items import Item, bind
from valign.engine.tree import from_paths
from valign.methods.context.value_instruction import ValueInstructionConfig, value_instruction
from valign.methods.decoding.best_of_n import BestOfNConfig, best_of_n, curve
from valign.methods.supervised.dpo import DPOConfig, dpo
from valign.methods.table import METHODS
from valign.methods.target import Target
from valign.models.policy import LocalPolicy, Sampling
from valign.theory.best_of_n import best_of_n_kl, best_of_n_kl_bound, best_of_n_law
from valign.theory.divergence import kl_from_logs

BETA = 0.5  # of the world
CLOSE = 0.02  # gap of the population mode
FALSE_ALARM = 1e-3  # of each chi-square test


def told(name, report):
    """Show what the notes ask every run to report."""
    numbers = ", ".join(f"{k} {v:.4f}" for k, v in vars(report).items())
    print(f"\n{name}: {numbers}")
    return report


def star(lab):
    """log pi* of the reference that is in use."""
    return lab.world.target_log_probs(lab.reference, beta=BETA)


def test_the_world_is_the_one_of_the_notes(lab):
    """The reference is within .01 nats of the analytic one, and trimming a layout changes no score."""
    told("reference", lab.world.report(lab.reference, reference_log_probs=lab.reference))
    assert np.abs(np.exp(lab.reference).sum(1) - 1).max() < 1e-5
    x = 5
    y = np.random.default_rng(0).choice(3906, 40, replace=False)
    group = Group(id="x", prompt=lab.prompt(x), responses=lab.responses(y))
    scored = [s.log_prob for s in lab.policy.score([group])[0]]
    assert scored == pytest.approx(lab.reference[x, y], abs=1e-4)
