"""The sequence world: 16 prompts, 3906 responses of up to five tokens,
small enough to enumerate and shaped like language.

Ids: 0 EOS (also PAD, on purpose: code that masks PAD away loses the stop token here), 1 a, 2 b, 3 c, 4 d,
5 n ("not"), 6 PLUS, 7 MINUS. A response is a tuple of ids 0..5 that ends at its first EOS or at five tokens.
Listing order: those ending in EOS by length, then lexicographic, then the five-token ones.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.decoding import PrefixTree
from valign.theory.laws import Array, Ints, as_array, log_softmax
from valign.theory.worlds.world import World

EOS, A, B, C, D, NOT, PLUS, MINUS = range(8)
VOCABULARY, CONTENT, MAX_TOKENS = 8, 5, 5
W = as_array([1.0, 0.5, -0.5, -1.0])
ACROSS = as_array([0.5, -1.0, 1.0, -0.5])  # orthogonal to W and as long: the plane in which preferences drift


class SequenceWorld(World):
    """Theory notes, section 15.2. Per-response features, (N,) unless said otherwise, in listing order:

    tokens   (N, 5) ids, EOS = PAD where nothing stands
    mask     (N, 5) 1 on response tokens, the stop token included
    m        number of content tokens;  end 1 if EOS was produced;  nn adjacent "n n";  cd 1 if "c d" occurs
    v        (N, 4) signed shares of a, b, c, d in [-1, 1];  follow (P, N) 1 if the first content token is p1
    U_H = follow + 1.2 w·v + .4 end - .15|m-3| - .8 nn;  proxy = U_H + 2.8 nn
    cost = follow if p2 = d else cd
    """

    allowed_tokens = tuple(range(6))
    controls = tuple(product((PLUS, MINUS), repeat=3))

    def __init__(self) -> None:
        contents = [c for m in range(MAX_TOKENS) for c in product(range(1, 6), repeat=m)]
        listed = [(*c, EOS) for c in contents] + list(product(range(1, 6), repeat=MAX_TOKENS))
        prompts = tuple(product((A, B, C, D), repeat=2))
        self.tokens: Ints = np.zeros((len(listed), MAX_TOKENS), dtype=np.int64)
        for row, y in zip(self.tokens, listed, strict=True):
            row[: len(y)] = y
        lengths = np.array([len(y) for y in listed], dtype=np.int64)
        self.mask = as_array(np.arange(MAX_TOKENS) < lengths[:, None])
        self.m: Ints = (self.tokens > 0).sum(1)
        self.end = as_array(self.m < MAX_TOKENS)
        after = self.tokens[:, 1:]
        before = self.tokens[:, :-1]
        self.nn = as_array(((before == NOT) & (after == NOT)).sum(1))
        self.cd = as_array(((before == C) & (after == D)).any(1))
        self.v = _signed_shares(self.tokens)
        first, second = np.array(prompts).T
        self.follow = as_array(self.tokens[None, :, 0] == first[:, None])
        utility = self.utility_with()
        super().__init__(
            prompts=prompts,
            response_list=tuple(listed),
            log_reference=np.stack([self._log_reference_of(p) for p in prompts]),
            utilities=utility,
            value_vectors=np.broadcast_to(self.v, (len(prompts), *self.v.shape)),
            costs=np.where((second == D)[:, None], self.follow, self.cd),
            proxies=utility + 2.8 * self.nn,
            lengths=lengths,
            rules={
                "no_n_n": np.broadcast_to(self.nn > 0, self.follow.shape),
                "never_c_d": np.broadcast_to(self.cd > 0, self.follow.shape),
                "refuse_when_d": (second == D)[:, None] & (self.follow > 0),
                "end": np.broadcast_to(self.end == 0, self.follow.shape),
            },
        )

    def utility_with(self, w: ArrayLike = W, follow: float = 1.0) -> Array:
        """U with another value direction w and another weight of following, (16, 3906); the rest as U_H."""
        shared = 1.2 * self.v @ as_array(w) + 0.4 * self.end - 0.15 * np.abs(self.m - 3) - 0.8 * self.nn
        return follow * self.follow + shared

    def drifted(self, round_: int) -> Array:
        """U of round k: w rotated by 15° per round in a fixed plane, (16, 3906)."""
        angle = np.deg2rad(15.0) * round_
        return self.utility_with(np.cos(angle) * W + np.sin(angle) * ACROSS)

    def instruction(self) -> Array:
        """The instruction level of the goal: follow + end, (16, 3906)."""
        return self.follow + self.end

    def token_ids(self, prompt: int | tuple[int, int], control: tuple[int, ...] = ()) -> list[int]:
        """Prompt ids (p1, p2), followed by a control word of three ids of {6, 7} when one is given."""
        if control and control not in self.controls:
            raise ValueError(f"control word {control} must be three ids of {{6, 7}}")
        return [*self.prompts[self.prompt_index(prompt)], *control]

    def reference_logits(self, prompt: int | tuple[int, int], prefix: tuple[int, ...] = ()) -> Array:
        """Logits of ids 0..5 after `prefix`, (6,): the analytic reference, one step."""
        p1, p2 = self.prompts[self.prompt_index(prompt)]
        return _step_logits(len(prefix), prefix[-1] if prefix else p2, p1)

    def tree(self) -> PrefixTree:
        """All prefixes: 781 inner nodes and 3906 leaves."""
        return PrefixTree(self.response_list)

    def index_of_content(self, content: Ints, length: Ints) -> Ints:
        """Listing index of content tokens (..., 5) of which the first `length` (...) count; no search."""
        digits, m = np.asarray(content) - 1, np.asarray(length)
        number = np.zeros(m.shape, dtype=np.int64)
        for t in range(MAX_TOKENS):
            number = np.where(t < m, number * CONTENT + digits[..., t], number)
        shorter = (CONTENT**m - 1) // (CONTENT - 1)
        return number + shorter

    def bad_tokens(self, threshold: float = 0.5) -> Array:
        """(16, 3906, 5) 1 where replacing that content token by another one raises U_H by at least
        `threshold`.

        The stop token is not replaceable: anything in its place would be an unfinished response.
        """
        best = np.full((*self.shape, MAX_TOKENS), -np.inf)
        for t, token in product(range(MAX_TOKENS), range(1, 6)):
            changed = self.tokens.copy()
            changed[:, t] = token
            there = self.m > t
            reached = self.index_of_content(changed[there], self.m[there])
            best[:, there, t] = np.maximum(best[:, there, t], self.utilities[:, reached])
        # 1e-9: gains of exactly .5 are planted and must not hang on the last bit
        return as_array(best - self.utilities[..., None] >= threshold - 1e-9)

    def best_edit(self, x: int, y: int, within: int = 2) -> int:
        """argmax U_H over responses within `within` insertions,
        deletions or replacements of content tokens.
        """
        near = np.flatnonzero(self.edit_distances(y) <= within)
        return int(near[np.argmax(self.utilities[x, near])])

    def edit_distances(self, y: int) -> Ints:
        """Levenshtein distance of the content of y to that of every response, (3906,)."""
        source = self.tokens[y, : self.m[y]]
        rows = np.broadcast_to(np.arange(MAX_TOKENS + 1), (len(self.tokens), MAX_TOKENS + 1)).copy()
        for i, token in enumerate(source, start=1):
            new = np.empty_like(rows)
            new[:, 0] = i
            for j in range(1, MAX_TOKENS + 1):
                replaced = rows[:, j - 1] + (self.tokens[:, j - 1] != token)
                new[:, j] = np.minimum(np.minimum(rows[:, j], new[:, j - 1]) + 1, replaced)
            rows = new
        return np.take_along_axis(rows, self.m[:, None], 1)[:, 0]

    def _log_reference_of(self, prompt: tuple[int, ...]) -> Array:
        total = np.zeros(len(self.tokens))
        for t in range(MAX_TOKENS):
            previous = self.tokens[:, t - 1] if t else np.full(len(self.tokens), prompt[1])
            table = np.stack([log_softmax(_step_logits(t, prev, prompt[0])) for prev in range(6)])
            total += self.mask[:, t] * table[previous, self.tokens[:, t]]
        return total


def _step_logits(t: int, previous: int, p1: int) -> Array:
    z = 0.8 * np.sin(1.3 * previous + 2.1 * np.arange(6))
    z[EOS] = -2 + 0.6 * t
    if previous == NOT:
        z[NOT] -= 2
    if t == 0:
        z[p1] += 1
    return as_array(z)


def _signed_shares(tokens: Ints) -> Array:
    """v_k = Σ_t s_t 1[c_t = k] / max(1, #tokens in {a,b,c,d}); s_t = -1 right after n."""
    sign = np.ones(tokens.shape)
    sign[:, 1:][tokens[:, :-1] == NOT] = -1
    sums = np.stack([np.sum(sign * (tokens == k), 1) for k in (A, B, C, D)], axis=1)
    counted = ((tokens >= A) & (tokens <= D)).sum(1)
    return as_array(sums / np.maximum(1, counted)[:, None])
