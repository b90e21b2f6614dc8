"""Every kind of prior attacks every kind of client, through the code that loads published checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dragkit.attacks.drag import drag
from dragkit.attacks.message import Message
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.priors.diffusion import LatentPrior

CONFIG = DragConfig(num_steps=2, recurrence=2)
CUTS = {
    "clip": "block:2",
    "dinov2": "block:1",
    "vit": "block:0",
    "siglip": "block:2",
    "swin": "block:2",
    "convnextv2": "block:1",
}


@pytest.fixture(scope="module", params=["sd15", "unconditional"])
def prior(request: pytest.FixtureRequest, tiny_sd15: Path, tiny_prior: Path) -> LatentPrior:
    return LatentPrior.from_pretrained(tiny_sd15 if request.param == "sd15" else tiny_prior)


@pytest.mark.parametrize("kind", CUTS)
def test_pair(prior: LatentPrior, kind: str, tiny_client: Callable[[str], Path]):
    client = SplitClient.from_pretrained(tiny_client(kind), CUTS[kind])
    with torch.no_grad():
        h = client(torch.rand(1, 3, prior.image_size, prior.image_size, generator=torch.Generator().manual_seed(0)))
    moved: list[torch.Tensor] = []
    result = drag(Message(h, client), prior, CONFIG, seeds=0, callback=lambda s: moved.append(s.adam.m.clone()))
    assert result.images.shape == (1, 3, prior.image_size, prior.image_size)
    assert torch.isfinite(result.images).all()
    assert ((result.images >= 0) & (result.images <= 1)).all()
    assert torch.isfinite(result.distance).all()
    assert result.failed_at == [None]
    assert result.nfe == 4
    assert moved[0].abs().max() > 0  # a gradient reached the latent through client, resize, decoder and noise predictor
