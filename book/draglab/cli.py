"""The laboratory behind the book on the command line: `dragkit train`, `dragkit measure`, `dragkit sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dragkit.cli import app, console, main

train_app = typer.Typer(
    no_args_is_help=True, help="Train an embedded model; the same command resumes an interrupted run."
)


Steps = Annotated[
    int, typer.Option(help="length of the run; more than before continues it, fewer brings it to its end early")
]

Minutes = Annotated[float, typer.Option(help="end the run by the clock; 0 leaves it to --steps")]

Crop = Annotated[float, typer.Option(help="smallest random crop, as a share of the photo's area")]

PriorName = Annotated[str, typer.Option(help="of the prior that the part belongs to")]

Ship = Annotated[bool, typer.Option(help="put the finished model into dragkit/zoo")]


app.add_typer(train_app, name="train")


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
    from draglab.training import autoencoder as lab_autoencoder
    from draglab.training import export as lab_export
    from draglab.training.autoencoder import AutoencoderRecipe
    from draglab.training.loop import TrainConfig

    recipe = AutoencoderRecipe(
        _numbers(channels), perceptual_from=perceptual_from, perceptual_share=perceptual_share, crop=crop
    )
    config = TrainConfig(
        steps, batch, lr, warmup=300, ema=0.998, decay=0.35, device=device, seed=seed, minutes=minutes or None
    )
    _done(lab_autoencoder.train_autoencoder(config, recipe, name), lab_export.part_run(name, "vae"), ship)


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
    from draglab.training import export as lab_export
    from draglab.training import prior as lab_prior
    from draglab.training.loop import TrainConfig
    from draglab.training.prior import PriorRecipe

    config = TrainConfig(steps, batch, lr, ema=0.999, device=device, seed=seed, minutes=minutes or None)
    recipe = PriorRecipe(_numbers(channels), dropout=dropout, crop=crop)
    _done(lab_prior.train_prior(config, recipe, name), lab_export.part_run(name, "unet"), ship)


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
    from draglab.training import pixel_prior as lab_pixel_prior
    from draglab.training.loop import TrainConfig
    from draglab.training.pixel_prior import PixelRecipe

    config = TrainConfig(
        steps, batch, lr, ema=0.999, device=device, seed=seed, minutes=minutes or None, save_every=900.0
    )  # saved seldom: each report takes about half a minute on one core
    recipe = PixelRecipe(_numbers(channels), layers, dropout, crop)
    _done(lab_pixel_prior.train_pixel_prior(config, recipe), lab_pixel_prior.RUN, ship)


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
    from draglab.training import classifier as lab_classifier
    from draglab.training.classifier import ClassifierRecipe
    from draglab.training.loop import TrainConfig

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
    _done(
        lab_classifier.train_classifier(config, ClassifierRecipe(width=width, crop=crop, mix=mix)), "classifier", ship
    )


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
    from draglab.training import inverse as lab_inverse
    from draglab.training.inverse import InverseRecipe
    from draglab.training.loop import TrainConfig

    config = TrainConfig(
        steps, batch, lr, warmup=50, ema=0.99, decay=0.4, device=device, seed=seed, minutes=minutes or None
    )
    began = {"auto": lab_inverse.inverse_start(client, split, defence), "none": ""}.get(start, start)
    recipe = InverseRecipe(width, depth, drop=drop, crop=crop, start=began)
    out = lab_inverse.train_inverse(config, recipe, client, split, defence)
    _done(out, lab_inverse.inverse_run(client, split, defence), ship)


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
    from draglab.training import server as lab_server
    from draglab.training.loop import TrainConfig
    from draglab.training.server import ServerRecipe

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
    out = lab_server.train_server(config, ServerRecipe(), client, split, defence)
    _done(out, lab_server.server_run(client, split, defence), ship)


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
    from draglab.training.loop import TrainConfig
    from draglab.training.nopeek import NopeekRecipe, train_nopeek

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
    from draglab.training import disco as lab_disco
    from draglab.training.disco import DiscoRecipe
    from draglab.training.loop import TrainConfig

    config = TrainConfig(
        steps, batch, lr, warmup=50, ema=0.99, decay=0.4, device=device, seed=seed, minutes=minutes or None
    )
    mask = Mask(ratio, temperature, hard, scores, fill)
    recipe = DiscoRecipe(mask, rho, adversarial, adversary_frozen, answer_into_pruner, client_frozen)
    out = lab_disco.train_disco(config, recipe, name, split)
    for run in lab_disco.disco_runs(name, split):
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
    from draglab.training import gan as lab_gan
    from draglab.training.gan import GanRecipe
    from draglab.training.loop import TrainConfig

    config = TrainConfig(steps, batch, lr, ema=0.999, clip=100.0, device=device, seed=seed, minutes=minutes or None)
    widths = _numbers(channels)
    _done(lab_gan.train_gan(config, GanRecipe(channels=widths, critic_channels=widths, r1=r1)), "gan", ship)


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
    from draglab.training import gan as lab_gan
    from draglab.training.gan_encoder import EncoderRecipe
    from draglab.training.loop import TrainConfig

    config = TrainConfig(steps, batch, lr, ema=0.998, device=device, seed=seed, minutes=minutes or None)
    out = lab_gan.train_gan_encoder(config, EncoderRecipe(width, depth), client, split)
    _done(out, lab_gan.encoder_run(client, split), ship)


@app.command()
def measure(
    name: Annotated[str, typer.Argument(help="models, noise, overfit, overfit_small, recurrence, shuffle or deep")],
    n: Annotated[int, typer.Option(help="photos (samples for `models`); 0 is the measurement's own number")] = 0,
    steps: Annotated[int, typer.Option(help="recurrence: DDIM steps")] = 0,
    at: Annotated[str, typer.Option(help="deep: split point")] = "",
    iterations: Annotated[int, typer.Option(help="deep: iterations of each attack")] = 0,
) -> None:
    """Run a measurement (resumable) and write its claims and data into book/results."""
    from draglab.studies.catalogue import MEASUREMENTS, load

    if name not in MEASUREMENTS:
        raise ValueError(f"there is no measurement {name!r}; there are {', '.join(MEASUREMENTS)}")
    chosen: dict[str, Any] = {"n": n, "num_steps": steps, "at": at, "iterations": iterations}
    if name == "models":
        chosen["n_samples"] = chosen.pop("n")
    console.print(f"written: {load(MEASUREMENTS[name])(**{k: v for k, v in chosen.items() if v})}")


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
    from draglab.studies.catalogue import SWEEPS, load

    if name not in SWEEPS:
        raise ValueError(f"there is no sweep {name!r}; there are {', '.join(SWEEPS)}")
    chosen: dict[str, Any] = {"n": n, "turns": turns, "client": client}
    chosen["blocks"] = tuple(blocks.split(",")) if blocks else ()
    console.print(f"written: {load(SWEEPS[name])(**{k: v for k, v in chosen.items() if v})}")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"channels is {text!r}; it must be numbers with commas between, such as 16,32,64,128"
        ) from None


def _done(out: Path, run: str, ship: bool) -> None:
    from draglab.training import export

    console.print(f"exported to {out}")
    if ship:
        console.print(f"shipped as {export.ship(run)}")


if __name__ == "__main__":
    main()
