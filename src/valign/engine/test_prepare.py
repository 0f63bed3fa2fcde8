"""From groups to trees: what is too long meets one policy, and nothing is cut or dropped uncounted."""

from __future__ import annotations

import pytest

from valign.data.group import Group, Message, Response, user
from valign.engine.prepare import Ledger, chat_tree, response_tree
from valign.errors import ValignError


def group(prompt="hello", texts=("yes", "no it is not"), **more):
    return Group(id="g", prompt=user(prompt), responses=tuple(Response(t, **more) for t in texts))


def parts(tree):
    return [(tree.path(leaf).tolist(), leaf.first, tree.response_loss(leaf).tolist()) for leaf in tree.leaves]


def test_paths_are_the_templates_and_end_with_a_trained_stop_token(tiny):
    """E1 for whole groups: the ids of every path are those of the text; the stop token has weight 1."""
    template, ledger = tiny().template, Ledger()
    tree = response_tree(template, group(), ledger=ledger)
    for (path, first, loss), r in zip(parts(tree), group().responses):
        encoded = template.encode(user("hello"), r)
        assert (path, first) == (encoded.ids, encoded.n_prompt)
        assert path[-1] == template.stop_id and loss == [1.0] * (len(path) - first)
    assert ledger.responses == 2 and ledger.cut_share == 0 and not ledger.dropped


def test_a_truncated_sample_is_not_trained_as_if_finished(tiny):
    template = tiny().template
    tree = response_tree(template, group(finish="length"))
    assert all(path[-1] != template.stop_id for path, _, _ in parts(tree))


def test_too_long_is_an_error_that_names_the_group(tiny):
    """on_long=error."""
    with pytest.raises(ValignError, match=r"group g: a path has \d+ tokens, the limit is 12[\s\S]*on_long"):
        response_tree(tiny().template, group(), longest=12)


def test_too_long_is_dropped_and_counted(tiny):
    """on_long=drop: the whole group, so that pairs stay pairs."""
    ledger = Ledger()
    assert response_tree(tiny().template, group(), longest=12, on_long="drop", ledger=ledger) is None
    assert ledger.dropped == {"too long": ["g"]}
    assert response_tree(tiny().template, group(), longest=99, on_long="drop", ledger=ledger) is not None


def test_the_prompt_is_cut_at_its_left(tiny):
    """on_long=cut_prompt_left: responses stay whole, every response counts as cut."""
    template, ledger = tiny().template, Ledger()
    tree, whole = (
        response_tree(template, group(), longest=n, on_long="cut_prompt_left", ledger=ledger) for n in (18, 99)
    )
    assert tree.longest == 18
    for (path, first, loss), (full, full_first, full_loss) in zip(parts(tree), parts(whole)):
        assert path == full[full_first - first :] and loss == full_loss
    assert ledger.cut == {"prompt": ["g", "g"]} and ledger.cut_share == 2 / 4


def test_the_response_is_cut_without_its_stop_token(tiny):
    """on_long=cut_response: the short one stays whole, the long one loses its end and is not taught to
    stop there.
    """
    template, ledger = tiny().template, Ledger()
    whole = response_tree(template, group())
    tree = response_tree(template, group(), longest=16, on_long="cut_response", ledger=ledger)
    (short, _, _), (long, _, loss) = parts(tree)
    assert short == parts(whole)[0][0] and short[-1] == template.stop_id
    assert long == parts(whole)[1][0][:16] and long[-1] != template.stop_id and len(loss) == 16 - tree.leaves[1].first
    assert ledger.cut == {"response": ["g"]} and ledger.cut_share == 1 / 2


@pytest.mark.parametrize(
    ("policy", "reason"), [("cut_prompt_left", "response alone"), ("cut_response", "prompt alone")]
)
def test_what_cannot_be_cut_is_dropped_and_counted(tiny, policy, reason):
    ledger = Ledger()
    assert response_tree(tiny().template, group(), longest=4, on_long=policy, ledger=ledger) is None
    assert list(ledger.dropped) == [f"{reason} is too long"]


def test_all_turns_of_a_conversation_are_trained(tiny):
    """Every assistant turn has weight, user turns have none."""
    template, ledger = tiny().template, Ledger()
    talk = Group(
        id="c",
        prompt=(Message("user", "ab"), Message("assistant", "cd"), Message("user", "ef")),
        responses=(Response("gh"),),
    )
    (tree,) = chat_tree(template, talk, longest=99, on_long="drop", ledger=ledger)
    trained = [t for t, w in zip(tree.path(tree.leaves[0]), tree.path_loss(tree.leaves[0])) if w]
    assert template.decode(trained) == "cdgh" and trained.count(template.stop_id) == 2
    assert chat_tree(template, talk, longest=9, on_long="drop", ledger=ledger) == []
    assert ledger.dropped == {"too long": ["c"]} and ledger.responses == 2
    with pytest.raises(ValignError, match="group c"):
        chat_tree(template, talk, longest=9, on_long="error", ledger=ledger)
