"""The inverse network of a client: from the representation of a public photo back to the photo.

Mean squared error in pixels, as published for the comparison in arXiv 2509.11724: the network approximates the posterior mean.
The frozen client runs on the fly, so that every random view of a photo has its own representation. Against a defence the messages
are defended anew at every step: the attacker who retrains.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dragkit import zoo
from dragkit.client import SplitClient
from dragkit.data import imagenette
from dragkit.defenses import Defence, acting_on_irs, make
from dragkit.devices import pick_device
from dragkit.images import grid
from dragkit.measures.metrics import ms_ssim, psnr, st_lpips
from dragkit.priors.inverse_network import InverseNetwork
from draglab.training.autoencoder import views
from draglab.training.export import export_model, measure_rebuilt, round_to_fp16, run_folder
from draglab.training.loop import Task, TrainConfig, batch_indices, fit
from draglab.training.muon import muon_and_adamw


@dataclass(frozen=True)
class InverseRecipe:
    """The network and where it begins.

    Attributes:
        width: of the tokens.
        depth: blocks of the transformer.
        heads: of the attention.
        drop: share of the tokens replaced by the mask token, for defences that leave tokens out.
        crop: smallest random crop, as a share of the photo's area; 1 trains on whole photos.
        start: zoo name of the inverse network to go on from. auto is the undefended one of this client, or of the client that it
            was fine-tuned from; none is random weights.
    """

    width: int = 192
    depth: int = 2
    heads: int = 4
    drop: float = 0.0
    crop: float = 0.5
    start: str = ""


CONFIG = TrainConfig(4_700, 16, 4e-3, warmup=50, ema=0.99, decay=0.4)

RECIPE = InverseRecipe(start="auto")


class InverseTask(Task):
    """The inverse network of a client, trained against a defence where there is one.

    Args:
        client: whose representations are to be inverted; frozen already, moved to `device`.
        defence: made for this client; None for bare representations.

    Raises:
        ValueError: the network to start from does not fit.
    """

    def __init__(
        self,
        recipe: InverseRecipe,
        client: SplitClient,
        batch: int,
        seed: int,
        device: torch.device,
        defence: Defence | None = None,
    ):
        self.recipe, self.batch, self.seed, self.device, self.defence = recipe, batch, seed, device, defence
        self.client = client.to(device)
        self.photos = imagenette("train", 64 if recipe.crop == 1 else 80)[0].to(device)  # room for crops
        self.val = imagenette("val")[0][::16].to(device)
        generator = torch.Generator().manual_seed(seed)
        some = self.photos[:: max(1, len(self.photos) // 512)]
        tokens, mask = self._heard(views(some, recipe.crop, generator), generator)
        missing = 0.0 if mask is None else 1 - mask.float().mean().item()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drop = max(recipe.drop, missing)
            self.model = InverseNetwork.for_client(client, 64, recipe.width, recipe.depth, recipe.heads, drop)
        if recipe.start:
            self._go_on_from(recipe.start)
        else:
            self.model.standardise_on(tokens if mask is None else tokens[mask])

    def _go_on_from(self, name: str) -> None:
        """Take all weights, and the scale of the tokens, from an inverse network of the zoo."""
        network, shape = InverseNetwork.from_pretrained(zoo.verify(name)), self.model.shape
        if replace(network.shape, client=shape.client, at=shape.at, drop=shape.drop) != shape:
            raise ValueError(f"start is {name!r}, made for {network.shape}; wanted is {shape}. Use --start none")
        self.model.load_state_dict(network.state_dict())

    @torch.no_grad()
    def _heard(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Tokens that the attacker will get for images `x`, and which of them arrived; in the training loop up to the
        rounding of its bf16."""
        h = torch.cat([self.client(part) for part in x.split(128)])
        if self.defence is None:
            return self.client.tokens(h).float(), None
        h = self.defence(h.float(), generator)
        return self.client.tokens(h), self.defence.arrived(h)

    def optimizers(self, config: TrainConfig) -> list[torch.optim.Optimizer]:
        """Muon for the matrices between input and output, AdamW for everything else (see `muon_and_adamw`)."""
        return muon_and_adamw(self.model, config.lr, config.weight_decay, ("embed", "position", "mask_token", "head"))

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error of the photos predicted from (defended) messages."""
        index = batch_indices(len(self.photos), self.batch, step, self.seed)
        x = views(self.photos[index], self.recipe.crop, generator)
        tokens, mask = self._heard(x, generator)
        if self.recipe.drop > 0:
            n = self.model.shape.num_tokens
            kept = (torch.rand(len(x), n, generator=generator) >= self.recipe.drop).to(x.device)
            mask = kept if mask is None else mask & kept
        mse = (self.model.predict(tokens, mask).float() - x).square().mean((1, 2, 3))
        return mse.mean(), {"psnr": (-10 * torch.log10(mse)).mean().item()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """PSNR and MS-SSIM on every 16th validation photo; all tokens present, but for those the defence leaves out."""
        x = self.val.float() / 255
        y = self.rebuild(model, x)
        return {"psnr": psnr(y, x).mean().item(), "ms_ssim": ms_ssim(y, x).mean().item()}

    def samples(self, model: nn.Module) -> Tensor:
        """A row of validation photos above their reconstructions."""
        x = self.val[:: max(1, len(self.val) // 12)][:12].float() / 255
        return grid(torch.cat([x, self.rebuild(model, x)]).cpu(), columns=len(x))

    @torch.no_grad()
    def rebuild(self, model: nn.Module, x: Tensor) -> Tensor:
        """What `model` makes of the (defended) representations of images `x` `(B, 3, 64, 64)`; the same at every call."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.cat([model(*self._heard(part, generator)) for part in x.split(128)])


# -- the command ------------------------------------------------------------------------------------------------------


def train_inverse(
    config: TrainConfig = CONFIG,
    recipe: InverseRecipe = RECIPE,
    client: str = zoo.CLIENT,
    at: str = "block:9",
    defence: str = "",
) -> Path:
    """Train and export the inverse network of an embedded client: from the (defended) representation back to the photo.

    Args:
        config: length and pace. recipe: network and beginning.
        client: name of an embedded client.
        at: where it is cut: block:9, or a module name.
        defence: recipe of the defence of the messages that it is trained on, such as gaussian:0.5; empty for bare ones.

    Returns:
        The export folder.
    """
    beginnings = {"auto": inverse_start(client, at, defence), "none": ""}
    recipe = replace(recipe, start=beginnings.get(recipe.start, recipe.start))
    device = pick_device(config.device)
    cut = zoo.load_client(client, at)
    against = acting_on_irs(make(defence, cut)) if defence else None
    task = InverseTask(recipe, cut, config.batch, config.seed, device, against)
    run = inverse_run(client, at, defence)
    model = fit(task, config, run_folder(run))
    round_to_fp16(task.model, model)
    metrics = {"psnr": psnr, "ms_ssim": ms_ssim, "st_lpips": st_lpips}
    measured = measure_rebuilt(lambda x: task.rebuild(task.model, x), metrics, device)
    name, command = zoo.inverse_name(client, at, defence), f"inverse --client {client} --at {at}"
    command += f" --defence {defence}" if defence else ""
    return export_model(task.model, run, name, measured, config, asdict(recipe), command)


def inverse_run(client: str, at: str, defence: str = "") -> str:
    """Name of the training run of an inverse network, e.g. "inverse-vit-imagenette64-block-9"."""
    return zoo.inverse_name(client, at, defence).replace("/", "-")


def inverse_start(client: str, at: str, defence: str = "") -> str:
    """The inverse network to go on from: the client's undefended one, else that of the client it was fine-tuned from, else ""."""
    own, parent = zoo.inverse_name(client, at), zoo.inverse_name(zoo.CLIENT, at)
    for name, fits in ((own, bool(defence)), (parent, client not in zoo.CLIENTS)):
        if fits and zoo.available(name):
            return name
    return ""
