"""The losses of the papers, written for automatic differentiation only,
so that the coefficient table has an independent opponent.

Nothing here is used in training. `x` carries tensors: w, l summed log-probs of chosen and rejected, rw, rl
of the reference, a, b, h log-ratios, nw, nl lengths; `s` the settings. Each function returns one loss per
pair (or one number).
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

Loss = Callable[[Any, Any], Any]

SETTINGS: dict[str, dict[str, Any]] = {
    "cdpo": {"beta": 0.4, "eps": 0.1},
    "robust_dpo": {"beta": 0.4, "eps": 0.1},
    "odpo": {"beta": 0.4, "offset": [0.3, -0.2, 1.0]},
    "dpop": {"beta": 0.4, "lam": 5.0},
    "rdpo": {"beta": 0.4, "alpha": 0.05},
    "rpo": {"beta": 0.4, "alpha": 0.7},
    "ipo_sum": {"tau": 0.3},
    "ipo_mean": {"tau": 0.3},
    "fdpo_alpha": {"beta": 0.4, "alpha": 0.3},
    "chi_po": {"beta": 0.4, "clip": 20.0},
    "simpo": {"beta": 2.0, "gamma": 0.5},
    "orpo": {"lam": 0.3},
    "cpo": {"beta": 0.4, "lam": 0.8},
    "slic_hf": {"delta": 1.0},
    "bco_pair": {"beta": 0.4, "shift": 0.25},
    "exo_pair": {"beta": 0.4, "eps": 0.1},
    "discopop": {"beta": 0.4, "tau": 0.5},
    "modpo": {"beta": 0.4, "w_this": 0.4, "w_rest": 0.6, "margin_rest": [0.5, -0.2, 1.0]},
    "tdpo1": {"beta": 0.4, "kl_chosen": [0.4, 1.1, 0.2], "kl_rejected": [0.9, 0.3, 2.0]},
    "tdpo2": {"beta": 0.4, "alpha": 0.5, "kl_chosen": [0.4, 1.1, 0.2], "kl_rejected": [0.9, 0.3, 2.0]},
    "xpo": {"beta": 0.4, "alpha": 0.2, "chosen_is_reference": [1.0, 0.0, 1.0]},
    "wpo": {"beta": 0.4},
    "ld_dpo": {"beta": 0.4, "alpha": 0.6},
    "dense_dpo": {"beta": 0.4, "gamma": 5.0},
    "dense_dpo_sum": {"beta": 0.4, "gamma": 5.0},
    "cpl": {"alpha": 0.4, "gamma": 0.9, "lam": 0.5},
    "cpl_kl": {"alpha": 0.4, "gamma": 0.9, "lam": 0.5},
}
DEFAULT = {"beta": 0.4}  # every pair loss not listed above has β alone


def settings_of(name: str) -> dict[str, Any]:
    """The settings at which a row is checked."""
    return SETTINGS.get(name, DEFAULT)


def _nls(z: Any) -> Any:
    """-log σ(z)."""
    return (-z).exp().log1p()


def _exo(x: Any, s: Any) -> Any:
    p = (s.beta * x.h).sigmoid()
    return p * (p / (1 - s.eps)).log() + (1 - p) * ((1 - p) / s.eps).log()


def _discopop(x: Any, s: Any) -> Any:
    margin = s.beta * x.h
    m = (margin / s.tau).sigmoid()
    return (1 - m) * _nls(margin) + m * (-margin).exp()


def _orpo(x: Any, s: Any) -> Any:
    p_w, p_l = (x.w / x.nw).exp(), (x.l / x.nl).exp()
    odds = (p_w / (1 - p_w)).log() - (p_l / (1 - p_l)).log()
    return -x.w / x.nw + s.lam * _nls(odds)


def _f_margin(slope: Callable[[Any, Any], Any]) -> Loss:
    return lambda x, s: _nls(s.beta * (slope(x.a.exp(), s) - slope(x.b.exp(), s)))


PAIR_LOSSES: dict[str, Loss] = {
    "dpo": lambda x, s: _nls(s.beta * x.h),
    "dpo_reference_free": lambda x, s: _nls(s.beta * (x.w - x.l)),
    "cdpo": lambda x, s: (1 - s.eps) * _nls(s.beta * x.h) + s.eps * _nls(-s.beta * x.h),
    "robust_dpo": lambda x, s: (
        ((1 - s.eps) * _nls(s.beta * x.h) - s.eps * _nls(-s.beta * x.h)) / (1 - 2 * s.eps)
    ),
    "odpo": lambda x, s: _nls(s.beta * x.h - s.offset),
    "dpop": lambda x, s: _nls(s.beta * (x.h - s.lam * (-x.a).clamp(min=0))),
    "rdpo": lambda x, s: _nls(s.beta * x.h + s.alpha * (x.nw - x.nl)),
    "rpo": lambda x, s: _nls(s.beta * x.h) - s.alpha * x.w / x.nw,
    "sigmoid_norm": lambda x, s: _nls(s.beta * (x.a / x.nw - x.b / x.nl)),
    "hinge": lambda x, s: (1 - s.beta * x.h).clamp(min=0),
    "ipo_sum": lambda x, s: (x.h - 1 / (2 * s.tau)) ** 2,
    "ipo_mean": lambda x, s: (x.a / x.nw - x.b / x.nl - 1 / (2 * s.tau)) ** 2,
    "fdpo_forward_kl": _f_margin(lambda u, s: -1 / u),
    "fdpo_js": _f_margin(lambda u, s: (2 * u / (1 + u)).log()),
    "fdpo_alpha": _f_margin(lambda u, s: (1 - u**-s.alpha) / s.alpha),
    "chi_po": lambda x, s: _nls((s.beta * (x.a.exp() + x.a - x.b.exp() - x.b)).clamp(-s.clip, s.clip)),
    "simpo": lambda x, s: _nls(s.beta * (x.w / x.nw - x.l / x.nl) - s.gamma),
    "orpo": _orpo,
    "cpo": lambda x, s: _nls(s.beta * (x.w - x.l)) - s.lam * x.w,
    "slic_hf": lambda x, s: (s.delta - x.w + x.l).clamp(min=0),
    "nca_pair": lambda x, s: _nls(s.beta * x.a) + (_nls(-s.beta * x.a) + _nls(-s.beta * x.b)) / 2,
    "bco_pair": lambda x, s: _nls(s.beta * x.a - s.shift) + _nls(s.shift - s.beta * x.b),
    "sppo_hard": lambda x, s: (x.a - 1 / (2 * s.beta)) ** 2 + (x.b + 1 / (2 * s.beta)) ** 2,
    "apo_zero": lambda x, s: 1 - (s.beta * x.a).sigmoid() + (s.beta * x.b).sigmoid(),
    "apo_down": lambda x, s: (s.beta * x.a).sigmoid() + 1 - (s.beta * x.h).sigmoid(),
    "exo_pair": _exo,
    "discopop": _discopop,
    "aot_paired": lambda x, s: _nls(s.beta * ((x.w - x.l).sort().values - (x.rw - x.rl).sort().values)),
    "aot_unpaired": lambda x, s: _nls(s.beta * (x.a.sort().values - x.b.sort().values)),
    "modpo": lambda x, s: _nls((s.beta * x.h - s.w_rest * s.margin_rest) / s.w_this),
    "tdpo1": lambda x, s: _nls(s.beta * (x.h - (s.kl_rejected - s.kl_chosen))),
    "tdpo2": lambda x, s: _nls(s.beta * (x.h - s.alpha * (s.kl_rejected - s.kl_chosen))),
    "xpo": lambda x, s: (
        _nls(s.beta * x.h) + s.alpha * (s.chosen_is_reference * x.w + (1 - s.chosen_is_reference) * x.l)
    ),
}


def token_pair_loss(name: str, w: Any, l: Any, data: SimpleNamespace, s: Any) -> Any:  # noqa: E741
    """Losses whose tokens weigh differently; w (T_w,), l (T_l,) token log-probs of one pair."""
    a, b = w - data.rw, l - data.rl
    if name == "wpo":
        weight = ((w - data.p2w.log()).mean() + (l - data.p2l.log()).mean()).exp().clamp(max=1).detach()
        return weight * _nls(s.beta * (a.sum() - b.sum()))
    if name == "ld_dpo":
        n = min(len(a), len(b))
        return _nls(s.beta * (a[:n].sum() + s.alpha * a[n:].sum() - b[:n].sum() - s.alpha * b[n:].sum()))
    if name in ("dense_dpo", "dense_dpo_sum"):
        vw, vl = 1 + (s.gamma - 1) * data.cw, 1 + (s.gamma - 1) * data.cl
        left, right = (vw * a).sum(), (vl * b).sum()
        if name == "dense_dpo":
            left, right = left / vw.sum(), right / vl.sum()
        return _nls(s.beta * (left - right))
    better, worse = (w, l) if name == "cpl" else (a, b)
    left = sum(s.gamma**t * better[t] for t in range(len(better)))
    right = sum(s.gamma**t * worse[t] for t in range(len(worse)))
    return _nls(s.alpha * (left - s.lam * right))


def rrhf(mean: Any, rewards: Any, best_sum: Any) -> Any:
    """Σ_{r_i<r_j} max(0, p̄_i - p̄_j) - log π(best)."""
    n = len(rewards)
    rank = sum(
        (mean[i] - mean[j]).clamp(min=0) for i in range(n) for j in range(n) if rewards[i] < rewards[j]
    )
    return rank - best_sum


def pro(mean: Any, rewards: Any, dynamic: bool = True) -> Any:
    """-Σ_k log softmax of scores times reward gaps, best first; gaps 1 give Plackett-Luce."""
    total: Any = 0.0
    for k in range(len(rewards) - 1):
        gaps = [rewards[k] - r if dynamic else 1.0 for r in rewards[k + 1 :]]
        top = (mean[k] * max(gaps)).exp()
        rest = sum((mean[k + 1 + i] * g).exp() for i, g in enumerate(gaps))
        total = total - (top / (top + rest)).log()
    return total


def stable_alignment(
    mean: Any, ratings: Any, ratio: float, margin: float, scale: float, largest: bool
) -> Any:
    """L_best + ratio max(0, mean or max of [L_best - L_i + margin (s_best - s_i)/scale]);
    item 0 is the best.
    """
    import torch

    terms = torch.stack(
        [mean[i] - mean[0] + margin * (ratings[0] - ratings[i]) / scale for i in range(1, len(ratings))]
    )
    contrast = terms.max() if largest else terms.mean()
    return -mean[0] + ratio * contrast.clamp(min=0)
