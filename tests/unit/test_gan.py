"""The style-based generator, and a training step of which no gradient crosses."""

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn
from torch.func import functional_call

from dragkit import zoo
from dragkit.client import SplitClient
from dragkit.priors.gan import ModulatedConv, StyleGenerator, WEncoder
from dragkit.zoo import cards
from draglab.training import export, gan, gan_encoder
from draglab.training.gan import Discriminator, GanRecipe, GanTask, diff_augment, turn_into_generator_gradient
from draglab.training.gan_encoder import EncoderRecipe, EncoderTask
from draglab.training.loop import TrainConfig, fit

TINY = GanRecipe(channels=(8, 8, 8), critic_channels=(8, 8, 8), latent_dim=16, jitter=0.5)
CPU = torch.device("cpu")


def generator(seed=0, channels=(16, 12, 8)):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = StyleGenerator(channels, latent_dim=16, style_dim=16, mapping_layers=2)
    made.update_statistics(500)
    return made.eval().requires_grad_(False)


def client():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 24, 4, stride=4), nn.Flatten(2))
    return SplitClient(model, "0", image_size=16, name="toy")


@pytest.fixture
def photos(monkeypatch):
    """A stand-in for Imagenette: smooth random photos."""
    coarse = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def fake(subset, size=64):
        big = nnf.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
        return (big * 255).to(torch.uint8), torch.arange(40) % 10

    for module in (gan, gan_encoder, export):
        monkeypatch.setattr(module, "imagenette", fake)


# -- the generator


def test_shapes_and_one_style_per_layer():
    g = generator()
    z = torch.randn(3, 16)
    w_plus = g.broadcast(g.mapping(z))
    assert (g.image_size, g.num_layers) == (16, 6) and w_plus.shape == (3, 6, 16)
    images = g.synthesis(w_plus)
    assert images.shape == (3, 3, 16, 16)
    torch.testing.assert_close(images, g(z))
    for layer in range(g.num_layers):  # every style has its say
        changed = w_plus.clone()
        changed[:, layer] += 1
        assert (g.synthesis(changed) - images).abs().amax((1, 2, 3)).min() > 1e-4


def test_an_image_does_not_depend_on_its_batch():
    g = generator().double()
    w_plus = torch.randn(4, 6, 16, dtype=torch.float64)
    together = g.synthesis(w_plus)
    for i in range(4):
        torch.testing.assert_close(g.synthesis(w_plus[i : i + 1])[0], together[i], rtol=0, atol=1e-12)


def test_modulation_is_that_of_weights_scaled_per_image():
    conv = ModulatedConv(5, 7, 4).double()
    x, w = torch.randn(3, 5, 6, 6, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    got = conv(x, w)
    for i in range(3):
        weight = conv.weight * conv.style(w[i])[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        want = nnf.conv2d(x[i : i + 1], weight, conv.bias, padding=1)[0]
        torch.testing.assert_close(got[i], want, rtol=1e-6, atol=1e-6)  # demodulation is kept in float32


def test_truncation_goes_to_the_mean_style():
    g = generator()
    z = torch.randn(2, 16)
    torch.testing.assert_close(g.mapping(z, 0.0), g.w_mean.expand(2, -1))
    torch.testing.assert_close(g.mapping(z, 0.5), (g.mapping(z) + g.w_mean) / 2)
    many = g.mapping(torch.randn(4000, 16))
    assert (many.mean(0) - g.w_mean).abs().max() < 0.3 and torch.allclose(many.std(0), g.w_std, rtol=0.3)


def test_state_may_be_more_precise_than_the_network():
    w_plus = torch.randn(1, 6, 16, dtype=torch.float64, requires_grad=True)
    image = generator().synthesis(w_plus)
    assert image.dtype == torch.float64
    assert torch.autograd.grad(image.sum(), w_plus)[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("model", "given"),
    [(generator(), torch.randn(2, 16)), (WEncoder(5, 6, 4, 8, 8, 1, 2, client="toy", at="0"), torch.randn(2, 5, 6))],
)
def test_models_come_back_from_disk(model, given, tmp_path):
    model.eval().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, torch_dtype=torch.float32)
    torch.testing.assert_close(again(given), model(given))
    torch.testing.assert_close(again.w_std, model.w_std)
    assert (again.num_layers, again.config.get("at")) == (model.num_layers, model.config.get("at"))
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_refusals_name_what_is_accepted():
    with pytest.raises(ValueError, match="channels is"):
        StyleGenerator(channels=(8,))
    with pytest.raises(ValueError, match=r"w_plus has shape \(2, 16\).*takes \(B, 6, 16\)"):
        generator().synthesis(torch.zeros(2, 16))
    with pytest.raises(ValueError, match="this encoder takes tokens"):
        WEncoder(5, 6)(torch.zeros(1, 4, 6))
    with pytest.raises(ValueError, match="one entry per resolution"):
        GanRecipe(channels=(8, 8))
    with pytest.raises(ValueError, match="mixing is -1"):
        GanRecipe(mixing=-1)
    with pytest.raises(ValueError, match="generated is 2"):
        EncoderRecipe(generated=2)


# -- its training


def test_one_pass_gives_the_gradients_of_two_losses():
    """Against the textbook: the discriminator sees detached fakes, the generator a frozen discriminator."""
    torch.manual_seed(0)
    g, d = StyleGenerator((8, 8, 8), 16, 16, 2).double(), Discriminator((8, 8, 8)).double()
    z, real = torch.randn(5, 16, dtype=torch.float64), torch.rand(5, 3, 16, 16, dtype=torch.float64)

    critic = nnf.softplus(d(g(z).detach())).mean() + nnf.softplus(-d(real)).mean()
    frozen = {name: p.detach() for name, p in d.named_parameters()}
    (critic + nnf.softplus(-functional_call(d, frozen, g(z))).mean()).backward()
    want = {name: p.grad.clone() for m in (g, d) for name, p in m.named_parameters() if p.grad is not None}
    g.zero_grad()
    d.zero_grad()

    fake = g(z)
    on_fake, on_real = d(torch.cat([fake, real])).chunk(2)
    turn_into_generator_gradient(fake, on_fake)
    (nnf.softplus(on_fake).mean() + nnf.softplus(-on_real).mean()).backward()
    got = {name: p.grad for m in (g, d) for name, p in m.named_parameters() if p.grad is not None}
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=1e-6)


def test_penalty_is_the_squared_slope_at_photos(photos):
    task = GanTask(GanRecipe((8, 8, 8), (8, 8, 8), 16, jitter=0, shift=0, cutout=0), 4, 0, CPU, client())
    slope = torch.randn(3, 16, 16)
    task.model.discriminator = Slope(slope)
    assert task._r1(torch.rand(4, 3, 16, 16), torch.Generator()).item() == pytest.approx(slope.square().sum().item())


class Slope(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(slope)

    def forward(self, x):
        return (x * self.slope).sum((1, 2, 3))


def test_augmentation_has_a_gradient_and_draws_per_image():
    x = torch.rand(1, 3, 16, 16).expand(6, -1, -1, -1).clone().requires_grad_(True)
    y = diff_augment(x, GanRecipe(), torch.Generator().manual_seed(0))
    assert y.shape == x.shape and (y[0] - y[1]).abs().max() > 0.05
    assert (torch.autograd.grad(y.square().sum(), x)[0].abs().amax((1, 2, 3)) > 0).all()
    plain = GanRecipe(jitter=0, shift=0, cutout=0)
    torch.testing.assert_close(diff_augment(x, plain, torch.Generator()), x)


def new_task():
    torch.manual_seed(0)
    return GanTask(TINY, 8, 0, CPU, client())


def test_samples_take_the_colour_of_the_photos(photos, tmp_path):
    """Of eight seeds, the error falls to 0.04 to 0.38 of the untrained one; it grows when the generator gets the wrong gradient."""
    task = new_task()
    task.photos = (task.photos * torch.tensor([1.0, 0.5, 0.2]).view(3, 1, 1)).to(torch.uint8)
    colour = task.photos.float().mean((0, 2, 3)) / 255

    def error(model):
        return (gan.draw(model.generator, 64, 16, CPU).mean((0, 2, 3)) - colour).abs().mean().item()

    config = TrainConfig(steps=150, batch=8, lr=2e-3, warmup=5, ema=0.9, clip=100.0, device="cpu")
    before = error(task.model)
    assert error(fit(task, config, tmp_path, show=False)) < 0.75 * before


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(photos, tmp_path, monkeypatch):
    config = TrainConfig(steps=6, batch=4, lr=1e-3, warmup=1, clip=100.0, device="cpu")
    cut = new_task()
    loss = cut.loss

    def stop(step, generator):
        if step == 3:
            raise KeyboardInterrupt
        return loss(step, generator)

    monkeypatch.setattr(cut, "loss", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, config, tmp_path / "cut", show=False)
    resumed = fit(new_task(), config, tmp_path / "cut", show=False)
    whole = fit(new_task(), config, tmp_path / "whole", show=False)
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_encoder_learns_to_start_near_the_image(photos, tmp_path):
    generator().save_pretrained(tmp_path / "gan")
    torch.manual_seed(0)
    recipe = EncoderRecipe(width=32, depth=1, heads=2, perceptual=0, generated=1.0)
    task = EncoderTask(recipe, tmp_path / "gan", client(), 16, 0, CPU)
    z = torch.randn(32, 16, generator=torch.Generator().manual_seed(9))
    images = task.generator(z).clamp(0, 1)
    error = [(task.rebuild(task.model.eval(), images) - images).square().mean().item()]
    config = TrainConfig(steps=60, batch=16, lr=3e-3, warmup=5, ema=0.9, device="cpu")
    model = fit(task, config, tmp_path / "run", show=False)
    error.append((task.rebuild(model, images) - images).square().mean().item())
    assert error[1] < error[0] / 2
    assert (model.config.client, model.config.at) == ("toy", "0")


def test_two_commands_make_a_generator_and_its_encoder(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(cards, "FOLDER", tmp_path / "zoo")
    monkeypatch.setattr(zoo, "load_client", lambda *a, **k: client())
    config = TrainConfig(steps=2, batch=4, lr=1e-3, device="cpu")
    recipe = GanRecipe(channels=(4,) * 5, critic_channels=(4,) * 5, latent_dim=16)
    made = StyleGenerator.from_pretrained(gan.train_gan(config, recipe), torch_dtype=torch.float32)
    assert made.image_size == 64 and made.w_mean.abs().max() > 0 and (made.w_std != 1).all()
    out = gan_encoder.train_gan_encoder(
        config, EncoderRecipe(width=16, depth=1, heads=2, perceptual=0), "toy", "block:9"
    )
    encoder = WEncoder.from_pretrained(out, torch_dtype=torch.float32)
    torch.testing.assert_close(encoder.w_mean, made.w_mean)
    export.ship("gan")
    export.ship(gan_encoder.encoder_run("toy", "block:9"))
    assert zoo.names() == ["gan64", "gan64-encoder/toy/block-9"]
    assert zoo.card("gan64")["measured"]["kernel_distance"]["n"] == 10
    card = zoo.card("gan64-encoder/toy/block-9")
    assert card["measured"]["psnr"]["n"] == 40 and "gan-encoder --client toy --at block:9" in card["command"]
