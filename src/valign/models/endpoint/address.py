"""The written form of an endpoint: PROTOCOL:MODEL@URL, with options after a "#".

    openai:gpt-4o-mini@https://api.openai.com/v1
    vllm:qwen3@http://localhost:8000/v1#parallel=32,timeout=120

`openai` sends only what the OpenAI protocol has; `vllm` adds fields that vLLM understands: token ids, the whole sampling
law. Always true here: an address holds no credential, so it can be printed and stored; the key stays in the environment.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from valign.errors import UsageError, require, unknown
from valign.models.credentials import hide

Protocol = Literal["openai", "vllm"]
FORM = "PROTOCOL:MODEL@URL with PROTOCOL openai or vllm, for example vllm:qwen3@http://localhost:8000/v1"
KEY_ENV = "VALIGN_API_KEY"
OPENAI, OPENAI_KEY_ENV = "api.openai.com", "OPENAI_API_KEY"
_NAME = re.compile(rf"(?P<protocol>{'|'.join(get_args(Protocol))}):(?P<model>.*?)@(?P<url>https?://.*)", re.DOTALL)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Address:
    """Where a model is served and how it is asked.

    url       base address, up to and with /v1        key_env   the environment variable that holds the key
    parallel  requests under way at once              timeout   seconds without a byte before a request is given up
    attempts  how often a request is sent at most     logprobs  whether log-probs are asked for
    """

    protocol: Protocol
    model: str
    url: str
    key_env: str = ""
    parallel: int = 16
    timeout: float = 300.0
    attempts: int = 5
    logprobs: bool = True

    def __post_init__(self) -> None:
        require(self.parallel >= 1, "parallel", self.parallel, "at least 1")
        require(0 < self.timeout < float("inf"), "timeout", self.timeout, "a positive number of seconds")
        require(self.attempts >= 1, "attempts", self.attempts, "at least 1")
        if not self.key_env:
            object.__setattr__(self, "key_env", OPENAI_KEY_ENV if self.host == OPENAI else KEY_ENV)

    @property
    def host(self) -> str:
        """The server's name, without port."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether the server runs on this machine: then no proxy is in between."""
        return self.host in LOCAL

    @property
    def id(self) -> str:
        """What is asked, without how: the policy's name in results."""
        return f"{self.protocol}:{self.model}@{self.url}"

    @property
    def text(self) -> str:
        """The written form, options that differ from their defaults included: `parse` gives this address back."""
        plain = Address(self.protocol, self.model, self.url)
        changed = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != getattr(plain, f.name)]
        options = ",".join(f"{name}={_written(value)}" for name, value in changed)
        return f"{self.id}#{options}" if options else self.id

    def key(self) -> str:
        """The key from the environment, "" where there is none. Raises `UsageError` for a variable that was named and is
        not set, and for what cannot stand in a header (without repeating it)."""
        found = os.environ.get(self.key_env, "").strip()
        if not found and self.key_env not in (KEY_ENV, OPENAI_KEY_ENV):
            raise UsageError(f"the environment variable {self.key_env} is not set", where=self.id,
                             how=f"export {self.key_env}=...")  # fmt: skip
        if not (found.isascii() and found.isprintable()):
            raise UsageError(f"the key in {self.key_env} holds signs that no key has", where=self.id, how="copy it again")
        return found


def is_endpoint(name: object) -> bool:
    """Whether a model's name is meant as an endpoint (it may still be written wrongly)."""
    return str(name).startswith(tuple(f"{p}:" for p in get_args(Protocol)))


def parse(name: str) -> Address:
    """The address that a name says. Raises `UsageError` for what is not one, and for credentials in it."""
    head, _, options = name.partition("#")
    found = _NAME.fullmatch(head)
    if found is None or not found["model"] or not name.isprintable() or " " in found["url"]:
        raise UsageError("not an endpoint", where=hide(name), how=f"write {FORM}")
    url, where = found["url"].rstrip("/"), hide(head)
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"the address cannot be read: {error}", where=where, how=f"write {FORM}") from error
    if not host:
        raise UsageError("the address names no server", where=where, how=f"write {FORM}")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "credentials do not belong into an address: it is printed and stored", where=where,
            how=f"put the key into the environment variable {KEY_ENV} (another one: #key_env=NAME)",
        )  # fmt: skip
    if parts.query:  # shown without its values: they are often keys
        raise UsageError("the address has a query", where=hide(head.partition("?")[0]), how="leave out what follows the ?")
    return Address(found["protocol"], found["model"], url, **_options(options, where))  # type: ignore[arg-type]


def _options(text: str, where: str) -> dict[str, Any]:
    known = {f.name: f for f in fields(Address)[3:]}
    out: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        if name not in known:
            raise unknown("option", name, known, where=where)
        if name == "key_env" and not _VARIABLE.fullmatch(value):  # perhaps the key itself: it is not repeated
            raise UsageError("key_env is not the name of an environment variable", where=where,
                             how="capital letters, digits and _, for example key_env=MY_KEY")  # fmt: skip
        out[name] = value if name == "key_env" else _value(name, value, str(known[name].type), where)
    return out


def _value(name: str, value: str, kind: str, where: str) -> Any:
    try:
        if kind == "bool":
            return {"yes": True, "no": False}[value]
        return int(value) if kind == "int" else float(value)
    except (ValueError, KeyError) as error:
        expected = {"bool": "yes or no", "int": "a whole number"}.get(kind, "a number")
        raise UsageError(f"{name}={value} is not {expected}", where=where) from error


def _written(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
