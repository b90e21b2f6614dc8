"""rMLE recovers what a linear client determines, and its priors are what they say."""

import pytest
import torch
from torch import nn

from dragkit.attacks.message import Message
from dragkit.attacks.rmle import RmleConfig, patch_prior, rmle, total_variation
from dragkit.attacks.threat import ThreatModel
from dragkit.client import SplitClient


@pytest.fixture(scope="module")
def linear_client():
    """Patches of 4x4x3 = 48 numbers mapped to 64: invertible, so nothing is hidden."""
    torch.manual_seed(0)
    embed = nn.Conv2d(3, 64, 4, stride=4)
    return SplitClient(nn.Sequential(embed, nn.Flatten(2)), "0", image_size=16, mean=(0, 0, 0), std=(1, 1, 1))


def test_total_variation_and_patch_prior_by_hand():
    x = torch.zeros(1, 1, 4, 4)
    x[..., 2:] = 1.0  # one vertical edge, on the border of 2x2 patches
    assert total_variation(x).item() == pytest.approx(4 / 12)
    assert patch_prior(x, 2).item() == pytest.approx(1.0)
    assert patch_prior(x, 4).item() == 0.0
    assert total_variation(torch.full((2, 3, 8, 8), 0.3)).tolist() == [0, 0]


def test_inverts_an_invertible_client(linear_client):
    x = nn.functional.interpolate(
        torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)), size=16, mode="bilinear"
    )
    config = RmleConfig(iterations=400, lr=0.02, tv=0.0, patch_prior=0.0, image_size=16)
    found = rmle(Message(linear_client(x), linear_client), config)
    assert found.distance.max() < 2e-3
    assert found.distance[0] < found.trace["distance"][0, 0] / 20
    alone = rmle(Message(linear_client(x[1:]), linear_client), config)
    torch.testing.assert_close(alone.images[0], found.images[1], rtol=1e-3, atol=1e-3)


def test_refuses_other_threat_models_and_other_clients(linear_client):
    h = linear_client(torch.rand(1, 3, 16, 16))
    with pytest.raises(PermissionError, match="needs weights"):
        rmle(Message(h, linear_client), threat=ThreatModel(weights=False))
    with pytest.raises(ValueError, match="h has shape"):
        rmle(Message(h[:, :3], linear_client))
    with pytest.raises(ValueError, match="iterations is 0"):
        RmleConfig(iterations=0)
