"""The laboratory behind the book on the command line: `dragkit train`, `dragkit measure`, `dragkit sweep`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer
from typer.core import TyperGroup

from dragkit.cli import app, console, main
from draglab import options
from draglab.catalogue import MEASUREMENTS, SWEEPS, TRAININGS, Entry


def written(file: Path) -> None:
    """A study is done: say where its record lies."""
    console.print(f"written: {file}", soft_wrap=True)


def exported(folders: Path | tuple[Path, ...], ship: bool = False) -> None:
    """A training is done: say where its models lie.

    Args:
        ship: put the finished model into dragkit/zoo.
    """
    from draglab.training import export

    for folder in folders if isinstance(folders, tuple) else (folders,):
        console.print(f"exported to {folder}", soft_wrap=True)
        if ship:
            console.print(f"shipped as {export.ship(folder.parent.name)}", soft_wrap=True)


def group(noun: str, entries: dict[str, Entry], finish: Callable[..., None], about: str) -> typer.Typer:
    """A command for each entry, with the options of its function, which is imported when the command is called."""

    class Catalogue(TyperGroup):
        def get_command(self, ctx, cmd_name):
            if cmd_name not in entries:
                raise ValueError(f"there is no {noun} {cmd_name!r}; there are {', '.join(entries)}")
            return super().get_command(ctx, cmd_name)

    group = typer.Typer(cls=Catalogue, no_args_is_help=True, help=about)
    everything_on = {"allow_extra_args": True, "ignore_unknown_options": True}
    for name, entry in entries.items():
        group.command(name, help=entry.line, context_settings=everything_on, add_help_option=False)(
            _late(entry, finish)
        )
    return group


def _late(entry: Entry, finish: Callable[..., None]) -> Callable[[typer.Context], None]:
    def run(ctx: typer.Context) -> None:
        options.command(entry.load(), finish)(ctx.args, ctx.command_path)

    return run


app.add_typer(
    group("training", TRAININGS, exported, "Train an embedded model; the same command resumes an interrupted run."),
    name="train",
)
app.add_typer(
    group(
        "measurement", MEASUREMENTS, written, "A single check (resumable); its claims and data go into book/results."
    ),
    name="measure",
)
app.add_typer(
    group("sweep", SWEEPS, written, "Attacks on the same photos (resumable); claims and data go into book/results."),
    name="sweep",
)


if __name__ == "__main__":
    main()
