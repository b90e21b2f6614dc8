"""A server that is trained for a defence: the client half stays as it is, the blocks after the cut learn to live with it.

The messages are defended anew at every step, with the augmentation of the classifier ("noise-aware" training). Only the server's
copy of the weights changes, so no phone has to be updated.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from dragkit import zoo
from dragkit.client import SplitClient
from dragkit.data import CLASSES, imagenette
from dragkit.defenses import Defence, acting_on_irs, make
from dragkit.devices import pick_device
from dragkit.measures.utility import per_photo_right
from draglab import accuracy
from draglab.training import classifier
from draglab.training.augment import labelled_batch
from draglab.training.export import export_model, round_to_fp16, run_folder, share
from draglab.training.loop import Task, TrainConfig, batch_indices, fit, quick_attention
from draglab.training.muon import muon_and_adamw


@dataclass(frozen=True)
class ServerRecipe:
    """The classifier's augmentation.

    Attributes:
        crop: smallest random crop, as a share of the photo's area.
        jitter: strength of the changes of brightness, contrast and saturation.
        mix: share of the batches that are mixed (CutMix or mixup, evenly).
        smoothing: share of the target that is spread over all classes.
    """

    crop: float = 0.25
    jitter: float = 0.3
    mix: float = 0.8
    smoothing: float = 0.1


CONFIG = TrainConfig(1_500, 32, 1e-3, warmup=50, weight_decay=0.05, ema=0.99, decay=0.4)

RECIPE = ServerRecipe()


class ServerTask(Task):
    """Args: client: cut where the message leaves it; frozen already, moved to `device`. defence: made for this client.

    Raises:
        ValueError: the client's server does not answer with scores of the ten classes.
    """

    def __init__(
        self,
        recipe: ServerRecipe,
        client: SplitClient,
        defence: Defence,
        batch: int,
        seed: int,
        device: torch.device,
    ):
        self.recipe, self.defence, self.batch, self.seed, self.device = recipe, defence, batch, seed, device
        self.client = client.to(device)
        quick_attention(self.client.model, device)
        self.student = copy.deepcopy(self.client)
        self.model: Any = self.student.model.requires_grad_(True)  # its client half never runs, so it gets no gradient
        answer = tuple(client.server(torch.zeros(1, *client.h_shape, device=device)).shape[1:])
        if answer != (len(CLASSES),):
            raise ValueError(f"client is {client.name}; its server answers {answer}, not scores of the ten classes")
        self.photos, self.labels = (t.to(device) for t in imagenette("train", 80))  # room for crops
        self.val, self.val_labels = (t.to(device) for t in imagenette("val"))

    def optimizers(self, config: TrainConfig) -> list[torch.optim.Optimizer]:
        """Muon for the matrices between input and output, AdamW for everything else (see `muon_and_adamw`)."""
        return muon_and_adamw(self.model, config.lr, config.weight_decay, ("vit.embeddings", "classifier"))

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the server on defended messages."""
        index = batch_indices(len(self.photos), self.batch, step, self.seed)
        x, target = labelled_batch(self.photos, self.labels, index, self.recipe, len(CLASSES), generator)
        with torch.no_grad():
            received = self.defence.receive(self.defence(self.client(x).float(), generator))
        logits = self.student.server(received).float()
        loss = nnf.cross_entropy(logits, target, label_smoothing=self.recipe.smoothing)
        return loss, {"train_top1": (logits.argmax(1) == target.argmax(1)).float().mean().item()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy of the defended messages of every fourth validation photo."""
        photos, labels = self.val[::4].float() / 255, self.val_labels[::4]
        right = per_photo_right(self.client, photos, labels, self.defence, server=self.serving(model), seeds=self.seed)
        return {"top1": right.double().mean().item()}

    def serving(self, model: nn.Module) -> SplitClient:
        """The client with the server half of `model`, frozen."""
        served = copy.deepcopy(self.client)
        served.model.load_state_dict(model.state_dict())
        return served


# -- the command ------------------------------------------------------------------------------------------------------


def train_server(
    config: TrainConfig = CONFIG,
    recipe: ServerRecipe = RECIPE,
    client: str = zoo.CLIENT,
    at: str = "block:6",
    *,
    defence: str,
) -> Path:
    """Train and export a ViT whose server half learns to live with a defence; the client half stays as it is.

    Args:
        config: length and pace. recipe: augmentation.
        client: name of an embedded client that classifies.
        at: where it is cut: block:6, or a module name.
        defence: recipe, such as gaussian:1.0 or drop:0.5+shuffle.

    Returns:
        The export folder.
    """
    device = pick_device(config.device)
    cut = zoo.load_client(client, at, device=str(device))
    against = acting_on_irs(make(defence, cut))
    run, name = server_run(client, at, defence), zoo.server_name(client, at, defence)
    task = ServerTask(recipe, cut, against, config.batch, config.seed, device)
    model = fit(task, config, run_folder(run))
    round_to_fp16(task.model, model)
    measured = {
        "top1": share(accuracy.per_photo_right(task.client, against, server=task.serving(task.model))),
        "top1_before": share(accuracy.per_photo_right(task.client, against)),
        "top1_undefended": share(accuracy.per_photo_right(task.client)),
    }
    command = f"server --client {client} --at {at} --defence {defence}"
    out = export_model(task.model, run, name, measured, config, asdict(recipe), command)
    classifier.image_processor().save_pretrained(out)
    return out


def server_run(client: str, at: str, defence: str) -> str:
    """Name of the training run of a server, e.g. "server-vit-imagenette64-block-6+drop-0.5"."""
    return zoo.server_name(client, at, defence).replace("/", "-")
