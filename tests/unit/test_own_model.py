"""What a privacy engineer does: their own timm model, their own photos, two defences, a reply, an attack and one table."""

from pathlib import Path

import pytest
import timm
import tiny
import torch
from torch import nn

from dragkit.adaptive import replies
from dragkit.adaptive.reorder import fit_positions
from dragkit.adaptive.replies import hear
from dragkit.attacks.drag import drag
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.defenses import defend_images, make
from dragkit.measures import metrics, utility
from dragkit.priors.diffusion import LatentPrior


def own_photos(n: int) -> torch.Tensor:
    """Random blobs of colour, 64 x 64, brighter towards one corner."""
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(4))
    ramp = torch.linspace(0.2, 1, 64)
    return (nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(0, 1) * ramp[:, None] * ramp).contiguous()


def test_ten_lines_from_an_own_model_to_a_table(tiny_prior: Path, tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_DATA", "/nonexistent")
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(replies, "fit_positions", lambda client, photos: fit_positions(client, photos, steps=40))
    photos, prior, config = (
        own_photos(80),
        LatentPrior.from_pretrained(tiny_prior),
        DragConfig(num_steps=4, recurrence=1),
    )
    with tiny.seeded():
        shape = {"embed_dim": 48, "depth": 3, "num_heads": 3, "img_size": 64, "num_classes": 5}
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **shape)

    client = SplitClient(model, "block:2", image_size=64)
    private, public, table = photos[:2], photos[2:], {}
    labels = client.server(client(private)).argmax(1)
    for spec, reply in (("gaussian:0.5", "likelihood"), ("shuffle", "reorder")):
        defence = make(spec, client, public)
        received = defend_images(defence, client, private, seeds=0)
        message, threat = hear(reply, received, defence, client, public)
        images = drag(message, prior, config, threat=threat).images
        cost = utility.per_photo_right(client, private, labels, defence)
        table[spec] = {
            "MS-SSIM": metrics.ms_ssim(images, private),
            "PSNR": metrics.psnr(images, private),
            "right": cost,
        }

    assert list(table) == ["gaussian:0.5", "shuffle"] and all(
        set(row) == {"MS-SSIM", "PSNR", "right"} for row in table.values()
    )
    assert all(values.shape == (2,) and values.isfinite().all() for row in table.values() for values in row.values())
    assert table["shuffle"]["right"].all()  # shuffling costs a ViT nothing
    assert not torch.equal(table["gaussian:0.5"]["PSNR"], table["shuffle"]["PSNR"])
    with pytest.raises(PermissionError, match="which this threat model excludes"):
        drag(message, prior, config, threat=type(threat)(weights=False))
