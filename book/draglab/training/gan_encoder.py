"""The encoder of GLASS++: from the IR of an image to the styles with which the generator draws it.

Squared error, 0.5 ST-LPIPS and a light pull towards the mean style, as pSp (arXiv 2008.00951) and GLASS train theirs on photos;
here half of each batch are the generator's own images, of which there is no end.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dragkit import zoo
from dragkit.client import SplitClient
from dragkit.data import imagenette
from dragkit.devices import pick_device
from dragkit.images import grid
from dragkit.measures.metrics import StLpips, ms_ssim, psnr, ssim, st_lpips
from dragkit.priors.gan import StyleGenerator, WEncoder
from draglab.training.autoencoder import views
from draglab.training.export import export_model, measure_rebuilt, round_to_fp16, run_folder
from draglab.training.loop import Task, TrainConfig, batch_indices, fit


@dataclass(frozen=True)
class EncoderRecipe:
    """The network and its loss.

    Attributes:
        width: of the tokens.
        depth: blocks of the transformer.
        heads: of the attention.
        generated: share of generated images in a batch.
        perceptual: weight of ST-LPIPS.
        perceptual_share: share of the images of a batch in ST-LPIPS, which costs more than the rest.
        pull: weight of the mean square of w - w_mean, in deviations of w.

    Raises:
        ValueError: a share outside [0, 1].
    """

    width: int = 128
    depth: int = 2
    heads: int = 4
    generated: float = 0.5
    perceptual: float = 0.5
    perceptual_share: float = 0.25
    pull: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("generated", "perceptual_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, between 0 and 1")


CONFIG = TrainConfig(6_000, 32, 1e-3, ema=0.998)

RECIPE = EncoderRecipe()


class EncoderTask(Task):
    """Args: generator: the finished generator's folder. client: whose IRs are to be read; frozen already."""

    def __init__(
        self, recipe: EncoderRecipe, generator: Path, client: SplitClient, batch: int, seed: int, device: torch.device
    ):
        self.recipe, self.batch, self.seed, self.device, self.client = recipe, batch, seed, device, client
        loaded = StyleGenerator.from_pretrained(generator, torch_dtype=torch.float32)
        self.generator = loaded.to(device).eval().requires_grad_(False)
        size = self.generator.image_size
        self.photos, self.val = (imagenette(subset, size)[0].to(device) for subset in ("train", "val"))
        self.perceptual = StLpips().to(device) if recipe.perceptual > 0 else None
        self.model = self._build()

    def _build(self) -> WEncoder:
        _, n, d = self.client.tokens(torch.empty(1, *self.client.h_shape)).shape
        g, r = self.generator, self.recipe
        shape = (n, d, g.num_layers, g.style_dim, r.width, r.depth, r.heads)
        encoder = WEncoder(*shape, client=self.client.name, at=self.client.at)
        encoder.w_mean.copy_(g.w_mean)
        encoder.w_std.copy_(g.w_std)
        return encoder

    def optimizers(self, config: TrainConfig) -> list[torch.optim.Optimizer]:
        """AdamW on all of the encoder."""
        return [torch.optim.AdamW(self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay)]

    @torch.no_grad()
    def _images(self, step: int, generator: torch.Generator) -> Tensor:
        """Generated images, then photos, `(B, 3, S, S)` in [0, 1]."""
        n_generated = round(self.recipe.generated * self.batch)
        z = torch.randn(n_generated, self.generator.latent_dim, generator=generator).to(self.device)
        fakes = self.generator(z).clamp(0, 1) if n_generated else self.photos[:0].float()
        if n_generated == self.batch:
            return fakes
        index = batch_indices(len(self.photos), self.batch - n_generated, step, self.seed)
        return torch.cat([fakes, views(self.photos[index], 1.0, generator)])

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Squared error of the pictures of the styles, plus the pull to common styles and, where weighted, ST-LPIPS."""
        x = self._images(step, generator)
        w = self.model(self._tokens(x)).float()
        y = self.generator.synthesis(w)
        mse = (y - x).square().mean((1, 2, 3))
        away = ((w - self.model.w_mean) / self.model.w_std).square().mean()
        loss = mse.mean() + self.recipe.pull * away
        logged = {"psnr": (-10 * torch.log10(mse)).mean().item(), "away": away.item()}
        if self.perceptual is not None:
            n = max(1, round(self.recipe.perceptual_share * len(x)))
            some = torch.randperm(len(x), generator=generator)[:n].to(x.device)
            distance = self.perceptual(y[some], x[some]).mean()
            loss = loss + self.recipe.perceptual * distance
            logged["st_lpips"] = distance.item()
        return loss, logged

    @torch.no_grad()
    def _tokens(self, x: Tensor) -> Tensor:
        return self.client.tokens(self.client(x)).float()

    @torch.no_grad()
    def rebuild(self, model: nn.Module, x: Tensor) -> Tensor:
        """Images `(B, 3, S, S)` in [0, 1] that the encoder's styles give for the IRs of images `x`."""
        return torch.cat([self.generator.synthesis(model(self._tokens(p))).clamp(0, 1) for p in x.split(64)])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """PSNR and SSIM of the first guess on every 16th validation photo."""
        x = self.val[::16].float() / 255
        y = self.rebuild(model, x)
        return {"psnr": psnr(y, x).mean().item(), "ssim": ssim(y, x).mean().item()}

    def samples(self, model: nn.Module) -> Tensor:
        """A row of validation photos above their first guesses."""
        x = self.val[:: max(1, len(self.val) // 12)][:12].float() / 255
        return grid(torch.cat([x, self.rebuild(model, x)]).cpu(), columns=len(x))


# -- the command ------------------------------------------------------------------------------------------------------


def train_gan_encoder(
    config: TrainConfig = CONFIG, recipe: EncoderRecipe = RECIPE, client: str = zoo.CLIENT, at: str = "block:9"
) -> Path:
    """Train and export the encoder that starts GLASS++: from the representation to the GAN's styles.

    It answers in the styles of the generator just exported, or of the embedded one where there is no such run.

    Args:
        config: length and pace. recipe: network and loss.
        client: name of an embedded client.
        at: where it is cut: block:9, or a module name.

    Returns:
        The export folder.
    """
    device = pick_device(config.device)
    exported = run_folder("gan") / "export"
    generator = exported if exported.exists() else zoo.verify(zoo.GAN)
    cut = zoo.load_client(client, at, device=str(device))
    task = EncoderTask(recipe, generator, cut, config.batch, config.seed, device)
    averaged = fit(task, config, run_folder(encoder_run(client, at)))
    round_to_fp16(task.model, averaged)
    metrics = {"psnr": psnr, "ms_ssim": ms_ssim, "st_lpips": st_lpips}
    measured = measure_rebuilt(lambda x: task.rebuild(task.model, x), metrics, device)
    command = f"gan-encoder --client {client} --at {at}"
    run, name = encoder_run(client, at), zoo.encoder_name(client, at)
    return export_model(task.model, run, name, measured, config, asdict(recipe), command)


def encoder_run(client: str, at: str) -> str:
    """Name of the training run, e.g. "gan64-encoder-vit-imagenette64-block-9"."""
    return zoo.encoder_name(client, at).replace("/", "-")
