# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The prior: what photos look like
#
# An attacker who searches among *all* 64 × 64 pictures is lost: nearly all of them are television snow. This chapter is about the model
# that tells photos from snow. It has never seen the photo under attack, or any message. It is a latent diffusion model, in two
# parts: an **autoencoder** that makes pictures small, and a **noise predictor** that knows which small things are pictures.
#
# **Goals.** Follow a photo into the latent space and back, and into noise and back. Draw pictures from nothing. Find out what the prior
# knows, and what it does not.
#
# **You need** to know what an autoencoder is. The notation is that of the [glossary](../book/glossary.md).
#
# > **Cost:** CPU, under one minute, 1.2 GB of memory. Measured: see the [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # the other budgets sample in more steps
seed = 0

# %% tags=["hide-input"]
import torch

from dragkit import data, load_prior, metrics, schedule
from dragkit.priors.sampling import ddim_sample
from dragkit.streams import SeededNoise
from draglab.chapters import ch02_diffusion_prior as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import study
from draglab.studies import coordinates

device = "cuda" if torch.cuda.is_available() else "cpu"

# %%
prior = load_prior(device=device)
num_steps = {"ci": 25, "laptop": 50, "colab": 100, "paper": 250}[budget]
demo = data.demo_images(prior.image_size)
names, photos = list(demo), torch.stack(list(demo.values())).to(device)
print(prior)

# %% [markdown]
# ## Part one: the autoencoder
#
# Its encoder $E$ turns a photo into a **latent** $z_0 = E(x)$, its decoder $D$ makes a photo of it again. Whatever the attack finds, it
# finds a latent and decodes it. So the round trip $D(E(x))$ is the ceiling of everything that follows: details that do not survive it
# can never be in a reconstruction.

# %%
with torch.no_grad():
    z_0 = prior.encode(photos)
    ceiling = prior.decode(z_0).clamp(0, 1)
psnr, ssim = metrics.psnr(ceiling, photos), metrics.ssim(ceiling, photos)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three rows of four pictures: the demonstration photos, the same photos encoded and decoded, and the absolute difference of the two, four times amplified", "classes": "dark-light"}, "figure": {"caption": "Photos, their round trip through the autoencoder, and the difference, amplified four times. Under the round trips: PSNR and SSIM.", "name": "fig-roundtrip"}}
record("roundtrip_psnr", psnr, atol=0.1, direction="higher", unit="dB")
record("roundtrip_ssim", ssim, atol=0.01, direction="higher")
record_panel("roundtrip", ceiling, min_ssim=0.97)
quality = [
    f"{p:.1f} dB, {s:.2f}" for p, s in zip(psnr.tolist(), ssim.tolist(), strict=True)
]
difference = ((ceiling - photos).abs() * 4).clamp(0, 1)
plots.image_rows(
    {"photo": photos, "round trip": ceiling, "4 x difference": difference},
    names,
    {"round trip": quality},
)

# %% tags=["hide-input"]
chapter.roundtrip_in_words(photos, z_0, psnr, names)

# %% [markdown]
# ## A latent, looked at
#
# The channels of a latent still have the photo's layout: each of the 8 × 8 positions stands for 8 × 8 pixels. The library scales latents
# to about unit variance, because the noise that diffusion adds has unit variance too.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Sixteen maps of eight by eight cells, one for each channel of the latent of one photo, coloured from negative to positive", "classes": "dark-light"}, "figure": {"caption": "The channels of one photo's latent.", "name": "fig-latent"}}
plots.heat_maps(
    {str(c): channel for c, channel in enumerate(z_0[names.index("astronaut")])},
    "value",
    columns=8,
)

# %% tags=["hide-input"]
record("latent_std", float(z_0.std()), atol=0.02)
chapter.latents_in_words(z_0)

# %% [markdown]
# ## Part two: noise, forwards
#
# Diffusion destroys a latent gradually. At timestep $t$, from 0 to 999, a share $\bar\alpha_t$ of the signal's variance is left, and noise has
# taken the rest:
#
# $$ z_t = \sqrt{\bar\alpha_t}\, z_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad \epsilon \sim \mathcal{N}(0, I). $$

# %%
pages.source(schedule.add_noise, schedule.scaled_linear_alpha_bar)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two curves over the timestep: the share of the signal falls from one to nearly zero, the share of the noise rises", "classes": "dark-light"}, "figure": {"caption": "How much of the latent is signal, and how much is noise.", "name": "fig-alpha-bar"}}
half = int((prior.alpha_bar < 0.5).nonzero()[0])
record("half_signal_timestep", half, atol=0)
plots.curves(
    {
        "signal's share of the variance": prior.alpha_bar,
        "noise's share": 1 - prior.alpha_bar,
    },
    xlabel="timestep t",
    ylabel="share of the variance",
    levels={f"half and half at t = {half}": 0.5},
)

# %%
noise = SeededNoise([seed] * len(photos), device=device).draw(prior.latent_shape)
times = [0, 100, 200, 400, 700, 999]
noisy = [schedule.add_noise(z_0, noise, float(prior.alpha_bar[t])) for t in times]

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rows of pictures, one for each of two photos, decoded from latents with more and more noise from left to right", "classes": "dark-light"}, "figure": {"caption": "Two photos on their way into noise: latents at six timesteps, decoded.", "name": "fig-forward"}}
with torch.no_grad():
    decoded = [prior.decode(z_t[:2]) for z_t in noisy]
plots.image_rows(plots.by_photo(decoded, names[:2]), [f"t = {t}" for t in times])

# %% [markdown]
# The decoder was made for clean latents. What it shows of noisy ones is not "a photo with noise on it" but blotches of wrong colours and
# shapes. Remember that: it is the reason for the [next chapter](03_tweedie.ipynb).
#
# ## Noise, backwards
#
# The noise predictor $\epsilon_\theta(z_t, t)$ was trained on one task: given a noisy latent, say which noise is in it. From that, pictures can
# be drawn. Start with pure noise, ask for the noise, take a little of it away, ask again. The rule for "a little" is DDIM's:
#
# $$ \hat x_0 = \frac{z_t - \sqrt{1-\bar\alpha_t}\,\epsilon_\theta}{\sqrt{\bar\alpha_t}}, \qquad
# z_{t'} = \sqrt{\bar\alpha_{t'}}\,\hat x_0 + \sqrt{1-\bar\alpha_{t'}-\sigma^2}\;\epsilon_\theta + \sigma\, \epsilon_{\text{new}}. $$
#
# $\hat x_0$ is the current guess of the finished latent, $t'$ is the next, less noisy timestep, and $\sigma$ says how much fresh noise is put in:
# $\eta = 0$ means none, $\eta = 1$ as much as the forward process would.

# %%
pages.source(ddim_sample, schedule.ddim_mean, schedule.ddim_sigma)

# %%
seeds = list(range(seed, seed + 12))
steps = []  # timestep, noisy latents and guesses of the first four pictures


def watch(t, z_t, x0_hat):
    steps.append((t, z_t[:4], x0_hat[:4]))


samples = ddim_sample(prior, seeds, num_steps, callback=watch)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Twelve pictures drawn by the prior from twelve different noises, in three rows of four", "classes": "dark-light"}, "figure": {"caption": "Twelve samples, no selection. No photo and no message was used.", "name": "fig-samples"}}
record_panel("samples", samples, min_ssim=0.9)
plots.image_grid(samples, columns=4, labels=[f"seed {s}" for s in seeds])

# %% [markdown]
# Judge for yourself how much these look like photos: this is what the attacker's imagination is made of. A prior that draws
# blurs lends its blur to every reconstruction.
#
# How do four of them come about? In the figure, the upper picture of each pair decodes $z_t$ itself, the lower one the guess $\hat x_0$.
# With the slider you can follow $\hat x_0$ step by step.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four rows of six pictures: for two samples, the decoded noisy latent and the decoded guess of the finished picture at six timesteps", "classes": "dark-light"}, "figure": {"caption": "Two samples on their way out of the noise.", "name": "fig-sampling"}}
plots.image_rows(*chapter.on_their_way(prior, steps, seeds))

# %% tags=["hide-input"]
chapter.guesses(prior, steps)

# %% [markdown]
# ## With and without fresh noise
#
# With $\eta = 0$ the picture is a function of the first noise, and large traits are settled within a few steps. With $\eta = 1$ every
# step rolls the dice again. The same seeds, both ways:

# %%
again = ddim_sample(prior, seeds[:6], num_steps)
stochastic = ddim_sample(prior, seeds[:6], num_steps, eta=1.0)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rows of six pictures from the same six starting noises, sampled without and with fresh noise", "classes": "dark-light"}, "figure": {"caption": "The same first noise, without and with fresh noise in every step.", "name": "fig-eta"}}
record_panel("samples_eta_1", stochastic, min_ssim=0.85)
plots.image_rows(
    {"eta = 0": samples[:6], "eta = 1": stochastic}, [f"seed {s}" for s in seeds[:6]]
)

# %% tags=["hide-input"]
chapter.fresh_noise_in_words(samples[:6], again, stochastic)

# %% [markdown]
# The attack uses $\eta = 1$. That freedom is where it steers: it replaces the fresh noise by noise that points towards the message. With
# $\eta = 0$ there is nothing to replace.
#
# ## What the prior knows
#
# Whoever knows photos can predict noise better than someone who does not. Someone who knows nothing about latents but their variance
# has a mean squared error of $\bar\alpha_t$. We divide by that: **1 means "knows nothing"**, and the lower, the better the pictures
# fit the prior's expectations. We try four kinds of pictures: photos, the same photos upside down, with their 8 × 8 tiles in random order,
# and snow.

# %%
kinds = chapter.kinds_of_pictures(photos, seed)
times = [50, 150, 300, 450, 600]
draws = SeededNoise(range(seed, seed + 16), device=device).draw(prior.latent_shape)


def relative_error(clean, t):
    """Mean squared error of the predicted noise; 1 is that of knowing nothing."""
    a_t = float(prior.alpha_bar[t])
    predicted = prior.predict_noise(schedule.add_noise(clean, draws, a_t), t)
    return float((predicted - draws).square().mean()) / a_t


errors = {}
with torch.no_grad():
    for kind, pictures in kinds.items():
        clean = prior.encode(pictures).repeat(4, 1, 1, 1)  # four draws of noise each
        errors[kind] = [relative_error(clean, t) for t in times]

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four curves of the relative error of the noise prediction over the timestep: photos, photos upside down, photos with shuffled tiles, and random pixels", "classes": "dark-light"}, "figure": {"caption": "Error of the predicted noise, relative to knowing nothing. Means over four pictures of each kind and four draws of noise.", "name": "fig-knows"}}
for kind, values in errors.items():
    record(f"noise_error_{kind.replace(' ', '_')}", values, rtol=0.05)
plots.curves(
    errors,
    times,
    xlabel="timestep t",
    ylabel="relative error",
    levels={"knows nothing": 1.0},
    points=True,
)

# %% tags=["hide-input"]
chapter.what_it_expects(errors)

# %% [markdown]
# What it does *not* know is anything about **this** photo, this user, or this client. And it knows only what it was shown. The card
# says what that was.
#
# ## The model's card
#
# Every model shipped with the library has one.

# %% tags=["hide-input"]
chapter.card_table()

# %% [markdown]
# How close are the samples to photos, in numbers? A longer run compares a thousand samples with validation photos in the features of another
# network (kernel distance, lower is closer). Training photos give the floor, the same prior before training the other end.

# %% tags=["hide-input"]
models = study("models")
models.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three dots with bars: the kernel distance to validation photos of training photos, of the prior's samples, and of an untrained prior's samples", "classes": "dark-light"}, "figure": {"caption": "Recorded: kernel distance to validation photos, with 1.96 standard errors.", "name": "fig-kernel-distance"}}
models.show(chapter.kernel_distances)

# %% [markdown]
# And the noise loss itself, the number that the training minimised? Its size depends on the latents, so it says nothing alone. We set it
# beside the best predictor that knows only the mean and covariance of latents (a Wiener filter), on all validation photos:

# %% tags=["hide-input"]
noise_loss = study("noise")
noise_loss.origin

# %% tags=["hide-input"]
noise_loss.show(chapter.noise_loss_table)

# %% tags=["hide-input"]
noise_loss.show(chapter.beyond_a_gaussian)

# %% [markdown]
# Is a prior with a lower noise loss a better one? Only on the same latents. The last row shows how much depends on them. It belongs to the
# *same* autoencoder: its sixteen channels were mixed by one invertible matrix, behind the encoder, and unmixed in front of the decoder, so
# that every photo comes out as before. The matrix is chosen so that a step of one size changes the picture equally much, whichever
# channel it is taken in.

# %%
pages.source(coordinates.decoder_metric, coordinates.in_coordinates)

# %% tags=["hide-input"]
noise_loss.show(chapter.other_coordinates)

# %% [markdown]
# In these coordinates, details are small numbers that drown in noise first, and noise that covers everything is easily predicted. So compare
# noise losses of priors on the same latents, or as a ratio to the Gaussian's. Which coordinates are best to *learn* in is another question;
# there is evidence that latents whose fine detail is weak, as in photos, make diffusion easier to train
# ([arXiv 2502.14831](https://arxiv.org/abs/2502.14831)).

# %% [markdown]
# ## Summary
#
# - The autoencoder's round trip is the ceiling of every reconstruction made with this prior.
# - The forward process mixes latent and noise by $\bar\alpha_t$; the noise predictor takes them apart.
# - Sampling repeats: guess the finished picture, take a step towards it. With $\eta = 1$ each step has fresh noise, and that is what an
#   attacker can replace.
# - A relative error below 1 measures how much the prior knows about a kind of picture.
#
# **What this does not show.** The prior is small and was trained on ten classes of photos. An attacker with Stable Diffusion has a better
# imagination; `LatentPrior.from_pretrained` loads it where there is a GPU.
#
# ## Exercises
#
# **1. The same in more steps.** Set `budget = "laptop"` and run again. Do the samples get better? Do they stay the same pictures?
#
# <details><summary>Solution</summary>
#
# With $\eta = 0$ sampling follows a curve from noise to picture, and more steps follow the same curve more exactly: large shapes stay,
# details settle. What the prior has not learnt does not come with more steps.
#
# </details>
#
# **2. Between two pictures.** Average the latents of two photos and decode. Then average the *noises* of two seeds, and sample from that. Why
# must the average of two noises be multiplied by $\sqrt 2$?
#
# <details><summary>Solution</summary>
#
# The average of two independent unit Gaussians has variance 1/2. The predictor has never seen noise that weak at $t = 999$, and takes the
# lack of noise for signal. Averages of clean latents decode to something like a double exposure.
#
# </details>
#
# **3. Knows nothing.** Why is $\bar\alpha_t$ the error of someone who knows only that $z_0$ has unit variance?
#
# <details><summary>Solution</summary>
#
# If $z_0$ and $\epsilon$ are independent unit Gaussians, the best guess of $\epsilon$ from $z_t$ is $\sqrt{1-\bar\alpha_t}\, z_t$, and its
# error is $1 - (1-\bar\alpha_t) = \bar\alpha_t$. Pictures whose latents are larger than that can have a relative error above 1.
#
# </details>
