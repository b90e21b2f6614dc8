# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How much can leak at most
#
# A failed attack proves little: perhaps a better one succeeds tomorrow. A **guarantee** is a statement about every
# attacker, also the ones that nobody has thought of. This chapter derives two that a laptop can compute, checks them
# where the truth is known, shows where they say nothing, and draws one against what DRAG achieves.
#
# **Goals.** Know what a guarantee has to say: about whom, about what, on average over what. Derive the gallery bound,
# and see when it is tight and when it is empty. Derive a bit budget. Recognise two famous numbers that are no
# guarantees here: the Cramér-Rao bound, and bounds through the entropy of photos.
#
# **You need** the [chapter on noise](11_noise.ipynb), and from the [baselines](08_baselines.ipynb) the
# posterior mean.
#
# > **Cost:** CPU, less than half a minute (the client on 400 crops, small matrices), 1 GB of memory. Measured: see the
# > [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # how many crops and galleries
seed = 0

# %%
import math

import torch

from dragkit import data, zoo
from dragkit.bounds import (
    Gaussian,
    composed_bits,
    crb_mse,
    entropy_cap_psnr,
    gallery_identification,
    gallery_mmse,
    maximal_leakage_bits_code,
    maximal_leakage_gaussian,
    shuffle_bits,
    success_bound,
    trace_jtj,
)
from dragkit.bounds.baseline import baseline_success
from dragkit.bounds.gallery import galleries
from dragkit.defenses.public import spread
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.training.augment import random_crop

device = "cuda" if torch.cuda.is_available() else "cpu"
client = zoo.load_client(at="block:6", device=device)


def stream():
    """A generator that always begins alike."""
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## The gallery bound
#
# Let photos come from a distribution $P$, and let the message be $Z = f_c(X) + \sigma\epsilon$. How small can
# $\mathbb{E}\lVert X - \hat x(Z)\rVert^2$ be, for the best of all functions $\hat x$? Nobody knows $P$. But we can draw
# from it:
#
# 1. Draw a gallery $\mathcal{G} = (x_1, \dots, x_N)$ from $P$, choose $I$ at random, send the photo $X = x_I$. Then $X$
#    is a photo like any other.
# 2. An attacker who is *given the gallery* can ignore it. So it can only help: $\min_{\hat x}\, \mathbb{E}\lVert X -
#    \hat x(Z)\rVert^2 \ge \min_{\hat x}\, \mathbb{E}\lVert X - \hat x(Z, \mathcal{G})\rVert^2$.
# 3. With the gallery, the best answer is known. It is the posterior mean over $N$ candidates,
#    $\sum_j w_j x_j$ with $w_j \propto \exp(-\lVert Z - f_c(x_j)\rVert^2 / 2\sigma^2)$.
# 4. Its error can be simulated: send, weigh, compare, and average over messages and galleries.
#
# Nothing about attacker, prior or client was assumed. That is all there is to it:

# %%
pages.source(gallery_mmse, galleries, Gaussian.log_likelihood)

# %% [markdown]
# The same simulation says how often the best attacker *finds* the sent photo in the gallery. For Gaussian noise he
# names the one with the nearest features; this rate is no bound but exact, for galleries of that size.
#
# ## Where the truth is known
#
# Let the "photo" be 32 independent Gaussian numbers with variances $1/k^2$, as image spectra fall, and the client the
# identity. Then the smallest error, and the information in a message, have formulas:
#
# $$ \mathrm{MMSE} = \frac1d \sum_k \frac{\lambda_k \sigma^2}{\lambda_k + \sigma^2}, \qquad
# I(X; Z) = \frac12 \sum_k \ln\Big(1 + \frac{\lambda_k}{\sigma^2}\Big). $$

# %%
variances = 1 / torch.arange(1, 33, dtype=torch.float64) ** 2
numbers = torch.randn(8000, 32, generator=stream(), dtype=torch.float64) * variances.sqrt()
stds = torch.logspace(0.5, -1.1, 8, dtype=torch.float64)[:, None]
posterior = variances * stds**2 / (variances + stds**2)
exact, nats = posterior.mean(1), (1 + variances / stds**2).log().sum(1) / 2
sizes = (100, 1000, 4000)
found = {
    size: [
        gallery_mmse(numbers, numbers, Gaussian(float(std)), size=size, queries=100, generator=stream()) for std in stds
    ]
    for size in sizes
}

# %% mystnb={"image": {"alt": "Curves of the squared error against the information in nats: the exact smallest error, gallery bounds of three sizes below it that fall to zero one after the other, and the entropy bound", "classes": "dark-light"}, "figure": {"caption": "Gaussian numbers, where the truth is known: the smallest possible error, three gallery bounds and the bound through the entropy, against the information in a message. Values below 0.0001 are drawn there.", "name": "fig-bounds-gaussian"}}
entropy_bound = posterior.log().mean(1).exp()
plots.curves(
    {
        "smallest possible": exact,
        **{f"gallery, N = {size}": [max(float(b.values.mean()), 1e-4) for b in found[size]] for size in sizes},
        "entropy": entropy_bound,
    },
    nats,
    xlabel="information in a message (nats)",
    ylabel="mean squared error",
    points=True,
    log=True,
)

# %%
table = [
    [f"{float(i):.1f}", float(truth), *(float(found[size][j].values.mean() / truth) for size in sizes)]
    for j, (i, truth) in enumerate(zip(nats, exact, strict=True))
]
record("share_of_mmse_at_weakest", table[0][-1], atol=0.15)
record("share_of_mmse_at_strongest", table[-1][-1], atol=0.1)
pages.table(["nats", "smallest possible MSE", *(f"bound / truth, N = {size}" for size in sizes)], table)

# %%
above = [size for size in sizes for b, truth in zip(found[size], exact, strict=True) if b.interval().low > truth]
print(
    "No bound lies above the truth by its interval."
    if not above
    else f"Bounds above the truth by their intervals, for N = {above}: two galleries have too narrow an interval."
)
for size in sizes:
    useful = [float(i) for i, b, truth in zip(nats, found[size], exact, strict=True) if b.values.mean() > truth / 2]
    print(
        f"N = {size}: at least half of the truth up to {max(useful, default=0):.1f} nats; ln N is {math.log(size):.1f}."
    )

# %% [markdown]
# This is where the bound is **vacuous**: once a message carries about $\ln N$ nats, the attacker with the gallery knows
# which photo it is, and his error is 0. Then the bound is true and says nothing. Each nat more wants a gallery $e$
# times as large.
#
# ### Twice, for somebody who draws
#
# A diffusion attack does not answer the mean. At its best it draws *one* photo $X'$ from the posterior. Given the
# message, $X$ and $X'$ are independent draws from the same distribution, so
#
# $$ \mathbb{E}\lVert X - X'\rVert^2 = 2\, \mathbb{E}\lVert X - \mathbb{E}[X \mid Z]\rVert^2 . $$
#
# Twice the bound is what such an attacker has at least, and 3 dB the price of a sharp picture. It is no bound for others.

# %%
middle = 4
std, spread_left = float(stds[middle]), posterior[middle]
heard = numbers + std * torch.randn(numbers.shape, generator=stream().manual_seed(seed + 1), dtype=numbers.dtype)
mean = heard * variances / (variances + std**2)
drawn = mean + spread_left.sqrt() * torch.randn(mean.shape, generator=stream().manual_seed(seed + 2), dtype=mean.dtype)
ratio = float((numbers - drawn).square().mean() / (numbers - mean).square().mean())
record("sampler_over_mean", ratio, atol=0.1)
print(f"Error of a draw over error of the mean: {ratio:.2f}.")

# %% [markdown]
# ## Photos in place of numbers
#
# Which photos, on a page without a data set? Random crops of the four demo photos: a small population, from which we
# can draw independently. The guarantee will be about *crops of these photos*, and about no others. Galleries of 100,
# the in-house client after block 6, noise in units of the IR's spread.

# %%
count = {"ci": 400, "laptop": 2000, "colab": 8000, "paper": 8000}[budget]
wide = torch.stack(list(data.demo_images(160).values()))
crops = random_crop(wide[torch.randint(0, 4, (count,), generator=stream())], 0.1, stream())
with torch.no_grad():
    features = torch.cat([client(x.to(device)).cpu() for x in crops.split(50)])
unit = spread(client.tokens(features).double())
noises = (4.0, 16.0, 32.0, 64.0)
size = count // 4
levels = {
    noise: (
        gallery_mmse(crops, features, Gaussian(noise * unit), size=size, generator=stream()),
        gallery_identification(features, Gaussian(noise * unit), size=size, generator=stream()),
    )
    for noise in noises
}
rows = []
for noise, (bound, known) in levels.items():
    record(f"top1_{noise:g}", known.top(1).mean, atol=0.15)
    rows.append(
        [
            f"{noise:g}",
            float(bound.nats.mean()),
            f"{known.top(1).mean:.0%}",
            float(bound.values.mean()),
            float(2 * bound.values.mean()),
            float(bound.nothing.mean()),
        ]
    )
header = ["noise", "nats, at least", "found in the gallery", "bound on the MSE", "twice", "MSE of the mean crop"]
pages.table(header, rows)

# %%
empty = [f"{noise:g}" for noise, (bound, _) in levels.items() if bound.values.mean() < 0.01 * bound.nothing.mean()]
strong = [f"{noise:g}" for noise, (bound, _) in levels.items() if bound.values.mean() > 0.5 * bound.nothing.mean()]
print(f"Vacuous (below 1 % of the error of the mean crop) at noise {', '.join(empty) or 'none of these'}.")
print(f"Above half of the error of the mean crop at noise {', '.join(strong) or 'none of these'}.")
print(f"Chance of finding the crop by guessing: {levels[noises[0]][1].chance(1):.0%}.")

# %% [markdown]
# The answers of the attacker who holds the gallery, as pictures. This is the best that *anybody* can do for the squared
# error, with the gallery in his hands: a crop where the message gives it away, a mean of crops where it does not.

# %% mystnb={"image": {"alt": "Rows of four pictures: crops of the demo photos, and the best answers to messages about them at four strengths of noise, from the crops themselves to a blur", "classes": "dark-light"}, "figure": {"caption": "Four crops, and the best answers of who holds the gallery, at growing noise.", "name": "fig-bounds-answers"}}
held, sent = slice(0, size), slice(0, 4)
answers = {}
for noise in noises:
    mechanism = Gaussian(noise * unit)
    message = mechanism.send(features[sent].flatten(1), stream())
    weights = mechanism.log_likelihood(message, features[held].flatten(1)).softmax(1).float()
    answers[f"noise {noise:g}"] = (weights @ crops[held].flatten(1)).view(-1, *crops.shape[1:])
record_panel("answer_weakest_noise", answers[f"noise {noises[0]:g}"][:1], min_ssim=0.4)
plots.image_rows({"crop": crops[sent], **answers})

# %% [markdown]
# Whoever reads a guarantee should ask four things. For the gallery bound the answers are:
#
# - *About which attackers?* All, with any prior and any amount of computing.
# - *About what?* Mean squared error of the picture, or of any features that one puts in the place of pixels. A high
#   error does not exclude that something else leaks.
# - *Over what?* On average over photos like those in the gallery. One photo may be much easier.
# - *How sure?* It is an estimate, with an interval over galleries that share no photo.
#
# ## Not a guarantee: Cramér-Rao
#
# For every **unbiased** attacker (Hannun et al., arXiv 2102.11673; Guo et al., arXiv 2201.12383),
#
# $$ \tfrac1d\, \mathbb{E}\lVert \hat x - x\rVert^2 \ge \frac{\sigma^2 d}{\mathrm{tr}(J^\top J)} = \frac{1}{\mathrm{dFIL}}, $$
#
# with the Jacobian $J$ of the client: *diagonal Fisher information leakage*. It is quick, and per photo. But unbiased
# means right on average for *every* picture, also for those that are no photos. No attacker with a prior is that. The
# laziest of all, who always answers the mean photo, shows it:

# %%
pages.source(trace_jtj, crb_mse)

# %%
few = crops[:2].to(device)
trace, error = trace_jtj(client, few, 8, stream())
lazy = float(levels[noises[0]][0].nothing.mean())
rows = []
for noise in noises:
    unbiased = float(crb_mse(trace, noise * unit, few[0].numel()).mean())
    beaten = "violated by the mean crop" if lazy < unbiased else "not violated by it"
    rows.append([f"{noise:g}", f"{unbiased:.2g}", f"{lazy:.3f}", beaten])
pages.table(["noise", "Cramér-Rao (MSE)", "MSE of the mean crop", "so the number is"], rows)

# %%
print(
    f"The message has {client.h_shape[0] * client.h_shape[1]:,} numbers, the photo {few[0].numel():,}: "
    + (
        "there is no unbiased attacker at all, whom the number could be about."
        if math.prod(client.h_shape) < few[0].numel()
        else "an unbiased attacker may exist."
    )
)

# %% [markdown]
# As a *diagnostic* it has its use: it compares cuts and photos. In figures it is dashed, and called by its name.
#
# ## Capped: bounds through the entropy
#
# Another family goes through the uncertainty that is left, $\mathrm{MSE} \ge \frac{1}{2\pi e}\, e^{2 h(X \mid Z)/d}$,
# or through the Fisher information of the prior (van Trees). They hold for all attackers. But $h(X \mid Z) \le h(X)$,
# and photos have *little* entropy: a model that stores a photo with $b$ bits per number shows that
# $h(X)/d \le b \ln 2 - \ln 256$. So even a message that says nothing gets at most this:

# %%
mean_psnr = -10 * math.log10(lazy)
pages.table(
    ["bits per number", "cannot exclude a PSNR (dB) of"], [[b, entropy_cap_psnr(b)] for b in (2.6, 3.0, 3.3, 3.6)]
)

# %%
cap = entropy_cap_psnr(3.6)
print(
    f"The mean crop, an answer without any message, has {mean_psnr:.0f} dB; the weakest of these caps is at {cap:.0f} dB."
)

# %% [markdown]
# A certificate that cannot tell silence from an almost perfect picture certifies nothing. The Gaussian figure above
# shows the same: the entropy curve starts far below the truth. It may serve as a training loss.
#
# ## Bit budgets
#
# The gallery bound is an average. For a guarantee that holds for every prior and every measure of success, count bits.
# Let $\kappa$ be the largest probability of success that a guess has *without* the message. With it, success has
# probability
#
# $$ \gamma = \int \max_g P(\text{success of } g,\, z)\, dz \;\le\; \int \sup_x p(z \mid x)\, dz \cdot \kappa = \kappa\, 2^{\mathcal L}, $$
#
# because $p(z \mid x)$ never exceeds its supremum over $x$. $\mathcal L$ is the **maximal leakage** (Issa et al., arXiv
# 1807.07878). A code of $B$ bits has $\mathcal L \le B$. For $k$ numbers clipped to $[-r, r]$ and sent with Gaussian
# noise it is $k \log_2\!\big(1 + 2r/(\sigma\sqrt{2\pi})\big)$.

# %%
pages.source(maximal_leakage_gaussian, maximal_leakage_bits_code, success_bound)

# %% [markdown]
# The integral, checked by summation: the largest density over the box is the peak within it, and the tail of the nearer
# end outside.

# %%
z = torch.linspace(-12, 12, 20001, dtype=torch.float64)
checked = []
for radius in (0.5, 1.0, 2.0):
    nearest = z.clamp(-radius, radius)
    density = torch.exp(-((z - nearest) ** 2) / 2) / math.sqrt(2 * math.pi)
    by_sum = math.log2(float(torch.trapezoid(density, z)))
    checked.append([radius, maximal_leakage_gaussian(radius, 1), by_sum])
    record(f"leakage_bits_{radius:g}", checked[-1][1], atol=1e-6)
pages.table(["r / sigma", "bits per number, formula", "by summation"], checked)

# %%
whole = maximal_leakage_gaussian(2.0, math.prod(client.h_shape))
print(
    f"All {math.prod(client.h_shape):,} numbers of the IR, clipped at two deviations of the noise: {whole:,.0f} bits."
)
print(
    f"Eight numbers: {maximal_leakage_gaussian(2.0, 8):.1f} bits; heard 16 times: {composed_bits(maximal_leakage_gaussian(2.0, 8), 16):.0f}."
)
print(f"What shuffling 64 tokens can hide at most: {shuffle_bits(64):.0f} bits.")

# %% [markdown]
# So a budget of bits is for *small* messages: it speaks while $\mathcal L < \log_2 1/\kappa$. How large is $\kappa$? It
# is measured, with guesses that were chosen on one half of the photos and tried on the other. For the crops:

# %%
rows = []
for threshold in (0.01, 0.02, 0.04):
    kappa = baseline_success(crops, threshold, generator=stream())
    bits_left = -math.log2(kappa.upper_any)
    rows.append([f"MSE <= {threshold}", kappa.rate, kappa.upper_any, f"{bits_left:.1f}"])
pages.table(["success means", "success of the best guess", "upper limit, all guesses", "bits that may leak"], rows)

# %% [markdown]
# The limit is over the guesses that were tried. A guess that nobody thought of may be better, so the constant is the
# one soft spot of this bound.
#
# ## Recorded: provable bound against what DRAG achieves
#
# `dragkit sweep bounds` does the same with photos: galleries of Imagenette, and attackers who know the noise. The
# photos that were attacked are in none of the galleries.

# %%
bounds = pages.recorded("bounds")
print(pages.origin(bounds) if bounds else pages.missing("bounds"))
levels = sorted(bounds["rows"].values(), key=lambda level: level["noise"]) if bounds else []
octaves = [math.log2(level["noise"]) for level in levels]
if bounds:
    print(
        f"Galleries of {bounds['size']:,} photos, IR of {bounds['ir_numbers']:,} numbers, photos of {bounds['pixel_numbers']:,}."
    )
labels = list(dict.fromkeys(label for level in levels for label in level["attacks"]))
everywhere = [label for label in labels if all(label in level["attacks"] for level in levels)]
second = next((label for label in ("inverse network", "rMLE") if label in everywhere), "")


# %% mystnb={"image": {"alt": "Curves of the squared error against the noise on a logarithmic axis: the gallery bound at the bottom, the Cramer-Rao number dashed, DRAG and another attack above the bound, twice the bound, and a horizontal line for the error of the mean photo", "classes": "dark-light"}, "figure": {"caption": "Recorded: the provable lower bound on the squared error and what attacks achieve, after block 6, against the noise (each step doubles it). Bands: 95 % intervals. Dashed: unbiased attackers only, no guarantee. Values below 0.00001 and above ten times the error of the mean photo are not drawn.", "name": "fig-bounds-recorded"}}
def drawn_values(values):
    """Values that the figure shows; NaN for the others."""
    top = 10 * max(level["prior_variance"] for level in levels)
    return [value if 1e-5 <= value <= top else math.nan for value in values]


def provable():
    """Arguments of `plots.curves`: bounds and attacks over the noise."""
    tried = {
        label: [level["attacks"][label]["ci"] for level in levels] for label in ("DRAG", second) if label in everywhere
    }
    cells = {
        "gallery bound": [level["bound"] for level in levels],
        "Cramér-Rao, unbiased only": [level["crb_unbiased_only"]["ci"] for level in levels],
        **tried,
        "2 x bound": [level["posterior_sampler_bound"] for level in levels],
    }
    ends = {label: [drawn_values(column) for column in zip(*rows, strict=True)] for label, rows in cells.items()}
    return {
        "lines": {label: columns[0] for label, columns in ends.items()},
        "bands": {label: (columns[1], columns[2]) for label, columns in ends.items()},
        "levels": {"mean photo": sum(level["prior_variance"] for level in levels) / len(levels)},
        "x": octaves,
        "points": True,
        "log": True,
    }


label_noise = "noise: log2 of its deviation in units of the IR's spread"
plots.curves(**provable(), xlabel=label_noise, ylabel="mean squared error") if bounds else None

# %% mystnb={"image": {"alt": "Two falling curves against the noise: accuracy of the server, and rate at which the best attacker finds the sent photo in the gallery", "classes": "dark-light"}, "figure": {"caption": "Recorded: what the noise costs, and how often the best of all attackers names the right photo of the gallery. Same axis as above, 95 % intervals.", "name": "fig-bounds-accuracy"}}
sides = {"accuracy of the server": "accuracy", "sent photo found in the gallery": "top1"}
plots.curves(
    {label: [level[key][0] for level in levels] for label, key in sides.items()},
    octaves,
    bands={label: tuple([level[key][end] for level in levels] for end in (1, 2)) for label, key in sides.items()},
    xlabel=label_noise,
    ylabel="share",
    points=True,
) if bounds else None


# %%
def interval(values):
    """(mean, low, high) as text."""
    return "{:.4f} [{:.4f}, {:.4f}]".format(*values)


header = [
    "noise",
    "accuracy",
    "nats, at least",
    "found",
    "gallery bound",
    "2 x bound",
    "bound, new photos",
    *labels,
]
rows = [
    [
        f"{level['noise']:g}",
        f"{level['accuracy'][0]:.1%}",
        f"{level['nats']:.1f} of {math.log(level['size']):.1f}",
        f"{level['top1'][0]:.1%}",
        interval(level["bound"]),
        f"{level['posterior_sampler_bound'][0]:.4f}",
        f"{level['new_photos_bound'][0]:.4f}",
        *(interval(level["attacks"][label]["ci"]) if label in level["attacks"] else "-" for label in labels),
    ]
    for level in levels
]
pages.table(header, rows) if bounds else None

# %% [markdown]
# "New photos" are galleries of validation photos alone, which the client was not trained on. They are smaller, which by
# itself makes the bound smaller. If the two differed at equal size, training photos would be unlike others in the eyes
# of the client.


# %%
def named(chosen):
    """Noises of some levels as text."""
    return ", ".join(format(level["noise"], "g") for level in chosen) or "none of these"


def read_bounds():
    """Where the bound speaks, what is left of the server there, and how near attacks come."""
    first = levels[0]["accuracy"][0]
    silent = [level for level in levels if level["bound"][0] < 0.01 * level["prior_variance"]]
    print(f"Vacuous (below 1 % of the mean photo's error) at noise {named(silent)}.")
    speaks = next((level for level in levels if level["bound"][1] >= 0.1 * level["prior_variance"]), None)
    if speaks:
        print(
            f"From noise {speaks['noise']:g} on it excludes an error below a tenth of the mean photo's. There the server is right "
            f"about {speaks['accuracy'][0]:.1%} of the photos, against {first:.1%} at the weakest noise."
        )
        kept = speaks["accuracy"][0] > first - 0.05
        print(
            "So the guarantee is to be had for less than five points of accuracy."
            if kept
            else "So this guarantee costs more than five points: what works for the server here is not yet provably safe."
        )
    else:
        print("At no noise does it exclude an error below a tenth of the mean photo's.")
    for level in levels:
        if level in silent:
            continue
        best = min(level["attacks"], key=lambda label: level["attacks"][label]["ci"][0])
        drag = level["attacks"]["DRAG"]["ci"][0]
        print(
            f"Noise {level['noise']:g}: DRAG has {drag / level['bound'][0]:.1f} times the bound, {drag / level['posterior_sampler_bound'][0]:.1f} times "
            f"what a perfect sampler has at least. Nearest: {best}, {level['attacks'][best]['ci'][0] / level['bound'][0]:.2f} times."
        )
    violated = [v for v in levels if v["attacks"]["mean training photo"]["ci"][0] < v["crb_unbiased_only"]["ci"][0]]
    print(f"The mean training photo is below the Cramér-Rao number at noise {named(violated)}.")


if bounds:
    read_bounds()
print(pages.verdict("gallery-bound-holds"))

# %% [markdown]
# Between bound and attack there is a gap, and it has two possible reasons: the gallery is too small, or the attack is
# not the best. Where the bound is 0 it is certainly the first. An error above that of the mean photo is no safety: it
# says that this attack is worse than none *by this measure*.
#
# ## Recorded: bit budgets
#
# Small messages: a few principal components of CLS, as a code or in a box with noise. The attacker holds the training
# photos and answers the guess that is most often a success, given the message.

# %%
bits = pages.recorded("bits")
print(pages.origin(bits) if bits else pages.missing("bits"))
tried = bits["rows"] if bits else {}
speaking = {label: row for label, row in tried.items() if row["bound"] < 1}
pages.table(
    ["message, success", "bits", "kappa, limit", "bound", "attacker"],
    [
        [label, f"{row['bits']:.1f}", f"{row['kappa_limit']:.4f}", f"{row['bound']:.3f}", interval(row["achieved"])]
        for label, row in speaking.items()
    ],
) if bits else None

# %% mystnb={"image": {"alt": "Two curves against the bits of a message on a logarithmic axis: the provable bound on the success of any attacker, and the success of the attacker that was tried, with a horizontal line for guessing without a message", "classes": "dark-light"}, "figure": {"caption": "Recorded: largest success that the bits allow, and success of the attacker that was tried, with its 95 % interval. One threshold of success; messages in the order of their bits.", "name": "fig-bounds-bits"}}
thresholds = bits["thresholds"] if bits else []
most = max(thresholds, key=lambda t: sum(row["threshold"] == t for row in speaking.values()), default=0)
ordered = sorted((row for row in tried.values() if row["threshold"] == most), key=lambda row: row["bits"])
plots.curves(
    {f"bound, MSE <= {most}": [row["bound"] for row in ordered], "attacker": [row["achieved"][0] for row in ordered]},
    [row["bits"] for row in ordered],
    bands={"attacker": tuple([max(row["achieved"][end], 1e-5) for row in ordered] for end in (1, 2))},
    levels={"kappa": ordered[0]["kappa_limit"]},
    xlabel="bits leaked at most",
    ylabel="probability of success",
    points=True,
    log=True,
) if ordered and min(row["achieved"][0] for row in ordered) > 0 else None

# %%
if bits:
    silent = len(tried) - len(speaking)
    over = [label for label, row in speaking.items() if row["achieved"][2] > row["bound"]]
    print(f"Of {len(tried)} pairs of message and threshold {silent} have a bound of 1, which says nothing.")
    print(f"Bounds that the attacker's interval reaches above: {', '.join(over) or 'none'}.")
print(pages.verdict("bit-budget"))

# %% [markdown]
# ## Summary

# %%
print(
    f"On Gaussian numbers the largest gallery gives {table[0][-1]:.2f} of the truth at {table[0][0]} nats and {table[-1][-1]:.2f} at {table[-1][0]} nats."
)
if bounds:
    weak, hard = levels[0], levels[-1]
    print(
        f"On photos the bound is {weak['bound'][0] / weak['prior_variance']:.0%} of the mean photo's error at noise {weak['noise']:g} "
        f"(accuracy {weak['accuracy'][0]:.0%}) and {hard['bound'][0] / hard['prior_variance']:.0%} at noise {hard['noise']:g} (accuracy {hard['accuracy'][0]:.0%})."
    )
else:
    print("The bounds on photos have not been recorded here, so this page has no verdict about DRAG.")
if bits:
    print(f"Bit budgets say something for {len(speaking)} of {len(tried)} pairs of small message and threshold.")

# %% [markdown]
# - Handing the attacker a gallery that holds the photo can only help him, and makes the best attack computable.
# - The bound is tight while a message carries few nats, and empty beyond $\ln N$.
# - A perfect sampler has twice the smallest error. A learned mean aims at the bound, a sharp picture at twice.
# - Bits bound success for all priors and all measures, for messages of a few numbers.
# - Cramér-Rao is about attackers that do not exist here. Entropy bounds are capped where pictures are almost perfect.
#
# **What stops it?** Provably: noise so strong that a message tells few nats, or a message of few bits. Everything in
# between may be safe, but nobody has shown it. A gap between a bound and an attack is an open question, not a result.
#
# **What this does not show.** The gallery bound averages over photos; an unusual photo may leak far more. It is about
# squared error, and a reconstruction with a large one can still show who is in it; the identification rate is closer to
# that. It is for mechanisms with a likelihood that can be computed. Nothing here is a certificate for a product: the
# photos are of ten classes, and the population of a real one is another.
#
# ## Exercises
#
# **1. More than pixels.** `gallery_mmse(targets, ...)` takes any representation as targets. Which one would you choose
# to bound what is learned about the *class*, and what does the bound say then?
#
# <details><summary>Solution</summary>
#
# One-hot labels `(P, 10)`. The best answer is the vector of class probabilities, and the bound is on its squared error
# (the Brier score, divided by ten). The server works on the same message, so a bound far from 0 means that the server
# cannot know the class either: here utility and leakage are the same number.
#
# </details>
#
# **2. Repeated messages.** How does the gallery bound change if the photo is sent $k$ times with fresh noise? And the
# bit budget?
#
# <details><summary>Solution</summary>
#
# The mean of $k$ messages holds all that they say about the photo, so it is the bound for `Gaussian(std / sqrt(k))`.
# Bits add up: `composed_bits(bits, k)`, so $\gamma \le \kappa\, 2^{k \mathcal L}$, which is cautious for noise. A code
# without randomness repeats itself and leaks no more.
#
# ```python
# for k in (1, 4, 16):
#     print(k, gallery_mmse(crops, features, Gaussian(16 * unit / k**0.5), size=100, generator=stream()).interval())
# ```
#
# </details>
#
# **3. One photo twice.** By mistake the data set holds every photo twice. Is the bound still valid? And the rate of
# identification?
#
# <details><summary>Solution</summary>
#
# The galleries are no longer independent draws. Two copies in one gallery share their weight, which leaves the
# posterior mean where it is: it is as if the gallery were smaller, and a smaller gallery gives a smaller bound. It
# stays valid, and is weaker. The rate falls, because nobody can tell the copies apart; ties are broken at random.
# Duplicates make identification look safer than it is.
#
# </details>
