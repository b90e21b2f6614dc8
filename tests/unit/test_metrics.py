"""Metrics against independent implementations, and intervals against cases whose answer is known."""

from __future__ import annotations

import copy
import hashlib
import math

import numpy as np
import pytest
import scipy.stats
import skimage.metrics
import tiny
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dragkit.measures import intervals, metrics, sets

FEW = settings(deadline=None, max_examples=15, derandomize=True)
FEWER = settings(FEW, max_examples=6)
ALWAYS_THERE = ["mse", "psnr", "ssim", "ms_ssim", "st_lpips"]
BEST = {"mse": 0.0, "psnr": math.inf, "ssim": 1.0, "ms_ssim": 1.0, "st_lpips": 0.0}


def photos(count: int = 2, side: int = 64, seed: int = 0) -> Tensor:
    """Smooth random pictures with the range of a photo."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


def noisy(x: Tensor, strength: float, seed: int = 1) -> Tensor:
    return (x + strength * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


# --- what every image metric must do ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALWAYS_THERE)
def test_one_finite_number_per_image(name):
    x = photos(3)
    value = getattr(metrics, name)(x, noisy(x, 0.1))
    assert value.shape == (3,)
    assert value.dtype == torch.float32
    assert not value.requires_grad
    assert torch.isfinite(value).all()


@pytest.mark.parametrize("name", ALWAYS_THERE)
@FEWER
@given(seed=st.integers(0, 1000), strength=st.floats(0.02, 0.5))
def test_identity_is_best_and_the_order_of_arguments_is_free(name, seed, strength):
    x = photos(1, 40, seed)
    y = noisy(x, strength, seed + 1)
    metric = getattr(metrics, name)
    sign = 1 if metrics.DIRECTION[name] == "higher" else -1
    assert float(metric(x, x)) == pytest.approx(BEST[name], abs=1e-5)
    assert sign * float(metric(x, x)) > sign * float(metric(x, y))
    torch.testing.assert_close(metric(x, y), metric(y, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ALWAYS_THERE)
@FEWER
@given(seed=st.integers(0, 1000))
def test_more_noise_scores_worse(name, seed):
    x = photos(1, 40, seed)
    sign = 1 if metrics.DIRECTION[name] == "higher" else -1
    scores = [sign * float(getattr(metrics, name)(x, noisy(x, s))) for s in (0.01, 0.05, 0.15, 0.4)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


@pytest.mark.parametrize("name", ALWAYS_THERE)
def test_a_batch_gives_what_single_images_give(name):
    """Ten images: more than one chunk of a perceptual network."""
    x = photos(10, 40)
    y = torch.cat([noisy(x[i : i + 1], 0.05 * (i + 1)) for i in range(10)])
    metric = getattr(metrics, name)
    single = torch.cat([metric(x[i : i + 1], y[i : i + 1]) for i in range(10)])
    torch.testing.assert_close(metric(x, y), single, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", [*ALWAYS_THERE, "lpips", "lpips_official"])
@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (photos(2), photos(1), ValueError, "x and y must have one shape"),
        (photos(2, 64), photos(2, 48), ValueError, "x and y must have one shape"),
        (photos(1) * 2 - 1, photos(1), ValueError, r"x must lie in \[0, 1\]"),
        (photos(1), photos(1) * 255, ValueError, r"y must lie in \[0, 1\].*255"),
        (photos(1), photos(1) * math.nan, ValueError, "y must be finite"),
        ((photos(1) * 255).to(torch.uint8), photos(1), TypeError, "x must be floating point"),
        (photos(1)[0], photos(1)[0], ValueError, r"x must have shape \(B, 3, H, W\)"),
        (photos(1), photos(1).to("meta"), ValueError, "one device"),
    ],
    ids=["batch", "side", "signed", "255", "nan", "uint8", "3d", "device"],
)
def test_wrong_input_is_named(name, x, y, error, message, monkeypatch):
    if y.device.type == "meta":  # has no values to check
        monkeypatch.setattr(metrics, "validate_images", lambda images, _name: images)
    with pytest.raises(error, match=message):
        getattr(metrics, name)(x, y)


def test_half_precision_is_widened_and_float64_kept():
    x = photos(1)
    assert metrics.mse(x.bfloat16(), x.half()).dtype == torch.float32
    assert metrics.ssim(x.double(), x).dtype == torch.float64
    assert metrics.st_lpips(x.double(), x.bfloat16()).dtype == torch.float32


def test_every_metric_has_a_label_and_a_direction():
    assert (
        set(metrics.LABELS)
        == set(metrics.DIRECTION)
        == {
            *ALWAYS_THERE,
            "lpips",
            "lpips_official",
            "dino_similarity",
            "dino_similarity_official",
        }
    )
    assert metrics.LABELS["st_lpips"] == "ST-LPIPS"


# --- against other implementations ------------------------------------------------------------------------------------


def channels_last(x: Tensor) -> np.ndarray:
    return x.permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("strength", [0.001, 0.1, 0.7])
def test_psnr_and_mse_against_scikit_image(strength):
    x = photos(3)
    y = noisy(x, strength)
    for i in range(3):
        a, b = channels_last(x[i]), channels_last(y[i])
        psnr = skimage.metrics.peak_signal_noise_ratio(a, b, data_range=1)
        assert float(metrics.psnr(x, y)[i]) == pytest.approx(psnr, abs=1e-3)
        assert float(metrics.mse(x, y)[i]) == pytest.approx(skimage.metrics.mean_squared_error(a, b), rel=1e-4)


def test_psnr_of_a_known_error():
    assert float(metrics.psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1))) == pytest.approx(20, abs=1e-5)


def test_ssim_against_scikit_image():
    x = photos(2)
    y = noisy(x, 0.1)
    settings_of_the_paper = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11}
    for i in range(2):
        expected = skimage.metrics.structural_similarity(
            channels_last(x[i]), channels_last(y[i]), data_range=1, channel_axis=2, **settings_of_the_paper
        )
        assert float(metrics.ssim(x, y)[i]) == pytest.approx(expected, abs=1e-4)


def test_ssim_refuses_images_its_window_does_not_fit():
    with pytest.raises(ValueError, match="at least 11 pixels"):
        metrics.ssim(photos(1, 10), photos(1, 10))


@pytest.mark.parametrize(
    ("side", "window"), [(33, 3), (64, 3), (96, 3), (97, 7), (160, 7), (161, 11), (224, 11), (512, 11)]
)
def test_ms_ssim_window_follows_the_size(side, window):
    assert metrics.ms_ssim_window(side) == window


@pytest.mark.parametrize("side", [33, 97, 161])
def test_ms_ssim_runs_at_the_smallest_side_of_each_window(side):
    x = photos(1, side)
    y = noisy(x, 0.1)
    chosen = metrics.ms_ssim(x, y)
    torch.testing.assert_close(chosen, metrics.ms_ssim(x, y, metrics.ms_ssim_window(side)), atol=0, rtol=0)
    assert 0 < float(chosen) < 1


def test_ms_ssim_takes_the_shorter_side_and_refuses_what_does_not_fit():
    wide = photos(1, 200)[:, :, :64]
    assert float(metrics.ms_ssim(wide, wide)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="more than 32 pixels a side, got 32; use ssim"):
        metrics.ms_ssim(photos(1, 32), photos(1, 32))
    for window in (5, 4, 1):
        with pytest.raises(ValueError, match=r"win_size must be odd.*below the shorter side 64; got"):
            metrics.ms_ssim(photos(1), photos(1), window)


def ms_ssim_by_hand(x: np.ndarray, y: np.ndarray, win: int) -> float:
    """Product over five scales of contrast-structure terms, and of luminance at the last (Wang et al. 2003, eq. 7)."""
    from scipy.ndimage import correlate1d

    kernel = np.exp(-((np.arange(win) - win // 2) ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    edge = win // 2

    def blur(a: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(a, kernel, axis=0), kernel, axis=1)[edge:-edge, edge:-edge]

    total = 1.0
    for scale, weight in enumerate([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]):
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        term = (2 * cov + 0.03**2) / (vx + vy + 0.03**2)
        if scale == 4:
            term = term * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
        total *= term.mean() ** weight
        if scale == 4:
            return total
        x, y = ((a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) / 4 for a in (x, y))
    raise AssertionError("unreachable")


@pytest.mark.parametrize(("side", "window"), [(64, 3), (112, 7), (176, 11)])
def test_ms_ssim_against_its_definition(side, window):
    x = photos(1, side).double()
    y = noisy(x, 0.1).double()
    expected = np.mean([ms_ssim_by_hand(x[0, c].numpy(), y[0, c].numpy(), window) for c in range(3)])
    assert float(metrics.ms_ssim(x, y)) == pytest.approx(expected, abs=1e-5)


# --- ST-LPIPS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def st_lpips() -> metrics.StLpips:
    return metrics.StLpips()


def test_st_lpips_equals_the_package(st_lpips, capsys):
    from stlpips_pytorch import stlpips

    package = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    capsys.readouterr()
    x = photos(2)
    y = noisy(x, 0.2)
    with torch.no_grad():
        expected = package(x, y, normalize=True).flatten()
    torch.testing.assert_close(st_lpips(x, y), expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(metrics.st_lpips(x, y), expected, atol=1e-6, rtol=1e-4)


def test_st_lpips_prints_nothing(capsys):
    metrics.StLpips()
    assert capsys.readouterr().out == ""


def test_st_lpips_tolerates_a_shift_and_sees_a_different_photo(st_lpips):
    x, other = photos(1, 70), photos(1, 64, seed=5)
    shifted, x = x[:, :, 2:66, 2:66], x[:, :, :64, :64]
    assert float(st_lpips(x, shifted)) < 0.5 * float(st_lpips(x, other))


def test_st_lpips_is_a_training_loss(st_lpips):
    target = photos(1)
    x = noisy(target, 0.3).requires_grad_(True)
    cached = st_lpips.features(target)
    optimiser = torch.optim.Adam([x], lr=0.02)
    losses = []
    for _ in range(8):
        loss = st_lpips.compare(st_lpips.features(x), cached).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is None for p in st_lpips.parameters())


def test_st_lpips_gradient_against_finite_differences():
    metric = metrics.StLpips().double()
    x, y = photos(1, 24).double(), photos(1, 24, seed=3).double()
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(metric(leaf, y).sum(), leaf)
    step = 1e-6
    numeric = (metric(x + step * direction, y) - metric(x - step * direction, y)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=1e-4)


def test_gradient_is_finite_where_features_vanish():
    maps = torch.zeros(1, 4, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(metrics._unit(maps).square().sum(), maps)
    assert torch.isfinite(gradient).all()


def test_st_lpips_ignores_train_mode():
    model = torch.nn.Sequential(metrics.StLpips()).train()
    x = photos(1)
    y = noisy(x, 0.2)
    torch.testing.assert_close(model[0](x, y), model[0](x, y), atol=0, rtol=0)
    assert not model[0].network.training


def test_first_use_under_inference_mode_does_not_spoil_later_gradients():
    metrics._cached_st_lpips.cache_clear()
    with torch.inference_mode():
        metrics.st_lpips(photos(1, 32), photos(1, 32, seed=1))
    x = photos(1, 32).requires_grad_(True)
    metrics.st_lpips(x, photos(1, 32, seed=1)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_st_lpips_smallest_image(st_lpips):
    assert st_lpips(photos(1, 21), photos(1, 21, seed=1)).shape == (1,)
    with pytest.raises(ValueError, match=r"ST-LPIPS needs images .* at least 21 pixels"):
        st_lpips(photos(1, 20), photos(1, 20))
    with pytest.raises(ValueError, match="at least 21 pixels"):
        metrics.st_lpips(photos(1, 20), photos(1, 20))


def test_missing_or_foreign_weights_never_leave_a_random_layer(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with pytest.raises(metrics.MetricUnavailable, match=r"weights file not found: .*none\.pth; reinstall"):
        metrics._load(network, tmp_path / "none.pth", may_lack=())
    torch.save({k: v for k, v in network.state_dict().items() if k != "1.bias"}, tmp_path / "part.pth")
    with pytest.raises(metrics.MetricUnavailable, match=r"missing \['1\.bias'\]"):
        metrics._load(network, tmp_path / "part.pth", may_lack=())
    metrics._load(network, tmp_path / "part.pth", may_lack=("1.",))


# --- LPIPS ------------------------------------------------------------------------------------------------------------


def test_lpips_without_weights_is_unavailable_and_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for metric in (metrics.lpips, metrics.lpips_official):
        with pytest.raises(metrics.MetricUnavailable, match=r"alexnet-owt-7be5be79\.pth.*IMAGENET1K_V1.*st_lpips"):
            metric(photos(1), photos(1))
    with pytest.raises(metrics.MetricUnavailable, match=r"elsewhere\.pth"):
        metrics.lpips(photos(1), photos(1), tmp_path / "elsewhere.pth")
    assert issubclass(metrics.MetricUnavailable, RuntimeError)


def empty_alexnet() -> torch.nn.Module:
    """The convolutions of AlexNet without the slow filling of its classifier."""
    with torch.device("meta"):
        return torchvision.models.alexnet(weights=None).features


@pytest.fixture(scope="module")
def random_alexnet(tmp_path_factory):
    """The right layers with random values: what must never be taken for LPIPS."""
    generator = torch.Generator().manual_seed(0)
    values = {
        name: torch.randn(like.shape, generator=generator) * 0.5 / math.sqrt(like[0].numel())
        for name, like in empty_alexnet().state_dict().items()
    }
    file = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save({f"features.{name}": value for name, value in values.items()}, file)
    return file


def test_lpips_refuses_random_weights(random_alexnet):
    with pytest.raises(metrics.MetricUnavailable, match="is not the published AlexNet: its sha256 starts with"):
        metrics.lpips(photos(1), photos(1), random_alexnet)


def by_hand(file, x: Tensor, y: Tensor) -> Tensor:
    """Equation 1 of the LPIPS paper on torchvision's own AlexNet, the heads read from the wheel."""
    from importlib.resources import files

    trunk = empty_alexnet().to_empty(device="cpu").eval()
    trunk.load_state_dict({k.removeprefix("features."): v for k, v in torch.load(file, weights_only=True).items()})
    heads = torch.load(str(files("lpips") / "weights/v0.1/alex.pth"), map_location="cpu", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    total = torch.zeros(len(x))
    a, b = (x - shift) / scale, (y - shift) / scale
    taps = {1: 0, 4: 1, 7: 2, 9: 3, 11: 4}  # the five ReLUs
    for i, layer in enumerate(trunk):
        a, b = layer(a).clone(), layer(b).clone()
        if i in taps:
            difference = torch.nn.functional.normalize(a, dim=1) - torch.nn.functional.normalize(b, dim=1)
            weight = heads[f"lin{taps[i]}.model.1.weight"][0, :, 0, 0]
            total += torch.einsum("bchw,c->bhw", difference.square(), weight).mean((1, 2))
    return total.detach()


def test_lpips_and_the_official_quirk_against_the_formula(random_alexnet, monkeypatch):
    digest = hashlib.sha256(random_alexnet.read_bytes()).hexdigest()
    monkeypatch.setattr(metrics, "ALEXNET_SHA256", digest[:8])
    x = photos(2)
    y = noisy(x, 0.3)
    normalised = by_hand(random_alexnet, 2 * x - 1, 2 * y - 1)
    unnormalised = by_hand(random_alexnet, x, y)
    torch.testing.assert_close(metrics.lpips(x, y, random_alexnet), normalised, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(metrics.lpips_official(x, y, random_alexnet), unnormalised, atol=1e-6, rtol=1e-3)
    assert (normalised - unnormalised).abs().min() > 1e-4
    assert metrics.lpips(x, x, random_alexnet).abs().max() < 1e-6
    metrics._cached_lpips.cache_clear()


def test_lpips_with_a_truncated_network(tmp_path, monkeypatch):
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "part.pth")
    digest = hashlib.sha256((tmp_path / "part.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(metrics, "ALEXNET_SHA256", digest[:8])
    with pytest.raises(metrics.MetricUnavailable, match=r"layers .*slice1\.0\.bias.* are missing"):
        metrics.lpips(photos(1), photos(1), tmp_path / "part.pth")


# --- DINO similarity --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["dinov2", "vit"])
def dino(request):
    """A tiny random model, its norm changed so that leaving it out shows."""
    with tiny.seeded():
        model = tiny.make_client(request.param).eval()
        torch.nn.init.uniform_(model.layernorm.weight, 0.2, 3.0)
        torch.nn.init.uniform_(model.layernorm.bias, -1.0, 1.0)
    return model, model.config.image_size


def pixels_for(model: torch.nn.Module, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return (images - mean) / std


def test_dino_similarity_against_the_model_itself(dino):
    """At the model's own size nothing is resized: CLS of `last_hidden_state`, the final norm included."""
    model, side = dino
    x, y = photos(10, side), photos(10, side, seed=1)
    with torch.no_grad():
        a, b = (model(pixels_for(model, images)).last_hidden_state[:, 0] for images in (x, y))
    expected = torch.nn.functional.cosine_similarity(a, b)
    torch.testing.assert_close(metrics.dino_similarity(x, y, model, image_size=side), expected, atol=1e-5, rtol=1e-5)
    bare = metrics.dino_similarity(x, y, model, image_size=side, final_norm=False)
    assert (bare - expected).abs().max() > 1e-3
    torch.testing.assert_close(metrics.dino_similarity(x, x, model, image_size=side), torch.ones(10))


def test_official_dino_similarity_is_vit_models_random_pooler():
    """The published steps on the published class: the norm taken away, the pooler as transformers draws it."""
    with tiny.seeded():
        model = tiny.make_client("vit").eval()
    x, y = photos(3, 32), photos(3, 32, seed=1)
    value = metrics.dino_similarity_official(x, y, model, 7, image_size=32)
    width, spread = model.config.hidden_size, model.config.initializer_range
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(7)) * spread
    published = copy.deepcopy(model)
    published.layernorm = torch.nn.Identity()
    with torch.no_grad():
        published.pooler.dense.weight.copy_(drawn)
        assert published.pooler.dense.bias.abs().max() == 0  # a layer that a checkpoint lacks has no bias at first
        a, b = (published(pixels_for(published, images)).pooler_output for images in (x, y))
    torch.testing.assert_close(value, torch.nn.functional.cosine_similarity(a, b), atol=1e-5, rtol=1e-5)


def test_dinov2_has_no_random_pooler():
    """What the module's docstring says of the two classes."""
    with tiny.seeded():
        dinov2, vit = tiny.make_client("dinov2").eval(), tiny.make_client("vit").eval()
    assert not any("pooler" in name for name in dinov2.state_dict())
    assert any("pooler.dense" in name for name in vit.state_dict())
    with torch.no_grad():
        out = dinov2(photos(2, 70))
    assert torch.equal(out.pooler_output, out.last_hidden_state[:, 0])


def test_only_the_official_dino_similarity_depends_on_a_seed(dino):
    model, side = dino
    x, y = photos(2, 48), photos(2, 48, seed=1)
    official = [metrics.dino_similarity_official(x, y, model, seed, image_size=side) for seed in (0, 1, 0)]
    assert (official[0] - official[1]).abs().min() > 1e-4
    assert torch.equal(official[0], official[2])
    torch.manual_seed(0)
    first = metrics.dino_similarity(x, y, model, image_size=side)
    torch.manual_seed(1)
    assert torch.equal(first, metrics.dino_similarity(x, y, model, image_size=side))
    torch.testing.assert_close(metrics.dino_similarity_official(x, x, model, 3, image_size=side), torch.ones(2))


def test_dino_similarity_names_what_is_wrong(dino):
    model, side = dino
    x = photos(1, side)
    with pytest.raises(ValueError, match="multiple of the model's patch"):
        metrics.dino_similarity(x, x, model, image_size=side + 1)
    with pytest.raises(TypeError, match="Linear; it must be transformers' Dinov2Model or ViTModel"):
        metrics.dino_similarity(x, x, torch.nn.Linear(1, 1), image_size=side)
    with pytest.raises(ValueError, match="x and y must have one shape"):
        metrics.dino_similarity_official(x, photos(2, side), model, 0, image_size=side)
    with pytest.raises(ValueError, match=r"call model\.eval"):
        metrics.dino_similarity(x, x, copy.deepcopy(model).train(), image_size=side)


# --- kernel distance --------------------------------------------------------------------------------------------------


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift


def test_kernel_distance_against_a_direct_sum():
    a, b = normal(6, 3, 0), normal(6, 3, 1, 0.5)

    def k(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    within = sum(k(a[i], a[j]) + k(b[i], b[j]) for i, j in pairs) / 30
    across = sum(k(x, y) for x in a for y in b) / 36
    result = sets.kernel_distance(a, b, subset_size=6, subsets=2)
    assert result.value == pytest.approx(within - 2 * across, rel=1e-9)
    assert math.isnan(result.standard_error)


def test_kernel_distance_is_zero_within_its_error_for_one_distribution():
    """Unbiased: over many pairs of samples the mean is 0, and a good share of them is negative."""
    results = [sets.kernel_distance(normal(60, 8, 2 * s), normal(60, 8, 2 * s + 1), subsets=20) for s in range(60)]
    values = np.array([r.value for r in results])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(60)
    assert 0.2 < (values < 0).mean() < 0.9
    assert np.mean([r.standard_error for r in results]) > 0.8 * values.std()


def test_kernel_distance_reports_an_honest_error_for_different_distributions():
    results = [sets.kernel_distance(normal(80, 8, 2 * s), normal(80, 8, 2 * s + 1, 0.5), subsets=25) for s in range(60)]
    spread = np.std([r.value for r in results])
    assert 0.7 * spread < np.mean([r.standard_error for r in results]) < 1.6 * spread


def test_kernel_distance_grows_with_the_shift():
    a = normal(200, 8, 0)
    values = [sets.kernel_distance(a, normal(200, 8, 1, shift)).value for shift in (0.0, 0.2, 0.5, 1.0)]
    assert values == sorted(values)
    far = sets.kernel_distance(a, normal(200, 8, 1, 1.0))
    assert far.value > 5 * far.standard_error


def test_kernel_distance_seed_symmetry_and_precision():
    a, b = normal(50, 4, 0), normal(40, 4, 1, 0.3)
    assert sets.kernel_distance(a, b) == sets.kernel_distance(a, b)
    assert sets.kernel_distance(a, b) != sets.kernel_distance(a, b, seed=1)
    full = {"subset_size": 40, "subsets": 2}
    forward = sets.kernel_distance(a[:40], b, **full).value
    assert forward == pytest.approx(sets.kernel_distance(b, a[:40], **full).value, rel=1e-9)
    assert forward == pytest.approx(sets.kernel_distance(a[:40].float(), b.float(), **full).value, rel=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "options", "error", "message"),
    [
        (np.zeros((4, 2)), normal(4, 2, 0), {}, TypeError, "feats_a must be a floating-point tensor"),
        (normal(4, 2, 0), torch.zeros(4, 2, dtype=torch.int64), {}, TypeError, r"feats_b.*torch\.int64"),
        (normal(4, 2, 0), normal(4, 2, 0)[0], {}, ValueError, r"feats_b must be finite with shape \(n, d\)"),
        (normal(4, 2, 0) * math.nan, normal(4, 2, 0), {}, ValueError, "feats_a must be finite"),
        (normal(4, 2, 0), normal(4, 3, 0), {}, ValueError, "one width, got 2 and 3"),
        (normal(3, 2, 0), normal(9, 2, 0), {}, ValueError, "subset_size must be from 2 to the smaller set's 3"),
        (normal(9, 2, 0), normal(9, 2, 0), {"subset_size": 10}, ValueError, "subset_size"),
        (normal(9, 2, 0), normal(9, 2, 0), {"subsets": 1}, ValueError, "subsets must be 2 or more"),
    ],
)
def test_kernel_distance_refuses(a, b, options, error, message):
    with pytest.raises(error, match=message):
        sets.kernel_distance(a, b, **options)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_bootstrap_agrees_with_the_normal_interval_on_normal_data():
    x = np.random.default_rng(0).normal(2.0, 1.0, 400)
    interval = intervals.bootstrap_ci(x)
    half = 1.96 * x.std(ddof=1) / 20
    assert interval.mean == pytest.approx(x.mean())
    assert interval.low == pytest.approx(x.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(x.mean() + half, abs=0.15 * half)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    """Skewed data (exponential, true mean 1), n = 40, 200 repetitions, nominal 90 %."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        interval = intervals.bootstrap_ci(rng.exponential(size=40), 0.9, resamples=999)
        hits += interval.low <= 1 <= interval.high
    low, high = scipy.stats.binom.ppf([0.001, 0.999], 200, 0.88)
    assert low <= hits <= high


def test_bootstrap_interval_is_corrected_for_skew():
    """BCa and percentile intervals differ on skewed data; ours is the former."""
    x = np.random.default_rng(3).exponential(size=25) ** 2
    ours = intervals.bootstrap_ci(x)
    bca, percentile = (
        scipy.stats.bootstrap((x,), np.mean, method=m, random_state=np.random.default_rng(9)).confidence_interval
        for m in ("BCa", "percentile")
    )
    assert abs(ours.high - bca.high) < 0.25 * abs(ours.high - percentile.high)


@pytest.mark.filterwarnings("error")
def test_percentile_interval_where_bca_is_undefined():
    """Neighbouring floats: leaving any one out gives the same rounded mean, so BCa's acceleration is 0 / 0."""
    low, high = 1e16, 1e16 + 2
    assert intervals.bootstrap_ci([low, low, high]) == (low, low, high)


def test_bootstrap_is_reproducible_and_wider_at_a_higher_level():
    x = torch.rand(30, generator=torch.Generator().manual_seed(0))
    assert intervals.bootstrap_ci(x) == intervals.bootstrap_ci(x.tolist()) == intervals.bootstrap_ci(x.numpy())
    assert intervals.bootstrap_ci(x, seed=1) != intervals.bootstrap_ci(x)
    narrow, wide = intervals.bootstrap_ci(x, 0.5), intervals.bootstrap_ci(x, 0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@FEW
@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=20))
def test_bootstrap_interval_holds_the_data_and_is_never_nan(values):
    interval = intervals.bootstrap_ci(values, resamples=200)
    slack = 1e-9 * max(map(abs, values), default=0)
    assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[0.3] * 5, [0.1 + 0.2, 0.3, 0.3], [0.0, 1.0], [0.0] * 30 + [1e-12]])
def test_degenerate_values_give_an_interval_without_a_warning(values):
    interval = intervals.bootstrap_ci(values)
    assert np.isfinite(interval).all()
    assert interval.low - 1e-15 <= interval.mean <= interval.high + 1e-15


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([1.0], 0.95, "two images or more"),
        ([[1.0, 2.0]], 0.95, r"got shape \(1, 2\)"),
        ([1.0, math.inf], 0.95, r"values must be finite.*index \[1\]"),
        ([1.0, 2.0], 95, "level must be between 0 and 1"),
        ([1.0, 1.0], 0, "level must be between 0 and 1"),
    ],
)
def test_bootstrap_refuses(values, level, message):
    with pytest.raises(ValueError, match=message):
        intervals.bootstrap_ci(values, level)


def test_paired_difference_sees_what_separate_intervals_hide():
    """Images differ far more than methods do: the paired interval excludes 0, the separate intervals overlap."""
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(0, 1, 50)
    a, b = difficulty + 0.02 + rng.normal(0, 0.01, 50), difficulty
    difference = intervals.paired_difference(a, b)
    assert 0 < difference.low < 0.02 < difference.high
    assert intervals.bootstrap_ci(a).low < intervals.bootstrap_ci(b).high
    swapped = intervals.paired_difference(b, a)
    assert swapped.mean == pytest.approx(-difference.mean)
    with pytest.raises(ValueError, match="same images in the same order, got 50 and 49"):
        intervals.paired_difference(a, b[:49])


@FEW
@given(n=st.integers(1, 500), share=st.floats(0, 1), level=st.floats(0.5, 0.999))
def test_wilson_against_its_formula(n, share, level):
    k = round(share * n)
    z = scipy.stats.norm.ppf(0.5 + level / 2)
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    interval = intervals.wilson_interval(k, n, level)
    assert interval == pytest.approx((p, max(0, centre - half), min(1, centre + half)), abs=1e-9)


def test_no_success_still_allows_some():
    assert intervals.wilson_interval(0, 100).low == 0
    assert 0.03 < intervals.wilson_interval(0, 100).high < 0.04
    for k, n in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match="successes must be from 0 to trials"):
            intervals.wilson_interval(k, n)
    with pytest.raises(ValueError, match="level"):
        intervals.wilson_interval(1, 4, 1.5)
