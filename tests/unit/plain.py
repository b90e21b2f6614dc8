"""A second, deliberately plain transcription of the published DRAG loop, to compare dragkit with.

Written from the equations (arXiv 2509.11724; DDIM arXiv 2010.02502; DSG arXiv 2402.03201) and a list of what the published
implementation does, not from dragkit, of which nothing is imported: one image, explicit loops, torch.optim.Adam for the moments,
the networks loaded by diffusers and transformers themselves, torchvision's resize.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
import transformers
from torch import Tensor
from torchvision.transforms.v2 import functional as tv


@dataclass
class Networks:
    """The networks of one attack, in float64: `eps(z_t, t)`, `decode(z)` in [-1, 1], `encode(x)` from [-1, 1], `hidden(x)`."""

    eps: Callable[[Tensor, int], Tensor]
    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]
    hidden: Callable[[Tensor], Tensor]  # normalised image of the client's size -> hidden state
    latent_shape: tuple[int, int, int]
    client_size: int
    mean: list[float]
    std: list[float]


def load_networks(prior: Path, client: Path, layer: int) -> Networks:
    """Load both checkpoints without dragkit; a text encoder, if there is one, sees the empty prompt, padded to its full length."""
    double = {"torch_dtype": torch.float64}
    vae = diffusers.AutoencoderKL.from_pretrained(str(prior), subfolder="vae", **double).eval()
    scale = vae.config.scaling_factor
    if (prior / "text_encoder").exists():
        unet = diffusers.UNet2DConditionModel.from_pretrained(str(prior), subfolder="unet", **double).eval()
        tokenizer = transformers.CLIPTokenizer.from_pretrained(prior, subfolder="tokenizer")
        text = transformers.CLIPTextModel.from_pretrained(prior, subfolder="text_encoder", dtype=torch.float64).eval()
        ids = tokenizer("", padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            empty = text(input_ids=ids).last_hidden_state
        eps = lambda z, t: unet(z, t, encoder_hidden_states=empty).sample  # noqa: E731
    else:
        unet = diffusers.UNet2DModel.from_pretrained(str(prior), subfolder="unet", **double).eval()
        eps = lambda z, t: unet(z, t).sample  # noqa: E731
    model = transformers.AutoModel.from_pretrained(client, dtype=torch.float64).eval()
    model = getattr(model, "vision_model", model)
    processor = transformers.AutoImageProcessor.from_pretrained(client)
    side = unet.config.sample_size
    return Networks(
        eps=eps,
        decode=lambda z: vae.decode(z / scale).sample,
        encode=lambda x: vae.encode(x).latent_dist.mode() * scale,
        hidden=lambda x: model(pixel_values=x, output_hidden_states=True).hidden_states[layer],
        latent_shape=(unet.config.in_channels, side, side),
        client_size=32,
        mean=list(processor.image_mean),
        std=list(processor.image_std),
    )


def alphas_cumprod() -> Tensor:
    """Stable Diffusion's scaled-linear schedule in float32, as its scheduler computes it."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0).double()


def client_input(nets: Networks, x_small: Tensor) -> Tensor:
    """[-1, 1] image of the client's size -> clamped to [0, 1] and normalised."""
    pixels = ((x_small + 1) / 2).clamp(0, 1)
    mean = torch.tensor(nets.mean, dtype=torch.float64).view(1, 3, 1, 1)
    std = torch.tensor(nets.std, dtype=torch.float64).view(1, 3, 1, 1)
    return (pixels - mean) / std


def loss(nets: Networks, z: Tensor, h: Tensor, kept: list[int] | None) -> Tensor:
    """Mean over tokens, CLS included, of 1 - cosine, plus 0.01 times the mean square of the unclamped image."""
    x = tv.resize(nets.decode(z), [nets.client_size, nets.client_size], antialias=True)
    h_hat = nets.hidden(client_input(nets, x))
    total = torch.zeros((), dtype=torch.float64)
    tokens = list(range(h.shape[1])) if kept is None else kept
    for i in tokens:
        a, b = h_hat[0, i], h[0, i]
        total = total + 1 - torch.dot(a, b) / (a.norm() * b.norm())
    return total / len(tokens) + 0.01 * x.pow(2).mean()


def published_drag(
    nets: Networks,
    h: Tensor,
    draws: Iterator[Tensor],
    *,
    num_steps: int,
    recurrence: int,
    start: Tensor | None = None,
    strength: float = 1.0,
    kept: list[int] | None = None,
    stop_after: int | None = None,
) -> list[Tensor]:
    """Latent `(1, C, H, W)` after every turn, for one image. `draws` yields z_T, then step noise and (but last) renoise noise."""
    abar = alphas_cumprod()
    stride = 1000 // num_steps
    timesteps = [stride * i for i in range(num_steps)][::-1]
    if start is not None:
        timesteps = timesteps[num_steps - int(num_steps * strength) :]

    z = next(draws)
    if start is not None:
        a = abar[timesteps[0]].item()
        with torch.no_grad():
            z = math.sqrt(a) * nets.encode(start * 2 - 1) + math.sqrt(1 - a) * z

    leaf = torch.nn.Parameter(z.clone())
    moments = torch.optim.Adam([leaf], lr=0.0)  # lr 0: only the moments are wanted; never reset
    trajectory = []
    for t in timesteps:
        a_t = abar[t].item()
        a_prev = abar[t - stride].item() if t - stride >= 0 else abar[0].item()
        sigma = math.sqrt((1 - a_prev) / (1 - a_t) * max(0.0, 1 - a_t / a_prev))
        for turn in range(recurrence):
            leaf.data.copy_(z)
            leaf.grad = None
            eps = nets.eps(leaf, t)
            x0 = (leaf - math.sqrt(1 - a_t) * eps) / math.sqrt(a_t)
            loss(nets, x0, h, kept).backward()
            torch.nn.utils.clip_grad_norm_([leaf], 0.02)
            moments.step()
            state, count = moments.state[leaf], moments.state[leaf]["step"].item()
            m_hat = state["exp_avg"] / (1 - 0.9**count)
            v_hat = state["exp_avg_sq"] / (1 - 0.999**count)
            direction = m_hat / (v_hat.sqrt() + 1e-8)

            with torch.no_grad():
                mean = math.sqrt(a_prev) * x0 + math.sqrt(max(0.0, 1 - a_prev - sigma**2)) * eps
                radius = math.sqrt(z.numel()) * sigma
                best = -radius * direction / direction.norm()
                random = sigma * next(draws)
                step = random + 0.2 * (best - random)
                step = radius * step / step.norm() if radius > 0 else torch.zeros_like(z)
                z = mean + step
                if turn < recurrence - 1:
                    z = math.sqrt(a_t / a_prev) * z + math.sqrt(max(0.0, 1 - a_t / a_prev)) * next(draws)
            trajectory.append(z.clone())
            if len(trajectory) == stop_after:
                return trajectory
    return trajectory
