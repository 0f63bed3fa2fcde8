"""Ask a policy the items of an inventory, by letter likelihood or by generation (5.7).

Always true here: every respondent sees its own order of the options; the orders are all cyclic shifts of the scale and
of the reversed scale, so over one round of respondents every option stands at every letter equally often and half of
the runs are reversed. An answer that cannot be read is missing with a reason; the other answers are not touched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group, Prompt, Response, user
from valign.data.inventory import Inventory
from valign.models.policy import Policy, Progress, Sampling, Scored, score_each
from valign.models.refusal import says_no
from valign.theory.laws import log_softmax

Array = NDArray[np.float64]
Form = Literal["likelihood", "generation"]
ASK = "Answer with one letter."
LETTER = re.compile(
    r"^\W*(?:(?:(?:my|the) )?(?:answer|option|choice)\b(?: is)?\W*)?\(?\b([A-Z])\b\)?(?=[.):,;*\n]|\s*$|\s*[-–])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Respondent:
    """One simulated respondent: who it is asked to be ("" for the model itself), and the option order it sees.

    order[place] is the option (0 = highest number) that stands at that letter.
    """

    id: str
    order: tuple[int, ...]
    persona: str = ""


def respondents(options: int, personas: Sequence[str] = ()) -> list[Respondent]:
    """All 2K option orders; with personas one respondent per persona, who takes the orders in turn."""
    up = [tuple((k + shift) % options for k in range(options)) for shift in range(options)]
    orders = [order for pair in zip(up, (tuple(reversed(o)) for o in up), strict=True) for order in pair]
    if personas:
        return [
            Respondent(f"person{i + 1:03d}", orders[i % len(orders)], text)
            for i, text in enumerate(personas)
        ]
    return [Respondent(f"order{i + 1:02d}", order) for i, order in enumerate(orders)]


@dataclass(frozen=True)
class Answers:
    """Answers of all respondents to all items.

    ratings   (R, I) on the scale of the inventory; the expected rating for likelihoods; NaN where missing
    chosen    (R, I) the most probable or chosen option's place among the letters; -1 where missing
    places    (R, I, K) probability of each letter (one-hot for generation); NaN where missing
    mass      (R, I) probability that the policy gives to the letters together; NaN for generation
    reasons   why (respondent, item) has none; texts: what was generated
    """

    inventory: Inventory
    respondents: tuple[Respondent, ...]
    form: Form
    paraphrased: bool
    ratings: Array
    chosen: NDArray[np.int64]
    places: Array
    mass: Array
    reasons: dict[tuple[int, int], str] = field(default_factory=dict)
    texts: dict[tuple[int, int], str] = field(default_factory=dict)

    def keyed(self) -> Array:
        """(R, I) ratings toward the dimension: an item against it is turned round (low + high - x)."""
        sign = np.array([i.keyed for i in self.inventory.items])
        return np.where(sign > 0, self.ratings, self.inventory.low + self.inventory.high - self.ratings)


def administer(
    policy: Policy,
    inventory: Inventory,
    who: Sequence[Respondent],
    *,
    form: Form = "likelihood",
    paraphrased: bool = False,
    sampling: Sampling = Sampling(max_new_tokens=8, temperature=0.7),  # noqa: B008
    progress: Progress | None = None,
) -> Answers:
    """Ask every respondent every item. `sampling` is used by the generation form alone (n = 1)."""
    asked = [
        Group(f"{item.id}{'~' if paraphrased else ''}@{r.id}", question(inventory, i, r, paraphrased),
              tuple(Response(x, finish="length") for x in ascii_uppercase[: len(r.order)]))
        for r in who for i, item in enumerate(inventory.items)
    ]  # fmt: skip
    shape = (len(who), len(inventory), len(inventory.labels))
    empty = Answers(
        inventory, tuple(who), form, paraphrased, np.full(shape[:2], np.nan), np.full(shape[:2], -1),
        np.full(shape, np.nan), np.full(shape[:2], np.nan),
    )  # fmt: skip
    if form == "likelihood":
        _likelihood(policy, asked, empty, progress)
    else:
        _generation(policy, asked, empty, sampling, progress)
    return empty


def question(inventory: Inventory, item: int, who: Respondent, paraphrased: bool = False) -> Prompt:
    """The prompt: question and options first (all items of a respondent share them), then the item."""
    one = inventory.items[item]
    listed = "\n".join(f"{x}. {inventory.labels[o]}" for x, o in zip(ascii_uppercase, who.order))
    text = one.paraphrase if paraphrased else one.text
    head = f"{inventory.question} Choose one option.\n{listed}"
    return user(f"{head}\n\n{inventory.lead}: {text}\n{ASK}", system=who.persona or None)


def _likelihood(policy: Policy, asked: Sequence[Group], out: Answers, progress: Progress | None) -> None:
    """Letters' log-probs, without what could follow them; normalized over the letters, mapped back to options."""
    numbers, size = out.inventory.high - np.arange(len(out.inventory.labels)), len(out.inventory)
    scores: list[list[Scored] | None] = []
    for start in range(0, len(asked), size):  # one respondent at a time: its prompts begin alike and are read once
        scores += score_each(policy, asked[start : start + size])
        if progress is not None:
            progress(min(start + size, len(asked)), len(asked))
    for n, scored in enumerate(scores):
        at = divmod(n, size)
        if scored is None or any(s.n_tokens == 0 for s in scored):
            out.reasons[at] = "over_length" if scored is None else "empty_continuation"
            continue
        log_probs = np.array([s.log_prob for s in scored])
        shares = np.exp(log_softmax(log_probs))
        out.places[at], out.mass[at] = shares, min(1.0, float(np.exp(log_probs).sum()))
        out.chosen[at] = int(shares.argmax())
        out.ratings[at] = float(shares @ numbers[list(out.respondents[at[0]].order)])


def _generation(
    policy: Policy, asked: Sequence[Group], out: Answers, sampling: Sampling, progress: Progress | None
) -> None:
    samples = policy.generate([g.prompt for g in asked], sampling, keys=[g.id for g in asked], progress=progress)
    for n, row in enumerate(samples):
        at = divmod(n, len(out.inventory))
        order = out.respondents[at[0]].order
        out.texts[at] = row[0].text
        place, reason = read_answer(row[0].text, out.inventory.labels, order)
        if row[0].refused or row[0].failure:
            place, reason = None, "refusal" if row[0].refused else "no_answer"
        if place is None:
            out.reasons[at] = str(reason)
            continue
        out.chosen[at], out.ratings[at] = place, out.inventory.high - order[place]
        out.places[at] = np.arange(len(order)) == place


def read_answer(text: str, labels: Sequence[str], order: Sequence[int]) -> tuple[int | None, str | None]:
    """(place among the letters, None) of a text answer, else (None, "refusal" or "parse_failure").

    A letter at the start counts when something other than a sentence follows it ("A person ..." is no answer); so does an
    option's own words at the start, with or without its letter.
    """
    said = text.strip()
    letters = ascii_uppercase[: len(order)]
    found = LETTER.match(said)
    if found and found.group(1).upper() in letters:
        return letters.index(found.group(1).upper()), None
    words = re.sub(r"^\W*(?:[A-Z]\W+)?", "", said, count=1) if re.match(r"^\W*[A-Z]\W", said) else said
    for candidate in (words, said):
        low = re.sub(r"^\W+", "", candidate).lower()
        hits = [p for p, o in enumerate(order) if low.startswith(labels[o].lower())]
        if hits:  # of two labels that fit, the longer one was said
            return max(hits, key=lambda p: len(labels[order[p]])), None
    return None, "refusal" if says_no(said) else "parse_failure"

