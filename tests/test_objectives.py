"""Every training objective through the whole engine: coefficients are the table's, numbers the goldens.

A new method joins by standing in `methods.table.METHODS`. Losses on pairs are compared by themselves;
another kind of feedback adds one entry to `COEFFICIENTS_OF` and one to `GOLDENS_OF`, and a test says so.
"""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from valign.engine.items import Item, Objective, bind, collate
from valign.engine.scorer import Scorer
from valign.engine.tree import from_paths
from valign.methods.table import METHODS
from valign.models.tiny import float64_norms, tiny_model
from valign.theory.coefficients import COEFFICIENTS, FEEDBACK, Pairs

# reward models read no log-probs: methods/supervised/test_reward_model.py
TRAINING = {name: m for name, m in METHODS.items() if m.trains and not m.makes_reward}
RENAMED = {"eps": "label_noise"}  # the table's letter -> the setting's name
PAIRS = np.array([[0, 1], [2, 0], [2, 1]])  # pairs of one group that share their responses
OLD = 0.35  # spread of an older policy's log-probs: some ratios leave the clip range


def setting(config: Any, letter: str) -> Any:
    return getattr(config, RENAMED.get(letter, letter))


# ------------------------------------------------------------------------------------- coefficients,
# through the engine


def pair_coefficients(name: str, config: Any, policy: Any, old: Any, reference: Any, mask: Any) -> np.ndarray:
    """Sum over the pairs of each group in which a response stands."""
    w, l = (PAIRS[:, i] for i in (0, 1))  # noqa: E741 - the papers' letter
    out = np.zeros_like(policy)
    for g in range(0, len(policy), 3):
        p, r, n = policy[g : g + 3].sum(1), reference[g : g + 3].sum(1), mask[g : g + 3].sum(1)
        letters = [a for a in inspect.signature(COEFFICIENTS[name]).parameters if a != "pairs"]
        c = COEFFICIENTS[name](Pairs(p[w], p[l], r[w], r[l], n[w], n[l]), **{a: setting(config, a) for a in letters})
        for rows, values in zip((w, l), c):
            for row, value in zip(rows, values):
                out[g + row] += value * mask[g + row]
    return out


REWARDS = np.array([0.3, -1.0, 2.0])


def grpo_coefficients(config: Any, policy: Any, old: Any, reference: Any, mask: Any) -> np.ndarray:
    """The table's, one group after the other, averaged over the tokens of each response."""
    c = [
        COEFFICIENTS["grpo"](
            policy[g : g + 3],
            old[g : g + 3],
            reference[g : g + 3],
            mask[g : g + 3],
            REWARDS,
            beta=config.beta,
            eps_low=config.clip,
            eps_high=config.clip,
        )
        for g in range(0, len(policy), 3)
    ]
    return np.concatenate(c) / mask.sum(1, keepdims=True)


def rloo_coefficients(config: Any, policy: Any, old: Any, reference: Any, mask: Any) -> np.ndarray:
    c = [
        COEFFICIENTS["rloo"](policy[g : g + 3].sum(1), reference[g : g + 3].sum(1), REWARDS, beta=config.beta)
        for g in range(0, len(policy), 3)
    ]
    return np.concatenate(c)[:, None] * mask


COEFFICIENTS_OF = {
    "sft": lambda config, policy, old, reference, mask: COEFFICIENTS["sft"](policy) * mask,
    "grpo": grpo_coefficients,
    "rloo": rloo_coefficients,
}


def expected_coefficients(name: str, *args: Any) -> np.ndarray:
    if name in COEFFICIENTS_OF:
        return COEFFICIENTS_OF[name](*args)
    assert FEEDBACK.get(name) == "pairs", f"{name}: add it to COEFFICIENTS_OF"
    return pair_coefficients(name, *args)


@pytest.fixture(scope="module")
def models() -> Any:
    """A policy and another one as reference, float64."""
    policy, reference = tiny_model("gemma3", dtype="float64"), tiny_model("gemma3", dtype="float64", seed=1)
    with float64_norms(policy), float64_norms(reference):
        yield policy.model, reference.model


def batch(models: Any, method: Any, config: Any, stale: bool) -> tuple[list[Item], Any, dict[str, np.ndarray]]:
    """Two groups of three responses of 1 to 9 tokens, with every kind of feedback; scores with a gradient."""
    rng = np.random.default_rng(0)
    trees = [
        from_paths(
            f"g{g}",
            rng.integers(7, 103, 6 + 5 * g).tolist(),
            [[*rng.integers(7, 103, n - 1).tolist(), 2] for n in lengths],
        )
        for g, lengths in enumerate(((4, 1, 9), (6, 2, 3)))
    ]
    scores = Scorer(models[0])(trees)
    frozen = Scorer(models[1]).score(trees)
    items = []
    for g, tree in enumerate(trees):
        tokens = {"reference": frozen[g]}
        own = scores.log_probs.detach().numpy()[3 * g : 3 * g + 3]
        if stale:
            tokens["old"] = [own[k, : len(r)] + rng.normal(0, OLD, len(r)) for k, r in enumerate(frozen[g])]
        values = {"label": np.ones(3)}
        if method.samples:
            log_ratio = np.array([own[k].sum() - r.sum() for k, r in enumerate(frozen[g])])
            values = {"advantage": method.advantage(REWARDS, log_ratio, config)}
        items.append(Item(tree, {"pairs": PAIRS}, values, tokens))
    tensors = collate(items, scores)
    arrays = {k: v.detach().numpy() for k, v in tensors.items()}
    arrays.setdefault("old", arrays["policy"])
    return items, scores, {"tensors": tensors, **arrays}


@pytest.mark.proof("E27")
@pytest.mark.capability("F04")
@pytest.mark.parametrize("stale", [False, True], ids=["fresh", "stale"])
@pytest.mark.parametrize("name", TRAINING)
def test_coefficients_are_those_of_the_table(models, name, stale):
    """E27, I37: -d(loss)/d(log_prob) of every token, by autograd on padded rows, equals the table: 1e-10."""
    method = TRAINING[name]
    config = method.config()
    _, scores, data = batch(models, method, config, stale)
    losses = bind(method.objective, config, method.unit, method.at_start)(data["tensors"]).losses
    (grad,) = torch.autograd.grad(losses.sum(), scores.log_probs)
    expected = expected_coefficients(name, config, data["policy"], data["old"], data["reference"], data["mask"])
    assert (data["mask"] == 0).any(), "some rows are padded"
    assert np.abs(-grad.numpy() - expected).max() < 1e-10
    assert np.abs(expected).max() > 1e-3


@pytest.mark.proof("E27")
@pytest.mark.parametrize("name", TRAINING)
def test_rows_of_any_shape_give_the_same_coefficients(models, name):
    """E27: one row per response, one per group, and both groups joined in one row: 1e-10."""
    method = TRAINING[name]
    objective = bind(method.objective, method.config(), method.unit, method.at_start)
    items, _, _ = batch(models, method, method.config(), stale=True)
    alike = [replace(i, tree=_behind([50, 51, 52], i.tree)) for i in items]
    found = []
    for path, pair_cost, rows in (("plain", 0.0, 6), ("row", 1.0, 2), ("row", 0.0, 1)):
        scorer = Scorer(models[0], path=path)
        scorer.pair_cost = pair_cost
        trees = [i.tree for i in alike]
        assert len(scorer.layout(trees).ids) == rows
        scores = scorer(trees)
        losses = objective(collate(alike, scores)).losses
        found.append(torch.autograd.grad(losses.sum(), scores.log_probs)[0])
    assert found[0].abs().max() > 1e-3
    assert max((found[0] - x).abs().max() for x in found[1:]) < 1e-10


def _behind(prefix: list[int], tree: Any) -> Any:
    """The same responses behind a longer prompt."""
    return from_paths(tree.id, [*prefix, *tree.segments[0].ids], [tree.response_ids(leaf) for leaf in tree.leaves])


def test_a_stale_rollout_is_clipped_somewhere(models):
    """The test above would not see a missing clip otherwise."""
    method = TRAINING["grpo"]
    _, _, data = batch(models, method, method.config(), stale=True)
    ratio = np.exp(data["policy"] - data["old"])[data["mask"] > 0]
    assert ((ratio > 1.2) | (ratio < 0.8)).any() and ((ratio < 1.2) & (ratio > 0.8)).any()


@pytest.mark.parametrize("name", [n for n, m in TRAINING.items() if m.feedback == "pairs" and m.unit == "pair"])
def test_a_soft_label_is_a_mixture_of_both_orders(models, name):
    """label p: p times the loss of the pair plus 1 - p times that of the turned pair, values and
    gradients.
    """
    method = TRAINING[name]
    objective = bind(method.objective, method.config(), method.unit)
    if "label" not in objective.wants:
        pytest.skip("takes hard labels only")
    _, scores, data = batch(models, method, method.config(), False)
    tensors = data["tensors"]
    p = torch.linspace(0, 1, len(tensors["label"]), dtype=torch.float64)
    soft = objective({**tensors, "label": p}).losses
    mixed = p * objective(tensors).losses + (1 - p) * objective({**tensors, "pairs": tensors["pairs"].flip(1)}).losses
    assert (soft - mixed).abs().max() < 1e-12
    a, b = (torch.autograd.grad(x.sum(), scores.log_probs, retain_graph=True)[0] for x in (soft, mixed))
    assert (a - b).abs().max() < 1e-12


@pytest.mark.proof("E19")
@pytest.mark.parametrize("name", [n for n, m in TRAINING.items() if m.samples])
def test_a_fresh_rollout_gives_the_reinforce_gradient(models, name):
    """E19: at ratio 1 and beta 0 the gradient is A grad log pi, weighted as the method averages."""
    method = TRAINING[name]
    config = replace(method.config(), beta=0.0)
    _, scores, data = batch(models, method, config, stale=False)
    objective = bind(method.objective, config, method.unit)
    (grad,) = torch.autograd.grad(objective(data["tensors"]).losses.sum(), scores.log_probs)
    share = data["mask"] / (data["mask"].sum(1, keepdims=True) if name == "grpo" else 1.0)
    assert np.abs(-grad.numpy() - data["advantage"][:, None] * share).max() < 1e-15


@pytest.mark.proof("E7")
@pytest.mark.parametrize("name", TRAINING)
def test_metrics_change_no_loss_and_need_no_gradient(models, name):
    """E7: what an objective shows beside its losses is made from the same numbers and can be dropped."""
    method = TRAINING[name]
    _, scores, data = batch(models, method, method.config(), False)
    terms = bind(method.objective, method.config(), method.unit)(data["tensors"])
    shapes = {scores.mask.shape, (len(scores.mask),), (len(data["tensors"]["pairs"]),)}
    assert terms.metrics and all(v.shape in shapes for v in terms.metrics.values())
    assert all(bool(torch.isfinite(v.detach()).all()) for v in terms.metrics.values())


@pytest.mark.parametrize("name", TRAINING)
def test_at_start_the_loss_is_its_known_value(models, golden, name):
    """policy = reference gives `at_start`, which equals the golden where there is one."""
    method = TRAINING[name]
    if method.at_start is None:
        assert name not in golden("at_start")["expected"]
        return
    _, _, data = batch(models, method, method.config(), False)
    tensors = {**data["tensors"], "reference": data["tensors"]["policy"].detach()}
    losses = bind(method.objective, method.config(), method.unit)(tensors).losses
    assert float((losses - method.at_start).detach().abs().max()) < 1e-12
    assert golden("at_start")["expected"].get(name, method.at_start) == pytest.approx(method.at_start, abs=1e-9)


#
# ---------------------------------------------------------------------------------------------------------
# goldens

WIDE, NARROW = (torch.float64, 1e-9), (torch.float32, 2e-5)


def near(found: Any, expected: Any, slack: float) -> None:
    """All numbers within `slack`, relative to those above 1; null stands for a kink."""
    for x, y in zip(np.ravel(np.asarray(found, np.float64)), np.ravel(np.asarray(expected, np.float64)), strict=True):
        assert np.isnan(y) or abs(x - y) <= slack * max(1.0, abs(y)), (found, expected)


def by_name(name: str, config: Any, params: dict[str, Any]) -> Objective:
    """The objective with the settings of a golden."""
    method = TRAINING[name]
    known = {f.name for f in fields(method.config)}
    given = {RENAMED.get(k, k): v for k, v in params.items()}
    assert set(given) <= known, f"the golden of {name} sets {set(given) - known}"
    return bind(method.objective, config(**given), method.unit)


def pair_golden(name: str, case: dict[str, Any], dtype: torch.dtype, slack: float) -> None:
    """Sums of log-probs become rows of as many tokens as the response has."""
    data, n = case["data"], len(case["data"]["policy_chosen"])
    lengths = [*data["length_chosen"], *data["length_rejected"]]
    mask = torch.zeros(2 * n, max(lengths), dtype=dtype)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1

    def rows(kind: str) -> torch.Tensor:
        sums = torch.tensor([*data[f"{kind}_chosen"], *data[f"{kind}_rejected"]], dtype=torch.float64)
        return (mask * (sums / torch.tensor(lengths))[:, None]).to(dtype)

    policy = rows("policy").requires_grad_()
    tensors = {
        "policy": policy,
        "reference": rows("reference"),
        "mask": mask,
        "label": torch.ones(n, dtype=dtype),
        "pairs": torch.stack([torch.arange(n), torch.arange(n) + n], 1),
    }
    losses = by_name(name, TRAINING[name].config, case.get("params", {}))(tensors).losses
    near(losses.detach(), case["expected"]["loss"], slack)
    (grad,) = torch.autograd.grad(losses.sum(), policy)
    for side, at in (("chosen", 0), ("rejected", n)):
        expected = np.asarray(case["expected"][f"grad_{side}"], np.float64)
        for i, value in enumerate(expected):
            near(grad[at + i, : lengths[at + i]], np.full(lengths[at + i], value), slack)
    assert not grad[mask == 0].any()


def token_tensors(data: dict[str, Any], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {k: torch.tensor(v, dtype=dtype) for k, v in data.items() if k != "about"}


def sft_goldens(golden: Any, dtype: torch.dtype, slack: float) -> None:
    case = golden("nll")
    policy = torch.tensor(case["inputs"]["log_prob"], dtype=dtype)[:, None].requires_grad_()
    losses = by_name("sft", TRAINING["sft"].config, {})({"policy": policy, "mask": torch.ones_like(policy)}).losses
    near(losses.detach(), case["expected"]["loss"], slack)
    near(torch.autograd.grad(losses.sum(), policy)[0], case["expected"]["grad"], slack)
    case = golden(
        "sft_reductions"
    )  # N is the sum of the mask over the whole step: the token mean, not the mean of means
    inputs = token_tensors(case["inputs"], dtype)
    losses = by_name("sft", TRAINING["sft"].config, {})({"policy": -inputs["nll"], "mask": inputs["mask"]}).losses
    near(losses.sum(), case["expected"]["sum"], slack)
    near(losses.sum() / inputs["mask"].sum(), case["expected"]["token_mean"], slack)


def grpo_goldens(golden: Any, dtype: torch.dtype, slack: float) -> None:
    for case in golden.all("ppo_sequence_mean") + golden.all("ppo_token_mean_k3"):
        t, p = token_tensors(case["data"], dtype), case["params"]
        policy = t["policy"].requires_grad_()
        settings = {"clip": p["eps_low"], "beta": p.get("beta", 0.0)}
        losses = by_name("grpo", TRAINING["grpo"].config, settings)(t).losses
        n = t["mask"].sum(1)
        # the token mean is the mean over responses weighted by their lengths
        value = losses.mean() if case["id"].startswith("ppo_sequence") else (losses * n).sum() / n.sum()
        near(value.detach(), case["expected"]["loss"], slack)
        near(torch.autograd.grad(value, policy)[0], case["expected"]["grad_policy"], slack)
    case = golden("clip_table")
    for row in case["expected"]["rows"]:
        policy = torch.full((1, 1), float(np.log(row["ratio"])), dtype=dtype, requires_grad=True)
        zero, one = torch.zeros(1, 1, dtype=dtype), torch.ones(1, 1, dtype=dtype)
        tensors = {
            "policy": policy,
            "old": zero,
            "reference": zero,
            "mask": one,
            "advantage": torch.tensor([row["advantage"]], dtype=dtype),
        }
        losses = by_name("grpo", TRAINING["grpo"].config, {"clip": 0.2, "beta": 0.0})(tensors).losses
        near(losses.detach(), [row["loss"]], slack)
        near(torch.autograd.grad(losses.sum(), policy)[0], [row["grad_log_prob"]], slack)
    case, config = golden("advantage_group"), TRAINING["grpo"].config()
    for rewards, expected in (("rewards", "unbiased_std_eps_1e_4"), ("rewards_all_equal", "all_equal")):
        r = np.array(case["inputs"][rewards])
        near(TRAINING["grpo"].advantage(r, np.ones_like(r), config), case["expected"][expected], 1e-9)


def rloo_goldens(golden: Any, dtype: torch.dtype, slack: float) -> None:
    for case in golden.all("reinforce"):
        t = token_tensors(case["data"], dtype)
        policy = t["policy"].requires_grad_()
        value = by_name("rloo", TRAINING["rloo"].config, {})(t).losses.sum() / t["mask"].sum()
        near(value.detach(), case["expected"]["loss"], slack)
        near(torch.autograd.grad(value, policy)[0], case["expected"]["grad_policy"], slack)
    case = golden("advantage_rloo")
    r = np.array(case["inputs"]["rewards"])
    config = TRAINING["rloo"].config(beta=0.0)
    near(TRAINING["rloo"].advantage(r, np.ones_like(r), config), case["expected"]["advantage"], 1e-9)
    config, h = TRAINING["rloo"].config(beta=0.5), np.array([0.2, -1.0, 0.4, 0.0])
    near(TRAINING["rloo"].advantage(r + 0.5 * h, h, config), case["expected"]["advantage"], 1e-9)


GOLDENS_OF = {"sft": sft_goldens, "grpo": grpo_goldens, "rloo": rloo_goldens}


@pytest.mark.proof("E28")
@pytest.mark.parametrize(("dtype", "slack"), [WIDE, NARROW], ids=["float64", "float32"])
@pytest.mark.parametrize("name", TRAINING)
def test_goldens(golden, name, dtype, slack):
    """E28: values and gradients equal numbers that were not made by this code: 1e-9 in float64, 2e-5 in
    float32.
    """
    if name in GOLDENS_OF:
        GOLDENS_OF[name](golden, dtype, slack)
        return
    cases = [c for c in golden.all(name) if "policy_chosen" in c.get("data", {})]
    assert cases, f"no golden of {name} on pairs: add it to GOLDENS_OF"
    for case in cases:
        pair_golden(name, case, dtype, slack)


def test_the_golden_slope_of_dpo(golden):
    """dL/dh = -beta sigmoid(-beta h), three values of h."""
    case = golden("dpo_slope")
    h = torch.tensor(case["inputs"]["h_values"], dtype=torch.float64)
    policy = torch.stack([h, torch.zeros_like(h)], 1).reshape(-1, 1).requires_grad_()
    tensors = {
        "policy": policy,
        "reference": torch.zeros_like(policy),
        "mask": torch.ones_like(policy),
        "pairs": torch.arange(6).reshape(3, 2),
        "label": torch.ones(3, dtype=torch.float64),
    }
    (grad,) = torch.autograd.grad(by_name("dpo", TRAINING["dpo"].config, case["params"])(tensors).losses.sum(), policy)
    near(grad[::2, 0], case["expected"]["slope"], 1e-9)
