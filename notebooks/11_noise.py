# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Noise and dropout
#
# The chapters before this one attacked messages that were sent as they are. From here on, the client does something to
# them first. We begin with the two things that everybody tries: add random numbers to the message, or leave a part of its
# numbers out. They are simple enough to see all that this book asks of a defence. What does it protect, from whom, and
# what does it cost?
#
# **Goals.** Know a defence as a function $h \mapsto h'$ with secret randomness. Measure its cost in accuracy, with an
# interval. Write down what an attacker does who *knows* about the noise: the likelihood, and the average of many
# messages. See why the plain attack survives noise at all. Read leakage against accuracy.
#
# **You need** the [quickstart](00_quickstart.ipynb) and the term guidance from [chapter 4](04_guidance.ipynb).
#
# > **Cost:** CPU, less than a minute (five short attacks on two photos), 1.2 GB of memory. All else is recorded.
# > Measured: see the [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # how many turns the live attacks may take
seed = 0

# %% tags=["hide-input"]
import torch

from dragkit import (
    DragConfig,
    Message,
    cosine_distance,
    data,
    defend,
    drag,
    hear,
    load_client,
    load_prior,
    metrics,
)
from dragkit.adaptive.distances import visible_distance
from dragkit.adaptive.likelihood import Mahalanobis, average
from dragkit.adaptive.replies import averaged, most_likely, visible_numbers
from dragkit.defenses import Dropout, GaussianNoise, LaplaceNoise
from dragkit.defenses.additive import AdditiveNoise, fill
from dragkit.defenses.base import Defence
from dragkit.defenses.public import mean_token, public_tokens, spread
from dragkit.measures import utility
from draglab.chapters import ch11_noise as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import study
from draglab.studies import defence_study
from draglab.studies.noise import GAUSSIAN

device = "cuda" if torch.cuda.is_available() else "cpu"
at = defence_study.AT
prior = load_prior(device=device)
demo = data.demo_images(64)
names = ["astronaut", "coffee"]
photos = torch.stack([demo[name] for name in names]).to(device)

# %%
client = load_client(at=at, device=device)
with torch.no_grad():
    h = client(photos)
secret = seed + 100_000  # the user's random stream; the attacker draws from another

# %% [markdown]
# ## A defence is a function
#
# The client computes $h = f_c(x)$ and sends $h' = M(h, r)$ of the same shape, where $r$ are random numbers that nobody
# else has. The server puts `receive(h')` into its half of the network. This is the whole contract. All defences of this
# book obey it, and all are studied at the same cut, the middle of the in-house ViT, where the plain attack works and the
# server still has half of its work to do.

# %%
pages.source(Defence.__call__, Defence.receive, defend)

# %% [markdown]
# `defend` sends each photo `queries` times, and every message has randomness of its own. We will need that.
#
# ## Noise, in units of the message
#
# Additive noise is $h' = h + \sigma \epsilon$ with independent $\epsilon$ of mean 0 and variance 1, Gaussian or Laplace. A
# bare $\sigma$ says little: the numbers of one network's message are a hundred times larger than another's. So strength
# is told in units of the **spread** of the IR. That is the root mean square of the tokens, after the mean token is taken
# away. Strength 1 means noise as large as all that differs between one token and another.

# %%
pages.source(spread, AdditiveNoise.__call__, GaussianNoise.draw, LaplaceNoise.draw)

# %% [markdown]
# The spread is measured on public training photos. Were it measured on the photo that is sent, the strength of the noise
# would tell something about the photo.

# %% tags=["hide-input"]
try:
    public = public_tokens(client)
    print(f"Measured on {len(public)} training photos.")
except FileNotFoundError:
    with torch.no_grad():
        public = (
            client.tokens(client(torch.stack(list(demo.values())).to(device)))
            .double()
            .cpu()
        )
    print(
        f"The training photos are not here. Measured on {len(public)} demonstration photos, as an illustration."
    )

# %%
unit = record("spread", spread(public), rtol=0.15)
mean_square = float(client.tokens(h).square().mean())
print(f"Spread {unit:.2f}; root mean square of two messages {mean_square**0.5:.2f}.")


def gaussian(scale):
    """What `make(f"gaussian:{scale}", client)` gives, with the unit from above."""
    return GaussianNoise(client.layout, scale, scale * unit)


# %% [markdown]
# ## What it costs
#
# The server has to be right about the *defended* message. So the cost is accuracy, on all 3,925 validation photos, every
# photo with noise of its own:

# %%
pages.source(utility.per_photo_right, utility.accuracy)

# %% [markdown]
# A share has an interval too. Wilson's stays inside $[0, 1]$ and keeps its width when all $n$ answers are right or none
# is. How many photos does one need to see a loss of two points?

# %% tags=["hide-input"]
chapter.widths()

# %% [markdown]
# With 32 photos a loss of two points cannot be seen. With 3,925 it can, and better still if the same photos are compared
# with and without the defence, one by one (`utility.accuracy_drop`).
#
# Our two demonstration photos show none of the server's ten classes, so there is no right answer to lose. Here the server
# only shows whether its answer moves:

# %%
for i, name in enumerate(names):
    for scale in (0.5, 2.0):
        sent = defend(gaussian(scale), h, secret)[0]
        moved = utility.consequence(client, h[i : i + 1], sent[i : i + 1])
        print(f"{name}, strength {scale}: {moved}.")

# %% [markdown]
# ## Why the plain attack survives
#
# DRAG compares tokens by their angle, and somebody who does not know of the noise goes on doing so. It seems a bad idea:
# the message is now wrong in every number. Take one token. With $u = f_c(\hat x)/\lVert f_c(\hat x)\rVert$, the guess
# enters only through
#
# $$ \langle u, h' \rangle = \langle u, h \rangle + \sigma \langle u, \epsilon \rangle , $$
#
# and the length $\lVert h'\rVert$ by which this is divided *does not depend on the guess*. The last term has mean 0 and
# standard deviation $\sigma$, whatever the dimension, while $\langle u, h\rangle$ is of the size of $\lVert h \rVert$,
# which is about $\sqrt{128}$ times one number of it. On average over the noise, the cosine to every guess shrinks by
# nearly the same factor. With $\rho = \sigma^2 / \overline{h^2}$ it is
#
# $$ \frac{\lVert h\rVert}{\lVert h'\rVert} \approx \frac{1}{\sqrt{1 + \rho}} . $$
#
# So all distances move up and closer together, and *their order stays*, as long as the differences exceed the jitter of
# 65 tokens averaged. Here is the message of each of the two photos against four guesses:

# %%
guesses = torch.stack(list(demo.values())).to(device)
with torch.no_grad():
    tokens = client.tokens(client(guesses))


def distances_to(message):
    """IR distance of every guess to one message `(1, N, D)`."""
    return cosine_distance(tokens, client.tokens(message).expand_as(tokens))


distances = {}
for scale in (0.0, *GAUSSIAN):
    sent = defend(gaussian(scale), h, secret)[0] if scale else h
    distances[scale] = [distances_to(sent[i : i + 1]) for i in range(len(names))]

# %% tags=["hide-input"]
gaps = chapter.margins(distances, [list(demo).index(name) for name in names])
record(
    "margin",
    [sum(of_guesses) / len(of_guesses) for of_guesses in gaps.values()],
    atol=0.04,
)
print(chapter.nearest_count(gaps))
chapter.margin_table(distances, gaps, names, list(demo))

# %% tags=["hide-input"]
chapter.predicted_margins(gaps, {s: (s * unit) ** 2 / mean_square for s in gaps})

# %% [markdown]
# ## The attacker who knows: likelihood
#
# Noise that is known has a density, and the density says how likely a message is, given a guess. For Gaussian noise
#
# $$ -\log p(h' \mid \hat x) = \frac{1}{2\sigma^2}\,\lVert f_c(\hat x) - h' \rVert^2 + \text{const} . $$
#
# The attacker minimises this in the place of the angle. It uses the length of the tokens, which the angle throws away,
# and it trusts long tokens more, since noise changes their direction less. The library divides by a constant of the
# message, to keep the scale that DRAG's settings were made for:

# %%
pages.source(Mahalanobis.__call__, most_likely)

# %% [markdown]
# With equal noise on all numbers $\sigma$ cancels in the quotient. It comes back when noise has a shape, in the
# [randomness chapter](15_randomness.ipynb). Laplace noise is treated as if it were Gaussian, which is less than its
# attacker could do (exercise 1).
#
# And noise whose density nobody can write down, such as a network with parts switched off at random? Then the attacker
# defends their *guess* as well, with many draws, and compares on average: **expectation over transformations** (Athalye
# et al., 2018, arXiv 1707.07397).
#
# ## The attacker who listens: k messages
#
# A phone rarely sends a photo once. Let the same photo arrive $k$ times, with fresh noise each time. The likelihoods
# multiply, and the sum of squares is that of the *mean message* $\bar h$ and a constant:
#
# $$ \sum_{i=1}^{k} \lVert f_c(\hat x) - h'_i \rVert^2
# = k\,\lVert f_c(\hat x) - \bar h \rVert^2 + \sum_{i=1}^{k} \lVert h'_i - \bar h \rVert^2 . $$
#
# So nothing is lost by averaging: it *is* the optimal reply. The mean has noise of variance $\sigma^2 / k$.

# %%
pages.source(average, averaged)

# %%
counts, scale = (1, 4, 16), 1.0
messages = defend(gaussian(scale), h, secret, max(counts))


def error_of(message):
    """Squared error of a message, in units of the undefended one."""
    return float((message - h).square().mean() / h.square().mean())


def apart_from(message, distance=cosine_distance):
    """Mean distance of the right photo's tokens to a message."""
    return float(distance(client.tokens(h), client.tokens(message)).mean())


means = {k: average(messages[:k]) for k in counts}
square = {k: error_of(mean) for k, mean in means.items()}
apart = {k: apart_from(mean) for k, mean in means.items()}

# %% tags=["hide-input"]
rho = (scale * unit) ** 2 / mean_square
record("distance_of_mean", list(apart.values()), atol=0.02)
record("error_of_mean", list(square.values()), rtol=0.15)
chapter.mean_table(square, apart, rho)

# %% [markdown]
# The squared error falls as $1/k$ exactly, up to chance. The IR distance is $1 - 1/\sqrt{1 + \rho/k} \approx \rho / 2k$ once
# that is small, and flatter while it is large, since two directions cannot be further apart than unrelated. On two
# logarithmic axes, $1/k$ is a straight line:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Falling curves of the squared error and of the IR distance of the mean message over the number of messages as a power of two, next to lines of slope one over k, on a logarithmic scale", "classes": "dark-light"}, "figure": {"caption": "Error of the mean of k noisy messages, noise of strength 1. ρ/k and ρ/2k are straight lines of slope -1.", "name": "fig-noise-average"}}
powers = list(range(7))
many = defend(gaussian(scale), h, secret, 2 ** powers[-1])
averages = [average(many[: 2**p]) for p in powers]
plots.curves(
    {
        "squared error / ‖h‖²": [error_of(mean) for mean in averages],
        "ρ / k": [rho / 2**p for p in powers],
        "IR distance": [apart_from(mean) for mean in averages],
        "ρ / 2k": [rho / 2 ** (p + 1) for p in powers],
    },
    powers,
    xlabel="messages averaged, as a power of 2",
    ylabel="to the undefended message",
    log=True,
)

# %% [markdown]
# A client can refuse to give fresh noise: draw it from a secret key *and the photo*, so that the same photo always gets
# the same noise. Exact repeats then tell nothing new. The next frame of a video, or the same picture cropped by one
# pixel, still does.
#
# ## Dropout: erasures that everybody sees
#
# Dropout sets every number to zero with probability $p$, independently. It looks like noise. It is not: a zero *says* that
# it is a zero, since undefended numbers are practically never exactly 0, and **the other numbers are exact**. So the
# attacker compares those only, and the server fills the mean token into the gaps.

# %%
pages.source(Dropout.__call__, fill, visible_distance, visible_numbers)

# %%
share = 0.5
dropout = Dropout(client.layout, share, mean_token(public))
erased = defend(dropout, h, secret, max(counts))
unmasked = record("dropout_distance", apart_from(erased[0]), atol=0.02)
masked = apart_from(erased[0], visible_distance)
print(f"Right photo, {(erased[0] == 0).double().mean():.0%} of its message erased:")
print(f"all compared {unmasked:.3f}; only what arrived {max(masked, 0.0):.3f}.")

# %% tags=["hide-input"]
chapter.erasure_table(h, erased, share, {k: average(erased[:k]) for k in counts})

# %% [markdown]
# Against repeated messages dropout is weaker than noise. What it has erased comes back without error (but for rounding),
# and exponentially fast.
#
# ## Two photos
#
# Five attackers, the same settings and seeds. Noise of strength 1 meets somebody who does not know, somebody who uses the
# likelihood, and somebody who averages 16 messages and then compares angles. Dropout of one half meets somebody who masks
# the zeros.

# %%
turns = {"ci": 40, "laptop": 100, "colab": 400, "paper": 1000}[budget]
config = DragConfig.small(turns)
noisy = gaussian(1.0)
attackers = {
    "noise, unaware": (noisy, "", 1),
    "noise, likelihood": (noisy, "likelihood", 1),
    "noise, 16 averaged": (noisy, "average", 16),
    "dropout, masked": (dropout, "visible", 1),
}

# %%
runs = {"undefended": drag(Message(h, client), prior, config, seeds=seed)}
received = {}
for label, (defence, reply, k) in attackers.items():
    message, threat = hear(reply, defend(defence, h, secret, k), defence, client)
    received[label] = message
    runs[label] = drag(message, prior, config, seeds=seed, threat=threat)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Rows of two pictures: the photos, then reconstructions from undefended messages, from noisy ones by three attackers, and from messages with half of the numbers erased", "classes": "dark-light"}, "figure": {"caption": "The same two photos, attacked without a defence, through noise and through dropout. Under each picture: MS-SSIM to the photo.", "name": "fig-noise-photos"}}
similarity = {label: metrics.ms_ssim(run.images, photos) for label, run in runs.items()}
for label, run in runs.items():
    key = label.replace(", ", "_").replace(" ", "_")
    record(f"ms_ssim_{key}", similarity[label], atol=0.15)
    if label in ("undefended", "noise, 16 averaged"):
        record_panel(key, run.images, min_ssim=0.4)
plots.image_rows(
    {"photo": photos, **{label: run.images for label, run in runs.items()}},
    names,
    {label: [f"{s:.2f}" for s in similarity[label].tolist()] for label in runs},
)

# %% tags=["hide-input"]
reached = float(runs["noise, unaware"].distance.mean())
print(
    *chapter.on_two_photos(
        similarity, reached, apart_from(received["noise, unaware"].h)
    ),
    sep="\n",
)

# %% [markdown]
# The likelihood is the right measure of how well a guess explains the message. DRAG uses it for something else: as a guide
# from noise to a photo, in few turns, with settings that were chosen for angles. A better judge need not be a better
# guide. So a defence is judged by the *stronger* of the attackers that were tried, whichever it is.
#
# ## Measured
#
# Two photos are an illustration. `dragkit sweep defence_noise` attacks the same validation photos at every strength, with
# and without the reply, and takes the accuracy from all 3,925.

# %% tags=["hide-input"]
recorded = study("defence_noise")
recorded.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "Points with bars in both directions: MS-SSIM of the reconstruction over the server's accuracy, one point per strength of noise and dropout, for attackers who adapt and who do not", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher leaks more) against accuracy, mean and 95 % intervals. Numbers are strengths, L is Laplace noise.", "name": "fig-noise-msssim"}}
recorded.show(chapter.over_accuracy, "ms_ssim")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Points with bars in both directions: ST-LPIPS of the reconstruction over the server's accuracy, one point per strength of noise and dropout, for attackers who adapt and who do not", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower leaks more) against accuracy, mean and 95 % intervals. Numbers are strengths, L is Laplace noise.", "name": "fig-noise-stlpips"}}
recorded.show(chapter.over_accuracy, "st_lpips")

# %% [markdown]
# A good defence would have its points on the right, where accuracy is, and at the height of *prior only*. A defence whose
# points come down only as fast as they move to the left sells accuracy for privacy, and the figure is its price list.
#
# The same as a table, for the stronger attacker by mean MS-SSIM. *Keeps half* asks whether they keep more than half of
# the MS-SSIM that the undefended attack gains over the prior alone:

# %% tags=["hide-input"]
recorded.show(chapter.prices)

# %% tags=["hide-input"]
print(*chapter.prices_in_words(recorded), sep="\n")

# %% [markdown]
# If a reply does not help, that is a finding about this reply in these few turns. It is not a strength of the defence.
#
# ### Both sides learn
#
# The server need not stay as it is. `dragkit train server --defence gaussian:4.0` goes on training its half on noisy
# messages, and no phone has to be updated. The attacker can do the same: an inverse network that was trained on noisy
# messages of public photos (`dragkit train inverse --at block:6 --defence gaussian:4.0`) needs no likelihood, it has
# learned what to expect. And they can defend their guess as well, and compare on average (*expectation*).

# %% tags=["hide-input"]
recorded.show(chapter.servers)

# %% tags=["hide-input"]
recorded.show(chapter.others)

# %% tags=["hide-input"]
print(pages.verdict("noise-tradeoff"))
print(pages.verdict("queries-undo-noise"))

# %% [markdown]
# The first claim counts every attacker of these tables, and the trained server where there is one. The last one belongs to
# the [randomness chapter](15_randomness.ipynb), which repeats the messages and compares shapes of noise at equal accuracy.
#
# ## Summary
#
# - A defence is $h \mapsto h'$ with secret randomness. Its strength is told in units of the message's spread, its cost in
#   accuracy on all validation photos.
# - The angle survives noise: all distances shrink towards each other by one factor, and the order stays.
# - Who knows the noise uses its likelihood. Who hears $k$ messages averages them, which loses nothing and leaves variance
#   $\sigma^2/k$.
# - Dropout is erasure, and erasure is visible. What arrives is exact, and $k$ messages leave $p^k$ hidden.
# - Judge by leakage *against* accuracy, for the stronger attacker, with intervals in both directions.

# %% tags=["hide-input"]
print(pages.verdict("noise-tradeoff"))

# %% [markdown]
# **What stops it?** Enough noise stops any attack, for it stops the server too. The question is the price, and the claim
# above states the one that was measured, with a server that learned to live with the noise. One that receives noise shaped
# to spare it might pay less: the [randomness chapter](15_randomness.ipynb) tries such shapes.
#
# **What this does not show.** A few turns of one attack, one cut, 64 pixels, servers and networks trained for minutes. An
# attack that fails here bounds nothing: a [bound](16_bounds.ipynb) has to come from mathematics. And a message of 8,320
# numbers has much to say even if each of them is noisy. A smaller message might be worth more than a noisier one.
#
# ## Exercises
#
# **1. Laplace.** Its sharp peak at 0 favours another average. For 15 messages with Laplace noise, compare the error of the
# mean with that of the median, number by number. What does that say about the reply *likelihood* to Laplace noise?
#
# <details><summary>Solution</summary>
#
# ```python
# sent = defend(LaplaceNoise(client.layout, 1.0, unit), h, secret, 15)
# for guess in (sent.mean(0), sent.median(0).values):
#     print((guess - h).square().mean() / h.square().mean())
# ```
#
# The density is $\exp(-|x|/b)/2b$, so the most likely value minimises $\sum_i |h'_i - f|$: a median. For many messages
# its variance is half of the mean's. The recorded reply treats Laplace noise as Gaussian, so its result is a lower bound on
# what leaks. (Why 15? `median` of an even number of values takes the lower of the middle two, which is a small bias.)
#
# </details>
#
# **2. How many messages?** After how many is noise of strength 4 no more than one message's noise of strength 0.5? Check it
# with `average` and the IR distance.
#
# <details><summary>Solution</summary>
#
# $\sigma^2/k$ must be equal: $k = (4/0.5)^2 = 64$.
#
# ```python
# for scale, k in ((4.0, 64), (0.5, 1)):
#     mean = average(defend(gaussian(scale), h, secret, k))
#     print(cosine_distance(client.tokens(mean), client.tokens(h)))
# ```
#
# Eight times the strength costs the attacker 64 times the messages. It costs the server its accuracy on each of them.
#
# </details>
#
# **3. Hide the zeros.** A client replaces what it drops by the mean token's numbers, so that nothing is 0. Has it hidden
# which numbers were dropped? What does the attacker do?
#
# <details><summary>Solution</summary>
#
# No. The mean token is public: the server was told it, and anybody can measure it. A number that equals the mean's
# exactly was dropped, for no photo gives that number by chance. The attacker marks those as missing and goes on as
# before. To hide *which* numbers are gone, the replacement must be drawn from a distribution that real numbers could
# have come from, and then it is noise.
#
# </details>
