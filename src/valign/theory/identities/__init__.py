"""Every identity the toolkit rests on, checked: residual, bound, verdict (theory notes, section 14).

`check()` runs all of them in the same order with the same random numbers every time. One function per
number or family yields one `IdentityResult` per statement. Numbers that were never assigned: 11, 16, 20,
23, 26, 28, 29.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from valign.theory.identities import coefficients, composition, optima, rollouts
from valign.theory.identities.result import IdentityResult

Identity = Callable[[], Iterator[IdentityResult]]

NUMBERS = tuple(n for n in range(1, 43) if n not in (11, 16, 20, 23, 26, 28, 29))
IDENTITIES: tuple[Identity, ...] = (
    *optima.IDENTITIES,
    *composition.IDENTITIES,
    *rollouts.IDENTITIES,
    *coefficients.IDENTITIES,
)


def check(
    progress: Callable[[IdentityResult], None] | None = None, identities: Sequence[Identity] = IDENTITIES
) -> list[IdentityResult]:
    """Run the identities and return their results sorted by number; `progress` sees each one as it comes.

    The check as a whole holds iff every result is ok.
    """
    results = []
    for identity in identities:
        for result in identity():
            if progress is not None:
                progress(result)
            results.append(result)
    return sorted(results, key=lambda r: (r.number, r.id))


def table(results: Sequence[IdentityResult]) -> str:
    """The results as lines: id, residual, bound, verdict, statement, note."""
    lines = []
    for r in results:
        bound = "reported" if r.bound is None else f"{r.bound:8.0e}"
        note = f"  ({r.note})" if r.note else ""
        lines.append(
            f"{r.id:<20} {r.residual:9.2e} {bound:>8}  {'ok  ' if r.ok else 'MISS'}  {r.statement}{note}"
        )
    return "\n".join(lines)


__all__ = ["IDENTITIES", "NUMBERS", "Identity", "IdentityResult", "check", "table"]
