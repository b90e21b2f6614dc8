"""The embedded client: a 12-block ViT trained from scratch on Imagenette, its tokens narrower than its 8x8x3 = 192 patches.

Recipe: random resized crops, flips, colour jitter, CutMix or mixup and label smoothing, after "How to train your ViT"
(arXiv 2106.10270); the matrices of the blocks are trained with Muon (`torch.optim.Muon`), everything else with AdamW.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from dragkit import zoo
from dragkit.data import CLASSES, imagenette
from dragkit.devices import pick_device
from draglab.training.augment import labelled_batch
from draglab.training.export import export_model, round_to_fp16, run_folder
from draglab.training.loop import Task, TrainConfig, batch_indices, fit
from draglab.training.muon import muon_and_adamw

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class ClassifierRecipe:
    """The network and its augmentation.

    Attributes:
        width: of the tokens.
        heads: of the attention.
        patch: side of a patch, in pixels.
        blocks: of the transformer.
        dropout: share of the features left out in training.
        crop: smallest random crop, as a share of the photo's area.
        jitter: strength of the changes of brightness, contrast and saturation.
        mix: share of the batches that are mixed (CutMix or mixup, evenly).
        smoothing: share of the target that is spread over all classes.
    """

    width: int = 128
    heads: int = 4
    patch: int = 8
    blocks: int = 12
    dropout: float = 0.0
    crop: float = 0.35
    jitter: float = 0.3
    mix: float = 0.5
    smoothing: float = 0.1


CONFIG = TrainConfig(30_000, 64, 2e-3, weight_decay=0.02, ema=0.998, decay=0.35)

RECIPE = ClassifierRecipe()


def build(recipe: ClassifierRecipe) -> ViTForImageClassification:
    """The untrained classifier: images `(B, 3, 64, 64)`, normalised, to ten scores."""
    config = ViTConfig(
        hidden_size=recipe.width,
        intermediate_size=4 * recipe.width,
        num_hidden_layers=recipe.blocks,
        num_attention_heads=recipe.heads,
        hidden_dropout_prob=recipe.dropout,
        image_size=64,
        patch_size=recipe.patch,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: i for i, name in enumerate(CLASSES)},
    )
    return ViTForImageClassification(config)


class ClassifierTask(Task):
    """A vision transformer that names the class of a photo, trained from nothing.

    Attributes:
        recipe: what is trained and how. batch: photos a step.
        seed: of the batches. device: where the photos lie.
        model: with fresh weights. photos, val: training and validation photos, uint8 `(N, 3, H, W)`.
        labels, val_labels: their classes, int64 `(N,)`.
    """

    def __init__(self, recipe: ClassifierRecipe, batch: int, seed: int, device: torch.device):
        self.recipe, self.batch, self.seed, self.device = recipe, batch, seed, device
        self.model = build(recipe)
        photos, labels = imagenette("train", 80)  # larger than the model's 64 px: room for crops
        self.photos, self.labels = photos.to(device), labels.to(device)
        val, val_labels = imagenette("val", 64)
        self.val, self.val_labels = val.to(device), val_labels.to(device)

    def optimizers(self, config: TrainConfig) -> list[torch.optim.Optimizer]:
        """Muon for the matrices between input and output, AdamW for everything else (see `muon_and_adamw`)."""
        outside = ("vit.embeddings", "classifier")
        return muon_and_adamw(self.model, config.lr, config.weight_decay, outside)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy on mixed and smoothed labels."""
        index = batch_indices(len(self.photos), self.batch, step, self.seed)
        x, target = labelled_batch(self.photos, self.labels, index, self.recipe, len(CLASSES), generator)
        logits = self.model(normalise(x)).logits.float()
        loss = nnf.cross_entropy(logits, target, label_smoothing=self.recipe.smoothing)
        return loss, {"train_top1": (logits.argmax(1) == target.argmax(1)).float().mean().item()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"top1": top1(model, self.val, self.val_labels)}


def normalise(x: Tensor) -> Tensor:
    """Images in [0, 1] to the network's range."""
    return (x - MEAN[0]) / STD[0]


@torch.no_grad()
def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of uint8 `images` `(N, 3, 64, 64)` whose most likely class is the label."""
    right = 0
    for x, y in zip(images.split(256), labels.split(256), strict=True):
        right += int((model(normalise(x.float() / 255)).logits.argmax(1) == y).sum())
    return right / len(images)


def image_processor() -> ViTImageProcessor:
    """The preprocessing the model was trained with, for `preprocessor_config.json`."""
    size = {"height": 64, "width": 64}
    return ViTImageProcessor(size=size, image_mean=list(MEAN), image_std=list(STD), do_resize=True, resample=2)


# -- the command ------------------------------------------------------------------------------------------------------


def train_classifier(config: TrainConfig = CONFIG, recipe: ClassifierRecipe = RECIPE) -> Path:
    """Train and export the 12-block ViT.

    Args:
        config: length and pace. recipe: network and augmentation.

    Returns:
        The export folder.
    """
    device = pick_device(config.device)
    task = ClassifierTask(recipe, config.batch, config.seed, device)
    model = fit(task, config, run_folder("classifier"))
    round_to_fp16(task.model, model)
    measured = {"top1": {"value": top1(task.model, task.val, task.val_labels), "n": len(task.val)}}
    out = export_model(task.model, "classifier", zoo.CLIENT, measured, config, asdict(recipe))
    image_processor().save_pretrained(out)
    return out
