"""The seed experiments (paper notes, "first 3 experiments") and the quality of the embedded models, as measurements.

Each function runs its cases (resumably), compares methods on the same photos, and writes claims and per-photo data. Settings were
chosen on training photos; what is reported is measured on validation photos.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragkit import claims, data, metrics, zoo
from dragkit.attacks import DragConfig, RmleConfig
from dragkit.claims import Claim
from dragkit.comparison import claim, compare, gap
from dragkit.experiment import Case
from dragkit.noise_loss import noise
from dragkit.prior import LatentPrior
from dragkit.readout import deepest_readable

PAPER = "arXiv 2509.11724"
SEEDS = [0, 3407]  # of the choice of photos, and of the attacks


def overfit(n: int = 16, folder: Path | None = None) -> Path:
    """Split at the embeddings: nothing but a linear map hides the photo, so the published settings must rebuild it."""
    return _overfit("overfit", "overfit-embeddings", "the published settings", DragConfig.paper(), n, folder)


def overfit_small(n: int = 16, turns: int = 1000, folder: Path | None = None) -> Path:
    """The same with the settings that were chosen for the small prior, on training photos, and a quarter of the turns."""
    name = f"{turns} turns of the settings chosen for the small prior"
    return _overfit("overfit_small", "overfit-embeddings-small", name, DragConfig.small(turns), n, folder)


def _overfit(name: str, id_: str, settings: str, config: DragConfig, n: int, folder: Path | None) -> Path:
    rows, _ = compare(name, {"DRAG": Case(config, "block:0", n=n)})
    reached, possible = (rows[label]["per_photo"]["ms_ssim"] for label in ("DRAG", "decoder ceiling"))
    against_photo = rows["decoder ceiling"]["ms_ssim"]["mean"] >= 0.95  # below that no decoded latent could reach 0.95
    values = reached if against_photo else [a / b for a, b in zip(reached, possible, strict=True)]
    target, of = (0.95, "MS-SSIM against the photo") if against_photo else (0.97, "MS-SSIM, share of decoder ceiling")
    found = metrics.bootstrap_ci(values)
    made = claim(
        id_,
        f"At the embeddings, DRAG with {settings} rebuilds the photo ({of} above {target})",
        found,
        n,
        found.mean > target,
        source=f"{PAPER}, first experiments",
        key="ms_ssim" if against_photo else "ms_ssim / ceiling",
        notebook="06_drag",
    )
    command = f"dragkit measure {name} --n {n}"
    return claims.write(name, command, SEEDS, [made], {"config": vars(config), "rows": rows}, folder)


def recurrence(n: int = 32, num_steps: int = 20, folder: Path | None = None) -> Path:
    """Block 12, equal steps: does going back to the same timestep sixteen times help?"""
    cases = {f"k={k}": Case(DragConfig(num_steps=num_steps, recurrence=k), "block:12", n=n) for k in (1, 16)}
    rows, _ = compare("recurrence", cases)
    made = gap(
        "recurrence-k16-vs-k1",
        f"At block 12, 16 turns per step give a higher MS-SSIM than 1 with the same {num_steps} steps",
        rows,
        "k=16",
        "k=1",
        "ms_ssim",
        1,
        source=f"{PAPER}, first experiments",
        notebook="03_tweedie",
    )
    command = f"dragkit measure recurrence --n {n} --steps {num_steps}"
    return claims.write("recurrence", command, SEEDS, [made], {"num_steps": num_steps, "rows": rows}, folder)


def shuffle(n: int = 32, config: DragConfig | None = None, folder: Path | None = None) -> Path:
    """Block 6: the same attack on tokens in order and on tokens in random order."""
    config = config or DragConfig(num_steps=25, recurrence=2)
    cases = {"plain": Case(config, "block:6", n=n), "shuffled": Case(config, "block:6", n=n, defence="shuffle")}
    rows, _ = compare("shuffle", cases)
    made = gap(
        "shuffle-defeats-plain-attack",
        "Shuffling the patch tokens before they are sent lowers the MS-SSIM of an attack that does not know of it",
        rows,
        "shuffled",
        "plain",
        "ms_ssim",
        -1,
        source=f"{PAPER}, section 5.5",
        notebook="01_split_inference",
    )
    command = f"dragkit measure shuffle --n {n}"
    return claims.write("shuffle", command, SEEDS, [made], {"config": vars(config), "rows": rows}, folder)


def deep(n: int = 32, at: str = "", iterations: int = 300, folder: Path | None = None) -> Path:
    """The real backbone, deep: DRAG (with the small prior's settings, and with the published ones) against rMLE, equal iterations.

    `at` is by default the deepest block at which the IR still determines the photo (`readout`), judged on training photos.
    """
    read: dict[str, metrics.Interval] = {}
    if not at:
        at, read = deepest_readable(zoo.WILD_CLIENT)
    settings = {
        "DRAG": DragConfig.small(iterations),
        "DRAG, published settings": DragConfig(num_steps=iterations // 4, recurrence=4),
        "rMLE": RmleConfig(iterations=iterations),
    }
    common: dict[str, Any] = {"client": zoo.WILD_CLIENT, "n": n, "precision": "bfloat16"}
    rows, _ = compare("deep", {label: Case(config, at, **common) for label, config in settings.items()})
    made = gap(
        "drag-vs-rmle-deep",
        f"On the real ViT-S at {at}, DRAG has a lower ST-LPIPS to the photo than rMLE at {iterations} iterations each",
        rows,
        "DRAG",
        "rMLE",
        "st_lpips",
        -1,
        source=f"{PAPER}, main comparison",
        notebook="00_quickstart",
    )
    command = f"dragkit measure deep --n {n} --at {at} --iterations {iterations}"
    told = {"at": at, "iterations": iterations, "linear_readout_ms_ssim": read, "rows": rows}
    return claims.write("deep", command, SEEDS, [made], told, folder)


def models(n_samples: int = 1000, folder: Path | None = None) -> Path:
    """Quality of the embedded models on the whole validation split; kernel distance of prior samples in ViT-S features."""
    made: list[Claim] = []
    rows: dict[str, Any] = {}
    roundtrip, right = _round_trip(), _classified_rightly()
    for id_, metric, target, unit in (("autoencoder-psnr", "psnr", 27.5, "dB"), ("autoencoder-ssim", "ssim", 0.89, "")):
        mean, low, high = metrics.bootstrap_ci(roundtrip[metric])
        made.append(
            Claim(
                id_,
                f"Mean {metric.upper()} of the autoencoder's round trip on the validation split is at least {target}",
                "dragkit",
                metric,
                round(mean, 4),
                round(low, 4),
                round(high, 4),
                len(roundtrip[metric]),
                unit,
                mean >= target,
                "02_diffusion_prior",
            )
        )
    total = len(right)
    interval = metrics.wilson_interval(sum(right), total)
    made.append(
        Claim(
            "classifier-top1",
            "The embedded ViT classifies at least 75 % of the validation photos correctly",
            "dragkit",
            "top1",
            round(interval.mean, 4),
            round(interval.low, 4),
            round(interval.high, 4),
            total,
            "",
            interval.mean >= 0.75,
            "01_split_inference",
        )
    )
    _remember_in_cards(roundtrip, right)
    distances = _prior_kernel_distance(n_samples)
    rows["kernel_distance"] = distances
    before, after = distances["untrained prior"], distances["prior"]
    gain = before["value"] - after["value"]
    error = 1.96 * (before["standard_error"] ** 2 + after["standard_error"] ** 2) ** 0.5
    made.append(
        Claim(
            "prior-kernel-distance",
            "The trained prior's samples are closer to validation photos than the untrained one's "
            "(kernel distance in ViT-S features, before minus after)",
            "dragkit",
            "kernel distance difference",
            round(gain, 4),
            round(gain - error, 4),
            round(gain + error, 4),
            n_samples,
            "",
            gain - error > 0,
            "02_diffusion_prior",
        )
    )
    return claims.write("models", f"dragkit measure models --n {n_samples}", [0], made, {"rows": rows}, folder)


def _remember_in_cards(roundtrip: dict[str, list[float]], right: list[bool]) -> None:
    """Replace what the cards say of quality (measured while training, on a part of the split) by the whole split's figures."""
    figures = {metric: {"value": sum(v) / len(v), "n": len(v)} for metric, v in roundtrip.items()}
    zoo.update_card(f"{zoo.PRIOR}/vae", {"measured": figures})
    zoo.update_card(zoo.CLIENT, {"measured": {"top1": {"value": sum(right) / len(right), "n": len(right)}}})


@torch.no_grad()
def _classified_rightly() -> list[bool]:
    """Whether the embedded ViT, client and server together, names the class of each validation photo."""
    client = zoo.load_client(at="block:12")
    images, labels = data.imagenette("val")
    parts = zip(images.split(256), labels.split(256), strict=True)
    return [bool(ok) for x, y in parts for ok in client.server(client(x.float() / 255)).argmax(1) == y]


@torch.no_grad()
def _round_trip() -> dict[str, list[float]]:
    prior = zoo.load_prior()
    values: dict[str, list[float]] = {"psnr": [], "ssim": []}
    for part in data.imagenette("val")[0].split(128):
        x = part.float() / 255
        y = prior.decode(prior.encode(x)).clamp(0, 1)
        values["psnr"] += metrics.psnr(y, x).tolist()
        values["ssim"] += metrics.ssim(y, x).tolist()
    return values


@torch.no_grad()
def _prior_kernel_distance(n: int) -> dict[str, dict[str, float]]:
    """Kernel distance (KID formula) to validation photos, in the pooled last tokens of the real ViT-S: floor, before, after."""
    from dragkit.sampling import ddim_sample
    from dragkit.training import prior as training

    client = zoo.load_client(zoo.WILD_CLIENT, "block:12")
    prior = zoo.load_prior()
    torch.manual_seed(0)
    levels = tuple(prior.unet.config.block_out_channels)
    untrained = training.build(training.PriorRecipe(channels=levels, layers=prior.unet.config.layers_per_block))
    blank = LatentPrior(prior.vae, untrained, training.noise_schedule())
    val, train = (data.pick(split, n)[0] for split in ("val", "train"))

    def features(images: Tensor) -> Tensor:
        return torch.cat([client.tokens(client(x)).mean(1) for x in images.split(32)])

    def sampled(source: LatentPrior) -> Tensor:
        return torch.cat([ddim_sample(source, range(i, min(i + 50, n)), 25) for i in range(0, n, 50)])

    real = features(val)
    scale = real.std()
    sets = {"training photos": train, "prior": sampled(prior), "untrained prior": sampled(blank)}
    out = {}
    for label, images in sets.items():
        found = metrics.kernel_distance(features(images) / scale, real / scale)
        out[label] = {"value": float(found[0]), "standard_error": float(found[1])}
    return out


MEASUREMENTS: dict[str, Callable[..., Path]] = {
    "models": models,
    "noise": noise,
    "overfit": overfit,
    "overfit_small": overfit_small,
    "recurrence": recurrence,
    "shuffle": shuffle,
    "deep": deep,
}
