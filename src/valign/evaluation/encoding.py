"""From (context, continuation) to token ids, exactly as lm-evaluation-harness 0.4 splits them (section 10, rules 1, 2).

Pure functions on ids; `encode` is any tokenizer call that adds start tokens as that tokenizer does by default. Kept so
that numbers can be compared with published ones: elsewhere a border is carried, never searched for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Encode = Callable[[str], list[int]]


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


def encode_pair(context: str, continuation: str, encode: Encode, prefix_token: int, encode_plain: Encode | None = None) -> EncodedPair:
    """ids of a pair: trailing whitespace of the context moves to the continuation; continuation = whole[len(enc(context)):].

    prefix_token   BOS, else EOS: the context where the text has none (empty or only whitespace)
    encode_plain   the same tokenizer without special tokens, for that case; `encode` by default
    """
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    if not stripped:
        ids = tuple((encode_plain or encode)(continuation))
        if ids and ids[0] == prefix_token:
            return EncodedPair(ids[:1], ids[1:])
        return EncodedPair((prefix_token,), ids)
    head, whole = tuple(encode(stripped)), tuple(encode(stripped + continuation))
    return EncodedPair(head, whole[len(head) :], border_merge=whole[: len(head)] != head)


def truncate(pair: EncodedPair, max_length: int) -> EncodedPair | None:
    """The last max_length + 1 tokens of the pair: the very last is only predicted. None if the continuation is longer.

    The harness's rule (`on_long: harness`); by default a pair that is too long is left unscored.
    """
    if len(pair.continuation) > max_length:
        return None
    room = max_length + 1 - len(pair.continuation)
    kept = pair.context[max(0, len(pair.context) - room) :]
    dropped = len(pair.context) - len(kept)
    return EncodedPair(kept, pair.continuation, pair.border_merge, pair.dropped + dropped)


def rolling_windows(tokens: Sequence[int], prefix_token: int, max_length: int) -> list[EncodedPair]:
    """Disjoint windows over a long text: every token is predicted once, the first after the prefix token.

    Every window but the last is read after one token of context; the last looks back as far as max_length allows.
    """
    text = (prefix_token, *tokens)
    out = []
    for start in range(0, len(tokens), max_length):
        end = min(start + max_length, len(tokens))  # text[start + 1 .. end] is predicted from text[.. end - 1]
        out.append(EncodedPair(text[max(0, end - max_length) : start + 1], tuple(tokens[start:end])))
    return out
