"""LM draws images with a network of its own for each photo, and finds those that cause the IR."""

import pytest
import torch
from torch import nn

from dragkit.attacks.image_prior import ImagePriorConfig, SkipNetwork, Unit, deep_image_prior, first_weights, unflatten
from dragkit.attacks.message import Message
from dragkit.client import SplitClient

SMALL = ImagePriorConfig(iterations=60, channels=(8, 12), inputs=4, skip=2, image_size=16)


@pytest.fixture(scope="module")
def client():
    torch.manual_seed(0)
    embed = nn.Conv2d(3, 64, 4, stride=4)
    return SplitClient(nn.Sequential(embed, nn.Flatten(2)), "0", image_size=16, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture(scope="module")
def photos():
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, size=16, mode="bilinear")


def test_finds_an_image_with_nearly_the_ir(client, photos):
    found = deep_image_prior(Message(client(photos), client), SMALL.with_(noise=((0.5, 0.5),)))
    assert found.images.shape == photos.shape and found.images.min() >= 0 and found.images.max() <= 1
    assert (found.distance < found.trace["distance"][0] / 3).all()
    assert found.nfe == 60


def test_two_photos_together_are_as_alone(client, photos):
    config = SMALL.with_(iterations=4)
    h = client(photos).double()
    both = deep_image_prior(Message(h, client), config, seeds=[5, 6])
    alone = deep_image_prior(Message(h[1:], client), config, seeds=[6])
    torch.testing.assert_close(both.images[1:], alone.images, rtol=1e-6, atol=1e-8)


def test_a_stopped_run_resumes_exactly(client, photos, tmp_path):
    config = SMALL.with_(iterations=8)
    h = client(photos).double()
    whole = deep_image_prior(Message(h, client), config)
    file = tmp_path / "lm.safetensors"
    part = deep_image_prior(Message(h, client), config, checkpoint=file, callback=lambda s: s.iteration == 3)
    assert part.interrupted and part.nfe == 3
    rest = deep_image_prior(Message(h, client), config, checkpoint=file)
    assert rest.nfe == 8 and rest.trace["distance"].shape == (8, 2)
    torch.testing.assert_close(rest.images, whole.images, rtol=1e-9, atol=1e-12)


def test_noise_falls_in_stages_and_ends():
    config = ImagePriorConfig.paper()
    levels = [config.noise_at(i) for i in (0, 9_999, 10_000, 14_999, 15_000, 17_499, 17_500, 20_000)]
    assert levels == [5, 5, 1, 1, 0.5, 0.5, 0, 0]


def test_first_weights_belong_to_the_seed():
    _, both = first_weights(SMALL, [1, 2], torch.zeros(1))
    _, alone = first_weights(SMALL, [2], torch.zeros(1))
    assert torch.equal(both[1], alone[0]) and not torch.equal(both[0], both[1])
    assert SkipNetwork(SMALL)(torch.rand(2, 4, 16, 16)).shape == (2, 3, 16, 16)


def test_a_vector_of_weights_becomes_the_parameters_it_was_made_of():
    network, weights = first_weights(SMALL, [5], torch.zeros(1))  # the network of the last seed
    parameters = unflatten(weights[0], network)
    assert parameters.keys() == dict(network.named_parameters()).keys()
    assert all(torch.equal(p, parameters[name]) for name, p in network.named_parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ()}, "channels is empty"),
        ({"image_size": 18}, "multiple of 4"),
        ({"noise": ((1, 0.5), (2, 0.2))}, "must rise"),
    ],
)
def test_configuration_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        SMALL.with_(**change)


def test_channels_of_zeros_change_nothing():
    torch.manual_seed(0)
    unit, x = Unit(20, 16, 3), torch.rand(2, 20, 8, 8)
    plain = torch.nn.functional.leaky_relu(unit.norm(unit.conv(x)), 0.2)
    torch.testing.assert_close(unit(x), plain, rtol=1e-5, atol=1e-5)
