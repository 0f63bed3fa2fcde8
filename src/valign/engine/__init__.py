"""The hot path: trees of token segments, one scorer, one generator, one training loop.

Every family of methods and every evaluation passes through here. Nothing in this room knows a goal, a reward or a
method: they are passed in.
"""
