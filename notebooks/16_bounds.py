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

# %% tags=["hide-input"]
import math

import torch

from dragkit import data, load_client
from dragkit.bounds import (
    Gaussian,
    crb_mse,
    gallery_identification,
    gallery_mmse,
    maximal_leakage_bits_code,
    maximal_leakage_gaussian,
    success_bound,
    trace_jtj,
)
from dragkit.bounds.baseline import baseline_success
from dragkit.bounds.gallery import galleries
from dragkit.defenses.public import spread
from draglab.chapters import ch16_bounds as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import study
from draglab.training.augment import random_crop

device = "cuda" if torch.cuda.is_available() else "cpu"
client = load_client(at="block:6", device=device)


def stream(after=0):
    """A generator that always begins alike."""
    return torch.Generator().manual_seed(seed + after)


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
# The same simulation says how often the best attacker *finds* the sent photo in the gallery. For Gaussian noise they
# name the one with the nearest features; this rate is no bound but exact, for galleries of that size.
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
normal = torch.randn(8000, 32, generator=stream(), dtype=torch.float64)
numbers = normal * variances.sqrt()
stds = torch.logspace(0.5, -1.1, 8, dtype=torch.float64)[:, None]
posterior = variances * stds**2 / (variances + stds**2)
exact, nats = posterior.mean(1), (1 + variances / stds**2).log().sum(1) / 2


def bound(std, size):
    """The gallery bound for these numbers, in galleries of `size`."""
    options = {"size": size, "queries": 100, "generator": stream()}
    return gallery_mmse(numbers, numbers, Gaussian(float(std)), **options)


in_galleries = {size: [bound(std, size) for std in stds] for size in (100, 1000, 4000)}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Curves of the squared error against the information in nats: the exact smallest error, gallery bounds of three sizes below it that fall to zero one after the other, and the entropy bound", "classes": "dark-light"}, "figure": {"caption": "Gaussian numbers, where the truth is known: the smallest possible error, three gallery bounds and the bound through the entropy, against the information in a message. Values below 0.0001 are drawn there.", "name": "fig-bounds-gaussian"}}
chapter.numbers_figure(nats, posterior, in_galleries)

# %% tags=["hide-input"]
shares = chapter.shares_of_truth(exact, in_galleries)
record("share_of_mmse_at_weakest", shares[4000][0], atol=0.15)
record("share_of_mmse_at_strongest", shares[4000][-1], atol=0.1)
chapter.shares_table(nats, exact, shares)

# %% tags=["hide-input"]
chapter.validity_in_words(nats, exact, in_galleries)

# %% [markdown]
# This is where the bound is **vacuous**: once a message carries about $\ln N$ nats, the attacker with the gallery knows
# which photo it is, and their error is 0. Then the bound is true and says nothing. Each nat more wants a gallery $e$
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
std, left = float(stds[4]), posterior[4]
shape, doubles = numbers.shape, torch.float64
message = numbers + std * torch.randn(shape, generator=stream(1), dtype=doubles)
mean = message * variances / (variances + std**2)
draw = mean + left.sqrt() * torch.randn(shape, generator=stream(2), dtype=doubles)
ratio = float((numbers - draw).square().mean() / (numbers - mean).square().mean())
print(f"Error of a draw over error of the mean: {ratio:.2f}.")

# %% tags=["remove-cell"]
record("sampler_over_mean", ratio, atol=0.1)

# %% [markdown]
# ## Photos in place of numbers
#
# Which photos, on a page without a data set? Random crops of the four demo photos: a small population, from which we
# can draw independently. The guarantee will be about *crops of these photos*, and about no others. Galleries of 100,
# the in-house client after block 6, noise in units of the IR's spread.

# %%
count = {"ci": 400, "laptop": 2000, "colab": 8000, "paper": 8000}[budget]
wide = torch.stack(list(data.demo_images(160).values()))
which = torch.randint(0, 4, (count,), generator=stream())
crops = random_crop(wide[which], 0.1, stream())
with torch.no_grad():
    features = torch.cat([client(x.to(device)).cpu() for x in crops.split(50)])
unit = spread(client.tokens(features).double())
size = count // 4
levels = {}
for noise in (4.0, 16.0, 32.0, 64.0):
    gaussian = Gaussian(noise * unit)
    error = gallery_mmse(crops, features, gaussian, size=size, generator=stream())
    known = gallery_identification(features, gaussian, size=size, generator=stream())
    levels[noise] = error, known

# %% tags=["hide-input"]
for noise, (_, known) in levels.items():
    record(f"top1_{noise:g}", known.top(1).mean, atol=0.15)
chapter.crops_table(levels)

# %% tags=["hide-input"]
chapter.crops_in_words(levels)

# %% [markdown]
# The answers of the attacker who holds the gallery, as pictures. This is the best that *anybody* can do for the squared
# error, with the gallery in their hands: a crop where the message gives it away, a mean of crops where it does not.

# %%
gallery, sent = slice(0, size), slice(0, 4)
answers = {}
for noise in levels:
    gaussian = Gaussian(noise * unit)
    received = gaussian.send(features[sent].flatten(1), stream())
    likelihood = gaussian.log_likelihood(received, features[gallery].flatten(1))
    guess = likelihood.softmax(1).float() @ crops[gallery].flatten(1)
    answers[f"noise {noise:g}"] = guess.view(-1, *crops.shape[1:])

# %% tags=["hide-input"] mystnb={"image": {"alt": "Rows of four pictures: crops of the demo photos, and the best answers to messages about them at four strengths of noise, from the crops themselves to a blur", "classes": "dark-light"}, "figure": {"caption": "Four crops, and the best answers of who holds the gallery, at growing noise.", "name": "fig-bounds-answers"}}
record_panel("answer_weakest_noise", answers["noise 4"][:1], min_ssim=0.4)
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

# %% tags=["hide-input"]
lazy = float(levels[4.0][0].nothing.mean())
pixels = few[0].numel()
chapter.unbiased_table(trace, lazy, {noise: noise * unit for noise in levels}, pixels)

# %% tags=["hide-input"]
chapter.unbiased_in_words(math.prod(client.h_shape), pixels)

# %% [markdown]
# As a *diagnostic* it has its use: it compares cuts and photos. In figures it is dashed, and called by its name.
#
# ## Capped: bounds through the entropy
#
# Another family goes through the uncertainty that is left, $\mathrm{MSE} \ge \frac{1}{2\pi e}\, e^{2 h(X \mid Z)/d}$,
# or through the Fisher information of the prior (van Trees). They hold for all attackers. But $h(X \mid Z) \le h(X)$,
# and photos have *little* entropy: a model that stores a photo with $b$ bits per number shows that
# $h(X)/d \le b \ln 2 - \ln 256$. So even a message that says nothing gets at most this:

# %% tags=["hide-input"]
chapter.caps_table()

# %% tags=["hide-input"]
chapter.caps_in_words(lazy)

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

# %% tags=["hide-input"]
for radius, bits_per_number, _ in checked:
    record(f"leakage_bits_{radius:g}", bits_per_number, atol=1e-6)
pages.table(["r / sigma", "bits per number, formula", "by summation"], checked)

# %% tags=["hide-input"]
chapter.bits_in_words(math.prod(client.h_shape))

# %% [markdown]
# So a budget of bits is for *small* messages: it speaks while $\mathcal L < \log_2 1/\kappa$. How large is $\kappa$? It
# is measured, with guesses that were chosen on one half of the photos and tried on the other. For the crops:

# %%
thresholds = (0.01, 0.02, 0.04)
kappas = [baseline_success(crops, t, generator=stream()) for t in thresholds]

# %% tags=["hide-input"]
chapter.guesses_table(kappas)

# %% [markdown]
# The limit is over the guesses that were tried. A guess that nobody thought of may be better, so the constant is the
# one soft spot of this bound.
#
# ## Recorded: provable bound against what DRAG achieves
#
# `dragkit sweep bounds` does the same with photos: galleries of Imagenette, and attackers who know the noise. The
# photos that were attacked are in none of the galleries.

# %% tags=["hide-input"]
bounds = study("bounds")
bounds.origin

# %% tags=["hide-input"]
bounds.show(chapter.sizes_in_words)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Curves of the squared error against the noise on a logarithmic axis: the gallery bound at the bottom, the Cramer-Rao number dashed, DRAG and another attack above the bound, twice the bound, and a horizontal line for the error of the mean photo", "classes": "dark-light"}, "figure": {"caption": "Recorded: the provable lower bound on the squared error and what attacks achieve, after block 6, against the noise (each step doubles it). Bands: 95 % intervals. Dashed: unbiased attackers only, no guarantee. Values below 0.00001 and above ten times the error of the mean photo are not drawn.", "name": "fig-bounds-recorded"}}
bounds.show(chapter.bounds_figure)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two falling curves against the noise: accuracy of the server, and rate at which the best attacker finds the sent photo in the gallery", "classes": "dark-light"}, "figure": {"caption": "Recorded: what the noise costs, and how often the best of all attackers names the right photo of the gallery. Same axis as above, 95 % intervals.", "name": "fig-bounds-accuracy"}}
bounds.show(chapter.accuracy_figure)

# %% tags=["hide-input"]
bounds.show(chapter.bounds_table)

# %% [markdown]
# "New photos" are galleries of validation photos alone, which the client was not trained on. They are smaller, which by
# itself makes the bound smaller. If the two differed at equal size, training photos would be unlike others in the eyes
# of the client.

# %% tags=["hide-input"]
bounds.show(chapter.bounds_in_words)

# %% tags=["hide-input"]
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

# %% tags=["hide-input"]
bits = study("bits")
bits.origin

# %% tags=["hide-input"]
bits.show(chapter.bits_table)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two curves against the bits of a message on a logarithmic axis: the provable bound on the success of any attacker, and the success of the attacker that was tried, with a horizontal line for guessing without a message", "classes": "dark-light"}, "figure": {"caption": "Recorded: largest success that the bits allow, and success of the attacker that was tried, with its 95 % interval. One threshold of success; messages in the order of their bits.", "name": "fig-bounds-bits"}}
bits.show(chapter.bits_figure)

# %% tags=["hide-input"]
bits.show(chapter.budgets_in_words)

# %% tags=["hide-input"]
print(pages.verdict("bit-budget"))

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
chapter.summary(nats, shares, bounds, bits)

# %% [markdown]
# - Handing the attacker a gallery that holds the photo can only help them, and makes the best attack computable.
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
