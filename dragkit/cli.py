"""The `dragkit` command: reconstruct a photo, train the embedded models, run the measurements."""

from __future__ import annotations

import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from torch import Tensor

    from dragkit.attacks.message import Message
    from dragkit.attacks.threat import ThreatModel
    from dragkit.client import SplitClient

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


console = Console()


class Budget(StrEnum):
    ci = "ci"
    fast = "fast"
    paper = "paper"


def main() -> None:
    """Entry point: errors a person can act on are one line, not a traceback."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app()
    except (
        ValueError,
        TypeError,
        FileNotFoundError,
        ImportError,
        PermissionError,
        FloatingPointError,
        OSError,
    ) as error:
        console.print(f"[bold red]dragkit:[/] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(2) from error


@app.command()
def reconstruct(
    photo: Annotated[Path, typer.Argument(help="image file (JPEG, PNG, ...)")],
    layer: Annotated[
        str, typer.Option(help="block after which the model is cut (0 = embeddings), or a module name")
    ] = "9",
    client: Annotated[
        str, typer.Option(help="an embedded client, or a folder / hub name / timm:NAME / torchvision:NAME")
    ] = "vit-imagenette64",
    prior: Annotated[
        str, typer.Option(help="the embedded prior, or a folder / hub name in diffusers' layout")
    ] = "imagenette64",
    budget: Annotated[
        Budget,
        typer.Option(
            help="ci: 80 turns, fast: 400 (both with the settings for the embedded prior), paper: 4,000 as published"
        ),
    ] = Budget.fast,
    out: Annotated[
        Path,
        typer.Option(help="picture to write: photo | reconstruction | what the prior's decoder could show at best"),
    ] = Path("reconstruction.png"),
    seed: Annotated[int, typer.Option(help="of the attack, and of the defence")] = 3407,
    defence: Annotated[str, typer.Option(help="what the client does to the message, such as drop:0.5+shuffle")] = "",
    adaptive: Annotated[
        str, typer.Option(help="the reply of an attacker who knows the defence, such as mask; empty: does not know")
    ] = "",
    queries: Annotated[int, typer.Option(help="how often the photo is sent, each time defended anew")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Show what the intermediate representation of PHOTO gives away."""
    import torch

    from dragkit import zoo
    from dragkit.attacks.drag import DragState, drag
    from dragkit.config import DragConfig
    from dragkit.images import grid, load_image, save_image
    from dragkit.measures import metrics
    from dragkit.priors.diffusion import LatentPrior

    _check_defended(defence, adaptive, queries)
    split = _client(client, layer, device)
    known = (
        zoo.load_prior(prior, device=device)
        if prior == zoo.PRIOR
        else LatentPrior.from_pretrained(prior, device=device)
    )
    x = load_image(photo, known.image_size)[None].to(device)
    with torch.no_grad():
        ceiling = known.decode(known.encode(x)).clamp(0, 1)
    console.print(split, highlight=False)
    message, threat = _message(x, split, defence, adaptive, queries, seed)
    small = {Budget.ci: 80, Budget.fast: 400} if prior == zoo.PRIOR else {}
    config = DragConfig.small(small[budget]) if budget in small else getattr(DragConfig, budget.value)()
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("DRAG", total=config.num_steps * config.recurrence)

        def show(state: DragState) -> None:
            progress.update(bar, completed=state.iteration)

        found = drag(
            message,
            known,
            config,
            threat=threat,
            seeds=seed,
            callback=show,
        )
    console.print(found, highlight=False)
    enlarged = max(1, 256 // known.image_size)  # small photos are hard to see: every pixel becomes a square
    shown = torch.cat([x, found.images, ceiling]).cpu().repeat_interleave(enlarged, 2).repeat_interleave(enlarged, 3)
    save_image(grid(shown, columns=3), out)
    rows = Table("", "MS-SSIM (higher is closer)", "PSNR (dB)", "ST-LPIPS (lower is closer)")
    for name, images in (("reconstruction", found.images), ("decoder ceiling", ceiling)):
        values = [metric(images, x).item() for metric in (metrics.ms_ssim, metrics.psnr, metrics.st_lpips)]
        rows.add_row(name, *(f"{v:.3f}" for v in values))
    console.print(rows)
    console.print(f"photo | reconstruction | decoder ceiling: {out}")


@app.command()
def info(
    client: Annotated[
        str, typer.Argument(help="an embedded client, or a folder / hub name / timm:NAME / torchvision:NAME")
    ] = "vit-imagenette64",
    layer: Annotated[str, typer.Option(help="block number or module name")] = "9",
) -> None:
    """What a client sends when it is cut there, and the other places where it may be cut."""
    split = _client(client, layer)
    rows = Table(show_header=False)
    for name, value in split.info().items():
        rows.add_row(name, str(value))
    rows.add_row("blocks", ", ".join(split.blocks()))
    console.print(rows)


@app.command()
def models() -> None:
    """The embedded models and their measured quality."""
    from dragkit import zoo

    rows = Table("model", "parameters", "measured", "made by")
    for name in zoo.names():
        card = zoo.card(name)
        measured = ", ".join(f"{k} {v['value']:.4g} (n={v['n']})" for k, v in card["measured"].items())
        rows.add_row(name, f"{card['parameters'] / 1e6:.1f} M", measured, card["command"])
    console.print(rows)


def _client(name: str, layer: str, device: str = "cpu") -> SplitClient:
    """An embedded client by name, any other by path or hub name; `layer` is a block number or a module name."""
    from dragkit import zoo
    from dragkit.client import SplitClient

    at = f"block:{layer}" if layer.isdecimal() else layer
    if name == zoo.WILD_CLIENT or zoo.available(name):
        return zoo.load_client(name, at, device=device)
    return SplitClient.from_pretrained(name, at, device=device)


def _check_defended(defence: str, adaptive: str, queries: int) -> None:
    """Refuse what `_message` could not do, before anything is loaded."""
    from dragkit.adaptive.replies import check_reply
    from dragkit.defenses import parse_spec

    if defence:
        parse_spec(defence)
    elif adaptive or queries != 1:
        raise ValueError(f"--adaptive is {adaptive!r} and --queries {queries}, but there is no --defence to reply to")
    if queries < 1:
        raise ValueError(f"--queries is {queries}; the photo is sent at least once")
    check_reply(adaptive)


def _message(
    photo: Tensor, client: SplitClient, defence: str, adaptive: str, queries: int, seed: int
) -> tuple[Message, ThreatModel]:
    """What the attacker works with, and what they are declared to have; prints what the defence does to the server's answer."""
    import torch

    from dragkit.adaptive.replies import hear
    from dragkit.attacks.message import Message
    from dragkit.attacks.threat import ATTACKER
    from dragkit.defenses import defend_images, make
    from dragkit.measures import utility

    with torch.no_grad():
        h = client(photo)
        if not defence:
            return Message(h, client), ATTACKER
        acting = make(defence, client)
        messages = defend_images(acting, client, photo, seed, queries)
    console.print(f"defence {defence}: the server is told {acting.server_knows}", highlight=False)
    console.print(utility.consequence(client, h, acting.receive(messages[0])), highlight=False, soft_wrap=True)
    return hear(adaptive, messages, acting, client)


if __name__ == "__main__":
    main()
