"""What a measurement cost, beside every number that it gave, and the ceiling that a user sets for endpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from valign.errors import UsageError
from valign.evaluation.result import Result
from valign.models.endpoint import Budget, Prices
from valign.models.policy import Cost, Policy, has_likelihood
from valign.pipeline.meter import Spent, spent

ACCOUNT = "cost.json"  # in the output folder: what all runs of it have spent


@contextmanager
def accounted(results: list[Result], policies: Sequence[Policy | None]) -> Iterator[Spent]:
    """Write what the block cost into the provenance of the Results that it appends: seconds, tokens, peak memory of this
    process, and of an endpoint retries, unanswered requests, money.

    Answers that came from the log count what they cost the run that asked for them, so an evaluation that was interrupted
    states the whole price.
    """
    asked = {id(p): p for p in policies if p is not None}.values()  # who has two parts is paid once
    first, before = len(results), [(p.cost, _earlier(p)) for p in asked]
    with spent() as used:
        yield used
    for policy, (now, logged) in zip(asked, before):
        read = _earlier(policy) - logged
        used.cost += policy.cost - now + read
        used.seconds += read.seconds
    cost = used.to_json()
    results[first:] = [replace(r, provenance={**r.provenance, "cost": cost}) for r in results[first:]]


def _earlier(policy: Policy) -> Cost:
    """What earlier runs spent on answers that were read from the log."""
    found = getattr(policy, "cost_from_log", Cost())
    return replace(found, tokens_read=round(found.tokens_read), tokens_generated=round(found.tokens_generated))


def budget_of(
    ceiling: float | None, read: float | None, generated: float | None, out: Path | None, *, workers: int = 0
) -> Budget | None:
    """The budget that options ask for; None where none was given.

    out   the output folder, which keeps the account: a run that is continued goes on counting where it was
    Raises `UsageError` for a ceiling without prices or folder, and for workers, who could not share one account.
    """
    if ceiling is None and read is None and generated is None:
        return None
    if read is None and generated is None:
        raise UsageError("a ceiling needs prices: valign knows none", where="--max-cost",
                         how="--price-read and --price-generated: money per million tokens")  # fmt: skip
    if ceiling is not None and out is None:
        raise UsageError("a ceiling needs a folder that keeps what was paid for", where="--max-cost", how="--out FOLDER")
    if workers:
        raise UsageError("several workers cannot share one account", where="--workers", how="leave --workers out")
    return Budget(Prices(read or 0.0, generated or 0.0), ceiling, out / ACCOUNT if out is not None else None)


def check_priced(policies: Sequence[Policy | None], budget: Budget | None) -> None:
    """Raises `UsageError` where prices are given and nobody is paid: no policy, and no judge among them, is an endpoint."""
    asked = [p for p in policies if p is not None]
    if budget is not None and all(map(has_likelihood, asked)):
        names = " and ".join(dict.fromkeys(p.id for p in asked))
        raise UsageError(f"{names}: on this machine nobody is paid for tokens", where="--price-read",
                         how="leave prices and --max-cost out, or name an endpoint")  # fmt: skip
