"""The quality of the embedded models, on all validation photos."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dragkit import data, zoo
from dragkit.measures import intervals, metrics, sets
from dragkit.priors.diffusion import LatentPrior
from draglab.pages import claims
from draglab.pages.claims import Claim
from draglab.tables import claim


def models(n: int = 1000, folder: Path | None = None) -> Path:
    """Quality of the embedded models on all validation photos; kernel distance of prior samples in ViT-S features."""
    roundtrip, right = _round_trip(), _classified_rightly()
    verdicts = [
        _good_round_trip("autoencoder-psnr", "psnr", roundtrip["psnr"], 27.5, "dB"),
        _good_round_trip("autoencoder-ssim", "ssim", roundtrip["ssim"], 0.89, ""),
        _good_classifier(right),
    ]
    _remember_in_cards(roundtrip, right)
    distances = _prior_kernel_distance(n)
    verdicts.append(_better_than_untrained(distances, n))
    rows = {"kernel_distance": distances}
    return claims.write("models", f"dragkit measure models --n {n}", [0], verdicts, {"rows": rows}, folder)


def _good_round_trip(id_: str, metric: str, values: list[float], target: float, unit: str) -> Claim:
    interval = intervals.bootstrap_ci(values)
    return claim(
        id_,
        f"Mean {metric.upper()} of the autoencoder's round trip on the validation split is at least {target}",
        interval,
        len(values),
        interval.mean >= target,
        source="dragkit",
        key=metric,
        notebook="02_diffusion_prior",
        unit=unit,
    )


def _good_classifier(right: list[bool]) -> Claim:
    interval = intervals.wilson_interval(sum(right), len(right))
    return claim(
        "classifier-top1",
        "The embedded ViT classifies at least 75 % of the validation photos correctly",
        interval,
        len(right),
        interval.mean >= 0.75,
        source="dragkit",
        key="top1",
        notebook="01_split_inference",
    )


def _better_than_untrained(distances: dict[str, dict[str, float]], n: int) -> Claim:
    before, after = distances["untrained prior"], distances["prior"]
    gain = before["value"] - after["value"]
    error = 1.96 * (before["standard_error"] ** 2 + after["standard_error"] ** 2) ** 0.5
    return claim(
        "prior-kernel-distance",
        "The trained prior's samples are closer to validation photos than the untrained one's "
        "(kernel distance in ViT-S features, before minus after)",
        intervals.Interval(gain, gain - error, gain + error),
        n,
        gain - error > 0,
        source="dragkit",
        key="kernel distance difference",
        notebook="02_diffusion_prior",
    )


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
        value, error = sets.kernel_distance(features(images) / scale, real / scale)
        out[label] = {"value": float(value), "standard_error": float(error)}
    return out
