"""From messages to token ids, by the model's own chat template.

Always true here: the ids of a path come from one encoding of its whole text, and the border between prompt
and response is carried, never searched for in ids; exactly one start token opens a path; the stop token is
appended as an id, so it can neither merge with the response nor be lost. Ids that a sampler emitted are
reused as they are. What `Group`s become (trees, batches, truncation) is left to the engine.

A model without a template gets the plain form of `FALLBACK`: turns named "User:" and "Assistant:", each
response ending with the end-of-text token.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from valign.data.group import Message, Prompt, Response
from valign.errors import DataError, ModelError
from valign.models import tokens
from valign.models.tokens import FALLBACK, PROBE, common, encode, plain, render

log = logging.getLogger(__name__)

KEPT_PROMPTS = 8192  # encoded prompts kept: the prompts of one epoch of a small data set, some MB

Check = tuple[str, bool, str]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A path as ids: `ids[:n_prompt]` is the prompt, `ids[n_prompt:]` the response, its stop token included.

    merged   a token runs over the border; it belongs to the response, and the prompt is shorter than when
             it stands alone
    stopped  the last id is a stop token (True for every complete response)
    """

    ids: list[int]
    n_prompt: int
    merged: bool
    stopped: bool


@dataclass(eq=False)
class ChatTemplate:
    """A tokenizer with the template that its model was trained on. Make one with `from_tokenizer`.

    source      the Jinja template
    stop_id     the token that ends an assistant turn; it is trained and scored
    stop_ids    every token at which generation ends, `stop_id` first
    start       ids put before a rendered chat: the start token where the template does not write it itself
    text_start  ids that the tokenizer puts before plain text
    lead        white space that the template puts between the prompt and an answer (" " in Llama-2 and the
                fallback)
    is_fallback True when the tokenizer has no template of its own
    """

    tokenizer: Any
    source: str
    stop_id: int
    stop_ids: tuple[int, ...]
    start: tuple[int, ...]
    text_start: tuple[int, ...]
    lead: str
    is_fallback: bool
    _prompt_ids: dict[Prompt, tuple[int, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, *, end_ids: Iterable[int] = ()) -> ChatTemplate:
        """Read template, start and stop tokens off a tokenizer.

        end_ids   more ids that end generation, as a model's generation config lists them
        Raises `ModelError` without an end token, for two start tokens, and for a template that cannot
        render one turn.
        """
        own = tokens.template_of(tokenizer)
        source = own if own is not None else FALLBACK
        if tokenizer.eos_token is None and own is None:
            raise ModelError(
                "the tokenizer has neither a chat template nor an end token", where=tokens.name_of(tokenizer)
            )
        question = [{"role": "user", "content": "Why?"}]
        try:
            before = render(tokenizer, source, question, prompt=True)
            whole = render(tokenizer, source, [*question, {"role": "assistant", "content": PROBE}])
        except Exception as error:  # a template is a program of somebody else: it may raise anything
            raise ModelError(
                f"the chat template fails on a single turn: {error}", where=tokens.name_of(tokenizer)
            ) from error
        text_start = tokens.text_start(tokenizer)
        stop_id = tokens.turn_end(tokenizer, whole.rpartition(PROBE)[2])
        lead = whole[len(before) : whole.find(PROBE)] if whole.startswith(before) else ""
        return cls(
            tokenizer=tokenizer,
            source=source,
            stop_id=stop_id,
            stop_ids=tokens.all_ends(tokenizer, stop_id, end_ids),
            start=tokens.chat_start(tokenizer, encode(tokenizer, [before])[0], text_start),
            text_start=text_start,
            lead=lead if lead.isspace() else "",
            is_fallback=own is None,
        )

    # --------------------------------------------------------------------------------------------- prompts

    def prompt_text(self, prompt: Prompt) -> str:
        """The text a model reads before it answers; an assistant turn at the end is left open.

        Raises `DataError` with the template's own message and the turn it refuses.
        """
        if is_text(prompt):
            return "".join(m.content for m in prompt)
        if prompt and prompt[-1].role == "assistant":
            return self.rendered(prompt[:-1], prompt=True) + self.lead + prompt[-1].content
        return self.rendered(prompt, prompt=True)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Ids a model reads before it answers: one start token, the turns, the assistant's header.

        Raw text is encoded as it is; text without any token becomes the tokenizer's start token, else its
        end token.
        """
        return self.prompt_ids_many([prompt])[0]

    def prompt_ids_many(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """`prompt_ids` of many prompts: what is not known yet is encoded in one call."""
        known = self._prompt_ids
        new = [p for p in dict.fromkeys(prompts) if p not in known]
        encoded = encode(self.tokenizer, [self.prompt_text(p) for p in new])
        if len(known) + len(new) > KEPT_PROMPTS:
            known = self._prompt_ids = {p: known[p] for p in prompts if p in known}
        known.update({p: (*self._start_of(p), *ids) for p, ids in zip(new, encoded, strict=True)})
        return [list(known[p]) for p in prompts]

    def _start_of(self, prompt: Prompt) -> tuple[int, ...]:
        """What stands before the encoded text of a path; never nothing when the prompt is empty."""
        start = self.text_start if is_text(prompt) else self.start
        return start if start or self.prompt_text(prompt) else (self.empty_id,)

    @property
    def empty_id(self) -> int:
        """The token for "nothing before": start of text, else end of text (as harnesses do)."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.stop_id):
            if token is not None:
                return int(token)
        raise AssertionError("stop_id is always set")

    # ------------------------------------------------------------------------------------------- responses

    def encode(self, prompt: Prompt, response: Response) -> Encoded:
        """The path of one response. See `encode_many`."""
        return self.encode_many([(prompt, response)])[0]

    def encode_many(self, pairs: Sequence[tuple[Prompt, Response]]) -> list[Encoded]:
        """Paths of responses, each from one encoding of its whole text, all in one call.

        A response with ids keeps them (token in, token out). Otherwise the stop token is appended unless
        `finish == "length"`. Where the border merges, the prompt ends at the last token that both encodings
        share.
        """
        prompts = self.prompt_ids_many([p for p, _ in pairs])
        texts = [self.path_text(p, r.text) for p, r in pairs if r.ids is None]
        wholes = iter(encode(self.tokenizer, texts))
        out = []
        for (prompt, response), head in zip(pairs, prompts, strict=True):
            if response.ids is not None:
                ids = [*head, *response.ids]
                stopped = bool(response.ids) and response.ids[-1] in self.stop_ids
                out.append(Encoded(ids, len(head), merged=False, stopped=stopped))
                continue
            whole = [*self._start_of(prompt), *next(wholes)]
            n_prompt = common(head, whole)
            stopped = response.finish != "length"
            stop = [self.stop_of(prompt)] if stopped else []
            out.append(Encoded(whole + stop, n_prompt, merged=n_prompt < len(head), stopped=stopped))
        return out

    def path_text(self, prompt: Prompt, response: str) -> str:
        """Prompt and response as one text, without the stop token."""
        continued = bool(prompt) and prompt[-1].role in ("text", "assistant")
        lead = "" if continued or response.startswith(self.lead) else self.lead
        return self.prompt_text(prompt) + lead + response

    def stop_of(self, prompt: Prompt) -> int:
        """The token that ends a response to this prompt: end of turn in a chat, end of text after text."""
        eos = self.tokenizer.eos_token_id
        return self.stop_id if eos is None or not is_text(prompt) else int(eos)

    def encode_harness(self, prompt: Prompt, continuation: str) -> Encoded:
        """The encode-pair rule of lm-evaluation-harness 0.4 (evaluation notes section 10), no stop token.

        White space at the end of the context moves to the continuation; the continuation is what the whole
        encoding has after as many tokens as the context has; the model reads the context's own encoding. An
        empty context becomes the start token (else the end token), which is not doubled if the continuation
        begins with it.
        """
        before = self.prompt_text(prompt)
        context = before.rstrip()
        continuation = before[len(context) :] + continuation
        if not context:
            (tail,) = encode(self.tokenizer, [continuation])
            tail = tail[1:] if tail[:1] == [self.empty_id] else tail
            return Encoded([self.empty_id, *tail], 1, merged=False, stopped=False)
        start = list(self.text_start if is_text(prompt) else self.start)
        ids, whole = (start + x for x in encode(self.tokenizer, [context, context + continuation]))
        return Encoded(ids + whole[len(ids) :], len(ids), merged=whole[: len(ids)] != ids, stopped=False)

    # --------------------------------------------------------------------------------------- conversations

    def encode_chat(
        self, messages: Prompt, train_on: Literal["last", "all"] = "last"
    ) -> tuple[list[int], list[int]]:
        """A conversation as (ids, loss mask): 1 on the assistant's tokens with their stop tokens, else 0.

        Raises `DataError` when the template rewrites earlier turns, so that one path cannot train them all:
        use `chat_paths`.
        """
        paths = self.chat_paths(messages, train_on)
        if len(paths) > 1:
            raise DataError(
                "the chat template rewrites earlier turns, so its trained turns do not lie on one path",
                where="messages",
                how=['train_on="last"', "or chat_paths(), which gives each rewritten turn its own path"],
            )
        return paths[0]

    def chat_paths(
        self, messages: Prompt, train_on: Literal["last", "all"] = "last"
    ) -> list[tuple[list[int], list[int]]]:
        """The paths that train the assistant's turns: one, and one more per turn that is rewritten.

        Marks of the template ({% generation %}) are the mask; else the text up to a turn must begin the
        text of the whole conversation. What follows the last trained token is cut. Raises `DataError`
        without an assistant turn.
        """
        turns = [k for k, m in enumerate(messages) if m.role == "assistant"]
        if not turns or (train_on == "last" and turns[-1] != len(messages) - 1):
            raise DataError("no assistant turn at the end of the conversation", where="messages")
        wanted = turns if train_on == "all" else turns[-1:]
        text, spans, rewritten = self._spans(messages, wanted)
        paths = [self._masked(text, spans)] if spans else []
        if rewritten:
            log.info(
                "the chat template rewrites %d earlier turn(s): each becomes its own path", len(rewritten)
            )
        for k in rewritten:
            path = self.encode(messages[:k], Response(messages[k].content))
            paths.append((path.ids, [0] * path.n_prompt + [1] * (len(path.ids) - path.n_prompt)))
        return paths

    def _spans(self, messages: Prompt, wanted: list[int]) -> tuple[str, list[tuple[int, int]], list[int]]:
        """The rendered conversation, the character spans of wanted turns, and the turns without one."""
        stop = self.tokenizer.convert_ids_to_tokens(self.stop_id)
        text = self.rendered(messages)
        if tokens.GENERATION_MARK.search(self.source):
            marks = tokens.marked(self.tokenizer, self.source, plain(messages))
            earlier = tokens.marked(self.tokenizer, self.source, plain(messages[: wanted[0]]))
            with_stop = [(a, b + len(stop) if text.startswith(stop, b) else b) for a, b in marks]
            return text, with_stop[len(earlier) :], []
        spans, rewritten = [], []
        for k in wanted:
            before = self.rendered(messages[:k], prompt=True)
            through = self.rendered(messages[: k + 1])
            if not (through.startswith(before) and text.startswith(through)):
                rewritten.append(k)
                continue
            end = through.rfind(stop, len(before))
            spans.append((len(before), end + len(stop) if end >= 0 else len(through)))
        return text, spans, rewritten

    def _masked(self, text: str, spans: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
        """Ids of a text with 1 on the tokens of the spans. A token over a span's start belongs to it."""
        edges = [edge for span in spans for edge in span]
        whole, *heads = encode(self.tokenizer, [text, *(text[:e] for e in edges)])
        cuts = [common(head, whole) for head in heads]
        mask = [0] * len(whole)
        for first, last in zip(cuts[::2], cuts[1::2], strict=True):
            mask[first:last] = [1] * (last - first)
        end = max(cuts, default=0)
        return [*self.start, *whole[:end]], [0] * len(self.start) + mask[:end]

    # -------------------------------------------------------------------------------------------- the rest

    def decode(self, ids: Iterable[int]) -> str:
        """Text for people; special tokens are left out. Never encode it again in place of the ids."""
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    @cached_property
    def has_system(self) -> bool:
        """Whether a system turn is accepted and shown to the model."""
        try:
            return PROBE in self.rendered((Message("system", PROBE), Message("user", "Why?")), prompt=True)
        except DataError:
            return False

    @cached_property
    def sha256(self) -> str:
        """Identity of everything that decides ids: template, tokenizer, start and stop tokens."""
        parts = (self.source, repr(self.start), repr(self.text_start), repr(self.stop_ids), repr(self.lead))
        return hashlib.sha256("\0".join((*parts, tokens.state(self.tokenizer))).encode()).hexdigest()

    def audit(self) -> list[Check]:
        """(name, ok, text) of every check that a run prints before step 0. See `template_audit`."""
        from valign.models.template_audit import audit

        return audit(self)

    def rendered(self, messages: Prompt, *, prompt: bool = False) -> str:
        try:
            text = render(self.tokenizer, self.source, plain(messages), prompt=prompt)
        except Exception as error:  # a template is a program of somebody else: it may raise anything
            raise DataError(
                f"the chat template refuses this conversation: {error}", where=self._offender(messages)
            ) from error
        for k, m in enumerate(messages):
            if m.role == "system" and m.content.strip() not in text:
                raise DataError(
                    "the chat template drops the system turn",
                    where=f"turn {k + 1} (system)",
                    how="put it at the start of the first user turn",
                )
        return text

    def _offender(self, messages: Prompt) -> str:
        """The first turn with which the template fails."""
        for k in range(1, len(messages) + 1):
            try:
                render(self.tokenizer, self.source, plain(messages[:k]))
            except Exception:  # the same foreign program
                return f"turn {k} ({messages[k - 1].role})"
        return "messages"


def is_text(prompt: Prompt) -> bool:
    """Whether a prompt is raw text. Raises `DataError` when raw text stands among chat turns."""
    texts = [m.role == "text" for m in prompt]
    if any(texts) and not all(texts):
        raise DataError('raw text (role "text") cannot stand among chat turns', where="prompt")
    return bool(texts) and texts[0]
