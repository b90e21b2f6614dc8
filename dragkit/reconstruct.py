"""The work behind `dragkit reconstruct`: photos through a client, a defence and an attack, and what came out of it."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dragkit import zoo
from dragkit.adaptive.replies import check_reply, hear
from dragkit.attacks.message import Message
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.threat import ThreatModel
from dragkit.cache import write_json
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.defenses import defend_images, make, parse_spec
from dragkit.devices import pick_device
from dragkit.images import grid, list_images, load_image, load_images, resize_images, save_image
from dragkit.measures import metrics, utility
from dragkit.methods import METHODS, Setting
from dragkit.priors.diffusion import LatentPrior
from dragkit.provenance import provenance
from dragkit.streams import USER_SEED
from dragkit.zoo.knowledge import Knowledge, open_client

Budget = Literal["ci", "fast", "paper"]

TURNS = {"ci": 80, "fast": 400}

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

METRICS = {"ms_ssim": metrics.ms_ssim, "psnr": metrics.psnr, "st_lpips": metrics.st_lpips}

FIGURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Job:
    """What `dragkit reconstruct` is asked for; every field is one of its options. Checked before any model is loaded.

    Raises:
        ValueError, OSError: an option that cannot work, a photo that cannot be read, a file that cannot be written.
    """

    photos: tuple[Path, ...]
    at: str
    client: str
    prior: str
    method: str
    budget: Budget
    turns: int | None
    device: str
    dtype: str
    defence: str
    adaptive: str
    queries: int
    seed: int
    checkpoint: Path | None
    json: Path | None
    out: Path
    public: Path | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_defence()
        pick_device(self.device)
        for file in self.files:
            load_image(file)
        self._check_files()
        for kind in METHODS[self.method].uses:
            names = self.knowledge.names((kind,))
            if kind != "diffusion" and not all(zoo.available(name) for name in names):
                getattr(self.knowledge, kind)  # says what there is, and how to train what is missing

    @cached_property
    def files(self) -> list[Path]:
        """The photos themselves: those that were named, and those in a folder that was named."""
        return [file for path in self.photos for file in (list_images(path) if path.is_dir() else [path])]

    @cached_property
    def knowledge(self) -> Knowledge:
        """What the attacker may bring."""
        against = self.defence if self.adaptive else ""
        device, dtype = str(pick_device(self.device)), PRECISIONS[self.dtype]
        return Knowledge(self.client, self.at, self.prior, device, against, dtype)

    @cached_property
    def config(self) -> Any:
        """Settings of the attack: those for the embedded priors or, for other priors and the budget "paper", the published ones."""
        method, turns = METHODS[self.method], self.turns or TURNS.get(self.budget)
        if turns is None:
            return method.published
        if self.budget in TURNS and (zoo.available(f"{self.prior}/unet") or "diffusion" not in method.uses):
            return method.budget(turns)
        return DragConfig.published_plus(turns) if self.method == "drag++" else DragConfig.published(turns)

    @property
    def shown(self) -> str:
        """The method with its settings: "DRAG (small, k=1)"."""
        return METHODS[self.method].shown(self.config)

    def _check_numbers(self) -> None:
        for name, known in (("method", METHODS), ("dtype", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        if self.turns is not None and self.turns < 1:
            raise ValueError(f"turns is {self.turns}; it must be at least 1")
        if self.turns is not None and self.budget not in TURNS and METHODS[self.method].config is not DragConfig:
            raise ValueError(
                f"turns is {self.turns}, but budget {self.budget!r} has its own for {self.method}; leave one out"
            )
        for name in ("turns", "checkpoint"):
            if getattr(self, name) is not None and METHODS[self.method].config is type(None):
                raise ValueError(
                    f"--{name} is given, but {METHODS[self.method].label} answers in one pass; leave it out"
                )
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be at least 0")

    def _check_defence(self) -> None:
        if self.defence:
            parse_spec(self.defence)
        elif self.adaptive or self.queries != 1:
            raise ValueError(
                f"--adaptive is {self.adaptive!r} and --queries {self.queries}, but there is no --defence to reply to"
            )
        if self.queries < 1:
            raise ValueError(f"--queries is {self.queries}; the photo is sent at least once")
        check_reply(self.adaptive)

    def _check_files(self) -> None:
        if self.out.suffix.lower() not in FIGURES:
            raise ValueError(f"--out is {str(self.out)!r}; it must end in {', '.join(FIGURES)}")
        photos, taken = {file.resolve() for file in self.files}, set[Path]()
        for name in ("out", "json", "checkpoint"):
            file: Path | None = getattr(self, name)
            if file is None:
                continue
            if file.resolve() in photos | taken:
                raise ValueError(f"--{name} is {str(file)!r}, which is a photo or another file of this run")
            taken.add(file.resolve())
            if file.is_dir():
                raise ValueError(f"--{name} is {str(file)!r}, which is a folder; name a file")
            above = next(folder for folder in file.absolute().parents if folder.exists())
            try:
                with tempfile.TemporaryFile(dir=above):
                    pass
            except OSError as error:
                raise PermissionError(f"--{name} is {str(file)!r}, where nothing can be written") from error


@dataclass
class Outcome:
    """Photos, what the attacker made of them and what the decoder of a latent prior could show at best, all of one size."""

    job: Job
    photos: Tensor
    rebuilt: Reconstruction
    ceiling: Tensor | None

    def picture(self) -> Path:
        """Write a row for each photo: photo, reconstruction and, with a latent prior, decoder ceiling. Small ones are enlarged."""
        columns = [self.photos, self.rebuilt.images] + ([] if self.ceiling is None else [self.ceiling])
        shown = torch.stack(columns, 1).flatten(0, 1).float().cpu()
        enlarged = max(1, 256 // shown.shape[-1])  # small photos are hard to see: every pixel becomes a square
        shown = shown.repeat_interleave(enlarged, 2).repeat_interleave(enlarged, 3)
        return save_image(grid(shown, columns=len(columns)), self.job.out)

    def scores(self, images: Tensor) -> dict[str, list[float]]:
        """Every metric between the photos and these images, per photo."""
        images, photos = images.float().cpu(), self.photos.float().cpu()
        return {name: metric(images, photos).tolist() for name, metric in METRICS.items()}

    def record(self) -> dict[str, Any]:
        """All of it for `--json`: the options, the settings, figures per photo and their means, and where it was computed."""
        scored = self.scores(self.rebuilt.images)
        best = {} if self.ceiling is None else self.scores(self.ceiling)
        rows = []
        for i, file in enumerate(self.job.files):
            row: dict[str, Any] = {"photo": str(file), **{name: values[i] for name, values in scored.items()}}
            row |= {"distance": self.rebuilt.distance[i].item(), "failed_at": self.rebuilt.failed_at[i]}
            rows.append(row | ({"ceiling": {name: values[i] for name, values in best.items()}} if best else {}))
        options = {name: value for name, value in asdict(self.job).items() if name not in ("photos", "out", "json")}
        return {
            **{name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
            "config": vars(self.job.config) if self.job.config else {},
            "threat": str(self.rebuilt.threat),
            "nfe": self.rebuilt.nfe,
            "seconds": self.rebuilt.seconds,
            "interrupted": self.rebuilt.interrupted,
            "mean": {name: sum(values) / len(values) for name, values in scored.items()},
            "photos": rows,
            "made": provenance(),
        }

    def write_record(self) -> Path | None:
        """Write `record()` to the file that the job names, if it names one."""
        if self.job.json is None:
            return None
        write_json(self.job.json, self.record())
        return self.job.json


def reconstruct(job: Job, say: Callable[[object], None], callback: Callable[[Any], None]) -> Outcome:
    """Send the photos through the client and its defence, and attack what arrives.

    Args:
        say: shows a line. callback: called after every turn of the attack with its state (`iteration` of `total`).

    Returns:
        the outcome; after Ctrl-C or SIGTERM that of the best so far, marked as interrupted.
    """
    known, method = job.knowledge, METHODS[job.method]
    client = open_client(job.client, job.at, dtype=known.dtype, device=known.device)
    say(client)
    prior = known.diffusion if "diffusion" in method.uses else None
    photos = load_images(job.files, prior.image_size if prior else max(client.image_size)).to(known.device)
    with torch.no_grad():
        message, threat = received(job, client, photos, say)
        ceiling = prior.decode(prior.encode(photos)).clamp(0, 1) if isinstance(prior, LatentPrior) else None
    with terminated_as_interrupted():
        rebuilt = method.run(message, known, Setting(job.config, job.seed, threat, job.checkpoint, callback))
    size = (rebuilt.images.shape[2], rebuilt.images.shape[3])
    return Outcome(job, resize_images(photos, size).clamp(0, 1), rebuilt, ceiling)


def received(
    job: Job, client: SplitClient, photos: Tensor, say: Callable[[object], None]
) -> tuple[Message, ThreatModel]:
    """What the attacker works with, and what they are declared to have; says what a defence does to the server's answer."""
    if not job.defence:
        trained = not {"network", "encoder"}.isdisjoint(METHODS[job.method].uses)
        return Message(client(photos), client), ThreatModel(weights=True, public_data=trained)
    public = None if job.public is None else load_images(job.public, photos.shape[-1])
    defence = make(job.defence, client, public)
    messages = defend_images(defence, client, photos, job.seed + USER_SEED, job.queries)
    say(f"defence {job.defence}: the server is told {defence.server_knows}")
    say(utility.consequence(client, client(photos[:1]), defence.receive(messages[0, :1])))
    if job.adaptive in ("reorder", "placed"):
        say("the attackers train a classifier of positions, minutes the first time")
    return hear(job.adaptive, messages, defence, client, public)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """While it lasts, SIGTERM is what Ctrl-C is: an attack ends with the best so far."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there may signals be handled
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Ticker:
    """Progress where there is no terminal: a line at the first turn, and one again after `every` seconds."""

    def __init__(self, say: Callable[[object], None], label: str, every: float = 30.0):
        self.say, self.label, self.every, self.said = say, label, every, -every

    def __call__(self, state: Any) -> None:
        now = time.monotonic()
        if now - self.said >= self.every or state.iteration == state.total:
            self.say(f"{self.label}: {state.iteration} of {state.total}, distance {state.distance.mean():.4f}")
            self.said = now
