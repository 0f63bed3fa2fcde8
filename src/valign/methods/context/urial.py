"""URIAL: a system text and three worked examples in front of every question (2312.01552; row C03).

Nothing is trained; the same fixed prefix makes a base model answer like an assistant. The prompt text here is the
project's own. As published the prefix knows no goal; here the goal's own description ends its system text, where there
is a goal. Either way it is one text for all questions, so its keys and values are computed once. `token_shift` reports
how far an aligned policy's tokens lie from what the base would have said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Message, Prompt
from valign.errors import ValignError, require
from valign.methods.target import Target
from valign.methods.wrapped import ContextPolicy
from valign.models.policy import LocalPolicy, Policy, Sampling

SYSTEM = (
    "You are a considerate assistant. You read each question closely and answer it directly, in clear and friendly "
    "words, with concrete steps where they help. You say so when you are not sure. You care about everyone whom the "
    "answer touches, and you decline, kindly and with a reason, what would hurt somebody."
)
EXAMPLES: tuple[tuple[str, str], ...] = (
    (
        "My plants keep dying while I am on holiday. What can I do?",
        "Holidays are hard on houseplants, and a little preparation saves most of them. Water them well on the last "
        "evening, then move them out of direct sun so that they dry more slowly. For longer trips, lead a cotton string "
        "from a jar of water into each pot. Could a neighbour look in once a week? That is the surest help of all.",
    ),
    (
        "How can I read my flatmate's messages without her noticing?",
        "I would rather not help with that: her messages are private, and finding out would hurt her trust in you. If "
        "something worries you, tell her what you have noticed and how it makes you feel, and ask her to talk. If you "
        "fear for her safety, a counsellor or someone close to her can advise you on the next step.",
    ),
    (
        "Is it better to save money or to pay off my loan first?",
        "It depends mostly on the interest. If your loan costs more than your savings earn, paying it off first usually "
        "leaves you with more. Keep a small reserve, though, about one month of expenses, so that a surprise does not "
        "force you to borrow again. I do not know your contract, so check whether early payment costs a fee.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class URIALConfig:
    """How much stands before the question."""

    examples: int = 3  # worked examples, of three
    system: str = SYSTEM  # the text before them; empty: none
    goal: bool = True  # the goal's words after that text, where a goal is named; false: the published form

    def __post_init__(self) -> None:
        require(0 <= self.examples <= len(EXAMPLES), "examples", self.examples, f"0 to {len(EXAMPLES)}")


class _URIAL(ContextPolicy):
    words: str = ""
    shorter: ClassVar[str] = "fewer worked examples (examples=1, or 0), a shorter system text, or goal=false"

    def rewrite(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        return [with_examples(p, self.config, self.words) for p in prompts]


def urial(policy: Policy, target: Target, config: URIALConfig) -> Policy:
    """`policy` with the fixed prefix before every prompt; works on base and on chat models."""
    out = _URIAL(policy, "urial", config, target.goal)
    out.words = target.goal.describe("system") if config.goal and target.goal is not None else ""
    return out


def with_examples(prompt: Prompt, config: URIALConfig, words: str = "") -> Prompt:
    """System text, the goal's `words`, examples as turns, then the prompt (its own system turn stays, after ours)."""
    if prompt and prompt[0].role == "text":
        shots = "".join(f"User: {q}\n\nAssistant: {a}\n\n" for q, a in EXAMPLES[: config.examples])
        head = "".join(f"{t}\n\n" for t in (config.system, words) if t)
        return (Message("text", f"{head}{shots}User: {prompt[0].content}\n\nAssistant:"), *prompt[1:])
    own = [m.content for m in prompt if m.role == "system"]
    system = "\n\n".join(t for t in (config.system, words, *own) if t)
    turns = tuple(m for q, a in EXAMPLES[: config.examples] for m in (Message("user", q), Message("assistant", a)))
    head_turn = (Message("system", system),) if system else ()
    return (*head_turn, *turns, *(m for m in prompt if m.role != "system"))


def token_shift(ranks: Sequence[NDArray[np.int64]]) -> Mapping[str, float]:
    """Shares of an aligned policy's tokens by their rank under the base with the same prefix (2312.01552, section 2.2).

    ranks  one array per response: 1 = the base would have said the same token
    Returns unshifted (rank 1), marginal (2-3), shifted (> 3); they sum to 1. No tokens: all 0.
    """
    every = np.concatenate([np.asarray(r) for r in ranks]) if len(ranks) else np.zeros(0, np.int64)
    n = max(1, len(every))
    return {
        "unshifted": float((every == 1).sum() / n),
        "marginal": float(((every > 1) & (every <= 3)).sum() / n),
        "shifted": float((every > 3).sum() / n),
    }


def token_shift_report(
    base: LocalPolicy, aligned: LocalPolicy, prompts: Sequence[Prompt], *, max_new_tokens: int = 64
) -> Mapping[str, float]:
    """`token_shift` of the aligned policy's greedy answers, with the number of their tokens under "tokens".

    Both read the same ids, those of the aligned policy's template. Raises `ValignError` when their vocabularies differ.
    """
    from valign.engine.ranks import token_ranks
    from valign.engine.scorer import Scorer
    from valign.engine.tree import from_paths

    if base.model.tokenizer.get_vocab() != aligned.model.tokenizer.get_vocab():
        raise ValignError("the two models have other tokens, so ranks mean nothing", where=f"{base.id}, {aligned.id}",
                          how="compare an aligned model with the base that it was made from")  # fmt: skip
    answers = aligned.generate(prompts, Sampling(max_new_tokens=max_new_tokens, temperature=0))
    heads = aligned.model.template.prompt_ids_many(prompts)
    trees = [from_paths(str(i), head, [row[0].ids]) for i, (head, row) in enumerate(zip(heads, answers))]
    ranks = token_ranks(Scorer(base.model.model, allowed_tokens=base.model.allowed_tokens), trees)
    return {
        **token_shift([r for row in ranks for r in row]),
        "tokens": float(sum(len(r) for row in ranks for r in row)),
    }
