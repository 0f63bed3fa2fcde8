"""Pairs of (context, continuation) as token ids, as lm-evaluation-harness 0.4 splits, cuts and rolls them.

Section 10 of evaluation notes, rules 1 and 2. The split itself is `ChatTemplate.encode_harness`; cutting
and rolling are pure functions on ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valign.data.group import Prompt, text

if TYPE_CHECKING:
    from valign.models.chat import ChatTemplate


@dataclass(frozen=True)
class EncodedPair:
    """What the model reads (context) and what is scored (continuation).

    border_merge   a token spans the border: the encoding of the whole does not begin with the context's
    dropped        tokens cut from the left to fit the model (0: nothing was truncated)
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    border_merge: bool = False
    dropped: int = 0

    @property
    def unscorable(self) -> bool:
        """Nothing is left to score: the continuation disappeared in the context's last token."""
        return not self.continuation

    def __len__(self) -> int:
        return len(self.context) + len(self.continuation)


def encode_pair(template: ChatTemplate, prompt: Prompt, continuation: str) -> EncodedPair:
    """The ids of a continuation after a prompt; white space at the context's end moves to the continuation.

    Nothing but white space is no context: it moves whole, and the start token (else the end token) is read.
    """
    before = template.prompt_text(prompt)
    if not before.strip():
        prompt, continuation = text(""), before + continuation
    path = template.encode_harness(prompt, continuation)
    return EncodedPair(tuple(path.ids[: path.n_prompt]), tuple(path.ids[path.n_prompt :]), path.merged)


def truncate(pair: EncodedPair, max_length: int) -> EncodedPair | None:
    """The last max_length + 1 tokens of the pair, of which the very last is only predicted.

    None if the continuation alone is longer than max_length. This is the harness's rule (`on_long: harness`);
    by default a pair that is too long is left unscored.
    """
    if len(pair.continuation) > max_length:
        return None
    room = max_length + 1 - len(pair.continuation)
    kept = pair.context[max(0, len(pair.context) - room) :]
    dropped = len(pair.context) - len(kept)
    return EncodedPair(kept, pair.continuation, pair.border_merge, pair.dropped + dropped)


def rolling_windows(tokens: Sequence[int], prefix_token: int, max_length: int) -> list[EncodedPair]:
    """Disjoint windows over a long text: every token is predicted once, the first after the prefix token.

    Every window but the last is read after one token of context; the last looks back as far as it can.
    """
    ids = (prefix_token, *tokens)
    out = []
    for start in range(0, len(tokens), max_length):
        end = min(start + max_length, len(tokens))  # ids[start + 1 .. end] is predicted from ids[.. end - 1]
        out.append(EncodedPair(ids[max(0, end - max_length) : start + 1], tuple(tokens[start:end])))
    return out
