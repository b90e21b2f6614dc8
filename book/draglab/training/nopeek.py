"""NoPeek (Vepakomma et al., ICDMW 2020, arXiv 2008.09161): a client whose messages are decorrelated from the photos.

The shipped client is trained further on cross-entropy + weight * distance correlation of photos and messages, over one mini-batch.
`weight` 0 is the control that tells what the further training does by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from transformers import ViTForImageClassification

from dragkit import zoo
from dragkit.client import SplitClient
from dragkit.data import CLASSES, imagenette
from dragkit.defenses.nopeek import Distances, distance_correlation
from dragkit.devices import pick_device
from dragkit.measures.intervals import rate
from draglab.accuracy import per_photo_right
from draglab.training.augment import labelled_batch
from draglab.training.classifier import MEAN, STD, image_processor, normalise, top1
from draglab.training.export import export_model, round_to_fp16, run_folder, same_recipe
from draglab.training.loop import Task, TrainConfig, batch_indices, fit, quick_attention
from draglab.training.muon import muon_and_adamw

Halves = Literal["both", "client", "server"]

Tokens = Literal["all", "patches", "cls"]

Photos = Literal["pixels", "low-pass"]

MEASURED_BATCH = 128

LOW_PASS = 8  # pixels that are averaged to one, along each side


@dataclass(frozen=True)
class NopeekRecipe:
    """One component each, so that an ablation is a change of one field.

    Attributes:
        at: block after which the client is cut.
        weight: of the distance correlation (lambda); 0 is the control.
        dx: distance between photos, see `dragkit.defenses.nopeek`.
        dz: distance between messages.
        unbiased: U-centred estimate of the correlation.
        root: the correlation, not its square.
        train: which halves learn.
        tokens: of the message that are decorrelated.
        photos: as what photos are compared.
        crop, jitter, mix, smoothing: the classifier's augmentation.

    Raises:
        ValueError: a field that cannot work.
    """

    at: str = "block:6"
    weight: float = 3.0
    dx: Distances = "euclid"
    dz: Distances = "euclid"
    unbiased: bool = False
    root: bool = True
    train: Halves = "both"
    tokens: Tokens = "all"
    photos: Photos = "pixels"
    crop: float = 0.35
    jitter: float = 0.3
    mix: float = 0.5
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not self.at.removeprefix("block:").isdecimal():
            raise ValueError(f"at is {self.at!r}; NoPeek cuts after a block, such as block:6")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight is {self.weight}; it must be at least 0, which is the control")
        choices = {"dx": Distances, "dz": Distances, "train": Halves, "tokens": Tokens, "photos": Photos}
        for name, known in choices.items():
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(get_args(known))}")

    @property
    def block(self) -> int:
        """Number of the block after which the client is cut."""
        return int(self.at.removeprefix("block:"))


CONFIG = TrainConfig(500, 64, 5e-4, warmup=50, ema=0.99, decay=0.4)

RECIPE = NopeekRecipe()


class NopeekTask(Task):
    """The zoo's classifier trained on with NoPeek's term: messages that depend less on the photo.

    Attributes:
        recipe: what is trained and how. batch: photos a step.
        seed: of the batches. device: where the photos lie.
        model: the zoo's client, of which one half or both learn. photos, val: training and validation photos, uint8 `(N, 3, H, W)`.
        labels, val_labels: their classes, int64 `(N,)`.

    Raises:
        ValueError: the recipe cuts where this client has no block.
    """

    def __init__(self, recipe: NopeekRecipe, batch: int, seed: int, device: torch.device):
        self.recipe, self.batch, self.seed, self.device = recipe, batch, seed, device
        self.model = ViTForImageClassification.from_pretrained(zoo.verify(zoo.CLIENT), dtype=torch.float32)
        blocks = self.model.config.num_hidden_layers
        if not 1 <= recipe.block <= blocks:
            raise ValueError(f"at is {recipe.at!r}; this client can be cut at block:1 to block:{blocks}")
        quick_attention(self.model, device)
        self._freeze()
        self.photos, self.labels = (t.to(device) for t in imagenette("train", 80))  # room for crops
        self.val, self.val_labels = (t.to(device) for t in imagenette("val"))

    def _freeze(self) -> None:
        """Only the half that `recipe.train` names learns."""
        for name, parameter in self.model.named_parameters():
            sent = "embeddings" in name or any(f"layers.{i}." in name for i in range(self.recipe.block))
            parameter.requires_grad_(self.recipe.train == "both" or (self.recipe.train == "client") == sent)

    def optimizers(self, config: TrainConfig) -> list[torch.optim.Optimizer]:
        """Muon for the matrices between input and output, AdamW for everything else (see `muon_and_adamw`)."""
        return muon_and_adamw(self.model, config.lr, config.weight_decay, ("vit.embeddings", "classifier"))

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy plus `recipe.weight` times the distance correlation of photos and messages."""
        index = batch_indices(len(self.photos), self.batch, step, self.seed)
        x, target = labelled_batch(self.photos, self.labels, index, self.recipe, len(CLASSES), generator)
        logits, h = self.answer(self.model, x)
        answer = nnf.cross_entropy(logits, target, label_smoothing=self.recipe.smoothing)
        correlation = self.correlation(x, h)
        loss = answer + self.recipe.weight * correlation
        right = (logits.argmax(1) == target.argmax(1)).float().mean()
        return loss, {"answer": answer.item(), "correlation": correlation.item(), "train_top1": right.item()}

    def answer(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores `(B, 10)` and messages `(B, 65, D)` for images `(B, 3, 64, 64)` in [0, 1]."""
        out = model(normalise(x), output_hidden_states=True)
        return out.logits.float(), out.hidden_states[self.recipe.block]

    def correlation(self, x: Tensor, h: Tensor) -> Tensor:
        """The term that NoPeek adds, between photos and the tokens that the recipe names."""
        part = {"all": h, "patches": h[:, 1:], "cls": h[:, :1]}[self.recipe.tokens]
        r = self.recipe
        x = nnf.avg_pool2d(x, LOW_PASS) if r.photos == "low-pass" else x
        return distance_correlation(x, part, dx=r.dx, dz=r.dz, unbiased=r.unbiased, root=r.root)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """On every fourth validation photo: accuracy, and both estimates of the correlation (see `measure_correlation`)."""
        correlations = measure_correlation(lambda x: self.answer(model, x)[1], self.val[::4])
        return {
            "top1": top1(model, self.val[::4], self.val_labels[::4]),
            **{k: v["value"] for k, v in correlations.items()},
        }


@torch.no_grad()
def measure_correlation(client: Callable[[Tensor], Tensor], photos: Tensor) -> dict[str, dict[str, float]]:
    """Euclidean distance correlation of whole photos (uint8) and all tokens: means over batches of 128.

    The biased one depends on that size. A batch is drawn from all over the subset, which is sorted by class; "n" photos are used.
    """
    size = min(MEASURED_BATCH, len(photos))
    batches = len(photos) // size
    total = {"correlation": 0.0, "correlation_unbiased": 0.0}
    for i in range(batches):
        x = photos[i::batches][:size].float() / 255
        h = client(x)
        total["correlation"] += distance_correlation(x, h).item()
        total["correlation_unbiased"] += distance_correlation(x, h, unbiased=True, root=False).item()
    return {name: {"value": value / batches, "n": batches * size} for name, value in total.items()}


# -- the command ------------------------------------------------------------------------------------------------------


NAME = f"nopeek-{zoo.CLIENT}"


def train_nopeek(config: TrainConfig = CONFIG, recipe: NopeekRecipe = RECIPE, name: str = NAME) -> Path:
    """Train and export a client whose messages are decorrelated from the photos (NoPeek); it begins from the shipped client.

    Args:
        config: length and pace. recipe: what is decorrelated, and how strongly.
        name: of the client that is made; a new one, nopeek-..., for every variant.

    Returns:
        The export folder.

    Raises:
        ValueError: a name that does not begin with "nopeek-", by which the studies find it, or that is no folder's.
    """
    if not name.startswith("nopeek-") or set(name) & set("/:\\"):
        raise ValueError(f"name is {name!r}; it must begin with nopeek- and have no / and :, such as {NAME}")
    same_recipe(run_folder(name), recipe)
    task = NopeekTask(recipe, config.batch, config.seed, pick_device(config.device))
    model = fit(task, config, run_folder(name))
    round_to_fp16(task.model, model)
    top1 = rate(per_photo_right(SplitClient(task.model, recipe.at, image_size=64, mean=MEAN, std=STD)))
    measured: dict[str, Any] = {"top1": {"value": top1.mean, "ci": [top1.low, top1.high], "n": len(task.val)}}
    measured |= measure_correlation(lambda x: task.answer(task.model, x)[1], task.val)
    out = export_model(
        task.model, name, name, measured, config, asdict(recipe), f"nopeek --name {name} --weight {recipe.weight}"
    )
    image_processor().save_pretrained(out)
    return out
