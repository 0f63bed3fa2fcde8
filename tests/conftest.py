"""What the tests of the doors share: a tiny model's folder, small data files, and the command line in this
process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

THEORY = "schwartz10"


class Door:
    """`valign ARGS` in this process. A call that should work fails the test with what was printed."""

    def __init__(self) -> None:
        self.runner = CliRunner()

    def __call__(self, *args: object, status: int = 0, **options: Any) -> Any:
        from valign.cli import app

        done = self.runner.invoke(app, [str(a) for a in args], **options)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == status, f"status {done.exit_code}\n{done.stdout}\n{done.stderr}"
        return done

    def quiet(self, *args: object) -> None:
        """Call it beside another one: the output is not captured, for that would be the whole process's."""
        import click
        import typer

        from valign.cli import app

        command: click.Command = typer.main.get_command(app)
        command.main([str(a) for a in (*args, "--json")], standalone_mode=False)

    def json(self, *args: object, status: int = 0) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self(*args, "--json", status=status).stdout)

    def error(self, *args: object, status: int = 1) -> str:
        """The message of a command that must fail, with nothing on standard output."""
        done = self(*args, status=status)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return str(done.stderr)


@pytest.fixture(scope="session")
def valign() -> Door:
    return Door()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model, as transformers writes it."""
    from valign.models.gguf import quiet
    from valign.models.tiny import tiny_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    made = tiny_model("llama", seed=0)
    with quiet():
        made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., Path]:
    """`lines(rows, name)`: a JSONL file."""

    def write(rows: Iterable[Mapping[str, Any]], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        return path

    return write


def pair_rows(n: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {i}?", "chosen": f"yes {i}, of course", "rejected": f"no way {i}"} for i in range(n)]


@pytest.fixture
def pairs(lines: Callable[..., Path]) -> Path:
    """Twelve preference pairs."""
    return lines(pair_rows(12), "pairs.jsonl")


@pytest.fixture
def situations(tmp_path: Path) -> Path:
    """Six situations with three responses each, labelled with values."""
    from valign.data.group import Group, Response, VectorScore, user
    from valign.data.jsonl import write

    groups = []
    for i in range(6):
        texts = ("aaa eee", f"b{i} c", "xyz")
        values = ({"BE": 1.0}, {"BE": -1.0, "PO": 1.0}, {"PO": 0.5})
        labels = tuple(VectorScore(response=k, theory=THEORY, values=v) for k, v in enumerate(values))
        groups.append(
            Group(
                id=f"s{i}",
                prompt=user(f"What now, {i}?"),
                responses=tuple(map(Response, texts)),
                feedback=labels,
            )
        )
    return write(groups, tmp_path / "situations.jsonl")


class Vowels:
    """A scripted value evaluator: vowels show benevolence, other signs show power."""

    id = "vowels"
    theory = THEORY

    def values(self, groups: Sequence[Any]) -> list[np.ndarray]:
        from valign.goals.theory import load_theory

        ids = load_theory(THEORY).ids
        out = []
        for group in groups:
            rows = np.zeros((len(group.responses), len(ids)))
            for row, response in zip(rows, group.responses):
                share = sum(c in "aeiou" for c in response.text) / max(1, len(response.text))
                row[ids.index("BE")], row[ids.index("PO")] = 2 * share - 1, 1 - 2 * share
            out.append(rows)
        return out


@pytest.fixture
def vowels(monkeypatch: pytest.MonkeyPatch) -> Vowels:
    """Value goals named on the command line are read by `Vowels`: no model is loaded for them."""
    scorer = Vowels()
    monkeypatch.setattr("valign.rewards.registry.default_scorers", lambda model=None: {"value": scorer})
    return scorer


GOAL = f"{THEORY}:benevolence=1,power=-1"


@pytest.fixture
def goal() -> str:
    """A value goal as the command line names it."""
    return GOAL


def leftovers(folder: Path) -> list[str]:
    """Files and folders that say that something was not finished, or is still owned."""
    return [
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.name.endswith(".partial") or p.name == "lock"
    ]


@pytest.fixture
def whole() -> Callable[[Path], None]:
    """`whole(folder)` fails when a lock or half a file is left in it."""

    def check(folder: Path) -> None:
        assert leftovers(folder) == []

    return check
