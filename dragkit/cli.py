"""The `dragkit` command: what a photo's features give away, what a model sends, and which models are embedded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

if TYPE_CHECKING:
    from dragkit.reconstruct import Outcome

ALIASES = {"--layer": "--at", "--split": "--at", "--block": "--at", "--blocks": "--at"}
"""How the cut was called before, for one release."""

ERRORS = (ValueError, TypeError, ImportError, FloatingPointError, OSError, RuntimeError)

console = Console()


class Budget(StrEnum):
    ci = "ci"
    fast = "fast"
    paper = "paper"


class Method(StrEnum):
    drag = "drag"
    drag_plus_plus = "drag++"
    inverse = "inverse"
    rmle = "rmle"
    lm = "lm"
    glass = "glass"
    glass_plus_plus = "glass++"


class Precision(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Commands(TyperGroup):
    """The commands, with the old spellings of options understood."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, modern(list(args)))


def modern(arguments: list[str]) -> list[str]:
    """Arguments with the cut called `--at`, and blocks that were given as plain numbers called `block:N`."""
    made: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        name = ALIASES.get(name, name)
        if equals and name == "--at":
            made.append(f"--at={_blocks(value)}")
        else:
            made.append(_blocks(argument) if made and made[-1] == "--at" else name + equals + value)
    return made


def _blocks(text: str) -> str:
    return ",".join(f"block:{part}" if part.isdecimal() else part for part in text.split(","))


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point: errors a person can act on are one line, not a traceback."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app()
    except ERRORS as error:
        console.print(f"dragkit: {error}", style=None, markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from error


def say(line: object) -> None:
    """A line as it is: never cut, and nothing in it taken for a colour."""
    console.print(str(line), markup=False, highlight=False, soft_wrap=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        from dragkit import __version__

        say(f"dragkit {__version__}")
        raise typer.Exit


@app.callback(help=__doc__)
def about(
    version: Annotated[
        bool, typer.Option("--version", help="show the version and end", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Options of the command as a whole."""


At = Annotated[str, typer.Option(help="where the model is cut: block:9 or 9 (block:0 = embeddings), or a module name")]

CLIENT = "an embedded client, or a folder / hub name / timm:NAME / torchvision:NAME"


@app.command()
def reconstruct(
    photos: Annotated[list[Path], typer.Argument(help="image files (JPEG, PNG, ...), or a folder of them")],
    at: At = "block:9",
    client: Annotated[str, typer.Option(help=CLIENT)] = "vit-imagenette64",
    prior: Annotated[
        str, typer.Option(help="an embedded prior (imagenette64, pixel64), or a folder / hub name in diffusers' layout")
    ] = "imagenette64",
    method: Annotated[Method, typer.Option(help="the attack")] = Method.drag,
    budget: Annotated[
        Budget,
        typer.Option(help="ci: 80 turns, fast: 400 (with the settings for the embedded priors), paper: as published"),
    ] = Budget.fast,
    turns: Annotated[
        int | None, typer.Option("--turns", "--steps", help="length of the attack, in place of the budget's")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto")] = "cpu",
    dtype: Annotated[Precision, typer.Option(help="precision of client and prior")] = Precision.float32,
    defence: Annotated[str, typer.Option(help="what the client does to the message, such as drop:0.5+shuffle")] = "",
    adaptive: Annotated[
        str, typer.Option(help="the reply of attackers who know the defence, such as mask; empty: they do not")
    ] = "",
    queries: Annotated[int, typer.Option(help="how often the photo is sent, each time defended anew")] = 1,
    seed: Annotated[int, typer.Option(help="of the attack, and of the defence")] = 3407,
    checkpoint: Annotated[
        Path | None, typer.Option(help="file in which the attack is saved, and from which it goes on when it exists")
    ] = None,
    public: Annotated[
        Path | None,
        typer.Option(
            help="folder of public photos, for what a defence or a reply learns; Imagenette when none is named"
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="file for the figures of every photo")] = None,
    out: Annotated[
        Path, typer.Option(help="picture with a row per photo: photo | reconstruction | the prior's best")
    ] = Path("reconstruction.png"),
) -> None:
    """Show what the intermediate representations of photos give away."""
    from dragkit import reconstruct as work

    names = {"method": method.value, "budget": budget.value, "turns": turns, "device": device, "dtype": dtype.value}
    defended = {"defence": defence, "adaptive": adaptive, "queries": queries, "seed": seed}
    files = {"checkpoint": checkpoint, "json": json, "out": out, "public": public}
    at = _blocks(at)
    job = work.Job(photos=tuple(photos), at=at, client=client, prior=prior, **names, **defended, **files)  # type: ignore[arg-type]
    bar = Progress(console=console, transient=True) if console.is_terminal else None
    with bar or nullcontext():
        outcome = work.reconstruct(job, say, _advance(bar, job.shown) if bar else work.Ticker(say, job.shown))
    say(f"{job.shown}: {outcome.rebuilt}")
    file = outcome.picture()
    _show(outcome)
    if outcome.ceiling is not None:
        say(f"photo | reconstruction | decoder ceiling: {file}")
    else:
        say(f"photo | reconstruction: {file}")
    if record := outcome.write_record():
        say(f"figures: {record}")
    if outcome.rebuilt.interrupted:
        say("interrupted: this is the best so far" + (f"; {checkpoint} goes on from here" if checkpoint else ""))
        raise typer.Exit(130)


def _advance(bar: Progress, label: str) -> Callable[[Any], None]:
    task = bar.add_task(label)
    return lambda state: bar.update(task, completed=state.iteration, total=state.total)


def _show(outcome: Outcome) -> None:
    """The table of figures: a row per photo and their mean, or one row for a single photo; and the decoder's ceiling."""
    scored, files = outcome.scores(outcome.rebuilt.images), outcome.job.files
    rows = Table("", "MS-SSIM (higher is closer)", "PSNR (dB)", "ST-LPIPS (lower is closer)")
    for i, file in enumerate(files if len(files) > 1 else []):
        rows.add_row(Text(file.name), *(f"{values[i]:.3f}" for values in scored.values()))
    means = {"reconstruction" if len(files) == 1 else "mean": scored}
    if outcome.ceiling is not None:
        means["decoder ceiling"] = outcome.scores(outcome.ceiling)
    for name, one in means.items():
        rows.add_row(name, *(f"{sum(values) / len(values):.3f}" for values in one.values()))
    rows.columns[0].overflow = "fold"
    console.print(rows)


@app.command()
def info(
    client: Annotated[str, typer.Argument(help=CLIENT)] = "vit-imagenette64",
    at: At = "block:9",
) -> None:
    """What a client sends when it is cut there, and the other places where it may be cut."""
    from dragkit.zoo.knowledge import open_client

    cut = open_client(client, _blocks(at))
    facts = {name: str(value) for name, value in cut.info().items()} | {"blocks": ", ".join(cut.blocks())}
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:<{width}}  {value}")


@app.command()
def models() -> None:
    """The embedded models and their measured quality."""
    from dragkit import zoo

    for name in zoo.names():
        card = zoo.card(name)
        measured = ", ".join(f"{k} {v['value']:.4g} (n={v['n']})" for k, v in card["measured"].items())
        say(f"{name}  {card['parameters'] / 1e6:.1f} M parameters")
        say(f"  measured  {measured}")
        say(f"  made by   {card['command']}")


if __name__ == "__main__":
    main()
