"""The options that commands share: each is declared once, so it has the same name, words and group in every command.

A help page shows options in the groups below, in this order; a command module declares only what no other command has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

DATA = "Data and goal"
METHOD = "Method and training"
MEASURE = "What to measure"
ANSWERS = "How it answers"
STATISTICS = "Statistics"
PLACE = "How it runs"
COST = "Cost"
OUTPUT = "Output"
PANELS = (DATA, METHOD, MEASURE, ANSWERS, STATISTICS, PLACE, COST, OUTPUT)
ARGUMENTS = "Arguments"

LOADING = ("device", "dtype", "allow_pickle", "trust_remote_code")  # parameters that say how a local model is loaded
JUDGE = "a reward (sentiment, toxicity, length, a reward model's folder, python:module.function) or a goal"


class Command(TyperCommand):
    """A command whose help page shows its options by group, as plain text: typer draws groups only as boxes of rich, which
    cut long values and are no help in a pipe."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then each group that has options; what names no group (--help) stands with the output."""
        rows: dict[str, list[tuple[str, str]]] = {name: [] for name in (ARGUMENTS, *PANELS)}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                argument = param.param_type_name == "argument"
                rows[ARGUMENTS if argument else getattr(param, "rich_help_panel", None) or OUTPUT].append(record)
        for name, found in rows.items():
            if found:
                with formatter.section(name):
                    formatter.write_dl(found)


def option(panel: str, *names: str, **settings: Any) -> Any:
    """A `typer.Option` in a group of the help page."""
    return typer.Option(*names, rich_help_panel=panel, **settings)


# ------------------------------------------------------------------------------------------------------ arguments

Model = Annotated[
    str,
    typer.Argument(
        help="A model: smollm2-135m-instruct, a folder, a GGUF file, a hub id, or an endpoint: vllm:NAME@URL, openai:NAME@URL."
    ),
]

# -------------------------------------------------------------------------------------------------- data and goal

_SOURCE = "file, builtin:NAME or hub:OWNER/NAME; a part of it: FILE#test, FILE#0:800"
_PROMPTS = option(DATA, "--data", help=f"Prompts to answer: a {_SOURCE}. May be repeated.")
Data = Annotated[list[str], option(DATA, "--data", help=f"A {_SOURCE}. May be repeated.")]
TrainingData = Annotated[
    list[str] | None, option(DATA, "--data", help=f"A {_SOURCE}; with a weight: FILE=0.3. May be repeated.")
]
Prompts = Annotated[list[str], _PROMPTS]
MaybePrompts = Annotated[list[str] | None, _PROMPTS]
GoalOption = Annotated[
    list[str] | None,
    option(DATA, "--goal", help="A goal: a name (`schwartz10:benevolence=1,power=-1`, `core`) or a YAML file."),
]
RewardOption = Annotated[
    str | None,
    option(DATA, "--reward", help="A reward in place of the goal's: toxicity, sentiment, length, python:module.function, or the "
           "folder of a reward model."),
]  # fmt: skip
Reference = Annotated[
    str | None, option(DATA, help="The model before alignment: gives implicit rewards, token credits and the KL.")
]
Limit = Annotated[int | None, option(DATA, help="At most so many groups of the data.", min=1)]

# -------------------------------------------------------------------------------------------- method and training

Method = Annotated[str, option(METHOD, help="A method's name: `valign methods` lists them.")]
Methods = Annotated[
    list[str] | None, option(METHOD, "--method", help="A method; with settings: dpo,beta=0.2. May be repeated.")
]
Set = Annotated[list[str] | None, option(METHOD, "--set", help="Change a setting: KEY=VALUE. May be repeated.")]
Dev = Annotated[
    float, option(METHOD, help="Share of the data held out for evaluation while training.", min=0, max=0.5)
]

# ------------------------------------------------------------------------------------------------ what to measure

Gold = Annotated[str | None, option(MEASURE, help=f"The judge that the reward stands for: {JUDGE}.")]
Audit = Annotated[list[str] | None, option(MEASURE, "--audit", help="Held-out prompts for --gold. May be repeated.")]
AuditSteps = Annotated[int, option(MEASURE, help="Steps between audits; 0: a tenth of the run.", min=0)]
Alarm = Annotated[str, option(MEASURE, help="When gold stops following the reward: warn, stop, rollback.")]
MaxKl = Annotated[float | None, option(MEASURE, help="KL budget, nats per response: an alarm above it.")]
Beta = Annotated[float, option(MEASURE, help="Scale of implicit rewards and token credits.")]
Risks = Annotated[
    list[str] | None,
    option(MEASURE, "--risk", help="A reward whose low side is a risk, read off the responses that are drawn for the goal: "
           "toxicity (the rate), sentiment, python:module.function, or the folder of a reward model. May be repeated."),
]  # fmt: skip
KlPrompts = Annotated[int, option(MEASURE, help="Prompts whose samples estimate the KL; 0: none.", min=0)]
Judges = Annotated[
    list[str] | None,
    option(MEASURE, "--judge", help="A model or endpoint that judges the quality of the principles; fewer than three are asked "
           "in three wordings. May be repeated."),
]  # fmt: skip

# ------------------------------------------------------------------------------------------------- how it answers

Samples = Annotated[int, option(ANSWERS, help="Responses per prompt.", min=1)]
MaxNewTokens = Annotated[int, option(ANSWERS, help="Longest response, in tokens.", min=1)]
Temperature = Annotated[float, option(ANSWERS, help="Of the responses; 0: the most probable token.", min=0)]

# ----------------------------------------------------------------------------------------------------- statistics

Margins = Annotated[
    list[str] | None,
    option(STATISTICS, "--margin", help="METRIC=NUMBER: a difference below it does not matter. May be repeated."),
]
Seeds = Annotated[
    int, option(STATISTICS, min=1, help="Trainings of each method; they are the sample by which it is judged.")
]

# ---------------------------------------------------------------------------------------------------- how it runs

Seed = Annotated[int, option(PLACE, help="Seed of everything that is random.")]
Device = Annotated[str, option(PLACE, help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, option(PLACE, help="auto, float32, bfloat16, float16, float64 (auto: float32 weights).")]
Strategy = Annotated[
    str,
    option(PLACE, help="How the processes that torchrun started train together: ddp (each holds all weights), fsdp2 (each a "
           "part); auto: ddp where there are several, else single."),
]  # fmt: skip
Workers = Annotated[
    int, option(PLACE, min=0, help="Ray actors that share the work, on this machine or a cluster; 0: this process.")
]
AllowPickle = Annotated[
    bool, option(PLACE, "--allow-pickle", help="Load pickled weights. They can run code: only from people you trust.")
]
TrustCode = Annotated[bool, option(PLACE, "--trust-remote-code", help="Run the model author's own code.")]

# ----------------------------------------------------------------------------------------------------------- cost

MaxCost = Annotated[
    float | None, option(COST, help="An endpoint stops before it would cost more than this in all; run again to continue.")
]
PriceRead = Annotated[float | None, option(COST, help="An endpoint's price per million tokens of prompt.")]
PriceGenerated = Annotated[float | None, option(COST, help="An endpoint's price per million tokens of answers.")]

# --------------------------------------------------------------------------------------------------------- output

Out = Annotated[Path, option(OUTPUT, help="Output folder; run the same command again to continue there.")]
Force = Annotated[bool, option(OUTPUT, "--force", help="Start again in a folder that holds another run.")]
Track = Annotated[
    list[str] | None, option(OUTPUT, "--track", help="Also log to: tensorboard, wandb, trackio, mlflow. May be repeated.")
]
Json = Annotated[bool, option(OUTPUT, "--json", help="Print one JSON document instead of text.")]
