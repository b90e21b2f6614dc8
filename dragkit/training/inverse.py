"""The inverse network of a client: from the representation of a public photo back to the photo.

Mean squared error in pixels, as published for the comparison in arXiv 2509.11724: the network approximates the posterior mean.
The frozen client runs on the fly, so that every random view of a photo has its own representation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dragkit.attacks.inverse import InverseNetwork
from dragkit.client import SplitClient
from dragkit.data import imagenette
from dragkit.images import grid
from dragkit.metrics import ms_ssim, psnr
from dragkit.training.autoencoder import views
from dragkit.training.loop import Task, TrainConfig, batch_indices
from dragkit.training.muon import muon_and_adamw


@dataclass(frozen=True)
class InverseRecipe:
    width: int = 192
    depth: int = 2
    heads: int = 4
    drop: float = 0.0  # share of the tokens replaced by the mask token, for defences that leave tokens out
    crop: float = 0.5  # smallest area of a random crop; 1 trains on whole photos


class InverseTask(Task):
    """Args: client: whose representations are to be inverted; frozen already, moved to `device`."""

    def __init__(self, recipe: InverseRecipe, client: SplitClient, batch: int, seed: int, device: torch.device):
        self.recipe, self.batch, self.seed, self.device = recipe, batch, seed, device
        self.client = client.to(device)
        self.photos = imagenette("train", 64 if recipe.crop == 1 else 80)[0].to(device)  # room for crops
        self.val = imagenette("val")[0][::16].to(device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = InverseNetwork.for_client(client, 64, recipe.width, recipe.depth, recipe.heads, recipe.drop)
        generator = torch.Generator().manual_seed(seed)
        some = self.photos[:: max(1, len(self.photos) // 512)]
        self.model.standardise_on(self._tokens(views(some, recipe.crop, generator)))

    @torch.no_grad()
    def _tokens(self, x: Tensor) -> Tensor:
        """What the attacker will get for images `x`; in the training loop up to the rounding of its bf16."""
        return torch.cat([self.client.tokens(self.client(part)) for part in x.split(128)]).float()

    def optimizers(self, config: TrainConfig) -> list[torch.optim.Optimizer]:
        return muon_and_adamw(self.model, config.lr, config.weight_decay, ("embed", "position", "mask_token", "head"))

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        index = batch_indices(len(self.photos), self.batch, step, self.seed)
        x = views(self.photos[index], self.recipe.crop, generator)
        mask = None
        if self.recipe.drop > 0:
            n = self.model.shape.num_tokens
            mask = (torch.rand(len(x), n, generator=generator) >= self.recipe.drop).to(x.device)
        mse = (self.model.predict(self._tokens(x), mask).float() - x).square().mean((1, 2, 3))
        return mse.mean(), {"psnr": (-10 * torch.log10(mse)).mean().item()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """PSNR and MS-SSIM on every 16th validation photo, all tokens present."""
        x = self.val.float() / 255
        y = self.rebuild(model, x)
        return {"psnr": psnr(y, x).mean().item(), "ms_ssim": ms_ssim(y, x).mean().item()}

    def samples(self, model: nn.Module) -> Tensor:
        """A row of validation photos above their reconstructions."""
        x = self.val[:: max(1, len(self.val) // 12)][:12].float() / 255
        return grid(torch.cat([x, self.rebuild(model, x)]).cpu(), columns=len(x))

    @torch.no_grad()
    def rebuild(self, model: nn.Module, x: Tensor) -> Tensor:
        """What `model` makes of the representations of images `x` `(B, 3, 64, 64)`."""
        return torch.cat([model(self._tokens(part)) for part in x.split(128)])
