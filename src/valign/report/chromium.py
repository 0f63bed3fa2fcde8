"""A Chromium or Chrome that is installed on this machine, driven over its own pipe: pictures of figures, and
the tests that look at the page.

Nothing is downloaded and no package is needed: the browser is started with `--remote-debugging-pipe` and told
what to do in JSON (Chrome DevTools Protocol 1.3) over two file descriptors, so that no port is open. It
works without network: every host name is mapped to nothing.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from valign.errors import ValignError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ENVIRONMENT = "VALIGN_CHROMIUM"  # the path of a browser that stands elsewhere
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--disable-extensions", "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 120.0  # seconds for one answer: a loaded machine starts slowly
Json = dict[str, Any]


def find() -> str | None:
    """The path of a browser, or None."""
    named = os.environ.get(ENVIRONMENT)
    return next((found for n in ([named] if named else NAMES) if (found := shutil.which(n))), None)


class Browser:
    """`with Browser() as browser: page = browser.page()`.

    Raises `ValignError` where no browser is installed, and where it does not answer.
    """

    def __init__(self, *flags: str) -> None:
        found = find()
        if found is None:
            raise ValignError(
                "no Chromium or Chrome on this machine",
                where="pictures of figures",
                how=[
                    "install one (Debian: apt-get install chromium)",
                    f"or name one that is elsewhere: {ENVIRONMENT}=/path/to/chrome",
                    "or open the page in any browser: each figure has a PNG and an SVG button",
                ],
            )
        self.path, self.flags = found, flags
        self._last, self._rest = 0, b""
        self._events: list[Json] = []

    def __enter__(self) -> Browser:
        self._home = tempfile.TemporaryDirectory(prefix="valign-browser-", ignore_cleanup_errors=True)
        to_browser, from_browser = os.pipe(), os.pipe()
        # above 9, so that putting one at its place cannot overwrite the other
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (to_browser[0], from_browser[1])]
        for fd in (to_browser[0], from_browser[1]):
            os.close(fd)
        self._write, self._read = to_browser[1], from_browser[0]
        actions: list[Any] = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0o600) for fd in (0, 1, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, place) for fd, place in zip(theirs, (3, 4), strict=True)]
        command = [self.path, *FLAGS, f"--user-data-dir={self._home.name}", *self.flags]
        self._pid = os.posix_spawn(self.path, command, os.environ, file_actions=actions, setsid=True)
        for fd in theirs:
            os.close(fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in (self._write, self._read):
            os.close(fd)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._home.cleanup()

    def page(self) -> Page:
        """An empty tab."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        return Page(self, session)

    def call(self, method: str, params: Mapping[str, Any] | None = None, session: str | None = None) -> Json:
        """One command and its result; events that come meanwhile are kept."""
        self._last += 1
        asked: Json = {"id": self._last, "method": method, "params": dict(params or {})}
        if session is not None:
            asked["sessionId"] = session
        os.write(self._write, json.dumps(asked).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            message = self._receive(until, method)
            if message.get("id") != asked["id"]:
                self._events.append(message)
                continue
            if "error" in message:
                raise ValignError(f"the browser refused {method}: {message['error'].get('message')}", where=self.path)
            result: Json = message["result"]
            return result

    def wait(self, method: str, session: str, patience: float = PATIENCE) -> Json:
        """The next event of this name, those kept included."""
        until = time.monotonic() + patience
        while True:
            for i, event in enumerate(self._events):
                if event.get("method") == method and event.get("sessionId") == session:
                    found: Json = self._events.pop(i)["params"]
                    return found
            self._events.append(self._receive(until, method))

    def events(self, method: str, session: str) -> list[Json]:
        """Events of this name that came so far."""
        return [e["params"] for e in self._events if e.get("method") == method and e.get("sessionId") == session]

    def _receive(self, until: float, what: str) -> Json:
        while b"\0" not in self._rest:
            left = until - time.monotonic()
            ready = left > 0 and select.select([self._read], [], [], left)[0]
            more = os.read(self._read, 1 << 20) if ready else b""
            if not more:
                raise ValignError(
                    f"the browser did not answer {what}", where=self.path, how="try again, or use the page's own buttons"
                )
            self._rest += more
        line, self._rest = self._rest.split(b"\0", 1)
        message: Json = json.loads(line)
        return message


class Page:
    """A tab. Widths and heights are CSS pixels."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Json:
        return self.browser.call(method, params, self.session)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the window, and whether the reader prefers dark colours."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path: str | Path) -> float:
        """Load a file; returns the seconds until it was loaded and its script had run."""
        began = time.monotonic()
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.browser.wait("Page.loadEventFired", self.session)
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        return time.monotonic() - began

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise ValignError(f"script error: {found['exceptionDetails']}", where=expression[:80])
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """One key, as a person presses it: Tab, Enter, ArrowDown, or a letter."""
        codes = {"Tab": 9, "Enter": 13, "ArrowDown": 40, "ArrowUp": 38, "Escape": 27, " ": 32}
        about: Json = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def picture(self, clip: Mapping[str, float] | None = None, scale: float = 1.0) -> bytes:
        """A PNG of the window, or of a part of the page: {"x", "y", "width", "height"}."""
        more: Json = {"clip": {**clip, "scale": scale}, "captureBeyondViewport": True} if clip else {}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **more)["data"])

    def requests(self) -> list[str]:
        """Addresses that the page asked for, its own file among them."""
        return [e["request"]["url"] for e in self.browser.events("Network.requestWillBeSent", self.session)]

    def complaints(self) -> list[str]:
        """What the browser logged as warning or error, and exceptions of the script."""
        logged = [e["entry"]["text"] for e in self.browser.events("Log.entryAdded", self.session)]
        thrown = self.browser.events("Runtime.exceptionThrown", self.session)
        return logged + [str(e["exceptionDetails"].get("exception", e)) for e in thrown]
