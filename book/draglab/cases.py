"""Measured experiments: cases that describe themselves and run resumably.

A case is a pure function of its specification (settings, photos, seeds, checksums of the weights); its results are kept in a
content-addressed store (`dragkit.cache.remember`).
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from dragkit import cache, data, zoo
from dragkit.adaptive.replies import check_reply, hear
from dragkit.attacks.message import Message
from dragkit.attacks.threat import ATTACKER
from dragkit.cache import made_on, place, remember
from dragkit.client import SplitClient
from dragkit.defenses import BaseDefence, defend_images, make, parse_spec
from dragkit.methods import METHODS, Setting, method_of
from dragkit.priors.diffusion import LatentPrior
from dragkit.streams import USER_SEED
from dragkit.zoo.knowledge import Knowledge

FORMAT = 2  # of the stored results; raise it when the code changes what a specification means

DEFENDED = 3  # the same for what a defence or a reply does

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Case:
    """One attack on one client, on `n` validation photos (or training photos, for tuning).

    Attributes:
        config: the attack's settings. at: where the client is cut. client, prior: names in the zoo.
        method: a name in `methods.METHODS`; None takes the first that has settings of this class.
        defence: spec of what the client does to its message, such as "gaussian:0.5" or "drop:0.5+shuffle"; None for nothing.
        adaptive: name of the attacker's reply to the defence (`dragkit.adaptive`); "" for one who does not know of it.
        queries: how often each photo is sent, and the attacker listens.
        subset: part of the data, "val" or "train".
        seed: chooses the photos; `attack_seed` the attack's randomness, one stream per photo.
        precision: "float32", or "bfloat16" to run the networks under autocast (state, schedule and final decoding stay float32).
    """

    config: Any
    at: str
    client: str = zoo.CLIENT
    prior: str = zoo.PRIOR
    method: str | None = None
    n: int = 32
    defence: str | None = None
    subset: data.Subset = "val"
    seed: int = 0
    attack_seed: int = 3407
    precision: Precision = "float32"
    adaptive: str = ""
    queries: int = 1

    def __post_init__(self) -> None:
        if self.defence is not None:
            parse_spec(self.defence)
        elif self.adaptive or self.queries != 1:
            raise ValueError(
                f"adaptive is {self.adaptive!r} and queries is {self.queries}, but there is no defence to reply to"
            )
        check_reply(self.adaptive)
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision is {self.precision!r}; it must be one of {', '.join(get_args(Precision))}")
        if self.name not in METHODS:
            raise ValueError(f"method is {self.method!r}; it must be one of {', '.join(METHODS)}")
        if not isinstance(self.config, METHODS[self.name].config):
            wanted = METHODS[self.name].config.__name__
            raise TypeError(f"config is a {type(self.config).__name__}; method {self.name!r} takes a {wanted}")

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.method or method_of(self.config)

    def knowledge(self, device: str = "cpu") -> Knowledge:
        """What the attacker of this case may bring."""
        aware = (self.defence or "") if self.adaptive else ""
        return Knowledge(self.client, self.at, self.prior, device, aware)


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
    store = store or cache.cache_dir() / "results"
    photos, _, indices = data.pick(case.subset, case.n, seed=case.seed)
    known = case.knowledge(device)
    clients: list[SplitClient] = []  # loaded once, and only if something is missing
    parts, devices = [], set()
    for start in tqdm(range(0, case.n, batch), desc=describe(case), disable=not progress):
        chosen = slice(start, min(start + batch, case.n))
        spec = specification(case, indices[chosen], start)

        checkpoint = running(store, spec)

        def work(chosen: slice = chosen, start: int = start, checkpoint: Path = checkpoint) -> dict[str, Tensor]:
            if not clients:
                clients.append(zoo.load_client(case.client, case.at, device=device))
            return _attack(case, photos[chosen].to(device), clients[0], known, case.attack_seed + start, checkpoint)

        parts.append(remember(store, spec, work))
        for file in checkpoint.parent.glob(f"{checkpoint.name}*"):  # published, so not needed any more
            file.unlink()
        devices.add(made_on(store, spec))
    seconds = sum(float(p["seconds"]) for p in parts) / case.n
    images, distance = (torch.cat([p[name] for p in parts]) for name in ("images", "distance"))
    return Result(photos, images, distance, seconds, int(parts[0]["nfe"]), sorted(devices))


def describe(case: Case) -> str:
    """A case in one line, for progress and errors: method, client, cut, defence, reply."""
    against = f" {case.defence}" if case.defence else ""
    knowing = f" ({case.adaptive}{f', {case.queries} queries' if case.queries > 1 else ''})" if case.adaptive else ""
    return f"{METHODS[case.name].label} {case.client} {case.at}{against}{knowing}"


def specification(case: Case, indices: list[int], start: int) -> dict[str, Any]:
    """All that the result of one batch depends on, as JSON."""
    names = case.knowledge().names(METHODS[case.name].uses) + ([case.client] if zoo.available(case.client) else [])
    described = {**asdict(case), "n": None, "method": case.name}
    described["config"] = described["config"] or {}  # the inverse network has no settings
    described["split"] = described.pop("subset")  # its name when the first results were stored
    if (
        case.defence is None
    ):  # neither matters then; the specification says no more than it did when results were stored
        del described["adaptive"], described["queries"]
    else:
        described["defence"] = [DEFENDED, case.defence]
    return {
        "format": FORMAT,
        "case": described,
        "photos": indices,
        "seed": case.attack_seed + start,
        "weights": {name: zoo.card(name)["sha256"] for name in names},
    }


def sent(case: Case, defence: BaseDefence, client: SplitClient, photos: Tensor, seed: int) -> Tensor:
    """The messages of a defended case, `(queries, B, *client.h_shape)`. `seed`: the attack's."""
    return defend_images(defence, client, photos, seed + USER_SEED, case.queries)


def running(store: Path, spec: dict[str, Any]) -> Path:
    """File of an attack that is under way; one that was interrupted goes on from there."""
    return place(store, spec).with_suffix(".running")


def _attack(
    case: Case, photos: Tensor, client: SplitClient, known: Knowledge, seed: int, checkpoint: Path | None = None
) -> dict[str, Tensor]:
    """The result of one batch.

    Raises:
        KeyboardInterrupt: the attack was interrupted; what it had is in `checkpoint`, and nothing is published.
    """
    with torch.no_grad():
        if case.defence is None:
            message, threat = Message(client(photos), client), ATTACKER
        else:
            defence = make(case.defence, client)
            message, threat = hear(case.adaptive, sent(case, defence, client, photos, seed), defence, client)
    with torch.autocast(photos.device.type, torch.bfloat16, enabled=case.precision == "bfloat16"):
        reconstruction = METHODS[case.name].run(message, known, Setting(case.config, seed, threat, checkpoint))
    if reconstruction.interrupted:
        raise KeyboardInterrupt
    return {
        "images": reconstruction.images.float().cpu().contiguous(),
        "distance": reconstruction.distance.float().cpu(),
        "seconds": torch.tensor(reconstruction.seconds, dtype=torch.float64),
        "nfe": torch.tensor(reconstruction.nfe),
    }


# -- reference rows --------------------------------------------------------------------------------------------------


@torch.no_grad()
def references(photos: Tensor, prior: LatentPrior, num_steps: int = 50, seed: int = 3407) -> dict[str, Tensor]:
    """What no attack is needed for: the mean training photo, samples of the prior alone, the decoder's round trip (ceiling)."""
    from dragkit.priors.sampling import ddim_sample

    train, _ = data.imagenette("train", photos.shape[-1])
    mean = (train.float().mean(0) / 255).expand_as(photos)
    samples = torch.cat(
        [
            ddim_sample(prior, range(seed + i, seed + min(i + 32, len(photos))), num_steps)
            for i in range(0, len(photos), 32)
        ]
    )
    return {"mean image": mean, "prior only": samples, "decoder ceiling": round_trip(photos, prior)}


@torch.no_grad()
def round_trip(photos: Tensor, prior: LatentPrior) -> Tensor:
    """Photos through the prior's encoder and decoder: the ceiling of what it can show."""
    return torch.cat([prior.decode(prior.encode(x)).clamp(0, 1) for x in photos.split(32)])
