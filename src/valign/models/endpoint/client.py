"""Requests to one server: bounded in number, patient with what passes, clear about what does not.

Passing faults (timeouts, 408, 425, 429, 5xx, broken or malformed replies) are tried again after a growing, jittered pause,
no earlier than the server's Retry-After; when all attempts are spent the request has no answer (`NoAnswer`) and its item is
unscored. Lasting faults (wrong key, unknown model or address, a server that cannot be reached) raise `ModelError` at once:
no other request would fare better. The key is sent in one header and never shown; redirects, which could carry it
elsewhere, are not followed.
"""

from __future__ import annotations

import email.utils
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from valign.errors import ModelError
from valign.models.credentials import HIDDEN, hide
from valign.models.endpoint.address import Address
from valign.models.endpoint.budget import OVER, Budget, usage
from valign.models.endpoint.reply import Malformed, Withheld

log = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; doubled from attempt to attempt
LONGEST_WAIT = 120.0  # a longer Retry-After is no pause but a closed door
CONNECT = 10.0  # seconds in which a server accepts a connection
SHOWN = 300  # characters of a server's own words
T = TypeVar("T")
R = TypeVar("R")


class NoAnswer(Exception):
    """One request that stays without an answer, and why. status: the server's, 0 without one; `over`: it was not sent,
    because the cost ceiling is reached; `withheld`: there was one, and the server keeps it."""

    def __init__(self, reason: str, status: int = 0, over: bool = False, withheld: bool = False) -> None:
        self.reason, self.status, self.over, self.withheld = reason, status, over, withheld
        super().__init__(reason)


class Client:
    """Asks one server. A context manager; `sleep` waits that many seconds, `jitter` draws from [0, 1).

    requests, retries, unanswered, money   what was sent, sent again, given up and paid so far
    budget   asked before every request; None: nothing is counted in money
    """

    budget: Budget | None = None

    def __init__(
        self, address: Address, *, sleep: Callable[[float], Any] | None = None, jitter: Callable[[], float] = random.random
    ) -> None:
        import httpx2

        self.address, self.jitter = address, jitter
        self.requests = self.retries = self.unanswered = 0
        self.money = 0.0
        self.closing = threading.Event()
        self.sleep = sleep or self.closing.wait  # waiting workers go home when the client closes
        self._key = address.key()
        if self._key and address.url.startswith("http:") and not address.is_local:
            log.warning("%s: the key travels unencrypted; use https", address.id)
        self._lock, self._not_before = threading.Lock(), 0.0
        self._http = httpx2.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(address.timeout, connect=CONNECT),
            limits=httpx2.Limits(max_connections=address.parallel, max_keepalive_connections=address.parallel),
            follow_redirects=False,
            trust_env=not address.is_local,  # a proxy cannot see this machine's own servers
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.close()

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """`read` of the JSON reply to `body`. Raises `NoAnswer`, or `ModelError` for lasting faults."""
        try:
            return self._post(path, body, read)
        except NoAnswer as fault:
            with self._lock:
                self.unanswered += not fault.over
            raise

    def _post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        fault, reachable = NoAnswer("not asked"), True
        for attempt in range(self.address.attempts):
            if not self._pause(attempt):
                raise NoAnswer("the client was closed")
            fault, reachable, found = self._try(path, body, read, again=attempt > 0)
            if found:
                return found[0]
        if not reachable:
            raise ModelError(f"the server cannot be reached: {fault.reason}", where=self.address.id,
                             how="is it running, and is the address right?")  # fmt: skip
        tries = f" ({self.address.attempts} attempts)" if self.address.attempts > 1 else ""
        raise NoAnswer(fault.reason + tries, fault.status)

    def _try(
        self, path: str, body: Mapping[str, Any], read: Callable[[Any], T], again: bool
    ) -> tuple[NoAnswer, bool, list[T]]:
        """(what is wrong, whether the server was reached, [the answer] or [])."""
        import httpx2

        held = self._set_aside(body, again)
        used: tuple[float, float] | None = None  # whoever does not know what was billed takes the worst case
        try:
            response = self._http.post(f"{self.address.url}/{path}", json=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol) as error:
            used = (0, 0)
            return NoAnswer(self._shown(str(error)) or type(error).__name__), False, []
        except httpx2.TimeoutException:
            return NoAnswer(f"timeout: no byte for {self.address.timeout:g} s"), True, []
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            return NoAnswer(f"the connection broke: {self._shown(str(error))}"), True, []
        else:
            content = _json(response)
            used = usage(content) if response.status_code == 200 else (0, 0)
            return _understood(content, read) if response.status_code == 200 else (self._refused(response), True, [])
        finally:
            self._settle(held, used)

    def _set_aside(self, body: Mapping[str, Any], again: bool) -> float | None:
        """Count the request and set its price aside. Raises `NoAnswer` where the ceiling is reached."""
        held = None
        if self.budget is not None and (held := self.budget.reserve(body, self.closing.is_set)) is None:
            raise NoAnswer(OVER, over=True)
        with self._lock:
            self.requests += 1
            self.retries += again
        return held

    def _settle(self, held: float | None, used: tuple[float, float] | None) -> None:
        if self.budget is not None and held is not None:
            cost = self.budget.settle(held, used)
            with self._lock:
                self.money += cost

    def _refused(self, response: Any) -> NoAnswer:
        """A fault that may pass; raises for one that will not."""
        status, said = response.status_code, self._shown(_message(response))
        text = f"HTTP {status}" + (f": {said}" if said else "")
        if status in (408, 425, 429) or status >= 500:
            wait = _retry_after(response.headers.get("retry-after"))
            if wait > LONGEST_WAIT:
                raise NoAnswer(f"{text}; the server asks to wait {wait:.0f} s", status)
            if wait:
                with self._lock:
                    self._not_before = max(self._not_before, time.monotonic() + wait)
            return NoAnswer(text, status)
        if status in (401, 403):
            held = "is refused" if self._key else "is missing"
            raise ModelError(f"the key {held} ({text})", where=self.address.id,
                             how=f"the key is read from the environment variable {self.address.key_env}")  # fmt: skip
        if status in (404, 405):
            raise ModelError(f"the server knows no such model or path ({text})", where=self.address.id,
                             how=["the address ends with /v1 on most servers",
                                  f"curl {self.address.url}/models lists its models"])  # fmt: skip
        if 300 <= status < 400:
            raise ModelError(f"the server sends elsewhere ({text})", where=self.address.id,
                             how="name that address itself: redirects could carry the key away")  # fmt: skip
        raise NoAnswer(text, status)

    def _pause(self, attempt: int) -> bool:
        """Wait before an attempt; False when the client was closed meanwhile."""
        grown = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) * (0.5 + self.jitter()) if attempt else 0.0
        with self._lock:
            asked = self._not_before - time.monotonic()
        if asked > 0:  # everybody was told to wait: they do not come back all at once
            asked += FIRST_PAUSE * self.jitter()
        if (wait := max(grown, asked)) > 0:
            self.sleep(wait)
        return not self.closing.is_set()

    def _shown(self, text: str) -> str:
        """A server's or library's words, short and without the key, which some servers repeat."""
        if self._key:
            text = text.replace(self._key, HIDDEN)
        return hide(" ".join(text.split()))[:SHOWN]


def _json(response: Any) -> Any:
    """The body of a reply, None where it is not JSON."""
    try:
        return response.json()
    except ValueError:
        return None


def _understood(content: Any, read: Callable[[Any], T]) -> tuple[NoAnswer, bool, list[T]]:
    """What a 200 says. Raises `NoAnswer` for what would be the same when asked again."""
    if content is None:
        return NoAnswer("malformed reply: not JSON"), True, []
    try:
        return NoAnswer(""), True, [read(content)]
    except Malformed as error:
        return NoAnswer(f"malformed reply: {error}"), True, []
    except Withheld as error:
        raise NoAnswer(str(error), withheld=True) from error


def in_parallel(client: Client, tasks: Sequence[T], work: Callable[[T], R]) -> Iterator[tuple[int, R]]:
    """(position, result) of every task as it comes, at most `parallel` at once; the first exception ends all.

    The workers are daemons: an interrupted command does not wait for replies that nobody wants any more.
    """
    waiting, done = iter(enumerate(tasks)), queue.Queue[Any]()
    lock = threading.Lock()

    def run() -> None:
        while not client.closing.is_set():
            with lock:
                at, task = next(waiting, (-1, None))
            if at < 0:
                return
            try:
                done.put((at, work(task), None))  # type: ignore[arg-type]
            except BaseException as error:
                done.put((at, None, error))

    for _ in range(min(client.address.parallel, len(tasks))):
        threading.Thread(target=run, daemon=True).start()
    for _ in tasks:
        at, result, error = done.get()
        if error is not None:
            client.closing.set()
            raise error
        yield at, result


def _message(response: Any) -> str:
    """The server's own words: error.message where it follows the protocol, else the beginning of the body."""
    try:
        content = response.json()
    except ValueError:
        return str(response.text)[: 4 * SHOWN]
    error = content.get("error", content) if isinstance(content, Mapping) else content
    found = error.get("message", error) if isinstance(error, Mapping) else error
    return str(found)[: 4 * SHOWN]


def _retry_after(value: str | None) -> float:
    """Seconds to wait by a Retry-After header (RFC 9110, 10.2.3): a number or a date; 0 without a readable one."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
