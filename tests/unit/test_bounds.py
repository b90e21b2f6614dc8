"""Bounds against a Gaussian photo, a linear client and Gaussian noise, where the best attacker is known, and against integrals."""

from __future__ import annotations

import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

from dragkit import bounds, zoo
from dragkit.bounds import Gaussian, Laplace
from dragkit.measures import intervals
from draglab.studies.guarantees import _box, _budget, _code, _holds

D, M = 12, 9
STRONG, WEAK = 3.0, 0.05


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SPECTRUM = 1 / torch.arange(1, D + 1, dtype=torch.float64)
A = torch.randn(M, D, generator=stream(1), dtype=torch.float64)


def drawn(n: int, seed: int) -> Tensor:
    """Photos `(n, D)` of N(0, diag(SPECTRUM))."""
    return torch.randn(n, D, generator=stream(seed), dtype=torch.float64) * SPECTRUM.sqrt()


def posterior(std: float) -> tuple[Tensor, Tensor]:
    """Gain `(D, M)` of the posterior mean and the posterior's covariance."""
    cov = torch.linalg.inv(torch.diag(1 / SPECTRUM) + A.T @ A / std**2)
    return cov @ A.T / std**2, cov


def exact_mmse(std: float) -> float:
    return float(posterior(std)[1].trace()) / D


def bound(std: float, size: int = 400, pool: int = 4000, **more) -> bounds.GalleryBound:
    x = drawn(pool, 2)
    return bounds.gallery_mmse(x, x @ A.T, Gaussian(std), size=size, generator=stream(3), **more)


# -- gallery bound


@pytest.mark.parametrize("std", [STRONG, 1.0, 0.3, WEAK])
def test_bound_is_below_the_exact_mmse(std):
    assert bound(std).interval().low <= exact_mmse(std)


def test_bound_is_tight_for_strong_noise():
    found = bound(STRONG).interval()
    assert found.low > 0.9 * exact_mmse(STRONG)
    assert found.high < 1.1 * exact_mmse(STRONG)


def test_bound_grows_with_the_gallery_and_vanishes_without_noise():
    small, large = (bound(1.0, size=size).values.mean() for size in (20, 400))
    assert small < 0.8 * large
    assert bound(1e-4).values.max() < 1e-12


def test_without_information_the_bound_is_the_galleries_variance():
    found = bound(1e7)
    torch.testing.assert_close(found.values, found.nothing, rtol=1e-4, atol=0)
    assert found.nats.abs().max() < 1e-3


def test_nats_are_below_the_information_and_below_log_n():
    information = {
        std: 0.5 * float(torch.logdet(torch.eye(M) + A @ torch.diag(SPECTRUM) @ A.T / std**2)) for std in (STRONG, WEAK)
    }
    strong, weak = bound(STRONG), bound(WEAK)
    assert 0.8 * information[STRONG] < strong.nats.mean() < 1.1 * information[STRONG]
    assert weak.nats.mean() <= math.log(400) + 1e-9 < information[WEAK]


@pytest.mark.parametrize("std", [STRONG, 1.0])
def test_best_attacker_and_posterior_sampler_are_above_the_bound(std):
    x = drawn(4000, 5)
    z = x @ A.T + std * torch.randn(len(x), M, generator=stream(6), dtype=torch.float64)
    gain, cov = posterior(std)
    mean = z @ gain.T
    noise = torch.randn(len(x), D, generator=stream(7), dtype=torch.float64) @ torch.linalg.cholesky(cov).T
    optimal, sampled = ((guess - x).square().mean(1) for guess in (mean, mean + noise))
    found = bound(std)
    assert intervals.bootstrap_ci(optimal).high >= found.interval().low
    assert intervals.bootstrap_ci(sampled).high >= found.posterior_sampler().low
    assert float(sampled.mean() / optimal.mean()) == pytest.approx(2, rel=0.05)


def test_shaped_noise_is_white_noise_in_other_units():
    x = drawn(2000, 2)
    scales = torch.linspace(0.5, 4, M, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(M, M, generator=stream(8), dtype=torch.float64))[0]
    # Noise of covariance q diag(scales^2) q^T on A x is noise of deviations `scales` on q^T A x.
    shaped = Gaussian(whiten=torch.diag(1 / scales) @ q.T)
    a = bounds.gallery_mmse(x, x @ A.T, shaped, size=500, generator=stream(3)).values
    b = bounds.gallery_mmse(x, x @ A.T @ q, Gaussian(scales), size=500, generator=stream(3)).values
    torch.testing.assert_close(a, b)


def test_noise_has_the_deviation_that_its_mechanism_states():
    f = torch.full((20_000, 2), 5.0)
    assert ((Laplace(2.0).send(f, stream()) - f).std() - 2 * 2**0.5).abs() < 0.1
    assert ((Gaussian(2.0).send(f, stream()) * 2 - f).std() - 2).abs() < 0.1


@pytest.mark.parametrize("mechanism", [Gaussian(0.7), Laplace(0.7)])
def test_log_likelihood_is_that_of_scipy_up_to_a_constant(mechanism):
    f = (
        torch.randn(6, M, generator=stream(1), dtype=torch.float64) + 100
    )  # off centre, where a careless expansion cancels
    z = mechanism.send(f[:3], stream(2))
    raw = z * 0.7 if isinstance(mechanism, Gaussian) else z
    density = scipy.stats.norm if isinstance(mechanism, Gaussian) else scipy.stats.laplace
    expected = torch.from_numpy(density(scale=0.7).logpdf((raw[:, None] - f).numpy())).sum(-1)
    found = mechanism.log_likelihood(z, f)
    torch.testing.assert_close(found.log_softmax(1), expected.log_softmax(1), rtol=1e-6, atol=1e-6)


def test_likelihood_survives_features_far_from_zero_in_float32():
    x = drawn(800, 2).float()
    centred, far = x @ A.float().T, x @ A.float().T + 1000
    a, b = (bounds.gallery_mmse(x, f, Gaussian(1.0), size=200, generator=stream(3)).values for f in (centred, far))
    torch.testing.assert_close(a, b, rtol=1e-2, atol=0)


def test_laplace_bound_lies_between_nothing_and_variance():
    x = drawn(1000, 2)
    quiet, loud = (bounds.gallery_mmse(x, x @ A.T, Laplace(s), size=200, generator=stream(3)) for s in (1e-3, 1e5))
    assert quiet.values.max() < 1e-6
    torch.testing.assert_close(loud.values, loud.nothing, rtol=1e-2, atol=0)


def test_targets_can_be_any_representation():
    x = drawn(1000, 2)
    other = torch.stack([x[:, :4], x[:, 4:8]], 1)
    found = bounds.gallery_mmse(other, x @ A.T, Gaussian(1.0), size=200, generator=stream(3), queries=50)
    same = bounds.gallery_mmse(x[:, :8], x @ A.T, Gaussian(1.0), size=200, generator=stream(3), queries=50)
    torch.testing.assert_close(found.values, same.values)
    assert (found.size, found.queries, len(found.values)) == (200, 50, 5)


# -- identification


def test_identification_is_chance_for_huge_noise_and_certain_without():
    f = drawn(4000, 2) @ A.T
    blind, seeing = (bounds.gallery_identification(f, Gaussian(s), size=20, generator=stream(3)) for s in (1e7, 1e-6))
    assert blind.top(1).low <= 1 / 20 <= blind.top(1).high
    assert blind.top(5).low <= blind.chance(5) <= blind.top(5).high
    assert seeing.top(1).mean == 1


def test_identification_of_two_photos_has_a_closed_form():
    f = torch.tensor([[0.0], [2.0]]).repeat(2000, 1)
    # Half of the galleries of two hold equal photos (a coin decides), half hold two at distance 2: Phi(1 / std) is right.
    found = bounds.gallery_identification(f, Gaussian(1.5), size=2, generator=stream(4)).top(1, 0.999)
    expected = 0.25 + 0.5 * scipy.stats.norm.cdf(1 / 1.5)
    assert found.low <= expected <= found.high


def test_ties_are_broken_by_chance():
    found = bounds.gallery_identification(torch.zeros(4000, 3), Gaussian(1.0), size=10, generator=stream(3))
    assert found.top(1).low <= 0.1 <= found.top(1).high


# -- bits


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 4.0])
def test_gaussian_leakage_is_the_integral_of_the_largest_density(ratio):
    def largest(z: float) -> float:
        return scipy.stats.norm.pdf(max(0.0, abs(z) - ratio))  # over centres within [-ratio, ratio]

    total, _ = scipy.integrate.quad(largest, -ratio - 12, ratio + 12, points=[-ratio, ratio], limit=200)
    assert bounds.maximal_leakage_gaussian(ratio, 1) == pytest.approx(math.log2(total), abs=1e-6)
    assert bounds.maximal_leakage_gaussian(ratio, 7) == pytest.approx(7 * math.log2(total), abs=1e-5)


def test_success_bounds():
    assert bounds.success_bound(0.001, 3) == pytest.approx(0.008)
    assert bounds.success_bound(0.2, 3) == 1
    assert bounds.success_bound(0.2, 1e6) == 1
    assert bounds.success_bound(0, 1e6) == 0
    assert bounds.composed_bits(2.5, 4) == 10
    assert bounds.maximal_leakage_bits_code(4, 3) == 12
    assert bounds.shuffle_bits(5) == pytest.approx(math.log2(120))


def test_no_code_of_two_bits_beats_the_bound():
    # Eight equally likely photos, success is naming the right one: 1/8 without a message, and 2^2/8 with the best code.
    assert bounds.success_bound(1 / 8, bounds.maximal_leakage_bits_code(2)) == 4 / 8


def baseline(photos: Tensor, threshold: float, **more) -> bounds.BaselineSuccess:
    return bounds.baseline_success(photos, threshold, generator=stream(9), **more)


def test_baseline_of_a_gaussian_is_the_chi_square_of_its_mean():
    x = torch.randn(4000, 4, generator=stream(2))
    found = baseline(x, 0.5)
    truth = float(scipy.stats.chi2(4).cdf(0.5 * 4))
    assert found.rate == pytest.approx(truth, abs=0.05)
    assert truth <= found.upper < found.upper_any < truth + 0.1
    assert found.guess.norm() < 0.7


def test_baseline_finds_a_frequent_photo_and_allows_for_what_was_not_seen():
    x = torch.rand(400, 3, 8, 8, generator=stream(2))
    nothing = baseline(x, 1e-4)
    assert (nothing.rate, nothing.trials) == (0, 200)
    assert nothing.upper == pytest.approx(3 / 200, rel=0.02)
    x[::4] = 0.3
    assert baseline(x, 1e-4).rate == pytest.approx(0.25, abs=0.1)


# -- Fisher information


def test_trace_of_a_linear_client():
    images = torch.rand(3, 2, 2, 3, generator=stream(2)).double()
    mean, error = bounds.trace_jtj(lambda x: x.flatten(1) @ A.T, images, 400, stream(3))
    exact = float((A**2).sum())
    assert mean.shape == error.shape == (3,)
    assert ((mean - exact).abs() < 4 * error).all()
    assert (error < 0.05 * exact).all()


def test_trace_of_the_embedded_client_is_that_of_its_jacobian():
    client = zoo.load_client(at="block:1")
    images = torch.rand(2, 3, 64, 64, generator=stream(2)) * 0.8 + 0.1
    mean, error = bounds.trace_jtj(client, images, 24, stream(3))
    # The same trace from the image's side, by finite differences: E|J u|^2 over random signs u.
    u = torch.randint(0, 2, (96, *images.shape[1:]), generator=stream(4)).float() * 2 - 1
    for image, found, off in zip(images, mean, error, strict=True):
        change = (client(image + 1e-3 * u) - client(image - 1e-3 * u)) / 2e-3
        values = change.double().square().flatten(1).sum(1)
        assert (values.mean() - found).abs() < 4 * (values.std() / len(values) ** 0.5 + off)


def test_crb_is_the_inverse_of_dfil_and_exceeds_the_prior():
    trace = torch.tensor([float((A**2).sum())])
    assert bounds.crb_mse(trace, 2.0, D) == pytest.approx(4 * D / float(trace))
    assert bounds.dfil(trace, 2.0, D) * bounds.crb_mse(trace, 2.0, D) == pytest.approx(1)
    assert bounds.crb_mse(trace, 10.0, D) > SPECTRUM.mean()  # the mean photo is biased, and below it


def test_entropy_cap():
    assert [round(bounds.entropy_cap_psnr(b), 1) for b in (2.6, 3.0, 3.3, 3.6)] == [44.8, 42.4, 40.6, 38.8]
    # Uniform noise needs 8 bits a number; its entropy power is 1 / (2 pi e).
    assert bounds.entropy_cap_psnr(8) == pytest.approx(10 * math.log10(2 * math.pi * math.e))


# -- verdicts of the measurement


def level(bound: list[float], **attacks: list[float]) -> dict:
    return {"bound": bound, "prior_variance": 0.07, "attacks": {label: {"ci": ci} for label, ci in attacks.items()}}


def test_verdict_on_the_gallery_bound():
    weak = level([0.0, 0.0, 0.0], DRAG=[0.01, 0.009, 0.011])
    strong = level([0.05, 0.048, 0.052], DRAG=[0.09, 0.08, 0.1], network=[0.051, 0.04, 0.06])
    fine = _holds({"gaussian:1": weak, "gaussian:64": strong}, 32)
    assert fine.holds and fine.value == pytest.approx(0.001) and "1 of 2 levels" in fine.statement
    assert not _holds({"gaussian:1": weak}, 32).holds  # a bound of nothing proves nothing
    broken = level([0.05, 0.048, 0.052], DRAG=[0.047, 0.045, 0.049])
    assert not _holds({"gaussian:64": strong, "gaussian:32": broken}, 32).holds
    refuted = level([0.05, 0.048, 0.052], network=[0.03, 0.02, 0.04])
    assert not _holds({"gaussian:64": refuted}, 32).holds


def test_verdict_on_the_bit_budget():
    fine, vacuous = {"bound": 0.2, "achieved": [0.1, 0.05, 0.15]}, {"bound": 1.0, "achieved": [0.1, 0.05, 0.15]}
    made = _budget({"a": fine, "b": vacuous}, 100)
    assert made.holds and (made.value, made.ci_low, made.ci_high) == (0.1, 0.05, 0.15)
    assert not _budget({"b": vacuous}, 100).holds
    assert not _budget({"a": {"bound": 0.1, "achieved": [0.2, 0.15, 0.25]}}, 100).holds


def test_codes_and_boxes_point_to_the_right_training_photos():
    train = torch.tensor([[-1.5, 1.0], [0.5, 9.0], [1.5, -1.0]])  # one bit of two numbers: codes 01, 11, 10
    leaked, same = _code((train, torch.tensor([[-0.1, 0.1], [3.0, -3.0]])), 2, 1)
    assert leaked == 2 and same.tolist() == [[1, 0, 0], [0, 0, 1]]
    leaked, weights = _box((train, train), 2, 1000.0)
    assert leaked == pytest.approx(bounds.maximal_leakage_gaussian(1000.0, 2))
    torch.testing.assert_close(weights, torch.eye(3))


# -- what is refused

X = drawn(20, 2)
NAN = torch.full((20, 3), math.nan)


class Wrong:
    """A likelihood of the wrong shape."""

    def send(self, features: Tensor, generator: torch.Generator) -> Tensor:
        return features

    def log_likelihood(self, z: Tensor, features: Tensor) -> Tensor:
        return z @ features.T[:, :1]


def mmse(targets: Tensor = X, features: Tensor = X, mechanism: bounds.Mechanism | None = None, **more):
    more = {"size": 5, "generator": stream()} | more
    return bounds.gallery_mmse(targets, features, mechanism or Gaussian(1.0), **more)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Gaussian(0.0), "std is 0.0"),
        (lambda: Gaussian(math.nan), "std is nan"),
        (lambda: Gaussian(torch.tensor([1.0, -1.0])), "std is"),
        (lambda: Gaussian(whiten=torch.ones(3)), "whiten is"),
        (lambda: Laplace(-1.0), "scale is -1.0"),
        (lambda: mmse(NAN), "targets holds NaN"),
        (lambda: mmse(features=NAN), "features holds NaN"),
        (lambda: mmse(X[:5]), "targets holds 5"),
        (lambda: mmse(X[:, 0]), "targets is"),
        (lambda: mmse(size=11), "size is 11"),
        (lambda: mmse(size=1), "size is 1"),
        (lambda: mmse(queries=6), "queries is 6"),
        (lambda: mmse(mechanism=Wrong()), "log_likelihood returned"),
        (lambda: bounds.GalleryIdentification(torch.ones(2, 2), 5).top(6), "k is 6"),
        (lambda: bounds.maximal_leakage_gaussian(-1, 2), "radius_over_std is -1"),
        (lambda: bounds.maximal_leakage_gaussian(1, 0), "dims is 0"),
        (lambda: bounds.maximal_leakage_bits_code(math.inf), "bits is inf"),
        (lambda: bounds.maximal_leakage_bits_code(1, 0), "numbers is 0"),
        (lambda: bounds.composed_bits(1, 0), "queries is 0"),
        (lambda: bounds.success_bound(1.5, 1), "kappa is 1.5"),
        (lambda: bounds.success_bound(0.5, math.nan), "bits is nan"),
        (lambda: bounds.shuffle_bits(-1), "n is -1"),
        (lambda: baseline(NAN, 0.1), "photos is"),
        (lambda: baseline(X, 0.0), "threshold is 0"),
        (lambda: baseline(X, 0.1, guesses=0), "guesses is 0"),
        (lambda: baseline(X, 0.1, level=1.0), "level is 1"),
        (lambda: bounds.trace_jtj(lambda x: x, X, 1, stream()), "probes is 1"),
        (lambda: bounds.trace_jtj(lambda x: x, NAN, 2, stream()), "images holds NaN"),
        (lambda: bounds.crb_mse(torch.ones(1), 0.0, 3), "std is 0.0"),
        (lambda: bounds.entropy_cap_psnr(math.nan), "nll_bits_per_dim is nan"),
    ],
)
def test_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_pixels_must_be_floats():
    for call in (
        lambda: mmse(torch.zeros(20, 3, dtype=torch.uint8)),
        lambda: baseline(torch.zeros(20, 3, dtype=torch.uint8), 0.1),
        lambda: bounds.trace_jtj(lambda x: x, torch.zeros(2, 3, dtype=torch.uint8), 2, stream()),
    ):
        with pytest.raises(TypeError, match="floats"):
            call()
