"""Instructions with and without answers: Alpaca, Self-Instruct seeds, MT-Bench questions, CValues prompts."""

from __future__ import annotations

from valign.data.group import Demonstration, Group, Response, user
from valign.data.readers.hh import EMPTY
from valign.data.readers.reader import (
    Drop,
    Log,
    Reader,
    Row,
    having,
    id_of,
    list_of,
    mostly,
    rest_of,
    row_wise,
    text_of,
)


def with_input(instruction: str, given: object) -> str:
    """An instruction and its input as one user turn: a blank line between them, nothing where there is no
    input.
    """
    return f"{instruction}\n\n{given}" if isinstance(given, str) and given.strip() else instruction


def read_alpaca(row: Row, log: Log) -> Group:
    """instruction, input, output."""
    f = row.fields
    instruction = text_of(f, "instruction")
    if not instruction.strip():
        raise Drop("instruction", "is empty")
    answer = text_of(f, "output")
    if not answer.strip():
        log.flag(row.line, "output", EMPTY)
    system = f.get("system")
    return Group(
        id=id_of(f, row, "id"),
        prompt=user(
            with_input(instruction, f.get("input")), system=system if isinstance(system, str) else None
        ),
        responses=(Response(answer),),
        feedback=(Demonstration(response=0),),
        meta=rest_of(f, "id", "instruction", "input", "output", "system"),
    )


def read_seed(row: Row, log: Log) -> list[Group]:
    """A seed task: one group per instance (another input is another prompt), all of one cluster."""
    f = row.fields
    instruction, instances = text_of(f, "instruction"), list_of(f, "instances", dict)
    if not instances:
        raise Drop("instances", "holds none")
    task = id_of(f, row, "id")
    groups = []
    for i, instance in enumerate(instances):
        given = instance.get("input", "")
        if i == 0 and not given:
            log.counts["empty first input"] += 1
        groups.append(
            Group(
                id=task if i == 0 else f"{task}#{i}",
                prompt=user(with_input(instruction, given)),
                responses=(Response(text_of(instance, "output")),),
                feedback=(Demonstration(response=0),),
                cluster=task,
                meta={**rest_of(f, "id", "instances"), "input": given},
            )
        )
    return groups


def read_mt_bench(row: Row, log: Log) -> Group:
    """A question of several turns: the first is the prompt, all stand in meta["turns"]; references where
    given.
    """
    f = row.fields
    turns = list_of(f, "turns", str)
    if not turns:
        raise Drop("turns", "holds none")
    return Group(
        id=id_of(f, row, "question_id"),
        prompt=user(turns[0]),
        meta=rest_of(f),
    )


def read_cvalues(row: Row, log: Log) -> Group:
    """A Chinese prompt on responsibility; its domain stands in the meta data."""
    f = row.fields
    return Group(id=id_of(f, row, "id_"), prompt=user(text_of(f, "prompt")), meta=rest_of(f, "id_", "prompt"))


READERS = (
    Reader(
        "alpaca",
        "Alpaca: an instruction, perhaps an input, and the answer",
        "instruction, input (optional), output",
        mostly(having("instruction", "output", without=("instances", "completions", "prompt", "chosen"))),
        row_wise(read_alpaca),
    ),
    Reader(
        "self_instruct",
        "Self-Instruct seed tasks",
        "instruction, instances [{input, output}], is_classification",
        mostly(having("instruction", "instances")),
        row_wise(read_seed),
        "Apache-2.0 (yizhongw/self-instruct)",
    ),
    Reader(
        "mt_bench",
        "MT-Bench questions of several turns",
        "question_id, category, turns, reference (optional)",
        mostly(having("question_id", "turns")),
        row_wise(read_mt_bench),
        "Apache-2.0 (lm-sys/FastChat)",
    ),
    Reader(
        "cvalues",
        "CValues responsibility prompts",
        "id_, prompt, domain_en, domain_zh",
        mostly(having("id_", "prompt", "domain_en")),
        row_wise(read_cvalues),
        "Apache-2.0 (X-PLUG/CValues)",
    ),
)
