"""DISCO: client, server, pruner and adversary trained together (arXiv 2012.11025), with a switch for every ingredient.

The loss is that of arXiv 2509.11724, in one step for all: `MSE(a(R(s) * sg[h]), x) + rho * CE(g(s * h), y)`, where `s` are the
gains of the channels, sg stops the gradient and R turns its sign. So the adversary `a` learns to rebuild the photo, the pruner
learns to prevent that and to keep the answer, and client and server learn the answer only. The authors' own code takes three
optimisers in turns, weighs `(1 - alpha) CE - alpha MSE` for the pruner, and lets the answer's gradient reach the client through the
scores too; here the pruner looks at sg[h]. The MSE is over normalised pixels, as published: that is what rho = 0.75 weighs against.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from dragkit import zoo
from dragkit.client import SplitClient
from dragkit.data import CLASSES, imagenette
from dragkit.defenses.disco import Disco, Mask, Pruner, PrunerShape, pruner_name
from dragkit.devices import pick_device
from dragkit.images import grid
from dragkit.measures.metrics import psnr
from dragkit.priors.inverse_network import InverseNetwork
from draglab import accuracy
from draglab.training.augment import labelled_batch
from draglab.training.classifier import STD, image_processor
from draglab.training.export import export_model, measure_rebuilt, round_to_fp16, run_folder, same_recipe, share
from draglab.training.loop import Task, TrainConfig, batch_indices, fit, quick_attention
from draglab.training.muon import muon_and_adamw


@dataclass(frozen=True)
class DiscoRecipe:
    """Each field from `mask` to `client_frozen` is an ablation of its own.

    Attributes:
        mask: the mask in training and, by default, afterwards.
        rho: weight of the answer against the adversary's error.
        adversarial: the adversary's gradient reaches the pruner; without it the adversary only watches.
        adversary_frozen: the adversary stays the inverse network it begins as.
        answer_into_pruner: the gradient of the answer reaches the pruner.
        client_frozen: only server and pruner learn.
        hidden: width of the pruner.
        pruner_lr: learning rate of the pruner, in units of the others'.
        crop, jitter, mix, smoothing: the classifier's augmentation.
    """

    mask: Mask = field(default_factory=Mask)
    rho: float = 0.75
    adversarial: bool = True
    adversary_frozen: bool = False
    answer_into_pruner: bool = True
    client_frozen: bool = False
    hidden: int = 128
    pruner_lr: float = 10.0
    crop: float = 0.35
    jitter: float = 0.3
    mix: float = 0.5
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not self.rho >= 0:
            raise ValueError(f"rho is {self.rho}; it must be at least 0")
        if not self.pruner_lr > 0:
            raise ValueError(f"pruner_lr is {self.pruner_lr}; it must be positive")
        if self.mask.scores != "random" and not (self.adversarial or self.answer_into_pruner):
            raise ValueError(
                "adversarial and answer_into_pruner are both off, so nothing trains the pruner; turn one on, or take "
                "scores='random'"
            )


CONFIG = TrainConfig(1_000, 32, 5e-4, warmup=50, ema=0.99, decay=0.4)

RECIPE = DiscoRecipe()


class DiscoModel(nn.Module):
    """The four parts that are trained: `client` (both halves of the ViT), `pruner`, `adversary`."""

    def __init__(self, client: SplitClient, pruner: Pruner, adversary: InverseNetwork):
        super().__init__()
        self.client, self.pruner, self.adversary = client, pruner, adversary


def reverse(x: Tensor) -> Tensor:
    """`x`, with a gradient of the opposite sign."""
    return 2 * x.detach() - x


class DiscoTask(Task):
    """Args: client: to begin from, trained in place. adversary: an inverse network for this client, trained in place.

    Raises:
        ValueError: an adversary for tokens of another shape, or a client that does not answer with scores of the ten classes.
    """

    def __init__(
        self,
        recipe: DiscoRecipe,
        client: SplitClient,
        adversary: InverseNetwork,
        batch: int,
        seed: int,
        device: torch.device,
    ):
        self.recipe, self.batch, self.seed, self.device = recipe, batch, seed, device
        client, adversary, layout = client.to(device), adversary.to(device), client.layout
        self.layout = layout
        answer = tuple(client.server(torch.zeros(1, *client.h_shape, device=device)).shape[1:])
        if answer != (len(CLASSES),):
            raise ValueError(f"client is {client.name}; its server answers {answer}, not scores of the ten classes")
        self.photos, self.labels = (t.to(device) for t in imagenette("train", 80))  # room for crops
        self.val, self.val_labels = (t.to(device) for t in imagenette("val"))
        h = self.training_messages(client)
        shape, given = adversary.shape, tuple(client.tokens(h[:1]).shape[1:])
        if (shape.num_tokens, shape.token_width) != given:
            raise ValueError(
                f"adversary takes tokens {(shape.num_tokens, shape.token_width)}, but the client sends {given}"
            )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            pruner = Pruner(PrunerShape(given[1], layout.prefix_tokens, recipe.hidden, recipe.mask)).to(device)
        pruner.standardise_on(client.tokens(h))
        client.model.requires_grad_(True)
        quick_attention(client.model, device)
        adversary.requires_grad_(not recipe.adversary_frozen)
        self.model: Any = DiscoModel(client, pruner, adversary)

    @torch.no_grad()
    def training_messages(self, client: SplitClient) -> Tensor:
        """What the client makes of whole training photos, at most about 2,000 of them."""
        some = self.photos[:: max(1, len(self.photos) // 2048)]
        return torch.cat([client(x.float() / 255).float() for x in some.split(128)])

    def optimizers(self, config: TrainConfig) -> list[torch.optim.Optimizer]:
        """Muon and AdamW as for the classifier; the pruner learns by AdamW at its own rate."""
        first_and_last = [f"client.model.{name}" for name in ("vit.embeddings", "classifier")]
        first_and_last += [f"adversary.{name}" for name in ("embed", "position", "mask_token", "head")]
        optimizers = muon_and_adamw(self.model, config.lr, config.weight_decay, ("pruner", *first_and_last))
        own = {id(p) for p in self.model.pruner.parameters()}
        group = optimizers[1].param_groups[0]
        group["params"] = [p for p in group["params"] if id(p) not in own]
        pruner = list(self.model.pruner.parameters())
        optimizers[1].add_param_group({"params": pruner, "lr": config.lr * self.recipe.pruner_lr})
        return optimizers

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The adversary's error (reversed for the pruner) plus `recipe.rho` times the error of the server's answers."""
        index = batch_indices(len(self.photos), self.batch, step, self.seed)
        x, target = labelled_batch(self.photos, self.labels, index, self.recipe, len(CLASSES), generator)
        error, wrong, logged = self.losses(x, target, generator)
        return error + self.recipe.rho * wrong, logged

    def losses(self, x: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, dict[str, float]]:
        """The adversary's error (its gradient reversed for the pruner), the server's cross-entropy, what to log."""
        recipe, model = self.recipe, self.model
        with torch.set_grad_enabled(not recipe.client_frozen):
            h = model.client(x).float()
        tokens = model.client.tokens(h)
        gains = recipe.mask.gains(self._scores(tokens.detach(), generator))
        seen = reverse(gains) if recipe.adversarial else gains.detach()
        watched = recipe.mask.apply(tokens.detach(), seen, model.pruner)
        error = (model.adversary.predict(watched).float() - x).square().mean() / STD[0] ** 2
        sent = recipe.mask.apply(tokens, gains if recipe.answer_into_pruner else gains.detach(), model.pruner)
        logits = model.client.server(sent.reshape(h.shape)).float()
        wrong = nnf.cross_entropy(logits, target, label_smoothing=recipe.smoothing)
        right = (logits.argmax(1) == target.argmax(1)).float().mean().item()
        logged = {"mse": error.item(), "ce": wrong.item(), "train_top1": right, "gain": gains.mean().item()}
        return error, wrong, logged

    def _scores(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        if self.recipe.mask.scores == "random":
            return torch.rand(len(tokens), tokens.shape[2], generator=generator).to(tokens.device)
        scores = self.model.pruner(tokens)
        return scores.mean(0, keepdim=True).expand_as(scores) if self.recipe.mask.scores == "static" else scores

    @torch.no_grad()
    def measure_average(self, model: DiscoModel) -> None:
        """Put the mean score of every channel over training photos into the pruner, for static masks."""
        tokens = model.client.tokens(self.training_messages(model.client))
        model.pruner.average.copy_(torch.cat([model.pruner(part) for part in tokens.split(128)]).mean(0).half())

    def defence(self, model: DiscoModel) -> Disco:
        return Disco(self.layout, model.pruner, self.recipe.mask)

    @torch.no_grad()
    def evaluate(self, model: Any) -> dict[str, float]:
        """On every fourth validation photo: accuracy with the mask, PSNR of the adversary."""
        self.measure_average(model)
        generator, defence = torch.Generator().manual_seed(self.seed), self.defence(model)
        right, quality = [], []
        for x, labels in zip(self.val[::4].split(128), self.val_labels[::4].split(128), strict=True):
            x = x.float() / 255
            sent = defence(model.client(x), generator)
            right.append(model.client.server(sent).argmax(1) == labels)
            quality.append(psnr(model.adversary(model.client.tokens(sent)), x))
        return {"top1": torch.cat(right).float().mean().item(), "adversary_psnr": torch.cat(quality).mean().item()}

    def samples(self, model: Any) -> Tensor:
        """A row of validation photos above what the adversary makes of their messages."""
        x = self.val[:: max(1, len(self.val) // 12)][:12].float() / 255
        return grid(torch.cat([x, self.rebuild(model, x)]).cpu(), columns=len(x))

    @torch.no_grad()
    def rebuild(self, model: Any, x: Tensor) -> Tensor:
        """What the adversary makes of the messages of images `x` `(B, 3, 64, 64)`; the same at every call."""
        sent = self.defence(model)(model.client(x), torch.Generator().manual_seed(self.seed))
        return model.adversary(model.client.tokens(sent))


# -- the command ------------------------------------------------------------------------------------------------------


NAME = f"disco-{zoo.CLIENT}"

AT = "block:6"


def train_disco(
    config: TrainConfig = CONFIG, recipe: DiscoRecipe = RECIPE, name: str = NAME, at: str = AT
) -> tuple[Path, Path]:
    """Train and export a client with learned channel pruning (DISCO): the ViT and its pruner, against an adversary.

    Args:
        config: length and pace. recipe: the losses and the mask.
        name: of the client that is made; a new one for every variant.
        at: where it is cut: one with a shipped inverse network.

    Returns:
        The export folders of the client and of its pruner.

    Raises:
        ValueError: a name that is taken or no name of a folder, or a cut without a shipped inverse network to begin from.
    """
    client_run, pruner_run = disco_runs(name, at)
    same_recipe(run_folder(client_run), recipe)
    device = pick_device(config.device)
    client, adversary = zoo.load_client(at=at, device=str(device)), zoo.load_inverse(at=at, device=str(device))
    task = DiscoTask(recipe, client, adversary, config.batch, config.seed, device)
    averaged = fit(task, config, run_folder(client_run))
    round_to_fp16(task.model, averaged)
    task.model.requires_grad_(False)
    task.measure_average(task.model)
    measured = measure(task)
    settings, command = asdict(recipe), f"disco --name {name}"
    export = export_model(task.model.pruner, client_run, pruner_name(name, at), measured, config, settings, command)
    pruner_out = run_folder(pruner_run) / "export"
    _move(export, pruner_out)
    out = export_model(task.model.client.model, client_run, name, measured, config, settings, command)
    image_processor().save_pretrained(out)
    return out, pruner_out


def disco_runs(name: str = NAME, at: str = AT) -> tuple[str, str]:
    """Names of the two runs to ship: the client's, and the pruner's, whose folder only has an export.

    Raises:
        ValueError: the name of a client that is there already, or one with a slash or a colon.
    """
    if name in zoo.CLIENTS or not name or set(name) & set("/:\\"):
        raise ValueError(f"name is {name!r}; it must be a new one without / and :, such as {NAME}")
    return name, pruner_name(name, at).replace("/", "-")


@torch.no_grad()
def measure(task: DiscoTask) -> dict[str, Any]:
    """On all validation photos: accuracy with and without the mask, and PSNR of the adversary against the mask."""
    client, defence = task.model.client, task.defence(task.model)
    quality = measure_rebuilt(lambda x: task.rebuild(task.model, x), {"adversary_psnr": psnr}, task.device)
    right = {"top1": accuracy.per_photo_right(client, defence), "top1_no_mask": accuracy.per_photo_right(client)}
    return {**{key: share(values) for key, values in right.items()}, **quality}


def _move(export: Path, target: Path) -> None:
    """`zoo.find` looks for every model in a run folder of its own."""
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    export.rename(target)
