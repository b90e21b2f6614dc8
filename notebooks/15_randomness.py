# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Randomness on the client
#
# Noise on the message is the simplest of all defences, and it costs accuracy. Two things can be done better than adding the
# same noise everywhere. The phone can choose *where* to put it: strong where the photo shows, weak where the server reads.
# Or it can leave parts of its own network out at random, so that nobody else knows which function it has computed. Client
# randomness that keeps utility is an open question of the field. This chapter says what an answer would look like, and
# measures some candidates.
#
# **Goals.** Derive the shape of noise that leaks least for its cost. See why mechanisms can be compared at equal measured
# accuracy only. Know what repeated messages do to each kind of randomness. Tell noise that averages out from randomness
# that leaves a bias.
#
# **You need** [guidance](04_guidance.ipynb), the [chapter on noise](11_noise.ipynb), and the idea of an
# adaptive attack.
#
# > **Cost:** CPU, less than a minute (four short attacks on two photos), 1.2 GB of memory. Measured: see the
# > [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # how many turns the attacks take
seed = 0

# %% tags=["hide-input"]
import torch
from torch.nn import functional as F

from dragkit import (
    DragConfig,
    Message,
    data,
    defend,
    drag,
    hear,
    load_client,
    load_prior,
    metrics,
)
from dragkit.adaptive.likelihood import Mahalanobis, average
from dragkit.defenses import (
    GaussianNoise,
    PacNoise,
    ShapedNoise,
    StochasticDepth,
    StochasticHeads,
    defend_images,
    shaped,
)
from dragkit.defenses.public import spread
from dragkit.defenses.stochastic import ExpectedClient, HiddenParts
from draglab import accuracy
from draglab.chapters import ch15_randomness as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import study
from draglab.training.augment import random_crop

device = "cuda" if torch.cuda.is_available() else "cpu"
at = "block:6"
client = load_client(at=at, device=device)
demo = data.demo_images(64)
names = ["astronaut", "coffee"]
photos = torch.stack([demo[name] for name in names]).to(device)
with torch.no_grad():
    h = client(photos)
print(client.layout, tuple(h.shape))

# %% [markdown]
# ## Two matrices
#
# Where should the noise go? Ask both sides, with derivatives.
#
# **What leaks.** Let $J = \partial f_c / \partial x$. A direction of the message moves when the photo moves if $J
# J^\top$ is large along it:
#
# $$ K = \mathbb{E}\,[J J^\top]. $$
#
# If the noise has covariance $\Sigma$, then $\mathrm{tr}(K \Sigma^{-1})$ is the trace of the Fisher information about the
# pixels: what an *unbiased* attacker can learn. Attackers with a prior are biased, so this is a guide to the shape and no
# guarantee ([next chapter](16_bounds.ipynb)).
#
# **What the server needs.** How much does its answer $p$ change when the message moves by $\delta$? To second order,
#
# $$ \mathrm{KL}\big(p(h)\,\big\|\,p(h+\delta)\big) \approx \tfrac12\, \delta^\top G\, \delta , \qquad
# G = \mathbb{E}\,[\nabla \log p_y\, \nabla \log p_y^\top], \quad y \sim p , $$
#
# so noise costs $\mathrm{tr}(G\Sigma)/2$ nats while it is small. Both are estimated from public photos, with one random
# probe per photo:

# %%
pages.source(shaped.estimate, shaped.score_gradient)

# %% [markdown]
# The full matrices would have 8,320 rows. The library keeps one block of 128 for CLS and one that all patch tokens share.
# `ShapedNoise.of(client)` estimates them from 1,024 training photos and caches the result. This page has no data set, so it
# takes 160 random crops of two demo photos, the cat and the rocket; the attacked photos are two others. The recorded runs
# below use training photos.

# %%
wide = torch.stack([data.demo_images(160)[name] for name in ("cat", "rocket")])
generator = torch.Generator().manual_seed(seed)
crops = random_crop(wide[torch.arange(160) % 2], 0.2, generator)
with torch.no_grad():
    unit = spread(client.tokens(client(crops.to(device))).double().cpu())
estimated = shaped.estimate(client, crops, seed) | {"std": torch.tensor(unit)}
factors = shaped.assemble(estimated, client.layout.prefix_tokens)

# %% [markdown]
# Do the two sides care about the same directions? Take the eigenvectors of $K$ for the patch tokens, those that leak most
# first, and ask for each which share of $K$ and which share of $G$ it carries.

# %%
directions = torch.linalg.eigh(factors.leakage[-1]).eigenvectors.flip(-1)


def along(matrix):
    """Share of a covariance along each of the directions."""
    return (directions * (matrix @ directions)).sum(0) / matrix.trace()


leak, need = along(factors.leakage[-1]), along(factors.need[-1])

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two curves over 128 directions on a logarithmic axis: the share of the leakage falls steeply, the share of what the server needs is plotted beside it", "classes": "dark-light"}, "figure": {"caption": "Share of the leakage and of the server's need along the eigenvectors of the leakage, patch tokens after block 6. An equal share would be 1/128.", "name": "fig-randomness-directions"}}
plots.curves(
    {"leakage": leak, "need of the server": need},
    range(1, 129),
    xlabel="direction, by leakage",
    ylabel="share",
    levels={"equal shares": 1 / 128},
    log=True,
)

# %% tags=["hide-input"]
chapter.directions_in_words(leak, need)

# %% [markdown]
# ## The closed form
#
# Which covariance leaks least at a given cost?
#
# $$ \min_{\Sigma}\; \mathrm{tr}(K\Sigma^{-1}) \quad\text{with}\quad \mathrm{tr}(G\Sigma) = \tau . $$
#
# The derivative of the Lagrangian is zero where $\Sigma^{-1} K \Sigma^{-1} = \lambda G$. Multiply by $G^{1/2}$ from
# both sides, with $A = G^{1/2} \Sigma\, G^{1/2}$: then $A\,A = (G^{1/2} K G^{1/2}) / \lambda$. A positive matrix has
# one positive root, so
#
# $$ \Sigma^\star \propto G^{-1/2}\, \big(G^{1/2} K G^{1/2}\big)^{1/2}\, G^{-1/2} . $$
#
# Where $K$ and $G$ have the same eigenvectors, the variance along each is $\sqrt{k_i / g_i}$. The problem is convex, so
# this is the minimum and not only a stationary point.

# %%
pages.source(shaped.least_leakage)

# %% [markdown]
# A derivation can be wrong, so try it on two random matrices: thousands of other covariances of equal cost, at random and
# in the neighbourhood of the solution.


# %%
def leak_at_equal_cost(k, g, sigma):
    """tr(K S^-1) of covariances that are multiplied so that tr(G S) = 1."""
    cost = (g @ sigma).diagonal(dim1=-2, dim2=-1).sum(-1)
    inverse = torch.linalg.solve(sigma, k.expand_as(sigma))
    return cost * inverse.diagonal(dim1=-2, dim2=-1).sum(-1)


generator = torch.Generator().manual_seed(seed)
k, g = chapter.random_covariances(2, generator)
best = shaped.least_leakage(k, g)
least = float(leak_at_equal_cost(k, g, best[None]))
anywhere = chapter.random_covariances(1000, generator)
nearby = best / best.trace() + 0.001 * chapter.random_covariances(1000, generator)
others = leak_at_equal_cost(k, g, torch.cat([anywhere, nearby]))
rival = float(others.min()) / least
print(f"Leakage of the closed form 1, of the best of {len(others)} others {rival:.4f}.")

# %% tags=["remove-cell"]
record("best_rival_over_closed_form", rival, atol=0.5)

# %% [markdown]
# Now with the client's own matrices. *PAC* noise (arXiv 2210.03458) is a published shape: variances in the ratio of the
# IR's own standard deviations, along its principal axes. It bounds the information at the least noise, and does not ask
# the server. All three cost the same by prediction.

# %%
scale = 1.0
shapes = {
    "isotropic": factors.isotropic(scale),
    "PAC": factors.at_equal_cost(scale, PacNoise.shape(factors)),
    "shaped": factors.at_equal_cost(scale, ShapedNoise.shape(factors)),
}

# %% tags=["hide-input"]
plain = factors.leak(shapes["isotropic"])
for name, covariance in shapes.items():
    record(f"leak_{name}", factors.leak(covariance) / plain, atol=0.15)
chapter.shapes_table(factors, shapes)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Noise variance of three shapes along the 128 directions ordered by leakage, on a logarithmic axis: isotropic is flat, the others fall", "classes": "dark-light"}, "figure": {"caption": "Variance of the noise along the same directions, in units of isotropic noise of equal predicted cost.", "name": "fig-randomness-shapes"}}
chapter.variances_figure(directions, shapes)

# %% [markdown]
# The cost is a sum over all tokens, so a shape may be stronger on every patch token and save on CLS, at the same cost.
# How each shape divides its budget:

# %% tags=["hide-input"]
chapter.cls_table(factors, shapes)

# %% [markdown]
# ## Why equal accuracy is the only fair comparison
#
# The prediction is a quadratic around zero noise. How long is it right? New crops, noise of growing strength, and the KL of
# the server's answers, measured:

# %% tags=["hide-input"]
kinds = ("isotropic", "shaped")


def noise(kind, scale):
    """Noise of a shape and strength for this client, without the data set."""
    if kind == "isotropic":
        return GaussianNoise(client.layout, scale, scale * factors.std)
    return ShapedNoise.from_factors(client.layout, factors, scale)


fresh = random_crop(
    wide[torch.arange(64) % 2], 0.2, torch.Generator().manual_seed(seed + 1)
).to(device)
with torch.no_grad():
    sent = client(fresh)
    answer = client.server(sent).log_softmax(1)


# %%
@torch.no_grad()
def measured_cost(defence):
    """Mean KL (nats) of the server's answers with noise from those without."""
    noisy = client.server(defend(defence, sent, seed)[0]).log_softmax(1)
    return float(F.kl_div(noisy, answer, log_target=True, reduction="batchmean"))


costs = []
for strength in (0.1, 0.3, 1.0, 2.0):
    predicted = factors.cost(factors.isotropic(strength)) / 2
    by_kind = {kind: measured_cost(noise(kind, strength)) for kind in kinds}
    costs.append((strength, predicted, by_kind))

# %% tags=["hide-input"]
header = ["strength", "predicted (nats)", *(f"measured, {kind}" for kind in kinds)]
pages.table(
    header,
    [
        [strength, predicted, *by_kind.values()]
        for strength, predicted, by_kind in costs
    ],
)

# %% tags=["hide-input"]
chapter.costs_in_words(costs)

# %% [markdown]
# So equal prediction need not be equal cost. Equal noise power is worse still: it would favour any shape that puts the
# power where neither side looks. And with dropout or hidden heads there is no power to compare at all. What can be
# equal for every mechanism is the one thing that the operator pays: **accuracy**, measured. Each mechanism is made as
# strong as a given loss allows, by bisection. The strength is chosen on half of the validation photos and reported on
# the other half, and none of the attacked photos takes part in the choice.

# %%
pages.source(accuracy.calibrate, accuracy.last_above)

# %% [markdown]
# ## The attacker replies
#
# Who knows that the noise is Gaussian with covariance $\Sigma$ compares by its likelihood instead of the cosine:
#
# $$ -\log p(h' \mid \hat x) = \tfrac12 \big\lVert \Sigma^{-1/2} (h' - f_c(\hat x)) \big\rVert^2 + \text{const} . $$
#
# It trusts the directions with little noise, and those are exactly where the server reads. A shape that keeps utility
# always leaves something to read.

# %%
pages.source(ShapedNoise.whiten, Mahalanobis.__call__)

# %% [markdown]
# The strongest reply needs no cleverness. If the photo is sent $k$ times with fresh noise, the mean of the messages has the
# covariance $\Sigma / k$. The shape makes no difference to that.

# %%
pages.source(average)

# %%
heard_times = (1, 4, 16)
messages = {kind: defend(noise(kind, scale), h, seed, 16) for kind in kinds}
units = {
    "isotropic": lambda delta: delta / (scale * factors.std),
    "shaped": noise("shaped", scale).whiten,
}
left = {}
for kind, whiten in units.items():
    means = [average(messages[kind][:n]) for n in heard_times]
    left[kind] = [float(whiten(mean - h).square().mean()) for mean in means]

# %% tags=["hide-input"]
for kind in kinds:
    record(f"left_{kind}", left[kind], atol=0.03)
header = [
    "noise left (variance, in units of one message's)",
    *(f"k = {n}" for n in heard_times),
]
pages.table(header, [[kind, *values] for kind, values in left.items()])

# %% [markdown]
# Now the attacks: DRAG after block 6, on both photos, by an attacker who knows the noise. Isotropic noise heard once and 16
# times, and shaped noise heard once, at equal *predicted* cost.

# %%
turns = {"ci": 40, "laptop": 100, "colab": 400, "paper": 1000}[budget]
quick = DragConfig(num_steps=turns, recurrence=1, guidance_rate=0.5)
config = quick if budget == "ci" else DragConfig.small(turns)
prior = load_prior(device=device)


def attack(kind, queries):
    """DRAG by an attacker who knows the noise and hears so many messages per photo."""
    heard = messages[kind][:queries]
    message, threat = hear("likelihood", heard, noise(kind, scale), client)
    return drag(message, prior, config, seeds=seed, threat=threat)


runs = {
    "no noise": drag(Message(h, client), prior, config, seeds=seed),
    "isotropic, once": attack("isotropic", 1),
    "isotropic, 16 times": attack("isotropic", 16),
    "shaped, once": attack("shaped", 1),
}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Rows of two pictures: the photos and the reconstructions without noise, through isotropic noise heard once and sixteen times, and through shaped noise heard once", "classes": "dark-light"}, "figure": {"caption": "What DRAG makes of the messages. Under each picture: MS-SSIM to the photo.", "name": "fig-randomness-pictures"}}
scores = {
    label: metrics.ms_ssim(run.images, photos).tolist() for label, run in runs.items()
}
for label in runs:
    record(
        "ms_ssim_" + label.replace(", ", "_").replace(" ", "_"), scores[label], atol=0.2
    )
record_panel("no_noise", runs["no noise"].images, min_ssim=0.4)
plots.image_rows(
    {"photo": photos, **{label: run.images for label, run in runs.items()}},
    names,
    {label: [f"MS-SSIM {value:.2f}" for value in scores[label]] for label in runs},
)

# %% [markdown]
# Two photos are an illustration, with noise shaped on crops of two others. The comparison is below, at equal accuracy.
#
# Against exact repeats there is a remedy: derive the noise from a secret key and a hash of the photo, so that the same
# photo always meets the same noise. It does nothing for two frames of a video, or the photo with one pixel changed: they
# have another hash and nearly the same message.
#
# ## Hidden parts
#
# Noise is added to what the client computed. The other idea is to make the function itself a secret: for every message,
# each residual branch (`depth`) or attention head (`heads`) is left out with some probability, and nobody is told which.

# %%
pages.source(HiddenParts.draw, HiddenParts.encode)

# %%
pages.source(StochasticDepth.attach, StochasticHeads.attach)

# %%
hidden = {"depth": StochasticDepth.of(client), "heads": StochasticHeads.of(client)}

# %% tags=["hide-input"]
pages.table(
    ["mechanism", "left out with probability", "parts, one secret bit each"],
    [[name, part.share, len(part.sites) * part.units] for name, part in hidden.items()],
)

# %% [markdown]
# A bit per part is little. Who can tell a right guess from a wrong one tries them all, or most of them.
#
# What do repeated messages give here? Their mean converges as well, but not to $f_c(x)$: a network with parts missing
# is another network, and the mean over networks is a third one. Against the *plain* client a bias remains. But the
# attacker can average too: they compare with the mean of many random instances of their own copy (*expectation over
# transformations*, arXiv 1707.07397).

# %%
pages.source(ExpectedClient.forward)


# %%
def away_from(guess, sent):
    """Distance to the mean of so many messages, in units of the IR's spread."""
    gaps = [(sent[:n].mean(0) - guess).square().mean() for n in heard_times]
    return [float(gap) ** 0.5 / unit for gap in gaps]


away = {}
with torch.no_grad():
    for name, part in hidden.items():
        sent = defend_images(part, client, photos, seed, 16)
        expected = ExpectedClient(client, part, draws=32, seed=seed + 1)(photos)
        away[name] = away_from(h, sent), away_from(expected, sent)

# %% tags=["hide-input"]
rivals = ("plain client", "mean of 32 instances")
header = ["mechanism", "distance to what the attacker computes from the true photo"]
pages.table(
    [*header, *(f"k = {n}" for n in heard_times)],
    [
        [name, rival, *gaps]
        for name, both in away.items()
        for rival, gaps in zip(rivals, both, strict=True)
    ],
)

# %% tags=["hide-input"]
chapter.bias_in_words(away)

# %% [markdown]
# ## Recorded: equal accuracy, one, four and sixteen messages
#
# `dragkit sweep defence_randomness` makes every mechanism as strong as one loss of accuracy allows, and attacks it with the
# reply that suits it.

# %% tags=["hide-input"]
recorded = study("defence_randomness")
recorded.origin

# %% tags=["hide-input"]
recorded.show(chapter.allowance_in_words)

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per mechanism: accuracy lost on the whole validation split", "classes": "dark-light"}, "figure": {"caption": "Recorded: accuracy lost by each mechanism on all validation photos, paired by photo, mean and 95 % interval. The comparison is fair as far as these agree.", "name": "fig-randomness-cost"}}
recorded.show(chapter.losses_figure)

# %% tags=["hide-input"]
recorded.show(chapter.losses_in_words)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Curves of MS-SSIM against the number of messages heard, one per mechanism with a band, and horizontal lines for the undefended attack and the prior alone", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM of what DRAG (small, k=1) reconstructs (lower is safer) against the number of messages about each photo, at equal loss of accuracy. Mean and 95 % interval.", "name": "fig-randomness-queries"}}
recorded.show(chapter.messages_figure)

# %% tags=["hide-input"]
recorded.show(chapter.retrieval_table)

# %% [markdown]
# The gaps, photo by photo: every mechanism against isotropic noise heard as often, and against itself heard once. Positive:
# the reconstruction is closer to the photo.

# %% tags=["hide-input"]
recorded.show(chapter.comparisons_table)

# %% tags=["hide-input"]
recorded.show(chapter.order_in_words)

# %% tags=["hide-input"]
print(pages.verdict("shaped-noise-beats-isotropic"))
print(pages.verdict("queries-undo-noise"))

# %% [markdown]
# How to read it. The reply to each mechanism is the best of the simple ones, not the best possible. Dropped and
# shuffled tokens are put in order message by message, and averaged. For hidden heads there are two replies, the
# mean message against the plain client, and against the mean of instances. A low MS-SSIM can mean that little leaks or
# that the search got harder; the [next chapter](16_bounds.ipynb) tells the two apart for Gaussian noise.
#
# ## Summary

# %% tags=["hide-input"]
print(
    f"On this page's factors, shaped noise leaks {factors.leak(shapes['shaped']) / plain:.2f} times as much to an unbiased "
    "attacker as isotropic noise of equal predicted cost."
)

# %% tags=["hide-input"]
chapter.summary(recorded)

# %% [markdown]
# - What leaks and what the server needs are two matrices, and the best noise between them has a closed form.
# - The closed form is optimal for its own objective: a second-order cost, and unbiased attackers.
# - Mechanisms are compared at equal measured accuracy. Equal power or equal prediction are other comparisons.
# - Independent randomness is spent once. $k$ messages undo a factor $\sqrt k$ of any noise.
# - Hidden parts leave a bias against the plain client, and the attacker can remove it by averaging their own copy.
#
# **What stops it?** Randomness can be placed better than everywhere, but not where the server does not see it: what it
# reads, an attacker can read too. Whoever relies on noise has to count the messages about one photo, and give them a
# budget.
#
# **What this does not show.** One small client and one cut, a server that was not trained for the noise, and one loss
# of accuracy. Training client and server with the noise is another road (CEM, arXiv 2503.00383, shrinks the spread of
# messages within a class so that noise covers it), and is not tried here. The shapes share one block among
# all patch tokens; a noise that knows positions could do better.
#
# ## Exercises
#
# **1. One dimension at a time.** $K$ and $G$ are diagonal with entries $k_i$ and $g_i$. Derive the best variances, and the
# ratio of the leakage of isotropic noise to the least, at equal cost. When is there nothing to gain?
#
# <details><summary>Solution</summary>
#
# Minimise $\sum k_i / s_i$ with $\sum g_i s_i = \tau$: $s_i \propto \sqrt{k_i / g_i}$, and the least leakage is $(\sum
# \sqrt{k_i g_i})^2 / \tau$. Isotropic noise has $s = \tau / \sum g_i$ and leaks $\sum k_i \sum g_i / \tau$. The ratio
# is $\sum k_i \sum g_i / (\sum \sqrt{k_i g_i})^2 \ge 1$ by Cauchy and Schwarz, and 1 only if $k_i / g_i$ is the same
# everywhere: then what leaks is what is needed.
#
# </details>
#
# **2. Why the ridge?** `assemble` adds a tenth of its mean eigenvalue to $G$. What would happen without it, and what would
# an attacker do?
#
# <details><summary>Solution</summary>
#
# The server has directions that it hardly uses, where $g_i$ is nearly 0 in the estimate. Noise there seems free, and the
# formula makes it huge. But the quadratic holds for small noise only, and huge noise does change the answer. The attacker
# does not mind: the whitened distance ignores those directions. The ridge says "no direction is free".
#
# </details>
#
# **3. A budget.** One message has noise of variance $\sigma^2$. The phone may send up to 16 about the same photo. How
# strong must the noise of each be, so that all together tell no more than the one? What does that do to the accuracy of
# each answer?
#
# <details><summary>Solution</summary>
#
# The mean of 16 has variance $\sigma'^2 / 16$, so $\sigma' = 4 \sigma$. Each answer is as bad as with noise four times as
# strong. Sending the same noise each time (a seed from a keyed hash of the photo) costs nothing, as long as the photo is
# exactly the same.
#
# </details>
