"""Value instruction: say the value and ask for it (2302.07459; row C01).

`q` is the plain question, `q_if` adds the goal in words, `q_if_cot` first lets the policy consider how the answer can
serve the goal, then asks for the answer with these considerations before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from valign.data.group import Message, Prompt
from valign.errors import ValignError, require
from valign.methods.target import Target
from valign.methods.wrapped import ContextPolicy
from valign.models.policy import Policy, Progress, Sample, Sampling, no_sample

CONSIDER = "Before you answer, consider in two short sentences how an answer can do justice to this."
NOW_ANSWER = "Now answer the question above, with these considerations in mind."
PLAIN = "Please make sure that your answer is fair and does not rely on bias or stereotypes."


@dataclass(frozen=True, kw_only=True)
class ValueInstructionConfig:
    """How the value is said."""

    mode: Literal["q", "q_if", "q_if_cot"] = "q_if"  # plain question, with instruction, with considerations before
    place: Literal["system", "before", "after"] = "system"  # where the words stand: system turn, or around the question
    text: str = ""  # the words; empty: the goal's own description
    consider_tokens: int = 64  # longest considerations (q_if_cot)

    def __post_init__(self) -> None:
        require(self.consider_tokens >= 1, "consider_tokens", self.consider_tokens, "at least 1")


class _ValueInstruction(ContextPolicy):
    words: str = ""
    shorter: ClassVar[str] = "a shorter text=..., mode=q_if in place of q_if_cot, or fewer consider_tokens"

    def rewrite(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        return self._rewritten(prompts)[0]

    def foreseen(self, prompts: Sequence[Prompt]) -> tuple[list[Prompt], int]:
        """See `ContextPolicy.foreseen`: considerations are not known before they are drawn, only how long they may be."""
        config: ValueInstructionConfig = self.config
        if config.mode != "q_if_cot":
            return self.rewrite(prompts), 0
        said, asked = self._asked(prompts)
        return [_with_thought(p, s, a, "") for p, s, a in zip(prompts, said, asked)], config.consider_tokens

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, keys: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[list[Sample]]:  # fmt: skip
        """See `Policy.generate`. Where the base gave no considerations there is no answer that rests on them."""
        rewritten, failures = self._rewritten(prompts)
        rows = self.base.generate(rewritten, sampling, keys=keys, progress=progress)
        return [[no_sample(f)] * sampling.n if f else row for f, row in zip(failures, rows)]

    def _rewritten(self, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[str]]:
        """The prompts as the base reads them, and for each why it could not be made ("": it was)."""
        config: ValueInstructionConfig = self.config
        if config.mode == "q":
            return list(prompts), [""] * len(prompts)
        said, asked = self._asked(prompts)
        if config.mode == "q_if":
            return said, [""] * len(prompts)
        drawn = self.base.generate(asked, Sampling(max_new_tokens=config.consider_tokens, temperature=0))
        thoughts = [row[0] for row in drawn]
        made = [_with_thought(p, s, a, t.text) for p, s, a, t in zip(prompts, said, asked, thoughts)]
        return made, [t.failure for t in thoughts]


    def _asked(self, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
        """The prompts with the words, and with the question for considerations after them."""
        said = [said_before(p, self.words, self.config.place) for p in prompts]
        return said, [add_to_question(p, CONSIDER, "after") for p in said]


def _with_thought(prompt: Prompt, said: Prompt, asked: Prompt, thought: str) -> Prompt:
    """The considerations as a turn of the assistant; in raw text, between the words and the question."""
    if prompt and prompt[0].role == "text":
        words = said[0].content.removesuffix(prompt[0].content)
        return (Message("text", f"{words}{thought.strip()}\n\n{prompt[0].content}"), *prompt[1:])
    return (*asked, Message("assistant", thought), Message("user", NOW_ANSWER))


def value_instruction(policy: Policy, target: Target, config: ValueInstructionConfig) -> Policy:
    """`policy` with the goal said in its prompt. Raises `ValignError` when there is neither a goal nor a text."""
    if not config.text and target.goal is None and config.mode != "q":
        raise ValignError("there is nothing to say", where="value_instruction",
                          how=["name a goal (--goal)", f"or give the words: --set text={PLAIN!r}"])  # fmt: skip
    out = _ValueInstruction(policy, "value_instruction", config, target.goal)
    style: Any = "system" if config.place == "system" else "instruction"
    out.words = config.text or (target.goal.describe(style) if target.goal is not None else "")
    return out


def said_before(prompt: Prompt, words: str, place: str) -> Prompt:
    """The prompt with `words` in its system turn (made if there is none) or around its last user turn.

    Raw text gets them in front, wherever they were asked to stand: its end is where the answer begins.
    """
    if prompt and prompt[0].role == "text":
        return (Message("text", f"{words}\n\n{prompt[0].content}"), *prompt[1:])
    if place != "system":
        return add_to_question(prompt, words, place)
    if prompt and prompt[0].role == "system":
        return (Message("system", f"{prompt[0].content}\n\n{words}"), *prompt[1:])
    return (Message("system", words), *prompt)


def add_to_question(prompt: Prompt, words: str, place: str) -> Prompt:
    """`words` before or after the text of the last user turn, or of raw text."""
    if prompt and prompt[0].role == "text":
        if place == "before":
            return (Message("text", f"{words}\n\n{prompt[0].content}"), *prompt[1:])
        return (*prompt[:-1], Message("text", f"{prompt[-1].content}\n\n{words}\n"))
    at = max((i for i, m in enumerate(prompt) if m.role == "user"), default=None)
    if at is None:
        raise ValignError("the prompt has no user turn to put the instruction to", where="prompt")
    text = prompt[at].content
    joined = f"{words}\n\n{text}" if place == "before" else f"{text}\n\n{words}"
    return (*prompt[:at], Message("user", joined), *prompt[at + 1 :])
