"""The reward-KL plane of an oracle world: policies whose laws are known exactly, against the enumerated optimum.

Nothing is sampled and nothing is trained: what a method converges to on this world is computed, so that a reader
sees what the plane looks like when the truth is known. Items are the world's prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from valign.errors import unknown
from valign.evaluation.aggregate import summarize
from valign.evaluation.result import Anchors, Item, Result
from valign.pipeline.frontier import gibbs_curve
from valign.theory.best_of_n import best_of_n_law
from valign.theory.divergence import kl
from valign.theory.laws import Array
from valign.theory.misalignment import order_agreement
from valign.theory.target import at_strength, filtered, gibbs
from valign.theory.worlds import variants
from valign.theory.worlds.sequence import SequenceWorld
from valign.theory.worlds.tabular import TabularWorld
from valign.theory.worlds.world import World

WORLDS = {"tabular": TabularWorld, "sequence": SequenceWorld}
BASE, PUSH, SHARE = "reference", 4.0, 0.25  # strength of the gamed policy; share of responses that a filter keeps


def laws(world: World) -> dict[str, tuple[str, str, Array]]:
    """{id: (label, family, law (prompts, responses))}, the reference first."""
    p, r = world.reference_table(), world.utilities
    best = np.quantile(r, 1 - SHARE)
    passes = bool((p * (r >= best)).sum(-1).min() > 0)
    out: dict[str, tuple[str, str, Array]] = {BASE: ("reference", "", p)}
    out |= {f"gibbs-{b:g}": (f"RL optimum, β = {b:g}", "reinforcement", gibbs(p, r, b)) for b in (1.0, 0.5, 0.25)}
    out |= {f"best-of-{n}": (f"best of {n}", "decoding", best_of_n_law(p, r, n)) for n in (4, 16)}
    if passes:  # a filter needs a response that survives for every prompt
        out["filtered"] = (f"SFT on the best {SHARE:.0%}", "supervised", filtered(p, r, float(best)))
    gamed = variants.PROXIES["adversarial"](world)
    out["gamed"] = ("RL on a wrong proxy", "reinforcement", at_strength(p, gamed, PUSH))
    return out


def world_report(name: str) -> dict[str, Any]:
    """The report of the policies of a world. Raises `UsageError` for a world that does not exist."""
    from valign.report import SubjectReport, method_report

    if name not in WORLDS:
        raise unknown("world", name, WORLDS, where="--plane")
    world = WORLDS[name]()
    subjects = [
        SubjectReport(policy={"id": id, "kind": "exact law"}, label=label, family=family, base=id == BASE,
                      results=_measured(world, id, law), method="" if id == BASE else id)
        for id, (label, family, law) in laws(world).items()
    ]  # fmt: skip
    goal = {"id": f"{name}-world", "level": "preference", "title": f"the utility of the {name} oracle world",
            "text": "A small world in which what people want is known for every response."}  # fmt: skip
    curve = gibbs_curve(world.reference_table(), world.utilities)
    return method_report(subjects, goal=goal, frontier=curve, title=f"{name} oracle world", provenance={"world": name})


def _measured(world: World, id: str, law: Array) -> list[Result]:
    p, r = world.reference_table(), world.utilities
    common: dict[str, Any] = {"subject": id, "variant": "exact", "cluster_unit": "prompt", "provenance": {"law": id}}
    out = [
        _result(1 - order_agreement(r, law), metric="misalignment.M", level="preference", direction="down",
                anchors=Anchors(0.0, 1.0, 0.5), **common),
        _result((law * r).sum(-1), metric="reward.mean", level="preference", unit="score", anchors=Anchors(), **common),
    ]  # fmt: skip
    if id != BASE:
        out.append(_result(kl(law, p), metric="kl.policy_reference", level="cost", unit="nats", direction="down",
                           anchors=Anchors(0.0), **common))  # fmt: skip
    return out


def _result(scores: Array, **about: Any) -> Result:
    items = [Item(f"prompt {i}", f"prompt {i}", float(x)) for i, x in enumerate(np.asarray(scores, float))]
    return summarize(items, notes=("exact for these prompts; the interval is over prompts",), **about)


def write_plane(name: str, out: Path) -> Mapping[str, Path]:
    """The report of a world in `out`."""
    from valign.report import write_report

    return write_report(world_report(name), out)
