"""From groups to trees: what is too long meets one policy, and nothing is cut or dropped uncounted."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from valign.data.group import Group, Message, Response, text, user
from valign.engine.layout import row_layout
from valign.engine.prepare import Ledger, chat_tree, response_tree
from valign.errors import ValignError
from valign.models.chat import ChatTemplate
from valign.models.conftest import random_text
from valign.models.merging import CORPUS, merging_tokenizer
from valign.models.merging import KINDS as TOKENIZERS


def group(prompt="hello", texts=("yes", "no it is not"), **more):
    return Group(id="g", prompt=user(prompt), responses=tuple(Response(t, **more) for t in texts))


def parts(tree):
    return [(tree.path(leaf).tolist(), leaf.first, tree.response_loss(leaf).tolist()) for leaf in tree.leaves]


@pytest.mark.proof("E1")
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


@pytest.mark.parametrize("prompt", [user("hello"), text("abcdefgh")], ids=["chat", "text"])
def test_the_prompt_is_cut_at_its_left(tiny, prompt):
    """on_long=cut_prompt_left: the start token and the responses stay whole, every response counts as cut."""
    template, ledger = tiny().template, Ledger()
    whole = response_tree(template, replace(group(), prompt=prompt), ledger=ledger)
    n = whole.longest - 3
    tree = response_tree(template, replace(group(), prompt=prompt), longest=n, on_long="cut_prompt_left", ledger=ledger)
    for (path, _, loss), (full, _, full_loss) in zip(parts(tree), parts(whole)):
        assert path == [*template.text_start, *full[4:]] and loss == full_loss
    assert len(template.text_start) == 1 and tree.longest == n
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


# ------------------------------------------------------------------------------------ trees of texts in every script


def random_groups(count):
    """Groups of four responses, raw text and chats in turn: random texts, one twice, one that begins another; every
    fourth is a sentence cut anywhere, so that tokens merge over the border."""
    rng = random.Random(1)
    for i in range(count):
        words = [random_text(rng) for _ in range(4)]
        if i % 4 == 1:
            sentence = rng.choice(CORPUS)
            cut = rng.randrange(len(sentence))
            words[0], words[2] = words[0] + sentence[:cut], sentence[cut : cut + rng.randint(1, 20)]
        said = (words[1], words[2] + words[3], words[2], words[1]) if i % 3 else tuple(words)
        yield Group(id=f"g{i}", prompt=(user, text)[i % 2](words[0]), responses=tuple(Response(w) for w in said))


def direct(template, group, response):
    """The oracle: what the tokenizer alone makes of the whole text, behind the start and before the stop token."""
    raw = group.prompt[0].role == "text"
    start = template.text_start if raw else template.start
    if not start and not template.prompt_text(group.prompt):
        start = (template.empty_id,)
    whole = template.tokenizer(template.path_text(group.prompt, response.text), add_special_tokens=False)["input_ids"]
    return [*start, *whole, template.tokenizer.eos_token_id if raw else template.stop_id]


def check_tree(template, group, tree):
    """T1 to T5, token by token."""
    for i, s in enumerate(tree.segments):  # T1
        assert s.parent < i and len(s.loss) == len(s.ids)
        above = tree.segments[s.parent] if s.parent >= 0 else None
        assert s.start == (above.start + len(above.ids) if above else 0)
    layout = row_layout([tree])
    seen = {(int(r), int(c)): (int(at), int(t)) for at, t, r, c in
            zip(layout.read, layout.target, layout.response, layout.column)}  # fmt: skip
    expected = 0
    for k, (leaf, response) in enumerate(zip(tree.leaves, group.responses)):
        path, loss = tree.path(leaf).tolist(), tree.path_loss(leaf)
        assert path == direct(template, group, response) and leaf.response == k  # T2
        assert loss[0] == 0 and set(loss.tolist()) <= {0.0, 1.0} and loss[-1] == 1  # T3: a predecessor, a stop token
        assert 0 < leaf.end <= len(tree.segments[leaf.segment].ids)  # T4
        for at in range(leaf.first, len(path)):  # T5: once for this leaf, read from the token before it on its path
            if loss[at]:
                read, target = seen[k, at - leaf.first]
                assert target == path[at]
                assert (layout.ids[0, read], layout.pos[0, read]) == (path[at - 1], at - 1)
                expected += 1
    assert len(seen) == len(layout.read) == expected


def check_texts(template, count):
    """Trees of `count` groups; (merged borders, tokens that are shared in branches)."""
    ledger, shared = Ledger(), 0
    for group in random_groups(count):
        tree = response_tree(template, group, ledger=ledger)
        check_tree(template, group, tree)
        shared += tree.unshared_tokens - (len(tree.leaves) - 1) * len(tree.segments[0].ids) - tree.tokens
    assert ledger.responses == 4 * count
    return ledger.merged, shared


@pytest.mark.proof("E1")
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_trees_of_random_texts_keep_every_path(tokenizer):
    """E1, T1 to T5: 1000 responses in every script, with byte-level BPE, BPE and Unigram on "▁": the ids of one direct
    encoding, merges over the border, equal and nested responses among them."""
    merged, shared = check_texts(ChatTemplate.from_tokenizer(merging_tokenizer(tokenizer)), 250)
    assert merged > 20 and shared > 250


@pytest.mark.proof("E1")
@pytest.mark.real
def test_trees_of_random_texts_keep_every_path_with_the_default_tokenizer():
    from transformers import AutoTokenizer

    from valign.models import embedded

    tokenizer = AutoTokenizer.from_pretrained(str(embedded.folder()), local_files_only=True)
    merged, shared = check_texts(ChatTemplate.from_tokenizer(tokenizer), 250)
    assert merged > 20 and shared > 250
