"""The coefficient table against goldens that this code did not produce."""

import json
from pathlib import Path

import numpy as np
import pytest

from valign.theory import policy_gradient as pg
from valign.theory.coefficients import (
    COEFFICIENTS,
    FEEDBACK,
    Pairs,
    lists,
    pairs,
    responses,
    rollouts,
    token_pairs,
)

DOCUMENT = json.loads(
    next(
        p
        for p in Path(__file__).resolve().parents
        if (p / "tests" / "fixtures" / "loss_goldens.json").exists()
    )
    .joinpath("tests", "fixtures", "loss_goldens.json")
    .read_text(encoding="utf-8")
)
GOLDENS = {g["id"]: g for g in DOCUMENT["goldens"]}
FIXTURES = DOCUMENT["fixtures"]
BATCH = tuple(Pairs.__dataclass_fields__)[:6]


def with_gradient(group):
    return [g["id"] for g in GOLDENS.values() if g["group"] == group and "grad_chosen" in g["expected"]]


def pair_case(golden):
    fixture, name = FIXTURES[golden["fixture"]], golden["id"].split("@")[0]
    batch = Pairs(**{k: fixture[k] for k in BATCH})
    name = {"fdpo_alpha_03": "fdpo_alpha", "bco_pair_shifted": "bco_pair"}.get(name, name)
    options = dict(golden.get("params", {}))
    if name == "slic_hf":
        options = {"delta": options["delta"]}
    return name, batch, options


def agree(coefficients, gradient, tolerance=1e-9):
    """c = -gradient wherever the golden states one (null marks a kink)."""
    for c, g in zip(np.ravel(coefficients), np.ravel(np.array(gradient, dtype=object))):
        if g is not None:
            assert -c == pytest.approx(g, abs=tolerance * max(1, abs(g)))


@pytest.mark.capability("F04")
@pytest.mark.parametrize("golden", [g for g in with_gradient("preference") if not g.startswith("kto")])
def test_pair_gradients(golden):
    name, batch, options = pair_case(GOLDENS[golden])
    chosen, rejected = COEFFICIENTS[name](batch, **options)
    agree(chosen, GOLDENS[golden]["expected"]["grad_chosen"])
    agree(rejected, GOLDENS[golden]["expected"]["grad_rejected"])


def test_the_pair_goldens_are_many():
    assert len(with_gradient("preference")) > 50  # a renamed key must not empty the parametrization


@pytest.mark.capability("F04")
@pytest.mark.parametrize("golden", ["kto", "kto@pairs_unequal"])
def test_kto_gradients(golden):
    case = GOLDENS[golden]
    f, s = FIXTURES[case["fixture"]], case["params"]
    good = responses.kto(f["policy_chosen"], f["reference_chosen"], 1, **s)
    bad = responses.kto(f["policy_rejected"], f["reference_rejected"], 0, **s)
    agree(good, case["expected"]["grad_chosen"])
    agree(bad, case["expected"]["grad_rejected"])


@pytest.mark.capability("F04")
@pytest.mark.parametrize("golden", ["nll", "ascent", "unlikelihood", "npo"])
def test_single_gradients(golden):
    case = GOLDENS[golden]
    lp, ref = case["inputs"]["log_prob"], case["inputs"]["reference"]
    found = {
        "nll": lambda: responses.sft(lp),
        "ascent": lambda: responses.gradient_ascent(lp),
        "unlikelihood": lambda: responses.unlikelihood(lp),
        "npo": lambda: responses.npo(lp, ref, **case["params"]),
    }[golden]()
    agree(found, case["expected"]["grad"])


TOKEN_CASES = [
    g for g, c in GOLDENS.items() if c["group"] == "policy_gradient" and "grad_policy" in c["expected"]
]


@pytest.mark.capability("F04")
@pytest.mark.parametrize("golden", TOKEN_CASES)
def test_policy_gradients(golden):
    case, name = GOLDENS[golden], golden.split("@")[0]
    f, s = FIXTURES[case["fixture"]], case.get("params", {})
    args = f["policy"], f["old"], f["mask"], f["advantage"]
    clip = {"eps_low": s.get("eps_low"), "eps_high": s.get("eps_high")}
    reduce, length = "token_mean", None
    if name in ("gspo", "luspo"):
        c, reduce = COEFFICIENTS[name](*args, **clip), "sum"
        c = c / len(f["mask"])
    elif name in ("cispo", "sapo"):
        c = COEFFICIENTS[name](*args, **s)
        reduce = "token_mean" if name == "cispo" else "sequence_mean"
    elif name == "reinforce":
        c = rollouts.reinforce(f["policy"], f["reference"], f["mask"], f["advantage"])
    else:
        c = rollouts.ppo(*args, **clip, dual=s.get("dual"))
        if "k3" in name:
            ratio = np.exp(np.array(f["policy"]) - f["old"]) if name.endswith("corrected") else 1.0
            d = np.array(f["reference"]) - np.array(f["policy"])
            # -d/dlogπ of ρ k3 is -ρ k3 + ρ(e^d - 1); without ρ only the second part
            extra = ratio * np.expm1(d) - (ratio * (np.expm1(d) - d) if name.endswith("corrected") else 0)
            c = c + s["beta"] * extra * np.array(f["mask"])
        if "sequence_mean" in name:
            reduce = "sequence_mean"
        if "constant_length" in name:
            reduce, length = "constant_length", s["max_length"]
    agree(c * pg.token_weights(f["mask"], reduce, length), case["expected"]["grad_policy"])


def test_the_policy_goldens_are_many():
    assert len(TOKEN_CASES) >= 20


def test_hand_values():
    """Coefficients stated in the methods notes."""
    good = responses.kto(2.0, 0.0, 1, beta=0.1, z0=0.5)
    bad = responses.kto(-3.0, 0.0, 0, beta=0.1, z0=0.5)
    assert [float(good), float(bad)] == pytest.approx([0.024860, -0.024250], abs=1e-6)
    assert responses.npo(-3.0, 0.0, beta=0.1) == pytest.approx(-0.851115, abs=1e-6)
    assert responses.unlikelihood(np.log(0.2)) == pytest.approx(-0.25)
    own, negative = lists.d2o([0.5, -0.2, 0.3], -2.0, beta=0.1, alpha=0.1)
    assert own == pytest.approx([0.014841] * 3, abs=1e-6) and negative == pytest.approx(-0.044522, abs=1e-6)
    w, l = token_pairs.cpl([-1.0, -3.0], [-2.0, -4.0], alpha=0.1, gamma=1.0, lam=0.5)  # noqa: E741
    assert w == pytest.approx([0.052498] * 2, abs=1e-6) and l == pytest.approx([-0.026249] * 2, abs=1e-6)
    draft, revision = responses.figa([0, 1, 0], draft=True), responses.figa([0, 1, 0, 1, 1], draft=False)
    assert draft.tolist() == [0, -0.5, 0] and revision.tolist() == [0, 1, 0, 1, 1]


def test_relations_between_rows():
    rng = np.random.default_rng(0)
    batch = Pairs(
        *-rng.uniform(1, 9, size=(4, 6)),
        length_chosen=rng.integers(1, 9, 6),
        length_rejected=rng.integers(1, 9, 6),
    )
    plain = pairs.dpo(batch, beta=0.3)
    for same in (
        pairs.cdpo(batch, beta=0.3, eps=0.0),
        pairs.robust_dpo(batch, beta=0.3, eps=0.0),
        pairs.odpo(batch, beta=0.3, offset=0.0),
        pairs.dpop(batch, beta=0.3, lam=0.0),
        pairs.rpo(batch, beta=0.3, alpha=0.0),
        pairs.modpo(batch, beta=0.3, w_this=1.0, w_rest=0.0, margin_rest=1.0),
    ):
        assert np.allclose(same, plain, atol=1e-14)
    tokens = [rng.normal(size=n) for n in (3, 5, 3, 5)]
    total = pairs.dpo(Pairs(*(t.sum() for t in tokens)), beta=0.3)
    for c in (
        token_pairs.dense_dpo_sum(*tokens, np.ones(3), np.zeros(5), beta=0.3, gamma=1.0),
        token_pairs.ld_dpo(*tokens, beta=0.3, alpha=1.0),
        token_pairs.cpl_kl(*tokens, alpha=0.3, gamma=1.0, lam=1.0),
    ):
        assert np.allclose(c[0], total[0]) and np.allclose(c[1], total[1])
    assert not np.allclose(pairs.ipo_sum(batch, tau=0.1), pairs.ipo_mean(batch, tau=0.1))


def test_small_beta_turns_npo_into_ascent():
    assert responses.npo([-3.0, 4.0], [0.0, 0.0], beta=1e-9) == pytest.approx([-1, -1])


def test_extreme_inputs_stay_finite():
    far = Pairs([-900.0, -1.0], [-1.0, -900.0])
    for name in ("dpo", "cdpo", "discopop", "fdpo_js", "exo_pair", "apo_zero", "nca_pair"):
        options = (
            {"beta": 0.1}
            | ({"eps": 0.1} if name in ("cdpo", "exo_pair") else {})
            | ({"tau": 0.05} if name == "discopop" else {})
        )
        assert np.all(np.isfinite(COEFFICIENTS[name](far, **options))), name
    assert np.all(np.isfinite(rollouts.ppo([[-1.0, -900.0]], [[-1.0, 0.0]], [[1, 0]], [1.0])))


def test_masked_tokens_never_matter():
    f = FIXTURES["tokens_uneven"]
    moved = np.array(f["policy"]) + 50 * (1 - np.array(f["mask"]))
    for name in ("ppo", "gspo", "luspo", "sapo"):
        a = COEFFICIENTS[name](f["policy"], f["old"], f["mask"], f["advantage"])
        b = COEFFICIENTS[name](moved, f["old"], f["mask"], f["advantage"])
        assert np.array_equal(a, b), name
        assert np.all(a[np.array(f["mask"]) == 0] == 0)


def test_exo_without_noise_is_refused():
    with pytest.raises(ValueError, match="eps"):
        pairs.exo_pair(Pairs(-1.0, -2.0), beta=0.1, eps=0.0)


def test_every_golden_preference_name_has_a_row():
    names = {g["id"].split("@")[0] for g in GOLDENS.values() if g["group"] in ("preference", "ranking")}
    names -= {"kto_z0", "fdpo_alpha_03", "bco_pair_shifted"}
    assert names <= set(COEFFICIENTS) and set(COEFFICIENTS) == set(FEEDBACK)


def test_pro_drops_pairs_with_equal_rewards():
    c = lists.pro([-1.0, -2.0], [2, 2], [1.0, 1.0])
    assert c.tolist() == [0, 0]


def test_rrhf_is_zero_when_the_order_is_right():
    c = lists.rrhf([-1.0, -4.0, -9.0], [2, 2, 2], [3.0, 2.0, 1.0])
    assert c.tolist() == [1, 0, 0]
