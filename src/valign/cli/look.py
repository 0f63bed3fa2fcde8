"""Commands that look: data, models, methods, theory, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from valign.cli.options import (
    ANSWERS,
    DATA,
    MEASURE,
    OUTPUT,
    AllowPickle,
    Command,
    Device,
    Dtype,
    Json,
    Limit,
    MaxNewTokens,
    Seed,
    option,
)
from valign.cli.shared import errors, print_json, refuse_given, say
from valign.errors import UsageError, ValignError

data_app = typer.Typer(help="Look into data and convert it.", no_args_is_help=True)
models_app = typer.Typer(help="Models at hand; merge adapters; compare a server with its weights.", invoke_without_command=True)

RUNS = Path("runs")  # where examples put what they make; it need not exist
Format = Annotated[str | None, option(DATA, help="The file's format; default: recognised by its content.")]


@data_app.command("inspect", cls=Command)
def inspect_(
    file: Annotated[str, typer.Argument(help="A file, builtin:NAME or hub:OWNER/NAME.")],
    format: Format = None,
    model: Annotated[str | None, option(DATA, help="Count tokens as this model does.")] = None,
    max_tokens: Annotated[int | None, option(MEASURE, help="Say what would be longer than this.", min=1)] = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Counts, lengths, duplicates, balance of labels, what would be cut, first problems by line and field."""
    with errors(as_json):
        from valign.data import inspect
        from valign.pipeline.data import read_source
        from valign.pipeline.recipe import Source

        if max_tokens is not None and model is None:
            model = "smollm2-135m-instruct"
        tokenizer = None
        if model is not None:
            from valign.models.loading import load_model

            tokenizer = load_model(model, dtype="bfloat16").tokenizer
        found = inspect(read_source(Source(path=file, format=format, limit=limit)), tokenizer, max_tokens)
        if as_json:
            print_json(found.to_json())
            return
        _show(found.to_json())


@data_app.command("convert", cls=Command)
def convert(
    file: Annotated[str, typer.Argument(help="A file, builtin:NAME or hub:OWNER/NAME.")],
    out: Annotated[Path, typer.Argument(help="The JSONL file of groups to write.")],
    format: Format = None,
    to: Annotated[
        str,
        option(OUTPUT, help="groups (as read), pairs (from rankings or scores), unpaired (thumbs from pairs)."),
    ] = "groups",
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Write FILE as groups, valign's own format; feedback may change its kind, counts are kept."""
    with errors(as_json):
        from valign.data import Comparison, Verdict, pairs_to_unpaired, ranking_to_pairs, scores_to_pairs, write
        from valign.errors import unknown
        from valign.pipeline.data import read_source
        from valign.pipeline.recipe import Source

        change: dict[str, Any] = {
            "groups": lambda g: g,
            "pairs": lambda g: scores_to_pairs(ranking_to_pairs(g)),
            "unpaired": pairs_to_unpaired,
        }
        wanted: dict[str, Any] = {"pairs": Comparison, "unpaired": Verdict}
        if to not in change:
            raise unknown("target", to, change, where="--to")
        if out.exists() and Path(file).exists() and out.samefile(file):
            raise UsageError("this is the file that is read", where=str(out), how="name another file to write")
        data = read_source(Source(path=file, format=format, limit=limit))
        groups = [change[to](g) for g in data]
        if to in wanted and not any(any(g.of(wanted[to])) for g in groups):
            raise UsageError(f"nothing in {file} becomes {to}", where=f"--to {to}",
                             how="pairs come from rankings or scores, thumbs from pairs: valign data inspect FILE")  # fmt: skip
        write(groups, out)
        counts = {
            "read": len(data),
            "written": len(groups),
            "dropped": len(data.report.dropped),
            "format": data.format,
        }
        if as_json:
            print_json({"out": str(out), **counts})
            return
        say(f"{file} is {data.format}: {len(groups)} groups in {out}, {counts['dropped']} rows dropped")
        for line, field, reason in data.report.dropped[:5]:
            say(f"  line {line}, {field}: {reason}")


@models_app.callback()
def models(
    context: typer.Context,
    folder: Annotated[Path, option(DATA, help="Where policies are looked for.")] = RUNS,
    as_json: Json = False,
) -> None:
    """Models that can be named without a network."""
    if context.invoked_subcommand is not None:
        with errors(as_json):
            why = f"it belongs to the list of models, not to {context.invoked_subcommand}"
            refuse_given(context, ["folder", "as_json"], why, f"leave it out, or write it after {context.invoked_subcommand}")
        return
    with errors(as_json):
        from valign.models.catalog import models_at_hand

        if not folder.is_dir() and folder != RUNS:
            raise UsageError("there is no such folder", where=str(folder),
                             how="name the folder that --out was given, or one above it")  # fmt: skip
        found = models_at_hand(folder)
        if as_json:
            print_json(
                [
                    {
                        "name": m.name,
                        "kind": m.kind,
                        "where": str(m.where),
                        "bytes": m.size_bytes,
                        "note": m.note,
                    }
                    for m in found
                ]
            )
            return
        for m in found:
            say(f"{m.name}  [{m.kind}, {m.size_bytes / 1e6:.0f} MB]  {m.note}")


@models_app.command("merge", cls=Command)
def merge(
    model: Annotated[Path, typer.Argument(help="A policy folder with an adapter.")],
    out: Annotated[Path, option(OUTPUT, help="The folder of full weights to write.")],
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Add an adapter into its base's weights and write them as a folder that any tool can load."""
    with errors(as_json):
        from valign.models.adapters import merge_to_folder
        from valign.models.gguf import quiet
        from valign.models.loading import load_model

        with quiet():
            merged = merge_to_folder(load_model(model, dtype="float32", allow_pickle=allow_pickle), out)
        print_json({"out": str(out), "digest": merged.digest}) if as_json else say(f"merged weights: {out}")


@models_app.command("agree", cls=Command)
def agree(
    endpoint: Annotated[str, typer.Argument(help="A vLLM server: vllm:NAME@URL.")],
    model: Annotated[str, typer.Argument(help="The weights that it serves, here: a folder, a GGUF file or a hub id.")],
    data: Annotated[str, option(DATA, help="Prompts to ask.")] = "builtin:dilemmas",
    samples: Annotated[int, option(ANSWERS, min=1, help="Responses that are compared.")] = 64,
    max_new_tokens: MaxNewTokens = 64,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Does ENDPOINT sample from the law of MODEL? Its responses are scored here, token by token."""
    with errors(as_json):
        from valign.pipeline.agreement import MAX_KL, audit_endpoint
        from valign.pipeline.data import read_source
        from valign.pipeline.policies import LoadOptions, load_policy
        from valign.pipeline.recipe import Source

        options = LoadOptions(device, dtype)
        prompts = [g.prompt for g in read_source(Source(path=data, limit=samples)) if not g.choices and g.prompt]
        found = audit_endpoint(load_policy(endpoint), load_policy(model, options), prompts, samples=samples,
                               max_new_tokens=max_new_tokens, seed=seed)  # fmt: skip
        if as_json:
            print_json(found.to_json())
        else:
            say(found.agreement.text)
            say(f"prompts with the same token ids on both sides: {found.same_ids} of {found.prompts}")
            if found.unanswered:
                say(f"samples without an answer: {found.unanswered}")
            say(f"{'agrees' if found.ok else 'DISAGREES'}: training accepts up to {MAX_KL:g} nats per token")
        if not found.ok:
            raise typer.Exit(1)


def methods(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="One method: prints its settings with meaning and default.")
    ] = None,
    model: Annotated[str | None, option(DATA, help="Say which can run for this model.")] = None,
    data: Annotated[str | None, option(DATA, help="Say which can learn from this data.")] = None,
    goal: Annotated[str | None, option(DATA, help="A goal that is at hand: gives a reward and words.")] = None,
    as_json: Json = False,
) -> None:
    """Every method, what it needs, and whether it can run for a model and data."""
    with errors(as_json):
        from valign.methods.choose import catalogue, settings_of
        from valign.methods.table import METHODS, method
        from valign.pipeline.goals import make_goal

        if name is not None:
            chosen = method(name)
            refuse_given(context, ["model", "data", "goal"], "one method is shown with its settings",
                         "leave the name out: the list says which methods can run")  # fmt: skip
            rows = settings_of(chosen)
            if as_json:
                print_json({"name": name, "title": chosen.title, "paper": chosen.paper, "settings": rows})
                return
            say(
                f"{chosen.name}: {chosen.title} ({chosen.family}; {chosen.paper})\n"
                f"learns from {chosen.feedback}; promise: {chosen.promise}\n"
            )
            for row in rows:
                say(f"  {row['name']} = {row['default']!r}\n      {row['meaning']}")
            return
        groups = None
        if data is not None:
            from valign.pipeline.data import read_source
            from valign.pipeline.recipe import Source

            groups = list(read_source(Source(path=data)))
        if goal is not None:
            make_goal(goal)  # only that there is one counts, but a wrong name is none
        rows = catalogue(METHODS.values(), local=_is_local(model), groups=groups, has_goal=goal is not None)
        if as_json:
            print_json(rows)
            return
        for row in rows:
            mark = "" if row["can_run"] is None else "yes  " if row["can_run"] else "no   "
            say(f"{mark}{row['name']:<20} {row['family']:<14} learns from {row['feedback']:<15} {row['title']}")
            if row["reason"]:
                say(f"     {row['reason']}")


def _is_local(model: str | None) -> bool | None:
    if model is None:
        return None
    from valign.models.endpoint import is_endpoint
    from valign.models.policy_folder import is_policy_folder, read_manifest

    folder = Path(model)
    made = read_manifest(folder)["kind"] if is_policy_folder(folder) else ""
    return not is_endpoint(model) and made not in ("context", "decoding", "endpoint")


def theory(
    check: Annotated[
        bool, option(MEASURE, "--check", help="Compute every identity and compare it with its bound.")
    ] = False,
    plane: Annotated[
        str | None, option(MEASURE, help="Draw the policies of an oracle world against its optimum: tabular or sequence.")
    ] = None,
    out: Annotated[Path | None, option(OUTPUT, help="The folder of that report (--plane).")] = None,
    as_json: Json = False,
) -> None:
    """The identities that valign's methods rest on, with residual and bound."""
    with errors(as_json):
        from valign.theory import identities

        if (plane is None) != (out is None):
            raise UsageError("--plane and --out go together", where="valign theory", how="--plane tabular --out runs/plane")
        if plane is not None and out is not None:
            if check:
                raise UsageError("--check has no effect beside --plane", where="--check", how="give one of them")
            from valign.pipeline.oracle import write_plane

            paths = {name: str(path) for name, path in write_plane(plane, out).items()}
            print_json(paths) if as_json else say("\n".join(f"{name}: {path}" for name, path in paths.items()))
            return
        if not check:
            hint = "valign theory --check computes every identity (I1 to I42) and prints residual and bound"
            print_json({"hint": hint}) if as_json else say(hint)
            return
        results = identities.check(progress=None if as_json else lambda r: say(_identity(r)))
        failed = [r for r in results if not r.ok]
        if as_json:
            print_json(
                [
                    {
                        "id": r.id,
                        "statement": r.statement,
                        "residual": r.residual,
                        "bound": r.bound,
                        "ok": r.ok,
                        "note": r.note,
                    }
                    for r in results
                ]
            )
        else:
            say(f"{len(results)} checked, {len(failed)} exceeded")
        if failed:
            raise ValignError("identities exceed their bounds: " + ", ".join(r.id for r in failed), where="theory")


def _identity(r: Any) -> str:
    bound = "reported" if r.bound is None else f"<= {r.bound:.1e}"
    return f"{r.id:<6} {'ok  ' if r.ok else 'FAIL'} {r.residual:.2e} {bound:<11} {r.statement}"


def doctor(as_json: Json = False) -> None:
    """Is this installation whole, and what can this machine do?"""
    with errors(as_json):
        from valign.pipeline.doctor import examine

        rows = examine()
        if as_json:
            print_json([{"name": n, "ok": ok, "text": text} for n, ok, text in rows])
        else:
            for n, ok, text in rows:
                say(f"{'ok  ' if ok else 'look'} {n}: {text}")
        if not all(ok for _, ok, _ in rows):
            raise typer.Exit(1)


def _show(content: Any, indent: int = 0) -> None:
    """A nested mapping as indented lines."""
    pad = "  " * indent
    for key, value in content.items():
        if isinstance(value, dict) and value:
            say(f"{pad}{key}:")
            _show(value, indent + 1)
        elif isinstance(value, list) and value:
            say(f"{pad}{key}:")
            for item in value[:8]:
                say(f"{pad}  - {item}")
            if len(value) > 8:
                say(f"{pad}  ... and {len(value) - 8} more")
        elif value not in (None, "", (), [], {}):
            say(f"{pad}{key or 'none'}: {round(value, 3) if isinstance(value, float) else value}")
