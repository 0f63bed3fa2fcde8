"""Task instructions (level 1): templates that turn examples into prompts, collections of tasks, and mixtures of them."""

from valign.data.tasks.collection import read_collection, read_mixture
from valign.data.tasks.dataset import as_dataset
from valign.data.tasks.mixture import Mixture, rates, task_counts
from valign.data.tasks.super_ni import read_super_ni
from valign.data.tasks.task import Task
from valign.data.tasks.template import Rendered, Template, read_templates

__all__ = [
    "Mixture",
    "Rendered",
    "Task",
    "Template",
    "as_dataset",
    "rates",
    "read_collection",
    "read_mixture",
    "read_super_ni",
    "read_templates",
    "task_counts",
]
