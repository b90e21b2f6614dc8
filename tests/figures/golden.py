"""Goldens: the numbers and pictures that notebooks vouch for, compared with those of the last run.

    python tests/figures/golden.py          # accept the last run (`make goldens` runs the notebooks first); prints what changes

`goldens/NN_name.json` holds numbers with their tolerances, `goldens/NN_name/<key>.npz` the pixels. Both come from
`draglab.pages.record`. Pictures are compared as arrays, by structural similarity, and never as rendered axes.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = Path(__file__).with_name("goldens")
RECORDS = ROOT / "_build" / "records"
MONTAGES = ROOT / "_build" / "figures"


def recorded(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Path]]:
    """Numbers and panels that a run of one notebook left in `folder`."""
    path = folder / "numbers.json"
    numbers = json.loads(path.read_text())["numbers"] if path.exists() else {}
    return numbers, {panel.stem: panel for panel in sorted(folder.glob("*.npz"))}


def number_change(golden: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Why `new` is not within the golden's tolerance; None when it is, or when it is only better."""
    old, now = np.atleast_1d(golden["value"]), np.atleast_1d(new["value"])
    if old.shape != now.shape:
        return f"{old.size} values became {now.size}"
    bound = np.maximum(golden["atol"], golden["rtol"] * np.abs(old))
    change = now - old
    worse = {"higher": -change, "lower": change, None: np.abs(change)}[golden["direction"]]
    if (worse <= bound).all():
        return None
    at = int(np.argmax(worse - bound))
    return f"{old[at]:.6g} became {now[at]:.6g} (allowed: {bound[at]:.3g}, direction: {golden['direction']})"


def panel_change(golden: Path, new: Path, montage: Path) -> str | None:
    """Why the pictures differ; None when every one reaches the golden's `min_ssim`. A difference leaves `montage`, a PNG."""
    with np.load(golden) as saved:
        old, bound = saved["images"], float(saved["min_ssim"])
    with np.load(new) as saved:
        now = saved["images"]
    if old.shape != now.shape:
        return f"shape {old.shape} became {now.shape}"
    values = [structural_similarity(a, b, channel_axis=-1) for a, b in zip(old, now, strict=True)]
    if min(values) >= bound:
        return None
    montage.parent.mkdir(parents=True, exist_ok=True)
    gap = np.abs(old.astype(int) - now).astype(np.uint8)
    rows = [np.concatenate(list(images), axis=1) for images in (old, now, gap)]
    Image.fromarray(np.concatenate(rows)).save(montage)
    return f"SSIM {min(values):.3f} < {bound} in image {int(np.argmin(values))}; golden, new, difference: {montage}"


def changes(name: str, goldens: Path = GOLDENS, records: Path = RECORDS, montages: Path = MONTAGES) -> dict[str, str]:
    """What the last run of notebook `name` changed, by key; new and vanished keys count."""
    path = goldens / f"{name}.json"
    if not path.exists():
        return {"(all)": "no golden yet"}
    old_numbers = json.loads(path.read_text())["numbers"]
    old_panels = {panel.stem: panel for panel in (goldens / name).glob("*.npz")}
    numbers, panels = recorded(records / name)
    found: dict[str, str | None] = {}
    for key in {**old_numbers, **old_panels}.keys() - {**numbers, **panels}.keys():
        found[key] = "no longer recorded"
    for key in {**numbers, **panels}.keys() - {**old_numbers, **old_panels}.keys():
        found[key] = "not in the goldens"
    for key in old_numbers.keys() & numbers.keys():
        found[key] = number_change(old_numbers[key], numbers[key])
    for key in old_panels.keys() & panels.keys():
        found[key] = panel_change(old_panels[key], panels[key], montages / f"{name}-{key}.png")
    return {key: text for key, text in sorted(found.items()) if text}


def accept(name: str, goldens: Path = GOLDENS, records: Path = RECORDS) -> None:
    """Make the last run of notebook `name` the golden."""
    goldens.mkdir(parents=True, exist_ok=True)
    path, source = goldens / f"{name}.json", records / name / "numbers.json"
    if source.exists():
        shutil.copy(source, path)
    else:
        path.write_text(json.dumps({"provenance": {}, "numbers": {}}, indent=1) + "\n")
    shutil.rmtree(goldens / name, ignore_errors=True)
    for key, panel in recorded(records / name)[1].items():
        (goldens / name).mkdir(exist_ok=True)
        shutil.copy(panel, goldens / name / f"{key}.npz")


def main() -> int:
    names = {folder.name for folder in RECORDS.iterdir()} if RECORDS.exists() else set()
    for stray in {path.stem for path in GOLDENS.glob("*.json")} - names:
        print(f"{stray}: no such run; its goldens stay (delete them if the notebook is gone)")
    for name in sorted(names):
        found = changes(name)
        for key, text in found.items():
            print(f"{name}: {key}: {text}")
        if found:
            accept(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
