"""DRAG without an autoencoder: the same sampler in pixels, beside the latent one, for as many turns and for the same time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dragkit import claims, zoo
from dragkit.claims import Claim
from dragkit.comparison import Rows, claim, compare, difference
from dragkit.experiment import Case, run
from dragkit.measurements import PAPER, SEEDS
from dragkit.methods import METHODS
from dragkit.metrics import st_lpips
from dragkit.sweeps.budget import FAST, seconds_per_iteration, with_iterations

RATES = (0.1, 0.2, 0.4, 0.8)
LATENT, PIXELS = METHODS["drag"].label, METHODS["drag-pixel"].label


def pixels(
    turns: int = 80, n: int = 32, blocks: tuple[str, ...] = ("block:6", "block:12"), folder: Path | None = None
) -> Path:
    """Both priors at every block; the guidance rate in pixels is chosen on eight training photos at the last block."""
    rates = {rate: _on_training_photos(_in_pixels(turns, rate, blocks[-1])) for rate in RATES}
    rate = min(rates, key=lambda tried: rates[tried])
    rows: Rows = {}
    made: list[Claim] = []
    for at in blocks:
        cost = seconds_per_iteration(zoo.CLIENT, at, ["drag", "drag-pixel"])
        same = max(1, round(turns * cost["drag"] / cost["drag-pixel"]))
        cases = {
            f"{LATENT}, {at}": Case(with_iterations("drag", turns), at, n=n, **FAST),
            f"{PIXELS}, {at}": replace(_in_pixels(turns, rate, at), n=n),
            f"{PIXELS}, same time, {at}": replace(_in_pixels(same, rate, at), n=n),
        }
        found, _ = compare(f"pixels-{at.replace(':', '-')}", cases)
        rows |= {label: row | {"at": at} for label, row in found.items()}
        made.append(_latent_wins(rows, at, turns, n))
    command = f"dragkit sweep pixels --turns {turns} --n {n} --blocks {','.join(blocks)}"
    told = {"turns": turns, "blocks": list(blocks), "rate": rate, "rates_on_training_photos": rates, "rows": rows}
    return claims.write("pixels", command, SEEDS, made, told, folder)


def _in_pixels(turns: int, rate: float, at: str) -> Case:
    config = with_iterations("drag-pixel", turns).with_(guidance_rate=rate)
    return Case(config, at, method="drag-pixel", n=8, **FAST)


def _on_training_photos(case: Case) -> float:
    """Mean ST-LPIPS."""
    result = run(replace(case, split="train"))
    return round(float(st_lpips(result.images, result.photos).mean()), 5)


def _latent_wins(rows: Rows, at: str, turns: int, n: int) -> Claim:
    found = difference(rows, f"{LATENT}, {at}", f"{PIXELS}, {at}", "st_lpips")
    return claim(
        f"latent-beats-pixels/{at.replace(':', '-')}",
        f"At {at} with {turns} turns, DRAG with the latent prior ({_seen(f'{zoo.PRIOR}/unet')} training photos seen) has a lower "
        f"ST-LPIPS than with the pixel prior ({_seen(f'{zoo.PIXEL_PRIOR}/unet')} seen)",
        found,
        n,
        found.high < 0,
        source=f"{PAPER}, pixel-space variant",
        key="st_lpips difference",
        notebook="08_baselines",
    )


def _seen(name: str) -> str:
    """How many photos a model saw in training, each counted as often as it came."""
    card = zoo.card(name)
    return f"{card['steps'] * card['config']['batch']:,}"
