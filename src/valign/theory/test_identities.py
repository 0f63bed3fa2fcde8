"""Every identity holds, the check names all of them, and a broken one is reported as broken."""

import numpy as np
import pytest

from valign.theory import identities
from valign.theory.coefficients import COEFFICIENTS, FEEDBACK, pairs, responses
from valign.theory.identities import coefficients as rows
from valign.theory.identities.result import judged, reported, violated


@pytest.fixture(scope="module")
def results():
    seen = []
    out = identities.check(progress=seen.append)
    assert len(seen) == len(out)
    return out


@pytest.mark.capability("F05")
def test_every_identity_is_listed_and_holds(results):
    assert {r.number for r in results} == set(identities.NUMBERS)
    assert not {11, 16, 20, 23, 26, 28, 29} & {r.number for r in results}
    missed = [r for r in results if not r.ok]
    assert not missed, identities.table(missed)
    assert len({r.id for r in results}) == len(results)


@pytest.mark.capability("F05")
def test_bounds_are_those_of_the_theory_notes(results):
    bounds = {r.id: r.bound for r in results}
    stated = {
        "I1": 1e-10,
        "I2a": 1e-9,
        "I2b": 1e-6,
        "I3a": 1e-6,
        "I4": 1e-9,
        "I6b": 1e-12,
        "I6c": 1e-6,
        "I7b": 1e-12,
    }
    stated |= {"I8": 1e-9, "I9a": 1e-10, "I9b": None, "I14a": 1e-6, "I17": 1e-10, "I18": 1e-10, "I22a": 1e-12}
    stated |= {
        "I27.jensen_shannon": 1e-5,
        "I30": 1e-9,
        "I37.pairs": 1e-9,
        "I38.k3_token": 1e-9,
        "I39a": 1e-6,
        "I42": 1e-10,
    }
    assert {k: bounds[k] for k in stated} == stated


@pytest.mark.capability("F05")
def test_the_check_is_deterministic(results):
    again = identities.check(identities=identities.composition.IDENTITIES)
    known = {r.id: r for r in results}
    assert all(known[r.id].residual == r.residual for r in again)


@pytest.mark.capability("F05")
def test_a_broken_identity_is_reported_as_failed():
    def broken():
        yield judged("I1", "one is zero", 1e-10, [0.0, 1.0])
        yield violated("I2", "two is at most one", [2.0 - 1.0])
        yield reported("I3", "a figure that fails its condition", 0.5, holds=False)

    out = identities.check(identities=[broken])
    assert [r.ok for r in out] == [False, False, False] and out[0].residual == 1
    assert identities.table(out).count("MISS") == 3


def test_missing_or_undefined_residuals_never_pass():
    assert not judged("I1", "nothing was compared", 1.0, []).ok
    assert not judged("I1", "not a number", 1.0, [np.nan, 0.0]).ok
    assert violated("I1", "slack is fine", [-3.0]).ok


@pytest.mark.capability("F04")
def test_a_wrong_coefficient_is_caught(monkeypatch):
    """The DPO row without β, and a KTO row with the sign of bad examples lost, both miss their bound."""

    def wrong_dpo(batch, *, beta):
        return tuple(c / beta for c in pairs.dpo(batch, beta=beta))

    monkeypatch.setitem(COEFFICIENTS, "dpo", wrong_dpo)
    out = {r.id: r for r in rows.whole_table()}
    assert not out["I37.pairs"].ok and out["I37.list"].ok
    kto = responses.kto
    monkeypatch.setattr(responses, "kto", lambda *a, **k: np.abs(kto(*a, **k)))
    assert not {r.id: r for r in rows.named_rows()}["I18"].ok


@pytest.mark.capability("F04")
def test_a_row_without_a_check_fails(monkeypatch):
    monkeypatch.setitem(COEFFICIENTS, "new_loss", lambda batch: None)
    monkeypatch.setitem(FEEDBACK, "new_loss", "pairs")
    assert not {r.id: r for r in rows.whole_table()}["I37.pairs"].ok
