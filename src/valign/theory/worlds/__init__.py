"""Oracle worlds: small enough to enumerate, so the target, M1,
regret and gold reward of any policy on them are exact.

`TabularWorld` has 4 prompts x 8 responses, `SequenceWorld` 16 prompts x 3906 token sequences; both are a
`World`. Feedback is drawn by `draws`, planted difficulties stand in `variants`. No random numbers in the
definitions.
"""

from valign.theory.worlds.sequence import SequenceWorld
from valign.theory.worlds.tabular import TabularWorld
from valign.theory.worlds.world import World

__all__ = ["SequenceWorld", "TabularWorld", "World"]
