"""Data: the one schema (groups), files that hold it, readers of foreign formats, conversions, audits.

Importing this room is cheap: packages that read tables or the hub are imported where they are used.
"""

from valign.data.audit import AuditLine, audit_demonstrations, audit_dilemmas, audit_instructions
from valign.data.builtin import builtin
from valign.data.convert import pairs_from_utility, pairs_to_unpaired, ranking_to_pairs, scores_to_pairs
from valign.data.dataset import Dataset, ReadReport, mixture, split
from valign.data.group import (
    Comparison,
    Critique,
    Demonstration,
    Edit,
    Feedback,
    Group,
    Message,
    Profile,
    Prompt,
    Ranking,
    Response,
    Score,
    VectorScore,
    Verdict,
    text,
    user,
)
from valign.data.inspect import Inspection, inspect
from valign.data.jsonl import read_groups, write
from valign.data.readers import READERS, read

__all__ = [
    "READERS",
    "AuditLine",
    "Comparison",
    "Critique",
    "Dataset",
    "Demonstration",
    "Edit",
    "Feedback",
    "Group",
    "Inspection",
    "Message",
    "Profile",
    "Prompt",
    "Ranking",
    "ReadReport",
    "Response",
    "Score",
    "VectorScore",
    "Verdict",
    "audit_demonstrations",
    "audit_dilemmas",
    "audit_instructions",
    "builtin",
    "inspect",
    "mixture",
    "pairs_from_utility",
    "pairs_to_unpaired",
    "ranking_to_pairs",
    "read",
    "read_groups",
    "scores_to_pairs",
    "split",
    "text",
    "user",
    "write",
]
