"""Inputs of a workload, prepared once into one JSON file that both sides read: same texts, template and order.

`python -m benchmarks.data REQUEST.json` runs in the project's environment: prompts are rendered and lengths counted
with the model's own template. Items are taken in file order; what does not fit the workload (too long, empty or equal
answers) is left out before anything is counted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
FILES = {
    "hh": "hh_rlhf/harmless_base_test_first1200.jsonl.gz",
    "bbq": "bbq/Religion.jsonl",
    "persona": "model_written_evals/persona",
    "seeds": "self_instruct/seed_tasks.jsonl",
    "power": "model_written_evals/advanced_ai_risk/power-seeking-inclination.jsonl",
}


class DataMissing(RuntimeError):
    """The data folder, or a file in it, is not there."""


def data_file(folder: Path, name: str) -> Path:
    """A file of the data folder. Raises `DataMissing` with what to do."""
    path = folder / FILES[name]
    if not path.exists():
        raise DataMissing(f"{path} is missing: name the folder that holds {FILES[name]} with --data DIR")
    return path


def prepare(request: Row) -> dict[str, Any]:
    """The inputs of one workload.

    request: kind, settings, size, model (folder), data (folder), dtype ("auto" or a name).
    Every answer holds `fast`: the number format of the timed runs where settings say "fast".
    """
    makers = {
        "train": _train, "processes": _train, "grpo": _grpo, "lists": _lists, "choices": _choices, "decode": _decode,
        "rollout": _rollout,
    }  # fmt: skip
    out = makers[request["kind"]](request) if request["kind"] in makers else {}
    if request["kind"] in ("decode", "rollout"):
        out["stop_ids"] = list(_template(request["model"]).stop_ids)
    return {"fast": _fast(request["dtype"]), **out}


# ------------------------------------------------------------------------------------------- pairs and their order


def _train(request: Row) -> dict[str, Any]:
    settings, n = request["settings"], request["size"]
    pairs = _pairs(request)
    fitting = [p for p in pairs if p["longest"] <= settings["max_length"]]
    timed, rest = take(fitting, n, "pairs"), fitting[n:]
    short = take(
        [p for p in pairs if p["longest"] <= settings["loss_longest"]],
        settings["loss_steps"] * settings["loss_batch"],
        "short pairs",
    )
    return {
        "pairs": timed,
        "order": _order(n, settings["batch"]),
        "warm": take(rest, settings["warm"], "pairs for the warm-up"),
        "check": timed[: settings["check"]] + rest[: max(0, settings["check"] - n)],
        "loss_pairs": short,
        "loss_order": _order(len(short), settings["loss_batch"]),
    }


def _grpo(request: Row) -> dict[str, Any]:
    settings = request["settings"]
    n = request["size"] * settings["prompts"]
    fitting = [p for p in _pairs(request) if p["longest"] <= settings["max_length"]]
    rest = fitting[n:]
    return {
        "pairs": take(fitting, n, "prompts"),
        "warm": take(rest, settings["prompts"], "prompts for the warm-up"),
        "check": take(fitting, settings["check"], "pairs"),
    }


def _pairs(request: Row) -> list[dict[str, Any]]:
    """HH pairs as messages and as rendered text, with the tokens of the longer path."""
    from valign.data import read

    template = _template(request["model"])
    out = []
    for group in read(data_file(Path(request["data"]), "hh")):
        answers = [r.text for r in group.responses]
        if not all(answers) or answers[0] == answers[1]:
            continue
        paths = template.encode_many([(group.prompt, r) for r in group.responses])
        out.append({
            "id": group.id,
            "messages": [[m.role, m.content] for m in group.prompt],
            "prompt": template.prompt_text(group.prompt),
            "chosen": answers[0],
            "rejected": answers[1],
            "longest": max(len(p.ids) for p in paths),
        })  # fmt: skip
    return out


def _order(n: int, batch: int) -> list[list[int]]:
    """Which pairs meet in each step: valign's own seeded order, which the peer follows."""
    from valign.engine.sampler import DataSampler

    positions: list[Any] = list(range(n))
    sampler = DataSampler(positions, batch=batch, seed=0)
    return [[int(i) for i in sampler.step(k).items] for k in range(sampler.steps)]  # type: ignore[call-overload]


def _lists(request: Row) -> dict[str, Any]:
    """Instructions, each with as many answers as a list has, drawn from the model itself."""
    from valign.data.group import user
    from valign.models.policy import Sampling
    from valign.pipeline.policies import LoadOptions, load_policy

    settings, n = request["settings"], request["size"]
    rows = _rows(data_file(Path(request["data"]), "seeds"))
    texts = {r["id"]: f"{r['instruction']}\n\n{r['instances'][0]['input']}".strip() for r in rows}
    fitting = [(id, t) for id, t in texts.items() if len(t) <= settings["longest"]]
    used = take(fitting, n + settings["batch"], "instructions")
    sampling = Sampling(n=settings["answers"], max_new_tokens=settings["new_tokens"], seed=0)
    policy = load_policy(request["model"], LoadOptions(device="cpu"))
    drawn = policy.generate([user(t) for _, t in used], sampling, keys=[id for id, _ in used])
    lists = [
        {"id": id, "prompt": t, "answers": [s.text.strip() or "." for s in row]}
        for (id, t), row in zip(used, drawn, strict=True)
    ]
    return {"lists": lists[:n], "warm": lists[n:], "check": take(lists, settings["check"], "instructions")}


# -------------------------------------------------------------------------------------------------- answer choices


def _choices(request: Row) -> dict[str, Any]:
    settings, folder = request["settings"], Path(request["data"])
    source, n = settings["source"], request["size"]
    if source in ("bbq3", "bbq12"):
        items = bbq_items(_rows(data_file(folder, "bbq")), 12 if source == "bbq12" else 3)
    elif source == "power":
        items = power_items(_rows(data_file(folder, "power")))
    else:
        files = sorted(data_file(folder, "persona").glob("*.jsonl"))
        items = interleaved([persona_items(_rows(f), settings["shots"], f.stem) for f in files])
    few = settings["warm"]
    warm = items[n : n + few] or items[:few]
    return {"items": take(items, n, "items"), "warm": warm, "check": take(items, settings["check"], "items")}


def bbq_items(rows: Sequence[Row], k: int) -> list[dict[str, Any]]:
    """BBQ questions with their 3 choices, or with 12: the two groups and the ten spellings of "unknown".

    With 12 the right answer of an ambiguous question is its own spelling.
    """
    spellings = sorted({row[f"ans{i}"] for row in rows for i in range(3) if _is_unknown(row, i)})
    out = []
    for row in rows:
        answers = [row[f"ans{i}"] for i in range(3)]
        choices = answers
        if k != 3:
            choices = [a for i, a in enumerate(answers) if not _is_unknown(row, i)]
            choices += [s for s in spellings if s not in choices]
        out.append(
            item(
                f"bbq-{row['example_id']}",
                f"{row['context']} {row['question']}\nAnswer:",
                choices,
                choices.index(answers[row["label"]]),
            )
        )
    return out


def persona_items(rows: Sequence[Row], shots: int, name: str) -> list[dict[str, Any]]:
    """Yes-or-no statements; the first `shots` rows stand, answered, before every other one."""
    head = "".join(f"{r['question']}\nAnswer:{r['answer_matching_behavior']}\n\n" for r in rows[:shots])
    out = []
    for number, row in enumerate(rows[shots:], shots):
        matching, other = row["answer_matching_behavior"].strip(), row["answer_not_matching_behavior"].strip()
        choices = sorted((matching, other), reverse=True)  # Yes, No
        prompt = f"{head}{row['question']}\nAnswer:"
        out.append(item(f"{name}-{number}", prompt, choices, choices.index(matching)))
    return out


def power_items(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Questions that list their choices and end in "Answer:"; the two named answers are compared."""
    out = []
    for number, row in enumerate(rows):
        matching, other = row["answer_matching_behavior"].strip(), row["answer_not_matching_behavior"].strip()
        choices = sorted((matching, other))
        out.append(item(f"power-{number}", row["question"].rstrip(), choices, choices.index(matching)))
    return out


def item(id: str, prompt: str, choices: Sequence[str], gold: int) -> dict[str, Any]:
    """A choice follows the prompt after one blank, which is not part of it here."""
    return {"id": id, "prompt": prompt, "choices": list(choices), "gold": gold}


def interleaved(files: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One item of each file in turn, so that a cut size holds all files."""
    longest = max(map(len, files), default=0)
    return [file[i] for i in range(longest) for file in files if i < len(file)]


def _is_unknown(row: Row, i: int) -> bool:
    return bool(row["answer_info"][f"ans{i}"][-1] == "unknown")


# -------------------------------------------------------------------------------------------------------- decoding


def _decode(request: Row) -> dict[str, Any]:
    settings, n = request["settings"], request["size"]
    whole = _prompts(request)
    cut = settings["prompt_tokens"]
    prompts = [{"id": p["id"], "ids": p["ids"][-cut:]} for p in whole if len(p["ids"]) >= cut]
    return _with_check(take(prompts, n, "prompts"), prompts[n:], settings)


def _rollout(request: Row) -> dict[str, Any]:
    settings, n = request["settings"], request["size"]
    prompts = [p for p in _prompts(request) if len(p["ids"]) <= settings["longest"]]
    return _with_check(take(prompts, n, "prompts"), prompts[n:], settings)


def _with_check(prompts: list[dict[str, Any]], rest: Sequence[dict[str, Any]], settings: Row) -> dict[str, Any]:
    warm = take([*rest, *prompts], min(settings["warm"], len(rest) + len(prompts)), "prompts for the warm-up")
    check = take([*prompts, *rest], settings["check"], "prompts")
    return {"prompts": prompts, "warm": warm, "check": check}


def _prompts(request: Row) -> list[dict[str, Any]]:
    from valign.data import read

    template = _template(request["model"])
    groups = list(read(data_file(Path(request["data"]), "hh")))
    ids = template.prompt_ids_many([g.prompt for g in groups])
    return [{"id": g.id, "ids": list(i)} for g, i in zip(groups, ids, strict=True)]


# -------------------------------------------------------------------------------------------------------- the rest


def take(rows: Sequence[Any], n: int, what: str) -> list[Any]:
    """The first n. Raises `DataMissing` when there are fewer."""
    if len(rows) < n:
        raise DataMissing(f"{n} {what} are needed, the data holds {len(rows)}: choose a smaller --size")
    return list(rows[:n])


def _rows(file: Path) -> list[Row]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def _template(model: str) -> Any:
    from transformers import AutoTokenizer

    from valign.models.chat import ChatTemplate

    return ChatTemplate.from_tokenizer(AutoTokenizer.from_pretrained(model, local_files_only=True))


def _fast(dtype: str) -> str:
    """The number format that this machine multiplies natively."""
    if dtype != "auto":
        return dtype
    from valign.models.precision import bfloat16_is_fast

    return "bfloat16" if bfloat16_is_fast("cpu") else "float32"


def main() -> int:
    """Answer one request file: {"out": where, ...}."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        answer = prepare(request)
    except DataMissing as error:
        print(error, file=sys.stderr)
        return 1
    Path(request["out"]).write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
