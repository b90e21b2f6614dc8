"""How deep a linear map still reads the photo from the IR of an embedded client, on photos of Imagenette."""

from __future__ import annotations

import torch

from dragkit import data, zoo
from dragkit.measures import intervals, metrics
from dragkit.measures.readout import fit_readout

READABLE = 0.6  # MS-SSIM from which an IR is said to determine its photo


@torch.no_grad()
def readable(name: str, at: str, n_fit: int = 2000, n_test: int = 200) -> intervals.Interval:
    """MS-SSIM, with its interval, that a linear map reaches on training photos it was not fitted on.

    Args:
        name: of a client in the zoo.
        at: the cut.
        n_fit, n_test: photos to fit and to measure on.
    """
    photos, _, _ = data.pick("train", n_fit + n_test)
    client = zoo.load_client(name, at)
    with torch.autocast("cpu", torch.bfloat16):
        fitted = fit_readout(client, photos[:n_fit])
        seen = torch.cat([client(x) for x in photos[n_fit:].split(50)])
    return intervals.bootstrap_ci(metrics.ms_ssim(fitted(client, seen), photos[n_fit:]))


def deepest_readable(name: str, blocks: int = 12) -> tuple[str, dict[str, intervals.Interval]]:
    """The deepest block whose IR determines the photo by `READABLE`, and what was read there and below it.

    Raises:
        ValueError: none does.
    """
    read: dict[str, intervals.Interval] = {}
    for k in range(blocks, -1, -1):
        read[f"block:{k}"] = readable(name, f"block:{k}")
        if read[f"block:{k}"].mean >= READABLE:
            return f"block:{k}", read
    raise ValueError(f"no block of {name} determines the photo: {read}")
