"""Reports: one JSON, and everything drawn from it: a self-contained page, a model card, a terminal table, a
diff.

Always true here: `build` alone decides what a report says; every other file of this room reads its JSON and
adds no number of its own. How things are measured is `evaluation`'s subject, when they are measured the
pipeline's.
"""

from valign.report.build import SubjectReport, method_report
from valign.report.diff import Change, diff
from valign.report.html import render
from valign.report.markdown import model_card
from valign.report.watch import run_curve, run_summary, watch_page
from valign.report.write import read_report, read_whole, redraw, write_report

__all__ = [
    "Change",
    "SubjectReport",
    "diff",
    "method_report",
    "model_card",
    "read_report",
    "read_whole",
    "redraw",
    "render",
    "run_curve",
    "run_summary",
    "watch_page",
    "write_report",
]
