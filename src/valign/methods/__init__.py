"""Every way to move a policy toward a target.

A training method is a sampler (where responses come from), an objective (a pure function) and a config. An in-context
or decoding method is a function from policy to policy. `table.METHODS` is the one list of them.
"""
