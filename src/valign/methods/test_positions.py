"""What a method puts around a prompt is counted before anything is computed, to the token."""

from __future__ import annotations

import pytest

from valign.data.group import user
from valign.errors import UsageError
from valign.methods.positions import require_room, require_room_for
from valign.methods.table import METHODS
from valign.methods.target import Target
from valign.rewards.base import length

PROMPTS = [user("Why?"), user("Why not, and since when?")]


def wrapped(name, policy, **settings):
    method = METHODS[name]
    return method.wrap(policy, Target(None, policy, reward=length()), method.configure(settings))


@pytest.mark.parametrize(
    ("name", "settings", "more"),
    [
        ("urial", {"examples": 0, "system": "Be kind."}, 0),
        ("value_instruction", {"text": "Be fair."}, 0),
        ("value_instruction", {"text": "Be fair.", "mode": "q_if_cot", "consider_tokens": 20}, 20),
    ],
)
def test_the_last_prompt_that_fits_is_let_through(tiny_policy, name, settings, more):
    """Also where another method stands on top, and with the thoughts that may come in between."""
    inner = wrapped(name, tiny_policy, **settings)
    seen, extra = inner.foreseen(PROMPTS)
    model = tiny_policy.model
    longest = max(len(ids) for ids in model.template.prompt_ids_many(seen))
    room = model.max_positions - longest - more
    assert extra == more
    for policy in (inner, wrapped("best_of_n", inner, n=2)):
        require_room_for(policy, PROMPTS, room, what="it", where="here")
        with pytest.raises(UsageError, match=f"needs {model.max_positions + 1} positions .* 1 of 2 prompts") as caught:
            require_room_for(policy, PROMPTS, room + 1, what="it", where="here")
        assert inner.shorter in caught.value.how


def test_without_prompts_or_a_known_length_nothing_is_refused(tiny_policy):
    require_room(tiny_policy.model, [], 10**6, what="it", where="here")
    with pytest.raises(UsageError):
        require_room(tiny_policy.model, PROMPTS, 10**6, what="it", where="here")


def test_only_what_is_drawn_to_score_needs_room(tiny_policy):
    one, two = (wrapped("best_of_n", tiny_policy, n=n) for n in (1, 2))
    assert one.drawn_to_score == 0 < two.drawn_to_score
