"""E1: the ids of a path are those of its whole text; borders, masks and stop tokens are where they belong."""

from __future__ import annotations

import random

import pytest

from valign.data.group import Message, Response, text, user
from valign.errors import DataError, ModelError
from valign.models.chat import ChatTemplate
from valign.models.merging import CHATML, KINDS, merging_tokenizer
from valign.models.tiny import tiny_tokenizer

MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETFUL = (  # drops the thinking of earlier turns, as reasoning models do
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK = (
    *user("Hi, who are you?", system="Be kind."),
    Message("assistant", "A friend."),
    Message("user", "Of whom?"),
    Message("assistant", "  Of yours.\n"),
)


def template(kind: str, source: str | None = None, **special: str) -> ChatTemplate:
    tokenizer = merging_tokenizer(kind)
    tokenizer.add_special_tokens(special) if special else None
    if source is not None:
        tokenizer.chat_template = source
    return ChatTemplate.from_tokenizer(tokenizer)


def direct(t: ChatTemplate, whole: str, start: tuple[int, ...]) -> list[int]:
    """The oracle: start token and one encoding of the whole text."""
    return [*start, *t.tokenizer(whole, add_special_tokens=False)["input_ids"]]


def check_path(t: ChatTemplate, prompt, response: str) -> bool:
    """Assert E1 for one path; return whether its border merges."""
    path = t.encode(prompt, Response(response))
    raw = prompt[0].role == "text"
    start = t.text_start if raw else t.start
    start = start or ((t.empty_id,) if not t.prompt_text(prompt) else ())
    alone = t.prompt_ids(prompt)
    assert path.ids == [*direct(t, t.path_text(prompt, response), start), t.stop_of(prompt)]
    assert path.stopped and path.n_prompt >= len(start) and path.n_prompt < len(path.ids)
    assert path.ids[: path.n_prompt] == alone[: path.n_prompt]
    assert path.merged == (path.n_prompt < len(alone))
    if path.merged:  # the border is the last common token, not merely some common one
        assert path.ids[path.n_prompt] != alone[path.n_prompt]
    return path.merged


@pytest.mark.proof("E1")
@pytest.mark.parametrize("kind", KINDS)
def test_path_ids_are_those_of_the_whole_text(kind, texts):
    """E1 on small tokenizers of each family: raw text and chats, 1000 random texts."""
    t = template(kind)
    merged = sum(check_path(t, text(p), r) for p, r in texts)
    assert merged > 0, "the texts do not provoke merges over the border"
    for p, r in texts:
        check_path(t, user(p), r)


@pytest.mark.proof("E1")
@pytest.mark.real
def test_path_ids_are_those_of_the_whole_text_with_the_default_tokenizer(embedded_tokenizer, texts):
    """E1 on the tokenizer of the embedded model: raw text and chats, 1000 random texts."""
    t = ChatTemplate.from_tokenizer(embedded_tokenizer)
    assert sum(check_path(t, text(p), r) for p, r in texts) > 4
    for p, r in texts:
        check_path(t, user(p), r)


@pytest.mark.parametrize("kind", KINDS)
def test_many_paths_equal_one_at_a_time(kind, texts):
    """Encoding in one call changes nothing."""
    t, alone = template(kind), template(kind)
    pairs = [(user(p), Response(r)) for p, r in texts[:100]]
    assert t.encode_many(pairs) == [alone.encode(p, r) for p, r in pairs]
    assert t.prompt_ids_many([p for p, _ in pairs]) == [alone.prompt_ids(p) for p, _ in pairs]


def test_prompts_are_forgotten_when_there_are_too_many(monkeypatch):
    """The store of encoded prompts stays small and never changes an answer."""
    from valign.models import chat

    t = template("gpt2")
    monkeypatch.setattr(chat, "KEPT_PROMPTS", 10)
    prompts = [user(f"number {i}") for i in range(25)]
    expected = [ChatTemplate.from_tokenizer(t.tokenizer).prompt_ids(p) for p in prompts]
    for _ in range(2):
        assert [t.prompt_ids(p) for p in prompts] == expected
    assert t.prompt_ids_many(prompts) == expected
    assert len(t._prompt_ids) <= 25
    t.prompt_ids(prompts[0]).append(0)  # a caller's list is the caller's
    assert t.prompt_ids(prompts[0]) == expected[0]


@pytest.mark.proof("E1")
def test_a_merged_token_belongs_to_the_response():
    """Negative: gluing two encodings together would give other ids."""
    t = template("gpt2")
    path = t.encode(text("the answ"), Response("er"))
    glued = direct(t, "the answ", ()) + direct(t, "er", ())
    assert path.merged and path.ids[:-1] != glued
    assert t.tokenizer.decode(path.ids[:-1]) == "the answer"


def test_stop_token_is_there_unless_the_response_was_cut():
    """Complete: stop token; cut: none; sampled ids: as they are (token in, token out)."""
    t = template("gpt2")
    prompt = user("Hi")
    n = len(t.prompt_ids(prompt))
    assert t.encode(prompt, Response("yes")).ids[-1] == t.stop_id
    cut = t.encode(prompt, Response("yes", finish="length"))
    assert not cut.stopped and cut.ids[-1] != t.stop_id
    empty = t.encode(prompt, Response(""))
    assert empty.ids[n:] == [t.stop_id] and empty.n_prompt == n
    odd = (17, 5, 17, t.stop_id)  # ids that no encoding gives
    kept = t.encode(prompt, Response("", ids=odd, finish="stop"))
    assert tuple(kept.ids[n:]) == odd and kept.stopped and kept.n_prompt == n
    assert not t.encode(prompt, Response("", ids=odd[:-1], finish="length")).stopped


def test_an_empty_prompt_has_a_start_token():
    """T3: the first response token has a predecessor, with and without a tokenizer that adds one."""
    bare, started = template("gpt2"), template("llama")
    assert bare.prompt_ids(text("")) == [bare.tokenizer.eos_token_id]
    assert started.prompt_ids(text("")) == [started.tokenizer.bos_token_id]
    path = bare.encode(text(""), Response("the"))
    assert path.n_prompt == 1 and not path.merged


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_one_start_token(kind):
    """Whether the template writes it or the tokenizer adds it."""
    t = template(kind)
    bos = t.tokenizer.bos_token_id
    for prompt in (user("Hi"), text("Hi")):
        assert t.prompt_ids(prompt).count(bos) == (0 if bos is None else 1)
    ids, _ = t.encode_chat((*user("Hi"), Message("assistant", "Hello")))
    assert ids[:1] == ([bos] if bos is not None else ids[:1]) and ids.count(bos) == (bos is not None)


def test_two_start_tokens_are_refused_with_both_names():
    """A template that writes one twice, or one that the tokenizer would not use."""
    with pytest.raises(ModelError, match=r"two start tokens.*'<s>', '<s>'"):
        template("llama", "{{ bos_token }}{{ bos_token }}" + CHATML)
    tokenizer = merging_tokenizer("llama")
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.chat_template = "{{ bos_token }}" + CHATML.replace("'<|im_start|>' + ", "")
    with pytest.raises(ModelError, match=r"writes '<\|im_start\|>', the tokenizer adds '<s>'"):
        ChatTemplate.from_tokenizer(tokenizer)


def test_stop_ids_hold_every_end_token():
    """The end of a turn comes first; the tokenizer's, the model's and the known ones follow."""
    t = template("gpt2")
    name = t.tokenizer.convert_ids_to_tokens
    assert [name(i) for i in t.stop_ids] == ["<|im_end|>", "<|endoftext|>"]
    more = ChatTemplate.from_tokenizer(t.tokenizer, end_ids=[77])
    assert more.stop_ids == (t.stop_id, t.tokenizer.eos_token_id, 77)
    llama = template("llama")
    assert llama.tokenizer.convert_ids_to_tokens(llama.stop_id) == "</s>"


def test_a_tokenizer_without_any_end_is_refused():
    tokenizer = merging_tokenizer("gpt2")
    tokenizer.eos_token = None
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="neither a chat template nor an end token"):
        ChatTemplate.from_tokenizer(tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    )
    with pytest.raises(ModelError, match="no end token"):
        ChatTemplate.from_tokenizer(tokenizer)


def test_a_broken_template_is_refused_with_its_own_message():
    with pytest.raises(ModelError, match="fails on a single turn: .*no such thing"):
        template("gpt2", "{{ raise_exception('no such thing') }}")
    with pytest.raises(ModelError, match="fails on a single turn"):
        template("gpt2", "{% for m in messages %}")


def test_a_template_without_system_turn_says_so():
    """Error with the template's own message and the offending turn, also when the template drops it
    silently.
    """
    t = template("llama")
    assert not t.has_system
    with pytest.raises(DataError, match=r"turn 1 \(system\).*Only user and assistant"):
        t.prompt_ids(user("Hi", system="Be kind."))
    silent = template("gpt2", CHATML.replace("messages %}", "messages if m['role'] != 'system' %}"))
    assert not silent.has_system
    with pytest.raises(DataError, match="drops the system turn"):
        silent.prompt_ids(user("Hi", system="Be kind."))
    assert template("gpt2").has_system


def test_raw_text_does_not_mix_with_turns():
    with pytest.raises(DataError, match="cannot stand among chat turns"):
        template("gpt2").prompt_ids((*text("Once"), *user("Hi")))


def test_base_models_get_plain_turns():
    """The documented fallback: "User: ...", "Assistant: ...", ended by the end-of-text token."""
    t = template("metaspace")
    assert t.is_fallback and t.stop_id == t.tokenizer.eos_token_id
    assert t.prompt_text(user("Hi", system="Be kind.")) == "Be kind.\n\nUser: Hi\nAssistant:"
    assert t.path_text(user("Hi"), "Hello") == "User: Hi\nAssistant: Hello"
    assert t.path_text(user("Hi"), " Hello") == "User: Hi\nAssistant: Hello"
    ids, mask = t.encode_chat((*user("Hi"), Message("assistant", "Hello")))
    assert ids == t.encode(user("Hi"), Response("Hello")).ids and mask[-1] == 1


def test_an_open_assistant_turn_is_continued():
    """A prompt that ends with an assistant turn is not closed and gets no second header."""
    t = template("gpt2")
    prompt = (*user("Count."), Message("assistant", "One, "))
    assert t.prompt_text(prompt) == t.prompt_text(user("Count.")) + "One, "
    path = t.encode(prompt, Response("two."))
    assert path.ids == t.encode(user("Count."), Response("One, two.")).ids


# ------------------------------------------------------------------------------------------ conversations


def trained(t: ChatTemplate, ids: list[int], mask: list[int]) -> list[str]:
    """The texts of the trained stretches."""
    out, run = [], []
    for token, on in zip([*ids, 0], [*mask, 0], strict=True):
        if on:
            run.append(token)
        elif run:
            out.append(t.tokenizer.decode(run, skip_special_tokens=False))
            run = []
    return out


@pytest.mark.parametrize("source", [CHATML, MARKED], ids=["prefix", "marks"])
def test_masks_cover_the_assistant_and_its_stop_token(source):
    """The prefix test and the template's own marks give the same mask; the stop token is trained."""
    t = template("gpt2", source)
    ids, mask = t.encode_chat(TALK, "all")
    assert trained(t, ids, mask) == ["A friend.<|im_end|>", "  Of yours.\n<|im_end|>"]
    last_ids, last = t.encode_chat(TALK, "last")
    assert last_ids == ids and trained(t, last_ids, last) == ["  Of yours.\n<|im_end|>"]
    whole = direct(t, t.rendered(TALK), t.start)
    assert ids == whole[: len(ids)] and t.tokenizer.decode(whole[len(ids) :]) == "\n"


@pytest.mark.parametrize("kind", KINDS)
def test_one_turn_equals_prompt_and_response(kind):
    """A conversation of one answer is the path of that answer (where the template adds no blanks)."""
    t = template(kind)
    ids, mask = t.encode_chat((*user("What is it?"), Message("assistant", "The answer.")))
    path = t.encode(user("What is it?"), Response("The answer."))
    if kind == "llama":  # this template writes a blank before the stop token
        assert t.tokenizer.decode(ids) != t.tokenizer.decode(path.ids)
        assert ids[: path.n_prompt] == path.ids[: path.n_prompt]
    else:
        assert ids == path.ids
        assert mask == [0] * path.n_prompt + [1] * (len(ids) - path.n_prompt)


def test_rewritten_turns_become_their_own_paths():
    """A template that forgets earlier thinking: each such turn is trained as it was generated."""
    t = template("gpt2", FORGETFUL)
    talk = (
        *user("1?"),
        Message("assistant", "<think>a</think>one"),
        Message("user", "2?"),
        Message("assistant", "<think>b</think>two"),
    )
    with pytest.raises(DataError, match="rewrites earlier turns"):
        t.encode_chat(talk, "all")
    paths = t.chat_paths(talk, "all")
    assert [trained(t, *path) for path in paths] == [
        ["<think>b</think>two<|im_end|>"],
        ["<think>a</think>one<|im_end|>"],
    ]
    assert "<think>a" not in t.tokenizer.decode(paths[0][0])
    assert len(t.chat_paths(talk, "last")) == 1


@pytest.mark.parametrize("kind", ["gpt2", "unigram"])
def test_masks_of_random_conversations(kind):
    """For random turns the trained text is exactly the answers, and the ids are those of the whole text."""
    from valign.models.conftest import random_text

    rng = random.Random(1)
    t = template(kind)
    for _ in range(100):
        talk = []
        for _ in range(rng.randint(1, 3)):
            # no special tokens in the turns: they would end a turn early, which is another subject
            question, answer = (random_text(rng, 6).replace("<", "(").replace("\x00", "") for _ in range(2))
            talk += [Message("user", question), Message("assistant", answer)]
        ids, mask = t.encode_chat(tuple(talk), "all")
        assert ids == direct(t, t.rendered(tuple(talk)), t.start)[: len(ids)]
        stops = sum(1 for i, on in zip(ids, mask, strict=True) if on and i == t.stop_id)
        assert stops == len(talk) // 2 and mask[-1] == 1
        if kind == "gpt2":  # byte-level: text comes back exactly, with the header's newline where it merged
            answers = [m.content + "<|im_end|>" for m in talk if m.role == "assistant"]
            for got, answer in zip(trained(t, ids, mask), answers, strict=True):
                assert got == answer or (got == "\n" + answer and answer[0].isspace())


def test_a_conversation_needs_an_answer():
    t = template("gpt2")
    for talk in (user("Hi"), (*TALK, *user("And?"))):
        with pytest.raises(DataError, match="no assistant turn at the end"):
            t.encode_chat(talk)
    assert trained(t, *t.encode_chat((*TALK, *user("And?")), "all")) == trained(
        t, *t.encode_chat(TALK, "all")
    )


# ------------------------------------------------------------------------------------------- harness rule


def harness(
    t: ChatTemplate, context: str, continuation: str, start: tuple[int, ...]
) -> tuple[list[int], list[int]]:
    """lm-evaluation-harness 0.4, `TemplateLM._encode_pair`, word for word."""
    n_spaces = len(context) - len(context.rstrip())
    if n_spaces > 0:
        continuation = context[-n_spaces:] + continuation
        context = context[:-n_spaces]
    whole, first = direct(t, context + continuation, start), direct(t, context, start)
    return first, whole[len(first) :]


@pytest.mark.parametrize("kind", KINDS)
def test_harness_rule(kind, texts):
    """Equal to the harness on texts with a context, and with the context's own ids in front."""
    t = template(kind)
    for p, r in texts[:500]:
        if not p.strip():
            continue
        first, rest = harness(t, p, r, t.text_start)
        path = t.encode_harness(text(p), r)
        assert (path.ids[: path.n_prompt], path.ids[path.n_prompt :]) == (first, rest)
        assert not path.stopped


def test_harness_rule_without_context():
    """The start (else end) token is the context, once."""
    bare, started = template("gpt2"), template("llama")
    assert bare.encode_harness(text(""), "the").ids[0] == bare.tokenizer.eos_token_id
    path = started.encode_harness(text(""), "<s>the")
    assert path.ids.count(started.tokenizer.bos_token_id) == 1 and path.n_prompt == 1


# ---------------------------------------------------------------------------------------- identity, audit


def test_identity_follows_everything_that_decides_ids():
    """A changed template, token or rule of splitting changes the sha256; the same tokenizer does not."""
    base = template("gpt2").sha256
    assert template("gpt2").sha256 == base
    assert template("gpt2", CHATML + " ").sha256 != base
    assert template("llama").sha256 != base
    assert ChatTemplate.from_tokenizer(merging_tokenizer("gpt2"), end_ids=[9]).sha256 != base
    assert (
        ChatTemplate.from_tokenizer(tiny_tokenizer()).sha256
        != ChatTemplate.from_tokenizer(tiny_tokenizer("ab")).sha256
    )


def test_audit_tells_good_from_bad():
    """A sound template passes every line; one that never ends a turn and one that rewrites answers do not."""
    for kind in KINDS:
        assert all(ok for _, ok, _ in template(kind).audit()), kind
    endless = template("gpt2", CHATML.replace(" + '<|im_end|>'", ""))
    assert {n for n, ok, _ in endless.audit() if not ok} >= {"stop token", "stop is trained"}
    louder = template("gpt2", CHATML.replace("m['content']", "(m['content'] | upper)", 1))
    assert "round trip" in {n for n, ok, _ in louder.audit() if not ok}


def test_decode_is_for_people():
    t = template("gpt2")
    path = t.encode(user("Hi"), Response(" two  spaces "))
    assert t.decode(path.ids[path.n_prompt :]) == " two  spaces "
