"""Tasks of Super-NaturalInstructions: one JSON file per task, with a definition, worked examples and instances.

The prompt is that of the paper's own models (2204.07705; `ni_collator.py` of yizhongw/Tk-Instruct): definition, positive
examples, negative ones (with explanations where asked), then the instance. A line that does not end in punctuation gets a full
stop, as there.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from valign.data.tasks.task import Task
from valign.data.tasks.template import Rendered
from valign.errors import DataError


def read_super_ni(
    path: str | Path, *, definition: bool = True, positive: int = 2, negative: int = 0, explanations: bool = False,
    limit: int | None = None,
) -> Task:  # fmt: skip
    """The task of a file `taskNNN_name.json`, each instance with the first of its outputs as target.

    definition   whether the task is told in words, or by examples alone
    positive, negative   worked examples to show         explanations   with the reason that the file gives
    Raises `DataError` naming file and field.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path)) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"is not JSON: {error}", where=str(path)) from error
    if not isinstance(content, Mapping) or "Instances" not in content or "Definition" not in content:
        raise DataError("is no task of Super-NaturalInstructions: Definition and Instances are needed", where=str(path))
    head = _definition(content["Definition"], str(path)) + "\n\n" if definition else ""
    shown = "".join(
        [_example(e, f"Positive Example {i + 1} -", explanations, str(path))
         for i, e in enumerate((content.get("Positive Examples") or [])[:positive])]
        + [_example(e, f"Negative Example {i + 1} -", explanations, str(path))
           for i, e in enumerate((content.get("Negative Examples") or [])[:negative])]
    )  # fmt: skip
    ready = []
    for i, instance in enumerate(content["Instances"][:limit]):
        where = f"{path}: Instances[{i}]"
        outputs = instance.get("output")
        answers = [outputs] if isinstance(outputs, str) else outputs
        if not answers or not all(isinstance(a, str) for a in answers):
            raise DataError("output must be a text or a list of texts", where=where)
        asked = f"Now complete the following example -\nInput: {_closed(_field(instance, 'input', where))}\nOutput: "
        ready.append(Rendered(f"{head}{shown}{asked}", answers[0].strip()))
    categories = content.get("Categories") or []
    return Task(path.stem, ready=ready, meta={"categories": list(categories)} if categories else {})


def _definition(value: Any, where: str) -> str:
    text = value[0] if isinstance(value, list) and value else value
    if not isinstance(text, str) or not text.strip():
        raise DataError("Definition must be a text, or a list that begins with one", where=where)
    return "Definition: " + _closed(text)


def _example(example: Mapping[str, Any], title: str, explained: bool, where: str) -> str:
    lines = [f" {title}", f"Input: {_closed(_field(example, 'input', where))}"]
    lines.append(f" Output: {_closed(_field(example, 'output', where))}")
    if explained and "explanation" in example:
        lines.append(f" Explanation: {_closed(_field(example, 'explanation', where))}")
    return "\n".join(lines) + "\n\n"


def _field(mapping: Mapping[str, Any], name: str, where: str) -> str:
    value = mapping.get(name) if isinstance(mapping, Mapping) else None
    if not isinstance(value, str):
        raise DataError(f"{name} must be a text", where=where)
    return value


def _closed(text: str) -> str:
    text = text.strip()
    return text if text and text[-1] in string.punctuation else f"{text}."
