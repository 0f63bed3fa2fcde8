"""EndpointPolicy: a model behind an OpenAI-compatible server that generates like any other policy.

Always true here: one request is one sample, with a seed of its own from (seed, key, index), so a sample does not depend on
how requests are grouped (as far as the server keeps its word on seeds); a request without an answer is a sample with a
`failure`, never an empty text; nothing is scored: a generation server's prompt log-probs bypass its prefix cache and are
not asked for. No request is made before something is generated.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from valign.data.group import Group, Prompt
from valign.errors import ModelError, UsageError, ValignError, require
from valign.models.chat import is_text
from valign.models.endpoint.address import Address, parse
from valign.models.endpoint.budget import Budget, CostCeiling
from valign.models.endpoint.client import Client, NoAnswer, in_parallel
from valign.models.endpoint.reply import Malformed, Reply, read_chat, read_completion
from valign.models.policy import Cost, Floats, Kind, Progress, Sample, Sampling, Scored, no_sample

log = logging.getLogger(__name__)
SEED_BITS = 31  # some servers keep seeds as 32-bit integers with sign
MAX_STOPS = 4  # the OpenAI protocol's limit
LIKELIHOOD_HOW = (
    "load the same weights as a local model for whatever needs log-probs: a folder, a GGUF file or a hub id",
    "an endpoint can generate, be judged and make data",
)


@dataclass(frozen=True)
class _Request:
    """One sample to ask for, and its place in the answer."""

    row: int
    index: int
    path: str
    body: dict[str, Any]
    read: Callable[[Any], Reply]


@dataclass(eq=False)
class EndpointPolicy:
    """The model that `address` names. `connect` makes the client of one call; tests pass their own.

    budget   what may be spent, also by others who hold it; None: nothing is counted in money
    """

    address: Address
    cost: Cost = field(default_factory=Cost)
    connect: Callable[[Address], Client] = Client
    budget: Budget | None = None
    _answered: bool = field(default=False, init=False, repr=False)
    _log_probs: bool = field(default=True, init=False, repr=False)  # False: the server refused to tell them

    @classmethod
    def named(cls, name: str, budget: Budget | None = None) -> EndpointPolicy:
        """From the written form. Raises `UsageError` for a form that cannot be read."""
        return cls(parse(name), budget=budget)

    @property
    def id(self) -> str:
        return self.address.id

    @property
    def kind(self) -> Kind:
        return "endpoint"

    def card(self) -> dict[str, Any]:
        """See `Policy.card`. What stands behind the address is the server's business: there is no digest, but the day."""
        a = self.address
        return {
            "id": self.id, "kind": self.kind, "base": None, "method": None,
            "config": {"protocol": a.protocol, "model": a.model, "url": a.url},
            "sha256": None, "parameters": None, "dtype": None, "device": None, "template_sha256": None,
            "likelihood": False, "notes": [f"asked on {time.strftime('%Y-%m-%d')}; the server may change its model"],
        }  # fmt: skip

    def runtime(self) -> dict[str, Any]:
        """The server computes, and tells nothing of it."""
        return {"engine": "endpoint"}

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        keys: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[list[Sample]]:
        """See `Policy.generate`: chat prompts by chat completions, raw text by completions.

        Raises `ModelError` where no request can succeed (key, model, address) and where none ever did, and `CostCeiling`
        with the samples that were had before.
        """
        asked = [self._asked(p, sampling) for p in prompts]
        return self._samples(asked, sampling, keys, progress)

    def continue_ids(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        stop_ids: Sequence[int] = (),
        keys: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[list[Sample]]:
        """Samples after token ids, the exact ones that a trainer reads: token in, token out.

        stop_ids   tokens that end a response, beside the server's own
        A sample whose token ids or log-probs are missing is a failure. Raises `UsageError` for the protocol `openai`.
        """
        if self.address.protocol != "vllm":
            raise UsageError("the OpenAI protocol tells no token ids", where=self.id,
                             how=f"if it is a vLLM server, name it vllm:{self.address.model}@{self.address.url}")  # fmt: skip
        body = {**self._settings(sampling, "completions"), "stop_token_ids": list(stop_ids)}
        read = _with_tokens if self.address.logprobs else read_completion
        asked = [("completions", {**body, "prompt": list(p)}, read) for p in prompts]
        return self._samples(asked, sampling, keys, progress)

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        """The token ids that the server's own template makes of each prompt; () where it does not tell."""
        asked = [self._asked(p, Sampling(max_new_tokens=1)) for p in prompts]
        requests = [_Request(i, 0, path, body, read) for i, (path, body, read) in enumerate(asked)]
        found: list[tuple[int, ...]] = [()] * len(prompts)
        for at, reply in self._replies(requests):
            if isinstance(reply, Reply):
                found[requests[at].row] = reply.prompt_ids
        return found

    def score(self, groups: Sequence[Group], *, progress: Progress | None = None) -> list[list[Scored]]:
        """Always raises `ModelError`: see the head of this file."""
        raise ModelError("an endpoint cannot say how probable a given response is", where=self.id, how=LIKELIHOOD_HOW)

    def save(self, folder: Path) -> None:
        """A policy folder that names the endpoint (never its key)."""
        from valign.models.policy_folder import write_policy_folder

        write_policy_folder(Path(folder), kind="endpoint", base=self.address.text)

    # ------------------------------------------------------------------------------------------------- requests

    def _asked(self, prompt: Prompt, sampling: Sampling) -> tuple[str, dict[str, Any], Callable[[Any], Reply]]:
        """(path, body without seed, reader) of one prompt."""
        if is_text(prompt):
            text = "".join(m.content for m in prompt)
            return "completions", {**self._settings(sampling, "completions"), "prompt": text}, read_completion
        if not prompt:
            raise ValignError("the prompt is empty", where=self.id, how="give it a turn, or raw text")
        body = {**self._settings(sampling, "chat"), "messages": [{"role": m.role, "content": m.content} for m in prompt]}
        if prompt[-1].role == "assistant":
            self._require_vllm("to continue a turn of the assistant")
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        return "chat/completions", body, read_chat

    def _settings(self, sampling: Sampling, route: str) -> dict[str, Any]:
        """The sampling law, said in full: what is left out a server fills in from its own defaults."""
        a, s = self.address, sampling
        length = "max_completion_tokens" if route == "chat" and a.key_env == "OPENAI_API_KEY" else "max_tokens"
        body: dict[str, Any] = {
            "model": a.model, "n": 1, length: s.max_new_tokens, "temperature": s.temperature, "top_p": s.top_p,
        }  # fmt: skip
        if s.stop:
            if a.protocol == "openai":
                require(len(s.stop) <= MAX_STOPS, "stop", s.stop, f"at most {MAX_STOPS} texts for an OpenAI endpoint")
            body["stop"] = list(s.stop)
        if a.protocol == "vllm":
            body |= {"top_k": s.top_k or -1, "min_p": s.min_p, "repetition_penalty": 1.0, "return_token_ids": True}
        elif s.top_k or s.min_p:
            self._require_vllm("to set top_k or min_p")
        if a.logprobs and self._log_probs:
            body["logprobs"] = True if route == "chat" else 1
        return body

    def _require_vllm(self, what: str) -> None:
        if self.address.protocol != "vllm":
            name = f"vllm:{self.address.model}@{self.address.url}"
            raise UsageError(f"the OpenAI protocol has no way {what}", where=self.id,
                             how=f"if the server is vLLM or understands its fields: {name}")  # fmt: skip

    def _samples(
        self, asked: Sequence[tuple[str, dict[str, Any], Callable[[Any], Reply]]], sampling: Sampling,
        keys: Sequence[str] | None, progress: Progress | None,
    ) -> list[list[Sample]]:  # fmt: skip
        addresses = list(keys) if keys is not None else [str(i) for i in range(len(asked))]
        require(len(addresses) == len(asked), "keys", len(addresses), f"one per prompt ({len(asked)})")
        requests = [
            _Request(row, i, path, {**body, "seed": seed_of(sampling.seed, key, i)}, read)
            for row, ((path, body, read), key) in enumerate(zip(asked, addresses))
            for i in range(sampling.n)
        ]
        out, over = [[no_sample("not asked")] * sampling.n for _ in asked], False
        for done, (at, reply) in enumerate(self._replies(requests), 1):
            r = requests[at]
            out[r.row][r.index] = (
                self._sample(reply, sampling) if isinstance(reply, Reply) else no_sample(reply.reason, reply.withheld)
            )
            over = over or (isinstance(reply, NoAnswer) and reply.over)
            if progress is not None:
                progress(done, len(requests))
        if over and self.budget is not None:
            raise CostCeiling(self.budget, self, out)
        return out

    def _replies(self, requests: Sequence[_Request]) -> Any:
        """(position, Reply or NoAnswer) of every request as it comes; what was spent is added at the end."""
        if not requests:
            return
        began, read, generated, reason, over = time.perf_counter(), 0, 0, "", False
        with self.connect(self.address) as client:
            client.budget = self.budget
            try:
                for at, reply in in_parallel(client, requests, lambda r: self._ask(client, r)):
                    if isinstance(reply, Reply):
                        self._answered = True
                        read, generated = read + reply.read, generated + reply.generated
                    else:
                        self._answered = self._answered or reply.withheld  # the endpoint works: it will not say
                        reason, over = reply.reason, over or reply.over
                    yield at, reply
            finally:
                seconds = time.perf_counter() - began
                self.cost += Cost(client.requests, read, generated, 0, seconds, client.retries, client.unanswered, client.money)
        if not self._answered and not over:  # a fault of the endpoint, not of single items
            raise ModelError(f"no request was answered: {reason}", where=self.id,
                             how="try one prompt: valign generate MODEL 'How are you?'")  # fmt: skip

    def _ask(self, client: Client, request: _Request) -> Reply | NoAnswer:
        try:
            return client.post(request.path, request.body, request.read)
        except NoAnswer as error:
            if error.status not in (400, 422, 501) or "logprob" not in error.reason or "logprobs" not in request.body:
                return error
        if self._log_probs:
            log.warning("%s tells no log-probs; it is asked without them", self.id)
        self._log_probs = False
        try:
            return client.post(request.path, {k: v for k, v in request.body.items() if k != "logprobs"}, request.read)
        except NoAnswer as error:
            return error

    def _sample(self, reply: Reply, sampling: Sampling) -> Sample:
        """The reply as a sample: what the server does not tell is empty.

        vLLM's log-probs are those of the model itself at any temperature (its default, raw_logprobs); what other servers
        tell is known only where the law is the model's own.
        """
        told = np.asarray(reply.log_probs, np.float32)
        unknown: Floats = np.zeros(0, np.float32)
        raw = told if sampling.is_plain or self.address.protocol == "vllm" else unknown
        law = told if sampling.is_plain else np.zeros(len(told), np.float32) if sampling.temperature == 0 else unknown
        cuts = [reply.text.index(s) for s in sampling.stop if s in reply.text]
        text = reply.text[: min(cuts)] if cuts else reply.text
        return Sample(text, reply.ids, raw, law, reply.finish, refused=reply.refused)


def seed_of(seed: int, key: str, index: int) -> int:
    """The server's seed of one sample, from its address."""
    digest = hashlib.sha256(f"{seed}|{key}|{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - SEED_BITS)


def _with_tokens(content: Any) -> Reply:
    """A completion that must tell ids and log-probs of its tokens."""
    reply = read_completion(content)
    if not reply.ids or not reply.log_probs:
        missing = "token ids" if not reply.ids else "log-probs"
        raise Malformed(f"no {missing}: a server of vLLM 0.10.2 or newer is needed, with log-probs on")
    return reply
