"""One gradient: the per-token coefficients c_t of every training loss, -∇L = E Σ_t c_t ∇log π(y_t|x, y_<t).

Pure numpy, one function per row of the table (theory notes, section 5), named as the method is named. A
loss is summed over its tokens and averaged over its groups; other reductions multiply c by
`policy_gradient.token_weights`. `COEFFICIENTS` maps the name to the function and `FEEDBACK` the name to the
shape of its arguments:

    pairs        f(pairs: Pairs, ...) -> (chosen (n,), rejected (n,)); c holds for every token of the response
    token_pairs  f(policy_chosen (T_w,), policy_rejected (T_l,), ...) -> the same two shapes; one pair
    list         f(log_probs (K,), lengths (K,), ...) -> (K,); one list, c for every token of a response
    responses    f(log_prob, ...) -> same shape; summed log-probs, or per token where the docstring says so
    rollouts     f(...) -> (rows, T) or (G,); policy-gradient rows, per-token arrays with a mask
    edits        f(tags) -> (T,)

Rows that act on the whole vocabulary (distillation, TDPO's KL, Quark's KL, NLPO's mask) are not in this
table; where such a row has a part on the sampled tokens, that part is here and its docstring says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from valign.theory.coefficients import lists, pairs, responses, rollouts, token_pairs
from valign.theory.coefficients.pairs import Pairs

Function = Callable[..., Any]

_PAIRS: dict[str, Function] = {
    "dpo": pairs.dpo,
    "diffusion_dpo": pairs.dpo,
    "dpo_reference_free": pairs.dpo_reference_free,
    "cdpo": pairs.cdpo,
    "robust_dpo": pairs.robust_dpo,
    "odpo": pairs.odpo,
    "dpop": pairs.dpop,
    "rdpo": pairs.rdpo,
    "rpo": pairs.rpo,
    "sigmoid_norm": pairs.sigmoid_norm,
    "hinge": pairs.hinge,
    "ipo_sum": pairs.ipo_sum,
    "ipo_mean": pairs.ipo_mean,
    "fdpo": pairs.fdpo,
    "fdpo_forward_kl": pairs.fdpo_forward_kl,
    "fdpo_js": pairs.fdpo_js,
    "fdpo_alpha": pairs.fdpo_alpha,
    "chi_po": pairs.chi_po,
    "simpo": pairs.simpo,
    "orpo": pairs.orpo,
    "cpo": pairs.cpo,
    "slic_hf": pairs.slic_hf,
    "nca_pair": pairs.nca_pair,
    "bco_pair": pairs.bco_pair,
    "sppo_hard": pairs.sppo_hard,
    "apo_zero": pairs.apo_zero,
    "apo_down": pairs.apo_down,
    "exo_pair": pairs.exo_pair,
    "discopop": pairs.discopop,
    "aot_paired": pairs.aot_paired,
    "aot_unpaired": pairs.aot_unpaired,
    "modpo": pairs.modpo,
    "tdpo1": pairs.tdpo1,
    "tdpo2": pairs.tdpo2,
    "xpo": pairs.xpo,
    "online_dpo": pairs.dpo,
    "tr_dpo": pairs.dpo,
}
_TOKEN_PAIRS: dict[str, Function] = {
    "wpo": token_pairs.wpo,
    "ld_dpo": token_pairs.ld_dpo,
    "dense_dpo": token_pairs.dense_dpo,
    "dense_dpo_sum": token_pairs.dense_dpo_sum,
    "cpl": token_pairs.cpl,
    "cpl_kl": token_pairs.cpl_kl,
}
_LIST: dict[str, Function] = {
    "rrhf": lists.rrhf,
    "pro": lists.pro,
    "plackett_luce": lists.plackett_luce,
    "stable_alignment": lists.stable_alignment,
    "stable_alignment_max": lists.stable_alignment_max,
    "d2o": lists.d2o,
}
_RESPONSES: dict[str, Function] = {
    "sft": responses.sft,
    # all of these end in SFT; they differ in where the response comes from
    "lima": responses.sft,
    "self_instruct_sft": responses.sft,
    "self_align": responses.sft,
    "cai_sl": responses.sft,
    "ilf": responses.sft,
    "raft": responses.sft,
    "rest": responses.sft,
    "quark": responses.sft,
    "reward_weighted_sft": responses.reward_weighted_sft,
    "fdpg": responses.fdpg,
    "gdc": responses.fdpg,
    "alol": responses.alol,
    "alol_ref_free": responses.alol_ref_free,
    "ilql": responses.ilql_awac,
    "kto": responses.kto,
    "npo": responses.npo,
    "gradient_ascent": responses.gradient_ascent,
    "unlikelihood": responses.unlikelihood,
    "cut": responses.cut,
}
_ROLLOUTS: dict[str, Function] = {
    "reinforce": rollouts.reinforce,
    "reinforce_sequence": rollouts.reinforce_sequence,
    "a2c": rollouts.reinforce,
    "rloo": rollouts.rloo,
    "remax": rollouts.remax,
    "nash_md": rollouts.nash_md,
    "ppo": rollouts.ppo,
    "nlpo": rollouts.ppo,
    "ddpo": rollouts.ppo,
    "fine_grained": rollouts.fine_grained,
    "grpo": rollouts.grpo,
    "dapo": rollouts.dapo,
    "dr_grpo": rollouts.dr_grpo,
    "gdpo": rollouts.gdpo,
    "gspo": rollouts.gspo,
    "luspo": rollouts.luspo,
    "cispo": rollouts.cispo,
    "sapo": rollouts.sapo,
}
_EDITS: dict[str, Function] = {"figa": responses.figa}

_FAMILIES = {
    "pairs": _PAIRS,
    "token_pairs": _TOKEN_PAIRS,
    "list": _LIST,
    "responses": _RESPONSES,
    "rollouts": _ROLLOUTS,
    "edits": _EDITS,
}
COEFFICIENTS: dict[str, Function] = {name: f for family in _FAMILIES.values() for name, f in family.items()}
FEEDBACK: dict[str, str] = {name: kind for kind, family in _FAMILIES.items() for name in family}

__all__ = ["COEFFICIENTS", "FEEDBACK", "Pairs", "lists", "pairs", "responses", "rollouts", "token_pairs"]
