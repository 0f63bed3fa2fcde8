"""What endpoints may cost in all: a ceiling that is never crossed, and an account that survives a kill.

A request is sent only when even its longest answer still fits under the ceiling: its worst case is set aside, and what it
really cost takes that place when the answer comes. An attempt that may have been billed without an answer (a timeout, a
broken connection, a reply that cannot be read) counts at its worst case. With a file, what was set aside by a process that
was killed counts as spent, so a run that is continued never pays more than was allowed.

Prices are the user's, per million tokens, in whatever currency; valign knows none.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valign.errors import DataError, ValignError, require

MILLION = 1_000_000
FRAME = 256  # tokens: a template's own, with a server's default system turn; a generous guess
TURN = 16  # tokens around each message
OVER = "the cost ceiling is reached"


class CostCeiling(ValignError):
    """Nothing more may be spent. `policy` stopped at `partial`: samples per prompt, those not asked for as failures."""

    def __init__(self, budget: Budget, policy: Any = None, partial: Any = None) -> None:
        self.policy, self.partial = policy, partial
        super().__init__(
            f"{OVER}: {budget.spent:.6g} of {budget.ceiling:.6g} is spent, and the next request might not fit",
            where="--max-cost",
            how=("what was answered is kept", "allow more with --max-cost and run the same command again: it continues"),
        )


@dataclass(frozen=True)
class Prices:
    """Money per million tokens read (prompt) and generated (completion)."""

    read: float
    generated: float

    def __post_init__(self) -> None:
        for name in ("read", "generated"):
            require(0 <= getattr(self, name) < float("inf"), f"price_{name}", getattr(self, name), "0 or more")
        require(self.read + self.generated > 0, "price", 0, "positive for at least one kind of token")

    def of(self, read: float, generated: float) -> float:
        """What so many tokens cost."""
        return (self.read * read + self.generated * generated) / MILLION


class Budget:
    """An account of several policies and threads. ceiling None: it only counts.

    path   where the account is kept, so that the next process goes on with it; None: in memory
    """

    def __init__(self, prices: Prices, ceiling: float | None = None, path: Path | None = None) -> None:
        require(ceiling is None or 0 < ceiling < float("inf"), "max_cost", ceiling, "a positive amount")
        self.prices, self.ceiling, self.path = prices, ceiling, path
        self.spent = _read(path) if path is not None and path.exists() else 0.0
        self.held = 0.0
        self._changed = threading.Condition()

    def reserve(self, body: Mapping[str, Any], closing: Callable[[], bool] = lambda: False) -> float | None:
        """Set a request's worst case aside: the amount, or None when it does not fit under the ceiling.

        While others are under way it waits for what they give back; `closing` ends the waiting.
        """
        amount = self.prices.of(*worst_case(body))
        with self._changed:
            while self.ceiling is not None and self.spent + self.held + amount > self.ceiling:
                if not self.held or closing():
                    return None
                self._changed.wait(0.1)
            self.held += amount
            self._write()
        return amount

    def settle(self, amount: float, tokens: tuple[float, float] | None) -> float:
        """Replace what was set aside by what was used; None: nobody knows, so the worst case counts. Returns the cost."""
        cost = amount if tokens is None else self.prices.of(*tokens)
        with self._changed:
            self.held = max(0.0, self.held - amount)
            self.held = 0.0 if self.held < 1e-15 else self.held  # sums of floats end beside 0
            self.spent += cost
            self._write()
            self._changed.notify_all()
        return cost

    def _write(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        prices = {"read": self.prices.read, "generated": self.prices.generated}
        partial.write_text(json.dumps({"spent": self.spent, "held": self.held, "prices_per_million": prices}) + "\n")
        os.replace(partial, self.path)


def worst_case(body: Mapping[str, Any]) -> tuple[int, int]:
    """(tokens read, tokens generated) that a request can cost at most.

    A tokenizer makes at most one token of a byte, so a text has at most as many tokens as UTF-8 bytes; a template adds a
    frame and a few tokens per turn.
    """
    prompt, turns = body.get("prompt"), body.get("messages") or ()
    read = FRAME + sum(len(str(m.get("content", "")).encode()) + TURN for m in turns)
    if isinstance(prompt, str):
        read += len(prompt.encode())
    elif prompt is not None:
        read += len(prompt)
    longest = body.get("max_tokens", body.get("max_completion_tokens", 0))
    return read, int(longest) * int(body.get("n", 1))


def usage(content: Any) -> tuple[int, int] | None:
    """(read, generated) tokens as a server's reply counts them; None where it does not."""
    found = content.get("usage") if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    counts = [found.get(k) for k in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in counts):
        return None
    return counts[0], counts[1]  # type: ignore[return-value]


def _read(path: Path) -> float:
    """What earlier processes spent, and what they may have: requests that were under way when one was killed."""
    try:
        found = json.loads(path.read_text())
        return float(found["spent"]) + float(found["held"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("the account of costs cannot be read", where=str(path),
                        how="without it the ceiling cannot be kept: choose another --out") from error  # fmt: skip
