"""Guarantees against what attacks achieve: gallery bounds under Gaussian noise, bit budgets of small messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragkit import data, zoo
from dragkit.attacks.rmle import RmleConfig
from dragkit.bounds import (
    Gaussian,
    baseline_success,
    crb_mse,
    gallery_identification,
    gallery_mmse,
    maximal_leakage_bits_code,
    maximal_leakage_gaussian,
    success_bound,
    trace_jtj,
)
from dragkit.bounds.baseline import candidate_guesses, near
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.defenses.additive import GaussianNoise
from dragkit.measures import intervals, metrics
from dragkit.measures.intervals import Interval
from draglab import accuracy
from draglab.cases import Case, run, sent
from draglab.pages.claims import Claim
from draglab.studies import defence_study
from draglab.studies.budget import FAST
from draglab.studies.defence_study import AT
from draglab.tables import Rows, claim

NOISES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # standard deviations in units of the spread of the IR

NOTEBOOK = "16_bounds"

DRAG, RMLE = "DRAG", "rMLE"

SAYS_SOMETHING = 0.01  # share of the prior variance above which a bound is counted as informative

THRESHOLDS = (0.01, 0.02, 0.03)  # mean squared errors that count as success

CODES = ((1, 1), (1, 2), (2, 1), (1, 4), (2, 2), (2, 4), (4, 2))  # numbers and bits each

BOXES = ((1, 0.5), (1, 2.0), (4, 0.5), (4, 1.0), (8, 0.5))  # numbers, and half the box in deviations of the noise

GUESSES = 1024  # training photos among the candidates

HALF_BOX = 2.0  # half the box, in standard deviations of a number over training photos


# -- gallery bounds ----------------------------------------------------------------------------------------------------


def bounds(
    n: int = 32,
    size: int = 1600,
    queries: int = 500,
    turns: int = defence_study.TURNS,
    noises: tuple[float, ...] = NOISES,
    folder: Path | None = None,
) -> Path:
    """How low any attacker can get under Gaussian noise, and how low attacks do get.

    Args:
        n: attacked photos. size, queries: of each gallery of the bound. turns: of DRAG. noises: see `NOISES`.
    """
    client = zoo.load_client(at=AT)
    public = _photos_and_features(client, "train", [])
    new = _photos_and_features(
        client, "val", data.pick("val", n)[2]
    )  # without the attacked ones, so that errors are independent
    everyone = torch.cat([new[0], public[0]]), torch.cat([new[1], public[1]])
    photos = data.pick("val", n)[0]
    trace = torch.cat([trace_jtj(client, x, 16, torch.Generator().manual_seed(0))[0] for x in photos.split(16)])
    levels: Rows = {}
    for noise in noises:
        std = GaussianNoise.of(client, noise).std
        level: dict[str, Any] = {"noise": noise, "std": std}
        level |= _galleries("", everyone, std, size, queries)
        level |= _galleries("new_photos_", new, std, max(2, len(new[0]) // 8), queries)
        level["crb_unbiased_only"] = _interval(crb_mse(trace, std, photos[0].numel()))
        level["accuracy"] = list(accuracy.measured_accuracy(zoo.CLIENT, AT, f"gaussian:{noise}"))
        level["attacks"] = {label: _interval(v) for label, v in _attacks(client, public, noise, std, n, turns).items()}
        levels[f"gaussian:{noise}"] = level
    options = f"--n {n} --size {size} --queries {queries} --turns {turns}"
    extra = {"size": size, "ir_numbers": public[1].shape[1], "pixel_numbers": public[0].shape[1]}
    return defence_study.write("bounds", options, [_holds(levels, n)], levels, folder, **extra)


def _photos_and_features(client: SplitClient, subset: data.Subset, without: list[int]) -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1] and IRs (rounded to half precision, far below the noise) of a part of the data, a row per photo, float32."""
    images = data.imagenette(subset)[0]
    kept = torch.ones(len(images), dtype=torch.bool)
    kept[without] = False
    return images[kept].flatten(1).float() / 255, accuracy.features(client, subset)[kept].flatten(1).float()


def _galleries(prefix: str, photos: tuple[Tensor, Tensor], std: float, size: int, queries: int) -> dict[str, Any]:
    """Bound on the error and rate of identification, with the galleries' values; the same messages in both."""
    pixels, features = photos
    asked = min(queries, size)
    bound = gallery_mmse(
        pixels, features, Gaussian(std), size=size, queries=asked, generator=torch.Generator().manual_seed(0)
    )
    known = gallery_identification(
        features, Gaussian(std), size=size, queries=asked, generator=torch.Generator().manual_seed(0)
    )
    return {
        f"{prefix}bound": list(bound.interval()),
        f"{prefix}bound_per_gallery": bound.values.tolist(),
        f"{prefix}posterior_sampler_bound": list(bound.posterior_sampler()),
        f"{prefix}prior_variance": float(bound.nothing.mean()),
        f"{prefix}nats": float(bound.nats.mean()),
        f"{prefix}top1": list(known.top(1)),
        f"{prefix}chance_top1": known.chance(1),
        f"{prefix}size": size,
    }


def _attacks(
    client: SplitClient, public: tuple[Tensor, Tensor], noise: float, std: float, n: int, turns: int
) -> dict[str, Tensor]:
    """Mean squared error per photo of attackers who know the noise, and of the mean training photo, who hears nothing."""
    spec = f"gaussian:{noise}"
    know: dict[str, Any] = {"n": n, "defence": spec, "adaptive": "likelihood", **FAST}
    cases = {DRAG: Case(DragConfig.small(turns), AT, **know), RMLE: Case(RmleConfig(iterations=150), AT, **know)}
    if zoo.available(zoo.inverse_name(zoo.CLIENT, AT, spec)):
        cases["inverse network"] = Case(None, AT, **know)
    results = {label: run(case) for label, case in cases.items()}
    photos = results[DRAG].photos
    errors = {label: metrics.mse(result.images, photos) for label, result in results.items()}
    pixels, features = public
    with torch.no_grad():
        case = cases[DRAG]
        heard = sent(case, GaussianNoise.of(client, noise), client, photos, case.attack_seed)[0].flatten(1)
    weights = Gaussian(std).log_likelihood(heard.double() / std, features).softmax(1)
    for label, guess in {
        "training photos, weighted by likelihood": weights.float() @ pixels,
        "mean training photo": pixels.mean(0).expand(n, -1),
    }.items():
        errors[label] = (guess - photos.flatten(1)).square().mean(1)
    return errors


def _holds(levels: Rows, n: int) -> Claim:
    """No attack refutes the bound where it says something: none is surely below it."""
    informative = {k: v for k, v in levels.items() if v["bound"][1] > SAYS_SOMETHING * v["prior_variance"]}
    gaps = [subtract(a["ci"], level["bound"]) for level in informative.values() for a in level["attacks"].values()]
    smallest = min(gaps, key=lambda gap: gap.mean, default=Interval(0.0, 0.0, 0.0))
    return claim(
        "gallery-bound-holds",
        "Under Gaussian noise no attack that was tried has a mean squared error surely below the gallery bound, at the "
        f"{len(informative)} of {len(levels)} levels ({', '.join(informative) or 'none'}) where the bound is above "
        f"{SAYS_SOMETHING:.0%} of the prior "
        "variance (value: the smallest distance of an attack's mean to the bound, uncorrected for the choice of the smallest)",
        smallest,
        n,
        bool(gaps) and all(gap.high >= 0 for gap in gaps),
        source="dragkit",
        key="mse above bound",
        notebook=NOTEBOOK,
        unit="MSE",
    )


def subtract(a: list[float], b: list[float]) -> Interval:
    """`a - b` of two independent estimates with intervals (mean, low, high)."""
    mean = a[0] - b[0]
    below = ((a[0] - a[1]) ** 2 + (b[2] - b[0]) ** 2) ** 0.5
    above = ((a[2] - a[0]) ** 2 + (b[0] - b[1]) ** 2) ** 0.5
    return Interval(mean, mean - below, mean + above)


def _interval(values: Tensor) -> dict[str, Any]:
    return {"ci": list(intervals.bootstrap_ci(values)), "per_photo": [round(v, 6) for v in values.tolist()]}


# -- bit budgets -------------------------------------------------------------------------------------------------------


def bits(n: int = 3925, thresholds: tuple[float, ...] = THRESHOLDS, folder: Path | None = None) -> Path:
    """Messages of a few principal components of CLS, as codes or in a box with noise: what they allow, and what an attacker gets.

    The attacker holds the training photos. From each message they work out which of many guesses is most often a success.

    Args:
        n: validation photos that are attacked. thresholds: mean squared errors that count as success.
    """
    client = zoo.load_client(at=AT)
    train, val = (_photos_and_cls(client, subset) for subset in ("train", "val"))
    tried = torch.randperm(len(val[0]), generator=torch.Generator().manual_seed(0))[:n]
    val = (val[0][tried], val[1][tried])
    numbers = _components(train[1], val[1], max(k for k, _ in (*CODES, *BOXES)))
    messages = {f"{k} x {b} bits": _code(numbers, k, b) for k, b in CODES}
    messages |= {f"{k} in a box, r / sigma = {ratio}": _box(numbers, k, ratio) for k, ratio in BOXES}
    rows: Rows = {}
    for threshold in thresholds:
        kappa = baseline_success(train[0], threshold, guesses=GUESSES, generator=torch.Generator().manual_seed(0))
        guesses = candidate_guesses(train[0], threshold, torch.Generator().manual_seed(1), GUESSES)
        worked, works = (near(guesses, x, threshold).float() for x in (train[0], val[0]))
        for label, (leaked, weights) in messages.items():
            chosen = (weights @ worked.T + 1e-6 * worked.mean(1)).argmax(1)
            rate = intervals.wilson_interval(int(works.T.gather(1, chosen[:, None]).sum()), len(chosen))
            rows[f"{label}, MSE <= {threshold}"] = {
                "bits": leaked,
                "threshold": threshold,
                "kappa": kappa.rate,
                "kappa_limit": kappa.upper_any,
                "bound": success_bound(kappa.upper_any, leaked),
                "achieved": list(rate),
            }
    extra = {"thresholds": thresholds, "candidates": len(guesses), "numbers": "principal components of CLS"}
    return defence_study.write("bits", f"--n {n}", [_budget(rows, len(val[0]))], rows, folder, **extra)


def _photos_and_cls(client: SplitClient, subset: data.Subset) -> tuple[Tensor, Tensor]:
    """Pixels `(P, d)` and CLS tokens `(P, D)` of a part of the data."""
    pixels = data.imagenette(subset)[0].flatten(1).float() / 255
    return pixels, accuracy.features(client, subset)[:, 0].float()


def _components(train: Tensor, val: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k principal components of both, fitted on `train` and of unit variance there."""
    mean = train.mean(0)
    _, _, axes = torch.linalg.svd(train - mean, full_matrices=False)
    scores = (train - mean) @ axes[:k].T
    return scores / scores.std(0), (val - mean) @ axes[:k].T / scores.std(0)


def _code(numbers: tuple[Tensor, Tensor], k: int, bits_each: int) -> tuple[float, Tensor]:
    """Bits leaked by a code of k numbers, and which training photos `(Q, P)` have the code of each message."""
    levels = 2**bits_each
    train, val = (((x[:, :k] / HALF_BOX + 1) / 2 * levels).floor().clamp(0, levels - 1) for x in numbers)
    return maximal_leakage_bits_code(bits_each, k), (torch.cdist(val, train, p=1) < 0.5).float()


def _box(numbers: tuple[Tensor, Tensor], k: int, ratio: float) -> tuple[float, Tensor]:
    """Bits leaked by k numbers in a box with noise, and how probable each message `(Q,)` makes the training photos `(Q, P)`."""
    train, val = (x[:, :k].clamp(-HALF_BOX, HALF_BOX) for x in numbers)
    noise = Gaussian(HALF_BOX / ratio)
    heard = noise.send(val, torch.Generator().manual_seed(0))
    return maximal_leakage_gaussian(ratio, k), noise.log_likelihood(heard, train).softmax(1).float()


def _budget(rows: Rows, n: int) -> Claim:
    """The bound of every message that has one below 1 is above what the attacker achieves."""
    informative = {label: row for label, row in rows.items() if row["bound"] < 1}
    gaps = {
        label: Interval(*(row["bound"] - row["achieved"][i] for i in (0, 2, 1))) for label, row in informative.items()
    }
    tightest = min(gaps, key=lambda label: gaps[label].mean, default="")
    return claim(
        "bit-budget",
        f"For {len(informative)} of {len(rows)} pairs of a small message and a threshold the bit budget bounds the success of "
        f"every attacker below 1, and the attacker tried stays below it (closest: {tightest or 'none'}; value: bound minus rate)",
        gaps.get(tightest, Interval(0.0, 0.0, 0.0)),
        n,
        bool(gaps) and all(gap.low >= 0 for gap in gaps.values()),
        source="dragkit",
        key="bound - success",
        notebook=NOTEBOOK,
    )
