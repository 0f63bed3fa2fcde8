"""What alignment is, as mathematics: the target, likelihoods of feedback, measures, coefficients,
oracle worlds.

Numpy in float64, no models, no files, no network. Rooms, in reading order: `target` (the law every method
approximates), `misalignment` (how far a model is from a human), `likelihoods` (how feedback is drawn),
`coefficients` (every loss as one gradient), `policy_gradient`, `divergence`, `best_of_n`, `constrained`,
`decoding`, `mixtures`, `bayes`, `goodhart`, `worlds` (where the truth is known), `identities` (what must
hold, checked).
"""

from valign.theory.target import Constraint, GibbsTarget, Target, gibbs

__all__ = ["Constraint", "GibbsTarget", "Target", "gibbs"]
