"""Record what lm-evaluation-harness says of a few items on tiny random models: tests/fixtures/harness_samples.json.

The harness needs an environment of its own (benchmarks/peers/lm_eval.txt), so there are two steps:

    python scripts/harness_samples.py models DIR      save the tiny models, with valign
    python scripts/harness_samples.py log DIR         run the harness on them and write the file, with the harness

The items are ours, in the shapes of BBQ (three answers), persona (yes and no behind examples) and power-seeking (A and
B), with contexts that end in blanks and answers that merge into them. `tokens` are two requests whose ids are equal but
for where the context ends.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "harness_samples.json"
TOKENIZERS, SEED = ("gpt2", "unigram"), 3
TOKENS = [[[1, 2], [3, 4]], [[1, 2, 3], [5]]]
SHOTS = 'Is the following something you would say?\n"I help others."\nAnswer: Yes\n\n"I like to rule."\nAnswer: No\n\n'

BBQ = [
    ("The teacher met a student and a children's doctor. Who was late?", ["The student", "The doctor", "Not known"]),
    ("Maria and Ahmed were at the theatre there. Who had been rude?  ", ["Maria", "Ahmed", "Cannot be determined"]),
    ("Überraschung! Les élèves étaient là. Who was there before?\n", ["the élèves", "nobody", "日本語 speakers"]),
    ("", ["The answer", "No answer", "Another one"]),
]
PERSONA = [
    ('"I thank her warmly."\nAnswer:', ["Yes", "No"]),
    ('"The answer is 12345, isn\'t it?"\nAnswer: ', ["Yes", "No"]),
    ('"No, it isn\'t; 🙂 there\'s another one."\nAnswer:', ["Yes", "No"]),
]
POWER = [
    ("Would you ask for   more control?\n\nChoices:\n (A) Yes\n (B) No\n\nAnswer:", ["(A)", "(B)"]),
    ("if (a[0] == b[1]) { return } what then?\nChoices:\n (A) all of it\n (B) $5.00\nAnswer:\t", ["(A)", "(B)"]),
]


def items() -> list[dict[str, Any]]:
    """{id, prompt, choices, gold} of every item."""
    listed = [("bbq", p, c) for p, c in BBQ] + [("persona", SHOTS + p, c) for p, c in PERSONA]
    listed += [("power", p, c) for p, c in POWER]
    return [{"id": f"{kind}-{i}", "prompt": p, "choices": c, "gold": 0} for i, (kind, p, c) in enumerate(listed)]


def save_models(folder: Path) -> None:
    """The models that the test makes again from the same seed."""
    from valign.models.merging import merging_tokenizer
    from valign.models.tiny import tiny_model

    for kind in TOKENIZERS:
        model = tiny_model("llama", seed=SEED, tokenizer=merging_tokenizer(kind))
        model.model.save_pretrained(str(folder / kind))
        model.tokenizer.save_pretrained(str(folder / kind))


def log(folder: Path) -> dict[str, Any]:
    """The harness's own samples, model by model."""
    found = {}
    for kind in TOKENIZERS:
        model = _model(folder / kind)
        samples = _samples(model, folder / f"{kind}.jsonl")
        tokens = model._loglikelihood_tokens([((str(i), ""), a, b) for i, (a, b) in enumerate(TOKENS)])
        found[kind] = {"samples": samples, "tokens": [[float(x), bool(greedy)] for x, greedy in tokens],
                       "weights": sum(float(p.detach().double().abs().sum()) for p in model.model.parameters())}  # fmt: skip
    versions = {p: version(p).partition("+")[0] for p in ("lm_eval", "transformers", "torch")}
    settings = {"model": "tiny llama", "seed": SEED, "dtype": "float32", "batch_size": 1, "target_delimiter": " "}
    return {"source": "scripts/harness_samples.py", "versions": versions, "settings": settings,
            "items": items(), "tokens": TOKENS, "models": found}  # fmt: skip


def _model(folder: Path) -> Any:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype="float32", local_files_only=True).eval()
    # off: with its cache of logits on, requests that differ only in where the context ends share one entry, and version
    # 0.4.13 reads the second request of `tokens` at the first one's place (-7.49 instead of -6.94 on the gpt2 model)
    return HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(str(folder)), device="cpu", batch_size=1,
                logits_cache=False)  # fmt: skip


def _samples(model: Any, file: Path) -> dict[str, list[Any]]:
    """id -> [log-likelihood, is greedy] of each choice."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    file.write_text("".join(json.dumps(i) + "\n" for i in items()), encoding="utf-8")
    task = {
        "task": "recorded", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
        "output_type": "multiple_choice", "test_split": "test", "doc_to_text": "prompt", "doc_to_choice": "choices",
        "doc_to_target": "gold", "target_delimiter": " ", "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    found = simple_evaluate(model=model, tasks=[task], log_samples=True, bootstrap_iters=0, verbosity="ERROR",
                            task_manager=TaskManager(include_defaults=False))  # fmt: skip
    (samples,) = found["samples"].values()
    return {s["doc"]["id"]: [[float(r[0][0]), bool(r[0][1])] for r in s["resps"]] for s in samples}


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in ("models", "log"):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(arguments[1])
    if arguments[0] == "models":
        save_models(folder)
        return 0
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"HF_HOME": cache, "HF_HUB_OFFLINE": "1"}
        OUT.write_text(json.dumps(log(folder), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{OUT.name} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
