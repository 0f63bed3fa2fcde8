"""Goals: what to align with, at four levels, as data. `load_goal` makes one; see `base.Goal` for what all can
do.
"""

from valign.goals.base import Goal, PrincipleScorer, ResponseScorer, ValueScorer
from valign.goals.benchmark import BenchmarkGoal, Component
from valign.goals.composite import CompositeGoal, Part
from valign.goals.conflict import Conflict, conflicts
from valign.goals.instruction import InstructionGoal
from valign.goals.loading import goal_names, load_goal, to_yaml
from valign.goals.preference import PreferenceGoal
from valign.goals.principle import Principle, PrincipleGoal, PrincipleSet, load_principles, principle_sets
from valign.goals.targets import Target, named_target, named_targets
from valign.goals.theory import Dimension, Theory, load_theory, theories
from valign.goals.value import ValueGoal

__all__ = [
    "BenchmarkGoal",
    "Component",
    "CompositeGoal",
    "Conflict",
    "Dimension",
    "Goal",
    "InstructionGoal",
    "Part",
    "PreferenceGoal",
    "Principle",
    "PrincipleGoal",
    "PrincipleScorer",
    "PrincipleSet",
    "ResponseScorer",
    "Target",
    "Theory",
    "ValueGoal",
    "ValueScorer",
    "conflicts",
    "goal_names",
    "load_goal",
    "load_principles",
    "load_theory",
    "named_target",
    "named_targets",
    "principle_sets",
    "theories",
    "to_yaml",
]
