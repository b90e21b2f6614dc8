"""Where to compute, by name."""

from __future__ import annotations

import torch


def pick_device(name: str) -> torch.device:
    """The device of this name: "cpu", "cuda", "cuda:1", "mps", or "auto" for a GPU where there is one.

    Raises:
        ValueError: no such device, or none on this machine.
    """
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if name == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    kind, _, number = name.partition(":")
    if kind not in there or (number and not number.isdecimal()):
        raise ValueError(f"device is {name!r}; it must be auto, {', '.join(there)} or such as cuda:1")
    if int(number or 0) >= there[kind]:
        usable = ", ".join(known for known, count in there.items() if count)
        raise ValueError(f"device is {name!r}, which this machine does not have; it has {usable}")
    return torch.device(name)
