"""Measured experiments: cases that describe themselves, and a store that never does the same work twice.

A job is a pure function of its JSON specification (settings, photos, seeds, checksums of the weights). Its result is
published under the hash of that specification by one atomic rename, so that a killed run loses at most the batch it was
working on and a second run does nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from dragkit import data, zoo
from dragkit.attacks import DragConfig, RmleConfig, drag, rmle
from dragkit.client import SplitClient
from dragkit.prior import LatentPrior
from dragkit.reconstruction import Reconstruction
from dragkit.record import provenance

FORMAT = 1  # of the stored results; raise it when the code changes what a specification means


@dataclass(frozen=True)
class Case:
    """One attack on one client, on `n` photos of the validation split (or of the training split, for tuning).

    Attributes:
        config: a `DragConfig` runs DRAG, an `RmleConfig` rMLE.
        at: split point. client, prior: names in the zoo.
        defence: None, or "shuffle": the patch tokens are put in a random order before they are sent.
        seed: chooses the photos; `attack_seed` the attack's randomness, one stream per photo.
    """

    config: DragConfig | RmleConfig
    at: str
    client: str = zoo.CLIENT
    prior: str = zoo.PRIOR
    n: int = 32
    defence: str | None = None
    split: str = "val"
    seed: int = 0
    attack_seed: int = 3407

    def __post_init__(self) -> None:
        if self.defence not in (None, "shuffle"):
            raise ValueError(f"defence is {self.defence!r}; it must be None or 'shuffle'")


@dataclass
class Result:
    """Photos, reconstructions `(n, 3, S, S)` in [0, 1], final IR distances `(n,)`, what they cost per photo, and the devices."""

    photos: Tensor
    images: Tensor
    distance: Tensor
    seconds: float
    nfe: int
    made_on: list[str]


def run(
    case: Case, store: Path | None = None, batch: int = 32, progress: bool = True, device: str | None = None
) -> Result:
    """Results of a case, from the store where they are there, computed and published where not.

    Args:
        batch: photos attacked together. device: where to compute; `$DRAGKIT_DEVICE`, else the CPU, when None.
    """
    device = device or os.environ.get("DRAGKIT_DEVICE", "cpu")
    store = store or data.cache_dir() / "results"
    photos, _, indices = data.pick(case.split, case.n, seed=case.seed)
    models: list[tuple[SplitClient, LatentPrior]] = []
    parts, made_on = [], set()
    starts = range(0, case.n, batch)
    for start in tqdm(starts, desc=describe(case), disable=not progress):
        chosen = slice(start, min(start + batch, case.n))
        spec = specification(case, indices[chosen], start)

        def work(chosen: slice = chosen, start: int = start) -> dict[str, Tensor]:
            if not models:  # loaded once, and only if something is missing
                models.append(
                    (zoo.load_client(case.client, case.at, device=device), zoo.load_prior(case.prior, device=device))
                )
            return _attack(case, photos[chosen].to(device), *models[0], case.attack_seed + start)

        parts.append(remember(store, spec, work))
        made_on.add(json.loads((place(store, spec) / "made.json").read_text())["device"])
    seconds = sum(float(p["seconds"]) for p in parts) / case.n
    images, distance = (torch.cat([p[name] for p in parts]) for name in ("images", "distance"))
    return Result(photos, images, distance, seconds, int(parts[0]["nfe"]), sorted(made_on))


def describe(case: Case) -> str:
    attack = "rMLE" if isinstance(case.config, RmleConfig) else "DRAG"
    return f"{attack} {case.client} {case.at}{f' {case.defence}' if case.defence else ''}"


def specification(case: Case, indices: list[int], start: int) -> dict[str, Any]:
    """All that the result of one batch depends on, as JSON."""
    names = [n for n in zoo.names() if n.startswith((case.prior + "/", case.client))]
    return {
        "format": FORMAT,
        "attack": type(case.config).__name__,
        "case": {**asdict(case), "n": None},
        "photos": indices,
        "seed": case.attack_seed + start,
        "weights": {name: zoo.card(name)["sha256"] for name in names},
    }


def _attack(case: Case, photos: Tensor, client: SplitClient, prior: LatentPrior, seed: int) -> dict[str, Tensor]:
    with torch.no_grad():
        h = client(photos)
    if case.defence == "shuffle":
        h = shuffle_tokens(h, client, seed)
    if isinstance(case.config, RmleConfig):
        found: Reconstruction = rmle(h, client, None, case.config)
    else:
        found = drag(h, client, prior, case.config, seeds=seed)
    return {
        "images": found.images.float().cpu().contiguous(),
        "distance": found.distance.float().cpu(),
        "seconds": torch.tensor(found.seconds, dtype=torch.float64),
        "nfe": torch.tensor(found.nfe),
    }


def shuffle_tokens(h: Tensor, client: SplitClient, seed: int) -> Tensor:
    """`h` `(B, N, D)` with the patch tokens of each image in a random order of its own; prefix tokens (CLS) stay in front.

    Raises:
        ValueError: the server of this client would notice the order, so the defence would change its answers.
    """
    layout = client.layout
    if layout.kind != "BND" or not layout.permutation_equivariant:
        raise ValueError(
            f"token shuffling needs tokens and a server that ignores their order; this client has {layout}"
        )
    prefix, patches = h[:, : layout.prefix_tokens], h[:, layout.prefix_tokens :]
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(patches.shape[1], generator=generator) for _ in range(len(h))]
    mixed = torch.stack([tokens[order.to(h.device)] for tokens, order in zip(patches, orders, strict=True)])
    return torch.cat([prefix, mixed], 1)


# -- the store -------------------------------------------------------------------------------------------------------


def place(store: Path, spec: dict[str, Any]) -> Path:
    """Folder of the result of `spec`."""
    key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:24]
    return store / key[:2] / key


def remember(store: Path, spec: dict[str, Any], work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors `work()` gives for `spec`: loaded when they were published before, otherwise computed and published."""
    folder = place(store, spec)
    if not folder.exists():
        tensors = work()
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
        save_file({name: t.contiguous() for name, t in tensors.items()}, partial / "result.safetensors")
        (partial / "spec.json").write_text(json.dumps(spec, indent=1, sort_keys=True))
        (partial / "made.json").write_text(json.dumps(provenance(), indent=1))
        try:
            os.rename(partial, folder)
        except OSError:  # another process was first: same specification, same result
            shutil.rmtree(partial)
    return load_file(folder / "result.safetensors")


# -- reference rows --------------------------------------------------------------------------------------------------


@torch.no_grad()
def references(photos: Tensor, prior: LatentPrior, num_steps: int = 50, seed: int = 3407) -> dict[str, Tensor]:
    """What no attack is needed for: the mean training photo, samples of the prior alone, the decoder's round trip (ceiling)."""
    from dragkit.sampling import ddim_sample

    train, _ = data.imagenette("train", photos.shape[-1])
    mean = (train.float().mean(0) / 255).expand_as(photos)
    samples = torch.cat(
        [
            ddim_sample(prior, range(seed + i, seed + min(i + 32, len(photos))), num_steps)
            for i in range(0, len(photos), 32)
        ]
    )
    ceiling = torch.cat([prior.decode(prior.encode(x)).clamp(0, 1) for x in photos.split(32)])
    return {"mean image": mean, "prior only": samples, "decoder ceiling": ceiling}
