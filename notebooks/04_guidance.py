# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Guidance: from classifier guidance to DSG
#
# The [last chapter](03_tweedie.ipynb) ended with a gradient: it says how the noisy latent should change so that the
# finished picture would fit the message better. The prior says something else: how the latent should change to become
# a photo. This chapter is about the sum of the two, and about how much of each.
#
# **Goals.** See how a gradient enters a diffusion step, in four ways that are four settings of one sampler.
# Understand the sphere that gives DSG its name, and find out what it does not guarantee. Know what Adam does to the
# direction. Recognise a guidance rate that is too low or too high.
#
# **You need** the [prior](02_diffusion_prior.ipynb) (the DDIM step and its fresh noise) and [Tweedie's
# formula](03_tweedie.ipynb).
#
# > **Cost:** CPU, about one minute (ten short attacks on two photos), 1.2 GB of memory. Measured: see the
# > [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # how many steps each of the short attacks may take
seed = 0

# %% tags=["hide-input"]
import math

import torch

from dragkit import (
    DragConfig,
    Message,
    data,
    drag,
    load_client,
    load_prior,
    metrics,
    schedule,
)
from dragkit.attacks import guidance
from dragkit.attacks.drag import Step, guided_step
from dragkit.streams import SeededNoise
from draglab.chapters import ch04_guidance as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel

device = "cuda" if torch.cuda.is_available() else "cpu"

# %%
client = load_client(at="block:9", device=device)
prior = load_prior(device=device)
demo = data.demo_images(prior.image_size)
names = ["astronaut", "coffee"]
photos = torch.stack([demo[name] for name in names]).to(device)
with torch.no_grad():
    h = client(photos)

num_steps = {"ci": 40, "laptop": 100, "colab": 100, "paper": 250}[budget]
base = DragConfig(num_steps=num_steps, recurrence=1)  # going back is the next chapter's

# %% [markdown]
# ## A classifier at the wheel
#
# A diffusion model draws *some* picture, because its noise predictor stands for the slope of the density of all
# pictures: $\epsilon_\theta = -\sqrt{1-\bar\alpha_t}\, \nabla \log p(z_t)$. Suppose we want a picture of a cat, and
# have a classifier that gives the probability of "cat" for a noisy latent. Bayes' rule, differentiated, is a sum:
#
# $$ \nabla \log p(z_t \mid \text{cat}) = \nabla \log p(z_t) + \nabla \log p(\text{cat} \mid z_t). $$
#
# Put that in place of $\nabla \log p(z_t)$, and the noise predictor becomes
#
# $$ \tilde\epsilon = \epsilon_\theta - s \sqrt{1-\bar\alpha_t}\; \nabla \log p(\text{cat} \mid z_t). $$
#
# This is **classifier guidance** (Dhariwal and Nichol, 2021). Bayes' rule says $s = 1$; in practice $s$ is larger. It
# has a price: the classifier has to be trained on noisy pictures, at every noise level.
#
# **Universal guidance** (UGD, Bansal et al., 2024) gets around it. Use any network that was trained on clean
# pictures, apply it to Tweedie's estimate, and let a distance take the place of the probability. With
# $p(h \mid z_t) \propto \exp\!\big(-s\, d(f_c(D(\hat x_0)), h)\big)$ an IR distance is as good as a classifier, and
# $s$ is the **guidance rate**:

# %%
pages.source(guidance.guided_noise)

# %% [markdown]
# Note what has become of Bayes' rule. Nobody knows that this is the probability of $h$: the distance is an *energy*
# that somebody chose, and $\hat x_0$ is one guess instead of all latents that fit. What follows are ways to take a
# step downhill on that energy without leaving the pictures, and they are judged by results.
#
# ## Four ways to take the step
#
# A DDIM step goes from $z_t$ to a mean, and adds noise: $z_{t'} = \mu + \sigma\,\epsilon$. With $g$ the direction
# uphill, the four differ in *where* they put it:
#
# | `step=` | changes | formula |
# |---|---|---|
# | `"ugd"` (arXiv 2302.07121) | the predicted noise, before the step | $\tilde\epsilon = \epsilon_\theta + s\sqrt{1-\bar\alpha_t}\; g$ |
# | `"dps"` (arXiv 2209.14687) | the result of the step | $z_{t'} = \mu + \sigma\epsilon - s\, g$ |
# | `"mpgd"` (arXiv 2311.16424) | the estimate, with $g$ taken *there* | $\hat x_0 \leftarrow \hat x_0 - s\, g$ |
# | `"spherical"`, DSG (arXiv 2402.03201) | the fresh noise | $z_{t'} = \mu + r \cdot \text{unit}\big((1-w)\,\sigma\epsilon - w\, r\, g/\lVert g\rVert\big)$ |
#
# Here is the function that decides, and the two short ones:

# %%
pages.source(guided_step, guidance.gradient_step, guidance.manifold_step)

# %% [markdown]
# To compare them, each needs a rate of its own, since $s$ means something else in each. A small search on four
# *training* photos (40 turns, rates about twice as large each time, the smallest IR distance wins) chose these. In
# all four the gradient is clipped and goes through Adam first, as in DRAG; the published versions of the other three
# use it as it is, each with its own scale.

# %%
rates = {"spherical": 0.5, "dps": 0.5, "ugd": 2.0, "mpgd": 1.0}


def attack(config):
    """A short attack, and what was noted after every turn of it."""
    notes = chapter.Notes()
    return drag(Message(h, client), prior, config, seeds=seed, callback=notes), notes


ways = {}
for step, rate in rates.items():
    ways[step], _ = attack(base.with_(step=step, guidance_rate=rate))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Five rows of two pictures: the photos, and reconstructions with spherical steps, DPS, universal guidance and MPGD", "classes": "dark-light"}, "figure": {"caption": "One sampler, four ways to work the direction in. Under each picture: MS-SSIM to the photo and IR distance to the message.", "name": "fig-four-steps"}}
for step, run in ways.items():
    record(f"distance_{step}", run.distance, atol=0.06)
plots.image_rows(
    {"photo": photos, **chapter.rows(ways)}, names, chapter.captions(ways, photos)
)

# %% tags=["hide-input"]
chapter.by_distance(ways, num_steps)

# %% [markdown]
# ## Where the gradient is taken
#
# UGD, DPS and DSG differentiate at $z_t$: back through client, decoder *and* noise predictor. MPGD differentiates at
# $\hat x_0$, and the predictor runs forwards only. What does that save here?

# %% tags=["hide-input"]
chapter.price_of_a_turn(ways, prior, client, device)

# %% [markdown]
# The saving depends on who is expensive, and parameters are a poor guide to that: the decoder's few are applied at
# every pixel. With Stable Diffusion at 512 pixels the *decoder* takes about three quarters of a turn's
# multiplications, so leaving out the way back through the predictor would save about an eighth (counted, not
# measured). It is not free either: the predictor's way back lets the prior translate a wish about pixels into a move
# of the noisy latent. In the published logs of the paper on Adam that is cited below, MPGD falls far behind on filling
# holes, where the prior has most to add.
#
# ## Noise lives on a shell
#
# Why would one want to replace the *noise*? Look at how long Gaussian noise is. In $n$ dimensions its squared length
# is a sum of $n$ independent terms, each 1 on average, so the length is near $\sqrt n$, and its deviation from it
# stays near $1/\sqrt 2$ however large $n$ is. Relative to $\sqrt n$, the shell gets thin. A latent of this prior has
# 1,024 numbers.

# %%
size = math.prod(prior.latent_shape)
random = torch.Generator().manual_seed(seed)
edges = torch.linspace(0, 2.5, 126)
histograms, spread = {}, {}
for n, draws in ((2, 200_000), (16, 200_000), (size, 10_000)):
    lengths = torch.randn((draws, n), generator=random).norm(dim=1) / math.sqrt(n)
    spread[n] = float(lengths.std())
    counts = torch.histogram(lengths, edges).hist
    histograms[f"n = {n:,}"] = counts / counts.max()

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three curves of how often a length occurs, for 2, 16 and 1024 dimensions: broad, narrower, and a sharp peak at one", "classes": "dark-light"}, "figure": {"caption": "Length of Gaussian noise in n dimensions, divided by the square root of n. At least 10,000 draws, every curve scaled to its highest point.", "name": "fig-norms"}}
record("shell_thickness", list(spread.values()), rtol=0.05)
plots.curves(
    histograms,
    (edges[1:] + edges[:-1]) / 2,
    xlabel="length / sqrt(n)",
    ylabel="how often (highest = 1)",
)

# %% tags=["hide-input"]
chapter.shell_table(spread)

# %% [markdown]
# So a DDIM step of the unguided sampler lands on a thin shell around its mean, of radius $r = \sqrt n\, \sigma$, and
# practically never anywhere else. The noise predictor was trained on latents that are made like that. This is the
# argument for DSG: steer, but land on the shell.
#
# ## One step, drawn
#
# DSG looks for the point of the shell that is furthest downhill, $-r\,g/\lVert g\rVert$, takes the random point
# $\sigma\epsilon$, mixes them by the rate $w$, and brings the mixture back to radius $r$.

# %%
pages.source(guidance.spherical_step)

# %% [markdown]
# All of this happens in one plane, the one that holds both points. We take a direction from the middle of a real
# attack with the published rate and a draw of noise, and show *that* plane: 2 of 1,024 dimensions, with nothing left
# out. DPS gets the same direction, and steps as long as DSG's way from the random point.

# %%
runs, notes = {}, {}  # by guidance rate
for rate in (0.0, 0.05, 0.2, 0.5, 1.0):
    runs[rate], notes[rate] = attack(base.with_(guidance_rate=rate))

grads = notes[0.2].gradients(base.betas[0])
smooth = chapter.directions(grads, base.betas)  # what Adam makes of them, turn by turn

# %%
middle = num_steps // 2
t = schedule.ddim_timesteps(num_steps)[middle]
sigma = Step.at(t, base, prior.alpha_bar).sigma
radius = math.sqrt(size) * sigma
noise = SeededNoise([seed + 1000, seed + 1001], device=device).draw(prior.latent_shape)
direction = smooth[middle] / guidance.norm(smooth[middle])

some = [0.2, 0.5, 1.0]
sphere = {w: guidance.spherical_step(direction, noise, sigma, w) for w in some}
way = {w: direction * guidance.norm(sphere[w] - sigma * noise) for w in some}  # as long
plain = {w: guidance.gradient_step(way[w], noise, sigma, 1.0) for w in some}

# %% tags=["hide-input"] mystnb={"image": {"alt": "A circle with the random point on it, mixtures of random and guided point inside, the DSG steps on the circle above them, and DPS steps of the same length outside", "classes": "dark-light"}, "figure": {"caption": "One real step, seen in the plane of noise and direction; unit: the radius r. The number beside a point is the rate w. Shaded: where 95 % of unguided steps land.", "name": "fig-sphere"}}
plane = chapter.Plane(noise, direction, radius)
mixed = [torch.lerp(sigma * noise, -radius * direction, w) for w in (0.0, *some)]
plots.plane(
    {
        "mixture": plane.place(mixed),
        "DSG": plane.place(sphere.values()),
        "DPS, as long": plane.place(plain.values()),
        "random point": plane.place([sigma * noise]),
    },
    radius=1.0,
    band=2 / math.sqrt(2 * size),
    names={"DSG": [str(w) for w in some], "DPS, as long": [str(w) for w in some]},
    joined=["mixture"],
    xlabel="along the random noise",
    ylabel="downhill",
)

# %% tags=["hide-input"]
away = {"DSG": sphere, "DPS, as long": plain}
radii = {
    name: [float((guidance.norm(steps[w]) / radius).mean()) for w in some]
    for name, steps in away.items()
}
record("radius_dsg", radii["DSG"], atol=1e-4)
record("radius_dps", radii["DPS, as long"], atol=0.03)
chapter.radius_table(radii, some, size)

# %% tags=["hide-input"]
chapter.off_the_shell(plane, radii["DPS, as long"])

# %% [markdown]
# That is the whole picture of one step: at the published rate of 0.2 the difference is small, and it grows with the rate.
#
# ## Lerp or slerp
#
# The published code mixes along the chord (*lerp*) and then goes back to the sphere. One could walk along the circle
# instead (*slerp*). The end points are the same. In between, the same number $w$ means another angle:

# %%
grid = [i / 20 for i in range(21)]
turned = {"lerp": [], "slerp": []}  # degrees away from the random point
for kind, angles in turned.items():
    for w in grid:
        mixture = guidance.spherical_step(direction, noise, sigma, w, kind)
        angles.append(plane.turned(mixture))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two curves of the angle turned against the rate: slerp is a straight line, lerp is S-shaped below it at first and above it later", "classes": "dark-light"}, "figure": {"caption": "How far a step is turned from the random point towards the guided one, for the same noise and direction.", "name": "fig-lerp-slerp"}}
record(
    "angle_lerp_slerp_at_0.2",
    [turned["lerp"][4], turned["slerp"][4]],
    atol=1.0,
    unit="degrees",
)
plots.curves(turned, grid, xlabel="rate w", ylabel="angle turned (degrees)")

# %% tags=["hide-input"]
chapter.two_strengths(turned["lerp"][4], turned["slerp"][4])

# %% [markdown]
# ## Too little, too much
#
# Now the rate at work, with everything else equal. Three signatures to remember:
#
# - **0**: a picture, and not the photo. The message is ignored.
# - **moderate**: the photo, as far as the message and the budget allow.
# - **1**: no random part left; the step goes where the gradient says. Look at colours and contrast.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Six rows of two pictures: the photos, and reconstructions with guidance rates 0, 0.05, 0.2, 0.5 and 1", "classes": "dark-light"}, "figure": {"caption": "The same attack with five guidance rates. Under each picture: MS-SSIM to the photo and IR distance to the message.", "name": "fig-rates"}}
similarity = {rate: metrics.ms_ssim(run.images, photos) for rate, run in runs.items()}
record(
    "rate_distance", [float(run.distance.mean()) for run in runs.values()], atol=0.06
)
record("rate_ms_ssim", [float(s.mean()) for s in similarity.values()], atol=0.08)
record_panel(
    "rates", torch.cat([runs[rate].images for rate in (0.0, 0.2, 0.5)]), min_ssim=0.5
)
named = {f"rate {rate}": run for rate, run in runs.items()}
plots.image_rows(
    {"photo": photos, **chapter.rows(named)}, names, chapter.captions(named, photos)
)

# %% tags=["hide-input"]
chapter.rate_table(runs, similarity, photos)

# %% tags=["hide-input"]
chapter.too_little_too_much(runs, similarity, photos, num_steps)

# %% [markdown]
# ## The step stays on its shell. Does the latent?
#
# Every one of these steps had exactly the length that the noise predictor expects. Why are there artefacts at all?
# DSG's promise is about *one* step. The lengths of many steps add up in two ways: $N$ random steps of length $r$ take
# you $\sqrt N\, r$ far, $N$ steps in one direction take you $N\, r$. So compare the length of the latent itself with
# that of the unguided sampler at the same turn.

# %%
unguided = notes[0.0].norms
longer = {rate: (own.norms / unguided).mean(1) for rate, own in notes.items() if rate}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Curves of the length of the latent over the turns, relative to the unguided sampler, on a logarithmic scale, for guidance rates 0.05 to 1: the higher the rate, the longer the latent", "classes": "dark-light"}, "figure": {"caption": "Length of the latent relative to the unguided sampler's (rate 0) at the same turn. Means over two photos.", "name": "fig-latent-norm"}}
record("longest_latent", [float(line.max()) for line in longer.values()], rtol=0.15)
plots.curves(
    {f"rate {rate}": line for rate, line in longer.items()},
    range(1, num_steps + 1),
    xlabel="turn",
    ylabel="length / unguided length",
    levels={"unguided": 1.0},
    log=True,
)

# %% tags=["hide-input"]
chapter.longest_table(longer)

# %% tags=["hide-input"]
chapter.known_lengths(float(longer[1.0].max()))

# %% [markdown]
# What does a latent of wrong length look like? Take the latent of a photo, leave its direction as it is, and stretch it.

# %%
factors = [1, 2, 5, 30]
with torch.no_grad():
    z_0 = prior.encode(photos)
    stretched = [prior.decode(z_0 * factor).clamp(0, 1) for factor in factors]
kept = [metrics.ms_ssim(images, photos) for images in stretched]

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rows of four pictures: the latents of two photos multiplied by 1, 2, 5 and 30 and decoded; colours and contrast grow harsher while the content stays", "classes": "dark-light"}, "figure": {"caption": "Clean latents of the photos, multiplied by a factor and decoded. Under each picture: MS-SSIM to the photo.", "name": "fig-stretched"}}
record("ms_ssim_stretched", torch.stack(kept).mean(1), atol=0.02)
plots.image_rows(
    plots.by_photo(stretched, names),
    [f"x {factor}" for factor in factors],
    {
        name: [f"{float(values[i]):.2f}" for values in kept]
        for i, name in enumerate(names)
    },
)

# %% tags=["hide-input"]
chapter.stretched_in_words(factors, stretched, kept)

# %% [markdown]
# So the harsh colours of a high rate are what one expects from latents that are too long. That the attack survives
# this at all is owed to the decoder, whose normalisation layers take most of a scale out again.
#
# ## From a gradient to a direction
#
# Steps add up coherently if successive directions agree, and that is what DRAG makes sure of. The gradient is not
# used as it is. First it is **clipped** to a length of 0.02 per photo. Then it goes through **Adam's moments**: a
# running mean of gradients, divided by the root of a running mean of squares.

# %%
pages.source(guidance.clip_norm, guidance.adam_direction)

# %% [markdown]
# How much do successive directions agree? We replay the gradients of the run with rate 0.2: as they were, through
# Adam with its default decays, and through an Adam with a shorter memory. In 1,024 dimensions two random directions
# have a cosine of about ±0.03.

# %%
kinds = {
    "raw gradient": grads,
    "Adam (0.9, 0.999)": smooth,
    "Adam (0.5, 0.5)": chapter.directions(grads, (0.5, 0.5)),
}
successive = {kind: chapter.cosines(d[:-1], d[1:]) for kind, d in kinds.items()}
current = {kind: chapter.cosines(d, grads) for kind, d in kinds.items()}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three curves over the turns of the cosine between successive directions: raw gradients lowest, Adam with short memory higher, Adam with default decays highest", "classes": "dark-light"}, "figure": {"caption": "Cosine between the directions of successive turns. Means over two photos, replayed from one attack.", "name": "fig-adam-cosine"}}
mean = {
    kind: (
        sum(successive[kind]) / len(successive[kind]),
        sum(current[kind]) / len(current[kind]),
    )
    for kind in kinds
}
record("cosine_successive", [m[0] for m in mean.values()], atol=0.06)
record("cosine_with_gradient", [m[1] for m in mean.values()], atol=0.06)
plots.curves(
    successive,
    range(2, num_steps + 1),
    xlabel="turn",
    ylabel="cosine with the turn before",
)

# %% tags=["hide-input"]
pages.table(
    [
        "mean over the turns",
        "cosine with the direction before",
        "cosine with the present gradient",
    ],
    [[kind, *m] for kind, m in mean.items()],
)

# %% [markdown]
# Smoothing is bought with delay. Adam's direction is steady, and a good part of it is about gradients of earlier
# turns, taken at other latents and other noise levels. Whether that is a good trade is a question for measurements:

# %%
smoothing = {
    "raw gradient": attack(base.with_(smoothing="none"))[0],
    "Adam (0.9, 0.999)": runs[0.2],
    "Adam (0.5, 0.5)": attack(base.with_(betas=(0.5, 0.5)))[0],
}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three rows of two pictures: reconstructions with the raw gradient, with Adam's default decays, and with shorter memory", "classes": "dark-light"}, "figure": {"caption": "The same attack at rate 0.2 with three kinds of direction. Under each picture: MS-SSIM to the photo and IR distance.", "name": "fig-smoothing"}}
record(
    "smoothing_distance",
    [float(run.distance.mean()) for run in smoothing.values()],
    atol=0.06,
)
plots.image_rows(chapter.rows(smoothing), names, chapter.captions(smoothing, photos))

# %% tags=["hide-input"]
chapter.decays_in_words(smoothing, base)

# %% [markdown]
# DRAG uses the optimiser's defaults, $\beta = (0.9, 0.999)$. Another paper had the same idea independently:
# *Adam-guidance* (arXiv 2603.16797) puts DPS's gradient through Adam, and searched for decays. The best in its
# published logs for six image tasks lie between 0.14 and 0.77 for $\beta_1$, and between 0.03 and 0.73 for $\beta_2$:
# far from the default, with a much shorter memory. Those tasks are of another kind (inpainting, blur, enlarging), so
# this is a reason to search, and not an answer.
#
# ### What clipping does
#
# With DSG and the raw gradient: nothing, since only its direction counts. With Adam it decides how much a turn counts
# in the running means.

# %%
lengths = torch.stack([guidance.norm(grad).flatten() for grad in grads])
clipped = float((lengths > 0.99 * base.clip).float().mean())

harder = guidance.clip_norm(grads[middle], base.clip / 10)
once = guidance.spherical_step(grads[middle], noise, sigma, 0.2)
twice = guidance.spherical_step(harder, noise, sigma, 0.2)
gap = float((once - twice).abs().max() / once.abs().max())

# %% tags=["hide-input"]
record("share_clipped", clipped, atol=0.1)
chapter.clipping_in_words(base.clip, clipped, gap)

# %% [markdown]
# ## Summary
#
# - Guidance adds the gradient of an energy to the prior's own direction. Classifier guidance takes the energy from Bayes'
#   rule, universal guidance takes any distance at Tweedie's estimate, and DRAG takes the IR distance.
# - UGD, DPS, MPGD and DSG are settings of one sampler: `DragConfig(step=...)`. Each has its own scale of the rate.
# - Gaussian noise of $n$ dimensions lies on a thin shell. DSG replaces the noise by a point of the same length. A plain step leaves the shell.
# - The guarantee holds for a single step. Steps that agree carry the latent out of the range that the prior knows, and a high rate shows it.
# - Adam makes successive directions agree, at the price of following old gradients.
# - Rate 0 ignores the message. Too high a rate over-drives the picture.
#
# **What stops it?** Nothing in this chapter is under the client's control but the energy: it depends on $h$. A
# message whose distance has no slope towards the photo, or a slope towards something else, takes the wheel away.
# Hiding or breaking gradients alone does not: an attacker can put a substitute in the place of the part that was
# broken. That story belongs to the chapters on defences.
#
# **What this does not show.** Two photos, one seed, one cut, 40 turns where the paper takes 4,000. The rates were
# chosen coarsely, on four training photos. Which step is best, and whether Adam helps, is not decided here; the
# [claims table](../book/claims.md) lists what has been tested on enough photos.
#
# ## Exercises
#
# **1. A fair comparison of lerp and slerp.** For which $w$ does slerp turn a step as far as lerp does at 0.2? Run
# `base.with_(interpolation="slerp", guidance_rate=...)` with it and compare with rate 0.2 above.
#
# <details><summary>Solution</summary>
#
# Random and guided point are nearly orthogonal, so lerp turns by $\arctan\frac{w}{1-w}$, and slerp by $w \cdot 90°$.
# At 0.2 lerp turns by 14.0 degrees, so slerp needs $w = 14.0 / 90 = 0.156$.
#
# ```python
# run, _ = attack(base.with_(interpolation="slerp", guidance_rate=0.156))
# print(run, runs[0.2], sep="\n")
# ```
#
# The two come out alike, but for the noise and rounding of the angle.
#
# </details>
#
# **2. Rate 1 without memory.** At rate 1 no random part is left. Run it with `smoothing="none"`, and look at the
# picture and at the length of the latent. What did Adam contribute?
#
# <details><summary>Solution</summary>
#
# ```python
# run, noted = attack(base.with_(guidance_rate=1.0, smoothing="none"))
# print(run, (noted.norms / unguided).mean(1).max(), sep="\n")
# ```
#
# Raw gradients agree much less from turn to turn, so the steps do not add up as they do with Adam, and the latent
# stays shorter. Look at the IR distance before you call it better: a direction that forgets everything at each turn
# can also get nowhere.
#
# </details>
#
# **3. A rate that changes.** `rate_schedule="rising"` starts at 0 and reaches the rate at the end, `"falling"` does
# the opposite. Which of the two do you expect to leave more artefacts at rate 1? Try both.
#
# <details><summary>Solution</summary>
#
# ```python
# for kind in ("rising", "falling"):
#     print(kind, attack(base.with_(guidance_rate=1.0, rate_schedule=kind))[0])
# ```
#
# One might expect that early damage is repaired by later steps in which the prior has its say. When we ran it,
# "falling" ended with the longer latents and the harsher colours by far. Tweedie's formula divides by
# $\sqrt{\bar\alpha_t}$, which is small at strong noise, so what is too long there is much too long in the estimate,
# and nothing later takes it back.
#
# </details>
