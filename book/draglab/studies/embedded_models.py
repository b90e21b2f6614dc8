"""The quality of the embedded models, on all validation photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragkit import data, zoo
from dragkit.measures import intervals, metrics, sets
from dragkit.priors.diffusion import LatentPrior
from draglab.pages import claims
from draglab.pages.claims import Claim


def models(n: int = 1000, folder: Path | None = None) -> Path:
    """Quality of the embedded models on all validation photos; kernel distance of prior samples in ViT-S features."""
    verdicts: list[Claim] = []
    rows: dict[str, Any] = {}
    roundtrip, right = _round_trip(), _classified_rightly()
    for id_, metric, target, unit in (("autoencoder-psnr", "psnr", 27.5, "dB"), ("autoencoder-ssim", "ssim", 0.89, "")):
        mean, low, high = intervals.bootstrap_ci(roundtrip[metric])
        verdicts.append(
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
    interval = intervals.wilson_interval(sum(right), total)
    verdicts.append(
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
    distances = _prior_kernel_distance(n)
    rows["kernel_distance"] = distances
    before, after = distances["untrained prior"], distances["prior"]
    gain = before["value"] - after["value"]
    error = 1.96 * (before["standard_error"] ** 2 + after["standard_error"] ** 2) ** 0.5
    verdicts.append(
        Claim(
            "prior-kernel-distance",
            "The trained prior's samples are closer to validation photos than the untrained one's "
            "(kernel distance in ViT-S features, before minus after)",
            "dragkit",
            "kernel distance difference",
            round(gain, 4),
            round(gain - error, 4),
            round(gain + error, 4),
            n,
            "",
            gain - error > 0,
            "02_diffusion_prior",
        )
    )
    return claims.write("models", f"dragkit measure models --n {n}", [0], verdicts, {"rows": rows}, folder)


def _remember_in_cards(roundtrip: dict[str, list[float]], right: list[bool]) -> None:
    """Replace what the cards say of quality (measured while training, on some validation photos) by the figures of all of them."""
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
    from dragkit.priors.sampling import ddim_sample
    from draglab.training import prior as training

    client = zoo.load_client(zoo.WILD_CLIENT, "block:12")
    prior = zoo.load_prior()
    torch.manual_seed(0)
    levels = tuple(prior.unet.config.block_out_channels)
    untrained = training.build(training.PriorRecipe(channels=levels, layers=prior.unet.config.layers_per_block))
    blank = LatentPrior(prior.vae, untrained, training.noise_schedule())
    val, train = (data.pick(subset, n)[0] for subset in ("val", "train"))

    def features(images: Tensor) -> Tensor:
        return torch.cat([client.tokens(client(x)).mean(1) for x in images.split(32)])

    def sampled(source: LatentPrior) -> Tensor:
        return torch.cat([ddim_sample(source, range(i, min(i + 50, n)), 25) for i in range(0, n, 50)])

    real = features(val)
    scale = real.std()
    collections = {"training photos": train, "prior": sampled(prior), "untrained prior": sampled(blank)}
    out = {}
    for label, images in collections.items():
        found = sets.kernel_distance(features(images) / scale, real / scale)
        out[label] = {"value": float(found[0]), "standard_error": float(found[1])}
    return out
