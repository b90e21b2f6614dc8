"""The `dragkit` command: reconstruct a photo, train the embedded models, run the measurements."""

from __future__ import annotations

import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from dragkit.client import SplitClient

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
train_app = typer.Typer(
    no_args_is_help=True, help="Train an embedded model; the same command resumes an interrupted run."
)
app.add_typer(train_app, name="train")
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
    seed: Annotated[int, typer.Option(help="of the attack")] = 3407,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Show what the intermediate representation of PHOTO gives away."""
    import torch

    from dragkit import metrics, zoo
    from dragkit.attacks import DragConfig, DragState, drag
    from dragkit.images import grid, load_image, save_image
    from dragkit.prior import LatentPrior

    split = _client(client, layer, device)
    known = (
        zoo.load_prior(prior, device=device)
        if prior == zoo.PRIOR
        else LatentPrior.from_pretrained(prior, device=device)
    )
    x = load_image(photo, known.image_size)[None].to(device)
    with torch.no_grad():
        h = split(x)
        ceiling = known.decode(known.encode(x)).clamp(0, 1)
    console.print(split, highlight=False)
    small = {Budget.ci: 80, Budget.fast: 400} if prior == zoo.PRIOR else {}
    config = DragConfig.small(small[budget]) if budget in small else getattr(DragConfig, budget.value)()
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("DRAG", total=config.num_steps * config.recurrence)

        def show(state: DragState) -> None:
            progress.update(bar, completed=state.iteration)

        found = drag(h, split, known, config, seeds=seed, callback=show)
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


Steps = Annotated[
    int, typer.Option(help="length of the run; more than before continues it, fewer brings it to its end early")
]
Minutes = Annotated[float, typer.Option(help="end the run by the clock; 0 leaves it to --steps")]
Crop = Annotated[float, typer.Option(help="smallest random crop, as a share of the photo's area")]
Ship = Annotated[bool, typer.Option(help="put the finished model into dragkit/zoo")]


@train_app.command()
def autoencoder(
    steps: Steps = 40_000,
    batch: int = 32,
    lr: float = 2e-3,
    perceptual_from: Annotated[int, typer.Option(help="step from which ST-LPIPS is part of the loss")] = 4_000,
    perceptual_share: float = 0.125,
    channels: Annotated[str, typer.Option(help="width of each level")] = "24,48,96,192",
    crop: Crop = 1.0,
    minutes: Minutes = 0.0,
    device: str = "auto",
    seed: int = 0,
    ship: Ship = False,
) -> None:
    """The 64x64 autoencoder."""
    from dragkit.training import commands
    from dragkit.training.autoencoder import AutoencoderRecipe
    from dragkit.training.loop import TrainConfig

    recipe = AutoencoderRecipe(
        _numbers(channels), perceptual_from=perceptual_from, perceptual_share=perceptual_share, crop=crop
    )
    config = TrainConfig(
        steps, batch, lr, warmup=300, ema=0.998, decay=0.35, device=device, seed=seed, minutes=minutes or None
    )
    _done(commands.train_autoencoder(config, recipe), "autoencoder", ship)


@train_app.command()
def prior(
    steps: Steps = 60_000,
    batch: int = 64,
    lr: float = 2e-3,
    channels: Annotated[str, typer.Option(help="width of each level")] = "96,176",
    dropout: float = 0.0,
    crop: Crop = 1.0,
    minutes: Minutes = 0.0,
    device: str = "auto",
    seed: int = 0,
    ship: Ship = False,
) -> None:
    """The noise predictor on the autoencoder's latents."""
    from dragkit.training import commands
    from dragkit.training.loop import TrainConfig
    from dragkit.training.prior import PriorRecipe

    config = TrainConfig(steps, batch, lr, ema=0.999, device=device, seed=seed, minutes=minutes or None)
    _done(commands.train_prior(config, PriorRecipe(_numbers(channels), dropout=dropout, crop=crop)), "prior", ship)


@train_app.command()
def classifier(
    steps: Steps = 30_000,
    batch: int = 64,
    lr: float = 2e-3,
    weight_decay: float = 0.02,
    width: int = 128,
    crop: Crop = 0.35,
    mix: float = 0.5,
    minutes: Minutes = 0.0,
    device: str = "auto",
    seed: int = 0,
    ship: Ship = False,
) -> None:
    """The 12-block ViT."""
    from dragkit.training import commands
    from dragkit.training.classifier import ClassifierRecipe
    from dragkit.training.loop import TrainConfig

    config = TrainConfig(
        steps,
        batch,
        lr,
        weight_decay=weight_decay,
        ema=0.998,
        decay=0.35,
        device=device,
        seed=seed,
        minutes=minutes or None,
    )
    _done(commands.train_classifier(config, ClassifierRecipe(width=width, crop=crop, mix=mix)), "classifier", ship)


@train_app.command()
def inverse(
    client: Annotated[str, typer.Option(help="an embedded client")] = "vit-imagenette64",
    split: Annotated[str, typer.Option(help="where it is cut: block:9, or a module name")] = "block:9",
    steps: Steps = 4_700,
    batch: int = 16,
    lr: float = 4e-3,
    width: int = 192,
    depth: int = 2,
    drop: Annotated[float, typer.Option(help="share of the tokens that are missing in training")] = 0.0,
    crop: Crop = 0.5,
    minutes: Minutes = 0.0,
    device: str = "auto",
    seed: int = 0,
    ship: Ship = False,
) -> None:
    """The inverse network of a client: from the representation back to the photo."""
    from dragkit.training import commands
    from dragkit.training.inverse import InverseRecipe
    from dragkit.training.loop import TrainConfig

    config = TrainConfig(
        steps, batch, lr, warmup=50, ema=0.99, decay=0.4, device=device, seed=seed, minutes=minutes or None
    )
    recipe = InverseRecipe(width, depth, drop=drop, crop=crop)
    _done(commands.train_inverse(config, recipe, client, split), commands.inverse_run(client, split), ship)


@train_app.command()
def gan(
    steps: Steps = 30_000,
    batch: int = 32,
    lr: float = 3e-4,
    channels: Annotated[str, typer.Option(help="of the generator, at 4, 8, 16, ... pixels")] = "128,128,96,64,32",
    r1: Annotated[float, typer.Option(help="weight of the gradient penalty")] = 1.0,
    minutes: Minutes = 0.0,
    device: str = "auto",
    seed: int = 0,
    ship: Ship = False,
) -> None:
    """The GAN in whose latent space GLASS searches."""
    from dragkit.training import gan_commands
    from dragkit.training.gan import GanRecipe
    from dragkit.training.loop import TrainConfig

    config = TrainConfig(steps, batch, lr, ema=0.999, clip=100.0, device=device, seed=seed, minutes=minutes or None)
    widths = _numbers(channels)
    _done(gan_commands.train_gan(config, GanRecipe(channels=widths, critic_channels=widths, r1=r1)), "gan", ship)


@train_app.command()
def gan_encoder(
    client: Annotated[str, typer.Option(help="an embedded client")] = "vit-imagenette64",
    split: Annotated[str, typer.Option(help="where it is cut: block:9, or a module name")] = "block:9",
    steps: Steps = 6_000,
    batch: int = 32,
    lr: float = 1e-3,
    width: int = 128,
    depth: int = 2,
    minutes: Minutes = 0.0,
    device: str = "auto",
    seed: int = 0,
    ship: Ship = False,
) -> None:
    """The encoder that starts GLASS++: from the representation to the GAN's styles."""
    from dragkit.training import gan_commands
    from dragkit.training.gan_encoder import EncoderRecipe
    from dragkit.training.loop import TrainConfig

    config = TrainConfig(steps, batch, lr, ema=0.998, device=device, seed=seed, minutes=minutes or None)
    out = gan_commands.train_gan_encoder(config, EncoderRecipe(width, depth), client, split)
    _done(out, gan_commands.encoder_run(client, split), ship)


@app.command()
def measure(
    name: Annotated[str, typer.Argument(help="models, noise, overfit, overfit_small, recurrence, shuffle or deep")],
    n: Annotated[int, typer.Option(help="photos (samples for `models`); 0 is the measurement's own number")] = 0,
    steps: Annotated[int, typer.Option(help="recurrence: DDIM steps")] = 0,
    at: Annotated[str, typer.Option(help="deep: split point")] = "",
    iterations: Annotated[int, typer.Option(help="deep: iterations of each attack")] = 0,
) -> None:
    """Run a measurement (resumable) and write its claims and data into book/results."""
    from dragkit.measurements import MEASUREMENTS

    if name not in MEASUREMENTS:
        raise ValueError(f"there is no measurement {name!r}; there are {', '.join(MEASUREMENTS)}")
    chosen: dict[str, Any] = {"n": n, "num_steps": steps, "at": at, "iterations": iterations}
    if name == "models":
        chosen["n_samples"] = chosen.pop("n")
    console.print(f"written: {MEASUREMENTS[name](**{k: v for k, v in chosen.items() if v})}")


@app.command()
def sweep(
    name: Annotated[
        str, typer.Argument(help="search, baselines, retrieval, ablations, recurrence_curve, rates or budgets")
    ],
    n: Annotated[int, typer.Option(help="photos; 0 is the sweep's own number")] = 0,
    turns: Annotated[int, typer.Option(help="turns of DRAG, whose time the other methods get too")] = 0,
    client: Annotated[str, typer.Option(help="baselines: an embedded client")] = "",
    blocks: Annotated[str, typer.Option(help="baselines and ablations: such as block:6,block:12")] = "",
) -> None:
    """Compare attacks on the same photos (resumable) and write claims and data into book/results."""
    from dragkit.sweeps import SWEEPS

    if name not in SWEEPS:
        raise ValueError(f"there is no sweep {name!r}; there are {', '.join(SWEEPS)}")
    chosen: dict[str, Any] = {"n": n, "turns": turns, "client": client}
    chosen["blocks"] = tuple(blocks.split(",")) if blocks else ()
    console.print(f"written: {SWEEPS[name](**{k: v for k, v in chosen.items() if v})}")


def _client(name: str, layer: str, device: str = "cpu") -> SplitClient:
    """An embedded client by name, any other by path or hub name; `layer` is a block number or a module name."""
    from dragkit import zoo
    from dragkit.client import SplitClient

    at = f"block:{layer}" if layer.isdecimal() else layer
    if name in (zoo.CLIENT, zoo.WILD_CLIENT):
        return zoo.load_client(name, at, device=device)
    return SplitClient.from_pretrained(name, at, device=device)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"channels is {text!r}; it must be numbers with commas between, such as 16,32,64,128"
        ) from None


def _done(export: Path, run: str, ship: bool) -> None:
    from dragkit.training import commands

    console.print(f"exported to {export}")
    if ship:
        console.print(f"shipped as {commands.ship(run)}")


if __name__ == "__main__":
    main()
