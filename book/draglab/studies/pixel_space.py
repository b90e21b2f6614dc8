"""DRAG without an autoencoder: the same sampler in pixels, beside the latent one, for as many turns and for the same time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dragkit import zoo
from dragkit.config import DragConfig
from dragkit.measures.metrics import st_lpips
from dragkit.methods import METHODS
from draglab.cases import Case, run
from draglab.pages import claims
from draglab.pages.claims import Claim
from draglab.studies.budget import FAST, equal_seconds
from draglab.studies.first_checks import PAPER, SEEDS
from draglab.tables import Rows, compare, gap

RATES = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)

LATENT, PIXELS = METHODS["drag"].label, METHODS["drag-pixel"].label


def pixels(
    turns: int = 80, n: int = 32, at: tuple[str, ...] = ("block:6", "block:12"), folder: Path | None = None
) -> Path:
    """Both priors at every block; the guidance rate in pixels is chosen on sixteen training photos at the last block."""
    config = METHODS["drag-pixel"].budget(turns)
    rates = {rate: _on_training_photos(_in_pixels(config, rate, at[-1], n=16)) for rate in RATES}
    rate = min(rates, key=lambda tried: rates[tried])
    rows: Rows = {}
    verdicts: list[Claim] = []
    for cut in at:
        same = equal_seconds(zoo.CLIENT, cut, ["drag", "drag-pixel"], turns)
        cases = {
            f"{LATENT}, {cut}": Case(same["drag"], cut, n=n, **FAST),
            f"{PIXELS}, {cut}": _in_pixels(config, rate, cut, n),
            f"{PIXELS}, same time, {cut}": _in_pixels(same["drag-pixel"], rate, cut, n),
        }
        at_cut, _ = compare(f"pixels-{cut.replace(':', '-')}", cases)
        rows |= {label: row | {"at": cut} for label, row in at_cut.items()}
        verdicts.append(_latent_wins(rows, cut, turns))
    command = f"dragkit sweep pixels --turns {turns} --n {n} --at {','.join(at)}"
    extra = {"turns": turns, "blocks": list(at), "rate": rate, "rates_on_training_photos": rates, "rows": rows}
    return claims.write("pixels", command, SEEDS, verdicts, extra, folder)


def _in_pixels(config: DragConfig, rate: float, at: str, n: int) -> Case:
    return Case(config.with_(guidance_rate=rate), at, method="drag-pixel", n=n, **FAST)


def _on_training_photos(case: Case) -> float:
    """Mean ST-LPIPS."""
    result = run(replace(case, subset="train"))
    return round(float(st_lpips(result.images, result.photos).mean()), 5)


def _latent_wins(rows: Rows, at: str, turns: int) -> Claim:
    return gap(
        f"latent-beats-pixels/{at.replace(':', '-')}",
        f"At {at} with {turns} turns, DRAG with the latent prior ({_seen(f'{zoo.PRIOR}/unet')} training photos seen) has a lower "
        f"ST-LPIPS than with the pixel prior ({_seen(f'{zoo.PIXEL_PRIOR}/unet')} seen)",
        rows,
        f"{LATENT}, {at}",
        f"{PIXELS}, {at}",
        "st_lpips",
        -1,
        source=f"{PAPER}, pixel-space variant",
        notebook="08_baselines",
    )


def _seen(name: str) -> str:
    """How many photos a model saw in training, each counted as often as it came."""
    card = zoo.card(name)
    return f"{card['steps'] * card['config']['batch']:,}"
