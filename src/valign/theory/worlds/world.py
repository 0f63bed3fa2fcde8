"""What every oracle world offers: listed prompts and responses, U_H, values, cost, proxy, reference,
exact optima, draws.

All tables are (prompts, responses) float64 in listing order; prompts are weighted uniformly. A prompt x is
an index or an entry of `prompts`, a response y an index or an entry of `responses(x)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from valign.theory import misalignment
from valign.theory.divergence import kl_from_logs
from valign.theory.laws import Array, Ints, as_array, expectation, log_softmax, log_sum_exp
from valign.theory.worlds import draws

Prompt = Any
Response = Any
BETA = 0.5  # the KL strength at which the goldens of the theory notes, section 15, are stated


@dataclass(frozen=True)
class PolicyReport:
    """Means over prompts of one policy: J, gold utility, KL to the reference, gap to the optimum,
    misalignment, length.
    """

    objective: float
    gold: float
    kl: float
    gap: float
    m1: float
    order_agreement: float
    length: float


class World:
    """A world from its tables; see `TabularWorld` and `SequenceWorld`.

    prompts        P prompts
    response_list  N token tuples, the same for every prompt
    log_reference  (P, N) log π_ref
    utilities, costs, proxies  (P, N); value_vectors (P, N, V); lengths (N,) tokens, the stop token counted
    rules          name -> (P, N) 1 where the rule is broken
    """

    def __init__(
        self,
        *,
        prompts: tuple[Prompt, ...],
        response_list: tuple[tuple[int, ...], ...],
        log_reference: Array,
        utilities: Array,
        value_vectors: Array,
        costs: Array,
        proxies: Array,
        lengths: Ints,
        rules: dict[str, Array],
    ) -> None:
        self.prompts = prompts
        self.response_list = response_list
        self.log_reference = log_reference
        # equal utilities must be equal in every bit, or rounding would split ties
        self.utilities = np.round(utilities, 12)
        self.value_vectors = value_vectors
        self.costs = costs
        self.proxies = np.round(proxies, 12)
        self.lengths = lengths
        self.rules = rules
        self._prompt_index = {p: i for i, p in enumerate(prompts)}
        self._response_index = {y: i for i, y in enumerate(response_list)}

    @property
    def shape(self) -> tuple[int, int]:
        """(prompts, responses)."""
        return len(self.prompts), len(self.response_list)

    def prompt_index(self, x: Prompt) -> int:
        """Index of a prompt given as itself or as an index; KeyError if unknown."""
        if isinstance(x, int | np.integer) and 0 <= x < len(self.prompts):
            return int(x)
        if x in self._prompt_index:
            return self._prompt_index[x]
        raise KeyError(
            f"unknown prompt {x!r}; this world has {len(self.prompts)}, the first is {self.prompts[0]!r}"
        )

    def response_index(self, y: Response) -> int:
        """Index of a response given as token tuple or as an index; KeyError if it cannot be produced."""
        if isinstance(y, int | np.integer) and 0 <= y < len(self.response_list):
            return int(y)
        key = tuple(int(t) for t in y) if isinstance(y, tuple | list | np.ndarray) else y
        if key in self._response_index:
            return self._response_index[key]
        raise KeyError(f"{y!r} is not a response of this world")

    def responses(self, x: Prompt) -> tuple[tuple[int, ...], ...]:
        """All responses to x in listing order, as token tuples."""
        self.prompt_index(x)
        return self.response_list

    def utility(self, x: Prompt, y: Response) -> float:
        """U_H(x, y)."""
        return float(self.utilities[self.prompt_index(x), self.response_index(y)])

    def values(self, x: Prompt, y: Response) -> Array:
        """v(x, y), one number per value dimension."""
        return as_array(self.value_vectors[self.prompt_index(x), self.response_index(y)])

    def cost(self, x: Prompt, y: Response) -> float:
        """c(x, y)."""
        return float(self.costs[self.prompt_index(x), self.response_index(y)])

    def proxy(self, x: Prompt, y: Response) -> float:
        """r̂(x, y): the adversarial proxy, with its planted exploit."""
        return float(self.proxies[self.prompt_index(x), self.response_index(y)])

    def reference(self, x: Prompt) -> Array:
        """π_ref(.|x), (N,)."""
        return as_array(np.exp(self.log_reference[self.prompt_index(x)]))

    def reference_log_probs(self) -> Array:
        """log π_ref, (P, N); a copy."""
        return self.log_reference.copy()

    def reference_table(self) -> Array:
        """π_ref, (P, N)."""
        return as_array(np.exp(self.log_reference))

    def target_log_probs(
        self,
        reference_log_probs: ArrayLike | None = None,
        utility: ArrayLike | None = None,
        beta: float = BETA,
    ) -> Array:
        """log π* (P, N) of any enumerated reference (default: the analytic one) and any utility (default:
        U_H).
        """
        reference = self._reference(reference_log_probs)
        return log_softmax(reference + self._utility(utility) / beta)

    def objective(
        self,
        policy_log_probs: ArrayLike,
        beta: float = BETA,
        reference_log_probs: ArrayLike | None = None,
        utility: ArrayLike | None = None,
    ) -> float:
        """J(π) = E[E_π U - β KL(π‖π_ref)], mean over prompts."""
        policy = self._table(policy_log_probs, "policy_log_probs")
        gain = expectation(np.exp(policy), self._utility(utility))
        return float(np.mean(gain - beta * kl_from_logs(policy, self._reference(reference_log_probs))))

    def optimum(
        self,
        beta: float = BETA,
        reference_log_probs: ArrayLike | None = None,
        utility: ArrayLike | None = None,
    ) -> float:
        """J* = mean of β log Z."""
        reference = self._reference(reference_log_probs)
        return float(np.mean(beta * log_sum_exp(reference + self._utility(utility) / beta)))

    def gap(
        self,
        policy_log_probs: ArrayLike,
        beta: float = BETA,
        reference_log_probs: ArrayLike | None = None,
        utility: ArrayLike | None = None,
    ) -> float:
        """1 - (J(π) - J(π_ref)) / (J* - J(π_ref)):
        0 at the optimum, 1 at the reference, above 1 when worse than it.
        """
        reference = self._reference(reference_log_probs)
        start = self.objective(reference, beta, reference, utility)
        reached = self.objective(policy_log_probs, beta, reference, utility)
        return 1 - (reached - start) / (self.optimum(beta, reference, utility) - start)

    def report(
        self, policy_log_probs: ArrayLike, beta: float = BETA, reference_log_probs: ArrayLike | None = None
    ) -> PolicyReport:
        """What every run on a world shows; M1 and agreement are between U_H and β log π/π_ref,
        pairs from the reference.
        """
        policy, reference = (
            self._table(policy_log_probs, "policy_log_probs"),
            self._reference(reference_log_probs),
        )
        implied, law = beta * (policy - reference), np.exp(reference)
        return PolicyReport(
            objective=self.objective(policy, beta, reference),
            gold=self.mean(policy, self.utilities),
            kl=float(np.mean(kl_from_logs(policy, reference))),
            gap=self.gap(policy, beta, reference),
            m1=float(np.mean(misalignment.m1(self.utilities, implied, law))),
            order_agreement=float(np.mean(misalignment.order_agreement(self.utilities, implied, law))),
            length=self.mean(policy, np.broadcast_to(self.lengths, self.shape)),
        )

    def mean(self, policy_log_probs: ArrayLike, table: ArrayLike) -> float:
        """E_x E_π[table], a scalar; table (P, N)."""
        return float(np.mean(expectation(np.exp(as_array(policy_log_probs)), table)))

    def demonstrations(self, n: int, seed: int = 0, **settings: Any) -> draws.Demonstrations:
        """See `draws.demonstrations`."""
        return draws.demonstrations(self, n, seed, **settings)

    def pairs(self, n: int, seed: int = 0, **settings: Any) -> draws.PairDraws:
        """See `draws.pairs`."""
        return draws.pairs(self, n, seed, **settings)

    def rankings(self, n: int, seed: int = 0, **settings: Any) -> draws.Rankings:
        """See `draws.rankings`."""
        return draws.rankings(self, n, seed, **settings)

    def unpaired(self, n: int, seed: int = 0, **settings: Any) -> draws.Unpaired:
        """See `draws.unpaired`."""
        return draws.unpaired(self, n, seed, **settings)

    def scores(self, n: int, seed: int = 0, **settings: Any) -> draws.Scores:
        """See `draws.scores`."""
        return draws.scores(self, n, seed, **settings)

    def value_labels(self, n: int, seed: int = 0, **settings: Any) -> draws.ValueVectors:
        """See `draws.value_vectors`; the table `value_vectors` holds the exact ones."""
        return draws.value_vectors(self, n, seed, **settings)

    def verdicts(self, n: int, seed: int = 0, **settings: Any) -> draws.Verdicts:
        """See `draws.verdicts`."""
        return draws.verdicts(self, n, seed, **settings)

    def critiques(self, n: int, seed: int = 0, **settings: Any) -> draws.Critiques:
        """See `draws.critiques`."""
        return draws.critiques(self, n, seed, **settings)

    def edits(self, n: int, seed: int = 0, **settings: Any) -> draws.Edits:
        """See `draws.edits`."""
        return draws.edits(self, n, seed, **settings)

    def bad_tokens(self, threshold: float = 0.5) -> Array:
        """(P, N, T) 1 where some replacement of that token raises U_H by at least `threshold`."""
        raise NotImplementedError

    def best_edit(self, x: int, y: int, within: int = 2) -> int:
        """Index of the response with the largest U_H at most `within` token edits away from y."""
        raise NotImplementedError

    def _reference(self, table: ArrayLike | None) -> Array:
        return self.log_reference if table is None else self._table(table, "reference_log_probs")

    def _utility(self, table: ArrayLike | None) -> Array:
        return self.utilities if table is None else self._table(table, "utility")

    def _table(self, values: ArrayLike, name: str) -> Array:
        table = as_array(values)
        if table.shape != self.shape:
            raise ValueError(
                f"{name} has shape {table.shape}; this world needs {self.shape} (prompts, responses)"
            )
        return table
