"""A mixture of tasks as a data set, as every command reads one."""

from __future__ import annotations

from valign.data.dataset import Dataset, ReadReport, content_sha256
from valign.data.tasks.mixture import Mixture, task_counts
from valign.errors import DataError

FORMAT = "tasks"


def as_dataset(mixture: Mixture, source: str) -> Dataset:
    """The groups that the mixture deals. Their number by task stands in the report; the licence is that of the tasks."""
    try:
        groups = tuple(mixture.deal())
    except DataError as error:
        raise DataError(error.what, where=f"{source}: {error.where}", how=error.how) from error
    dealt = task_counts(groups)
    counts = {t.id: dealt.get(t.id, 0) for t in mixture.tasks}
    there = sum(t.size for t in mixture.tasks)
    note = f"{len(groups)} of {there} examples, by their tasks' shares, seed {mixture.seed}"
    report = ReadReport(rows=len(groups), counts=counts, notes=(note,))
    return Dataset(groups, FORMAT, source, content_sha256(groups), report=report)
