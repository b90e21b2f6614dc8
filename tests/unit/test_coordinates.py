"""Other coordinates of latents: no picture changes, and equal steps change pictures equally."""

import pytest
import torch
from diffusers import AutoencoderKL

from dragkit import zoo
from draglab.studies.coordinates import decoder_metric, in_coordinates, root


@pytest.fixture(scope="module")
def prior():
    return zoo.load_prior()


@pytest.fixture(scope="module")
def photos():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_the_autoencoder_takes_up_the_map_and_decodes_to_the_same_pictures(prior, photos):
    matrix = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    other = in_coordinates(prior.vae, matrix)
    with torch.no_grad():
        z, moved = (vae.encode(photos * 2 - 1).latent_dist.mode() for vae in (prior.vae, other))
        torch.testing.assert_close(moved, torch.einsum("dc,nchw->ndhw", matrix, z), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(other.decode(moved).sample, prior.vae.decode(z).sample, rtol=1e-3, atol=1e-3)
    assert not torch.equal(other.quant_conv.weight, prior.vae.quant_conv.weight)  # a copy: the prior is as it was


def test_the_metric_of_a_linear_decoder_is_known():
    decoder = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))

    class Linear:  # latents (B, 4, 2, 2); every position is decoded to five numbers of its own
        def encode(self, x):
            return x.new_zeros(len(x), 4, 2, 2)

        def decode(self, z):
            return torch.einsum("pc,nchw->nphw", decoder, z)

    metric = decoder_metric(Linear(), torch.zeros(3, 3, 2, 2))
    torch.testing.assert_close(metric, decoder.T @ decoder, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(root(metric) @ root(metric), metric, rtol=1e-4, atol=1e-4)
    straight = decoder @ torch.linalg.inv(root(metric))
    torch.testing.assert_close(straight.T @ straight, torch.eye(4), rtol=1e-3, atol=1e-3)


def test_the_metric_of_the_embedded_autoencoder_is_a_metric(prior, photos):
    metric = decoder_metric(prior, photos, places=1)
    assert metric.shape == (16, 16)
    torch.testing.assert_close(metric, metric.T)
    assert torch.linalg.eigvalsh(metric).min() > 0


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.eye(3), "16 channels"),
        (torch.zeros(16, 16), "not invertible"),
        (torch.full((16, 16), torch.nan), "not inv"),
    ],
)
def test_maps_that_cannot_work_are_refused(prior, matrix, message):
    with pytest.raises(ValueError, match=message):
        in_coordinates(prior.vae, matrix)


def test_an_autoencoder_without_a_place_for_the_map_is_refused():
    bare = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, use_quant_conv=False, use_post_quant_conv=False)
    with pytest.raises(ValueError, match="no 1x1 convolutions"):
        in_coordinates(bare, torch.eye(4))
