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

from dragkit import claims, data, experiment, metrics, zoo
from dragkit.attacks import DragConfig, RmleConfig
from dragkit.claims import Claim
from dragkit.experiment import Case
from dragkit.images import grid, save_image

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ms_ssim": metrics.ms_ssim,
    "psnr": metrics.psnr,
    "st_lpips": metrics.st_lpips,
}
PAPER = "arXiv 2509.11724"


def score(images: Tensor, photos: Tensor) -> dict[str, list[float]]:
    """Every metric of every photo."""
    return {name: [round(v, 5) for v in metric(images, photos).tolist()] for name, metric in METRICS.items()}


def table(photos: Tensor, methods: dict[str, Tensor]) -> dict[str, Any]:
    """Per-photo values, mean and 95 % interval of every method and metric."""
    out: dict[str, Any] = {}
    for method, images in methods.items():
        values = score(images, photos)
        out[method] = {"per_photo": values}
        for metric, v in values.items():
            mean, low, high = metrics.bootstrap_ci(v)
            out[method][metric] = {"mean": round(mean, 5), "ci": [round(low, 5), round(high, 5)]}
    return out


def _compare(
    name: str, cases: dict[str, Case], panel: int = 8
) -> tuple[Tensor, dict[str, Tensor], dict[str, Any], zoo.LatentPrior]:
    """Run the cases, add the reference rows, save a panel (photos on top) in the cache to look at."""
    results = {label: experiment.run(case) for label, case in cases.items()}
    first = next(iter(results.values()))
    prior = zoo.load_prior(next(iter(cases.values())).prior)
    methods = {**{label: r.images for label, r in results.items()}, **experiment.references(first.photos, prior)}
    rows = table(first.photos, methods)
    for label, r in results.items():
        rows[label] |= {
            "seconds_per_photo": round(r.seconds, 3),
            "nfe": r.nfe,
            "made_on": r.made_on,
            "distance": [round(v, 5) for v in r.distance.tolist()],
        }
    shown = torch.cat([first.photos[:panel], *(m[:panel] for m in methods.values())])
    save_image(grid(shown, columns=panel), data.cache_dir() / "panels" / f"{name}.png")
    return first.photos, methods, rows, prior


def _difference(rows: dict[str, Any], a: str, b: str, metric: str) -> tuple[float, float, float, int]:
    """Mean of a - b per photo with its interval."""
    left, right = rows[a]["per_photo"][metric], rows[b]["per_photo"][metric]
    mean, low, high = metrics.paired_difference(left, right)
    return mean, low, high, len(left)


def overfit(n: int = 16, config: DragConfig | None = None, folder: Path | None = None) -> Path:
    """Split at the embeddings: nothing but a linear map hides the photo, so the published settings must rebuild it."""
    config = config or DragConfig.paper()
    case = Case(config, "block:0", n=n)
    _, _, rows, _ = _compare("overfit", {"DRAG": case})
    value = rows["DRAG"]["ms_ssim"]
    ratio = [
        a / b
        for a, b in zip(
            rows["DRAG"]["per_photo"]["ms_ssim"], rows["decoder ceiling"]["per_photo"]["ms_ssim"], strict=True
        )
    ]
    ceiling = rows["decoder ceiling"]["ms_ssim"]["mean"]
    against_photo = ceiling >= 0.95  # below that no attack that decodes with this prior could reach 0.95
    mean, low, high = (value["mean"], *value["ci"]) if against_photo else metrics.bootstrap_ci(ratio)
    target, of = (
        (0.95, "MS-SSIM against the photo") if against_photo else (0.97, "MS-SSIM as a share of the decoder ceiling")
    )
    claim = Claim(
        "overfit-embeddings",
        f"At the embeddings, DRAG with the published settings rebuilds the photo ({of} above {target})",
        f"{PAPER}, first experiments",
        "ms_ssim" if against_photo else "ms_ssim / ceiling",
        round(mean, 4),
        round(low, 4),
        round(high, 4),
        n,
        "",
        mean > target,
        "00_quickstart",
    )
    return claims.write(
        "overfit",
        f"dragkit measure overfit --n {n}",
        [0, 3407],
        [claim],
        {"config": vars(config), "rows": rows},
        folder,
    )


def recurrence(n: int = 32, num_steps: int = 20, folder: Path | None = None) -> Path:
    """Block 12, equal steps: does going back to the same timestep sixteen times help?"""
    cases = {f"k={k}": Case(DragConfig(num_steps=num_steps, recurrence=k), "block:12", n=n) for k in (1, 16)}
    _, _, rows, _ = _compare("recurrence", cases)
    mean, low, high, n = _difference(rows, "k=16", "k=1", "ms_ssim")
    claim = Claim(
        "recurrence-k16-vs-k1",
        f"At block 12, 16 turns per step give a higher MS-SSIM than 1 with the same {num_steps} steps",
        f"{PAPER}, first experiments",
        "ms_ssim difference",
        round(mean, 4),
        round(low, 4),
        round(high, 4),
        n,
        "",
        low > 0,
        "03_tweedie",
    )
    return claims.write(
        "recurrence",
        f"dragkit measure recurrence --n {n} --steps {num_steps}",
        [0, 3407],
        [claim],
        {"num_steps": num_steps, "rows": rows},
        folder,
    )


def shuffle(n: int = 32, config: DragConfig | None = None, folder: Path | None = None) -> Path:
    """Block 6: the same attack on tokens in order and on tokens in random order."""
    config = config or DragConfig(num_steps=25, recurrence=2)
    cases = {"plain": Case(config, "block:6", n=n), "shuffled": Case(config, "block:6", n=n, defence="shuffle")}
    _, _, rows, _ = _compare("shuffle", cases)
    mean, low, high, n = _difference(rows, "shuffled", "plain", "ms_ssim")
    claim = Claim(
        "shuffle-defeats-plain-attack",
        "Shuffling the patch tokens before they are sent lowers the MS-SSIM of an attack that does not know of it",
        f"{PAPER}, section 5.5",
        "ms_ssim difference",
        round(mean, 4),
        round(low, 4),
        round(high, 4),
        n,
        "",
        high < 0,
        "01_split_inference",
    )
    return claims.write(
        "shuffle",
        f"dragkit measure shuffle --n {n}",
        [0, 3407],
        [claim],
        {"config": vars(config), "rows": rows},
        folder,
    )


def deep(n: int = 32, at: str = "block:11", iterations: int = 400, folder: Path | None = None) -> Path:
    """The real backbone, deep: DRAG against plain optimisation of pixels, at the same number of iterations."""
    config = DragConfig(num_steps=iterations // 4, recurrence=4)
    cases = {
        "DRAG": Case(config, at, client=zoo.WILD_CLIENT, n=n),
        "rMLE": Case(RmleConfig(iterations=iterations), at, client=zoo.WILD_CLIENT, n=n),
    }
    _, _, rows, _ = _compare("deep", cases)
    mean, low, high, n = _difference(rows, "DRAG", "rMLE", "st_lpips")
    claim = Claim(
        "drag-vs-rmle-deep",
        f"On the real ViT-S at {at}, DRAG has a lower ST-LPIPS to the photo than rMLE at {iterations} iterations each",
        f"{PAPER}, main comparison",
        "st_lpips difference",
        round(mean, 4),
        round(low, 4),
        round(high, 4),
        n,
        "",
        high < 0,
        "00_quickstart",
    )
    return claims.write(
        "deep",
        f"dragkit measure deep --n {n} --at {at} --iterations {iterations}",
        [0, 3407],
        [claim],
        {"at": at, "iterations": iterations, "rows": rows},
        folder,
    )


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
    from dragkit.prior import LatentPrior
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
    "overfit": overfit,
    "recurrence": recurrence,
    "shuffle": shuffle,
    "deep": deep,
}
