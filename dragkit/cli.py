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
    from torch import Tensor

    from dragkit.adaptive import Heard
    from dragkit.client import SplitClient
    from dragkit.threat import ThreatModel

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

    from dragkit import metrics, zoo
    from dragkit.attacks import DragConfig, DragState, drag
    from dragkit.images import grid, load_image, save_image
    from dragkit.prior import LatentPrior

    _check_defended(defence, adaptive, queries)
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
    heard, threat = _heard(h, split, client, prior, defence, adaptive, queries, seed)
    small = {Budget.ci: 80, Budget.fast: 400} if prior == zoo.PRIOR else {}
    config = DragConfig.small(small[budget]) if budget in small else getattr(DragConfig, budget.value)()
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("DRAG", total=config.num_steps * config.recurrence)

        def show(state: DragState) -> None:
            progress.update(bar, completed=state.iteration)

        found = drag(
            heard.h,
            split,
            known,
            config,
            mask=heard.mask,
            distance=heard.distance,
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


Steps = Annotated[
    int, typer.Option(help="length of the run; more than before continues it, fewer brings it to its end early")
]
Minutes = Annotated[float, typer.Option(help="end the run by the clock; 0 leaves it to --steps")]
Crop = Annotated[float, typer.Option(help="smallest random crop, as a share of the photo's area")]
PriorName = Annotated[str, typer.Option(help="of the prior that the part belongs to")]
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
    name: PriorName = "imagenette64",
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
    _done(commands.train_autoencoder(config, recipe, name), commands.part_run(name, "vae"), ship)


@train_app.command()
def prior(
    steps: Steps = 60_000,
    batch: int = 64,
    lr: float = 2e-3,
    channels: Annotated[str, typer.Option(help="width of each level")] = "96,176",
    dropout: float = 0.0,
    crop: Crop = 1.0,
    name: PriorName = "imagenette64",
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
    recipe = PriorRecipe(_numbers(channels), dropout=dropout, crop=crop)
    _done(commands.train_prior(config, recipe, name), commands.part_run(name, "unet"), ship)


@train_app.command()
def pixel_prior(
    steps: Steps = 20_000,
    batch: int = 32,
    lr: float = 2e-3,
    channels: Annotated[str, typer.Option(help="width of each level, at 64, 32, 16, ... pixels")] = "32,48,96,128",
    layers: Annotated[int, typer.Option(help="residual blocks per level")] = 1,
    dropout: float = 0.0,
    crop: Crop = 0.8,
    minutes: Minutes = 0.0,
    device: str = "auto",
    seed: int = 0,
    ship: Ship = False,
) -> None:
    """The noise predictor on pixels: a prior without an autoencoder."""
    from dragkit.training import pixel_commands
    from dragkit.training.loop import TrainConfig
    from dragkit.training.pixel_prior import PixelRecipe

    config = TrainConfig(
        steps, batch, lr, ema=0.999, device=device, seed=seed, minutes=minutes or None, save_every=900.0
    )  # saved seldom: each report takes about half a minute on one core
    recipe = PixelRecipe(_numbers(channels), layers, dropout, crop)
    _done(pixel_commands.train_pixel_prior(config, recipe), pixel_commands.RUN, ship)


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
    defence: Annotated[str, typer.Option(help="train on messages defended so, such as gaussian:0.5")] = "",
    start: Annotated[
        str,
        typer.Option(
            help="inverse network to go on from; auto: the undefended one of this client, or of the client it was "
            "fine-tuned from; none: random weights"
        ),
    ] = "auto",
    minutes: Minutes = 0.0,
    device: str = "auto",
    seed: int = 0,
    ship: Ship = False,
) -> None:
    """The inverse network of a client: from the (defended) representation back to the photo."""
    from dragkit.training import commands
    from dragkit.training.inverse import InverseRecipe
    from dragkit.training.loop import TrainConfig

    config = TrainConfig(
        steps, batch, lr, warmup=50, ema=0.99, decay=0.4, device=device, seed=seed, minutes=minutes or None
    )
    began = {"auto": commands.inverse_start(client, split, defence), "none": ""}.get(start, start)
    recipe = InverseRecipe(width, depth, drop=drop, crop=crop, start=began)
    out = commands.train_inverse(config, recipe, client, split, defence)
    _done(out, commands.inverse_run(client, split, defence), ship)


@train_app.command()
def server(
    defence: Annotated[str, typer.Option(help="recipe, such as gaussian:1.0 or drop:0.5+shuffle")],
    client: Annotated[str, typer.Option(help="an embedded client that classifies")] = "vit-imagenette64",
    split: Annotated[str, typer.Option(help="where it is cut: block:6, or a module name")] = "block:6",
    steps: Steps = 1_500,
    batch: int = 32,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    minutes: Minutes = 0.0,
    device: str = "auto",
    seed: int = 0,
    ship: Ship = False,
) -> None:
    """A server half that learns to live with a defence; the client half stays as it is."""
    from dragkit.training import commands
    from dragkit.training.loop import TrainConfig
    from dragkit.training.server import ServerRecipe

    config = TrainConfig(
        steps,
        batch,
        lr,
        warmup=50,
        weight_decay=weight_decay,
        ema=0.99,
        decay=0.4,
        device=device,
        seed=seed,
        minutes=minutes or None,
    )
    out = commands.train_server(config, ServerRecipe(), client, split, defence)
    _done(out, commands.server_run(client, split, defence), ship)


@train_app.command()
def nopeek(
    name: Annotated[
        str, typer.Option(help="of the client that is made; a new one, nopeek-..., for every variant")
    ] = "nopeek-vit-imagenette64",
    block: Annotated[int, typer.Option(help="after which the client is cut")] = 6,
    weight: Annotated[float, typer.Option(help="of the distance correlation (lambda); 0 is the control")] = 3.0,
    dx: Annotated[str, typer.Option(help="distance between photos: euclid or squared")] = "euclid",
    dz: Annotated[str, typer.Option(help="distance between messages: euclid, squared or cosine")] = "euclid",
    unbiased: Annotated[bool, typer.Option(help="U-centred estimate of the correlation")] = False,
    root: Annotated[bool, typer.Option(help="the correlation, not its square")] = True,
    train: Annotated[str, typer.Option(help="which halves learn: both, client or server")] = "both",
    tokens: Annotated[str, typer.Option(help="that are decorrelated: all, patches or cls")] = "all",
    photos: Annotated[str, typer.Option(help="as what photos are compared: pixels or low-pass")] = "pixels",
    steps: Steps = 500,
    batch: int = 64,
    lr: float = 5e-4,
    minutes: Minutes = 0.0,
    device: str = "auto",
    seed: int = 0,
    ship: Ship = False,
) -> None:
    """A client whose messages are decorrelated from the photos (NoPeek)."""
    from dragkit.training.loop import TrainConfig
    from dragkit.training.nopeek import NopeekRecipe
    from dragkit.training.nopeek_commands import train_nopeek

    config = TrainConfig(
        steps, batch, lr, warmup=50, ema=0.99, decay=0.4, device=device, seed=seed, minutes=minutes or None
    )
    recipe = NopeekRecipe(block, weight, dx, dz, unbiased, root, train, tokens, photos)
    _done(train_nopeek(config, recipe, name), name, ship)


@train_app.command()
def disco(
    name: Annotated[
        str, typer.Option(help="of the client that is made; a new one for every variant")
    ] = "disco-vit-imagenette64",
    split: Annotated[str, typer.Option(help="where it is cut: one with a shipped inverse network")] = "block:6",
    steps: Steps = 1_000,
    batch: int = 32,
    lr: float = 5e-4,
    ratio: Annotated[float, typer.Option(help="share of the channels that are pruned")] = 0.5,
    temperature: float = 0.03,
    hard: Annotated[bool, typer.Option(help="gains of 0 and 1, straight-through gradient")] = False,
    scores: Annotated[str, typer.Option(help="learned, static or random")] = "learned",
    fill: Annotated[str, typer.Option(help="in place of a channel: zero or mean")] = "zero",
    rho: Annotated[float, typer.Option(help="weight of the answer against the adversary's error")] = 0.75,
    adversarial: Annotated[bool, typer.Option(help="the pruner learns from the adversary")] = True,
    adversary_frozen: bool = False,
    answer_into_pruner: bool = True,
    client_frozen: bool = False,
    minutes: Minutes = 0.0,
    device: str = "auto",
    seed: int = 0,
    ship: Ship = False,
) -> None:
    """A client with learned channel pruning (DISCO): the ViT and its pruner, against an adversary."""
    from dragkit.defenses.disco import Mask
    from dragkit.training import disco_commands
    from dragkit.training.disco import DiscoRecipe
    from dragkit.training.loop import TrainConfig

    config = TrainConfig(
        steps, batch, lr, warmup=50, ema=0.99, decay=0.4, device=device, seed=seed, minutes=minutes or None
    )
    mask = Mask(ratio, temperature, hard, scores, fill)
    recipe = DiscoRecipe(mask, rho, adversarial, adversary_frozen, answer_into_pruner, client_frozen)
    out = disco_commands.train_disco(config, recipe, name, split)
    for run in disco_commands.disco_runs(name, split):
        _done(out.parent.parent / run / "export", run, ship)


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
        str,
        typer.Argument(
            help="search, baselines, retrieval, ablations, recurrence_curve, rates, budgets, starts, pixels, published, "
            "defence_noise, defence_tokens, defence_transport, defence_nopeek, defence_disco, defence_randomness, bounds or bits"
        ),
    ],
    n: Annotated[int, typer.Option(help="photos; 0 is the sweep's own number")] = 0,
    turns: Annotated[int, typer.Option(help="turns of DRAG, whose time the other methods get too")] = 0,
    client: Annotated[str, typer.Option(help="baselines: an embedded client")] = "",
    blocks: Annotated[str, typer.Option(help="of sweeps over several cuts: such as block:6,block:12")] = "",
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
    if name == zoo.WILD_CLIENT or zoo.available(name):
        return zoo.load_client(name, at, device=device)
    return SplitClient.from_pretrained(name, at, device=device)


def _check_defended(defence: str, adaptive: str, queries: int) -> None:
    """Refuse what `_heard` could not do, before anything is loaded."""
    from dragkit.adaptive import check_reply
    from dragkit.defenses import check_recipe

    if defence:
        check_recipe(defence)
    elif adaptive or queries != 1:
        raise ValueError(f"--adaptive is {adaptive!r} and --queries {queries}, but there is no --defence to reply to")
    if queries < 1:
        raise ValueError(f"--queries is {queries}; the photo is sent at least once")
    check_reply(adaptive)


def _heard(
    h: Tensor, split: SplitClient, client: str, prior: str, defence: str, adaptive: str, queries: int, seed: int
) -> tuple[Heard, ThreatModel]:
    """What the attacker works with, and what he is declared to have; prints what the defence does to the server's answer."""
    from dragkit import utility
    from dragkit.adaptive import Heard, hear
    from dragkit.defenses import defend, make
    from dragkit.methods import ATTACKER, Knowledge

    if not defence:
        return Heard(h), ATTACKER
    made = make(defence, split)
    messages = defend(made, h, seed, queries)
    console.print(f"defence {defence}: the server is told {made.server_knows}", highlight=False)
    console.print(utility.consequence(split, h, made.receive(messages[0])), highlight=False, soft_wrap=True)
    known = Knowledge(client, split.split, prior, str(h.device), defence if adaptive else "")
    return hear(adaptive, messages, made, split, known)


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
