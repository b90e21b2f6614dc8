# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # NoPeek: decorrelate the message
#
# NoPeek (Vepakomma et al., 2020, arXiv 2008.09161) is a defence by training. It adds nothing to the message and hides no
# part of it. It trains the phone's half of the network so that messages depend less on photos, and measures the
# dependence with one number, the *distance correlation*. The idea is clean. This chapter looks at the number first, as it
# is computed in practice: on a mini-batch, from photos and messages with thousands of dimensions.
#
# **Goals.** Know the formula and see it run. Find out how much of the trained number is an error of its estimator. Tell
# distance correlation from its look-alike with squared distances. Ask for the control that is missing, training without
# the loss. Read the measured results.
#
# **You need** the [quickstart](00_quickstart.ipynb) and the [noise chapter](11_noise.ipynb), which says how defences are
# judged in this book.
#
# > **Cost:** CPU, less than a minute (two short attacks on two photos), 1.2 GB of memory. All else is recorded.
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
    zoo,
)
from dragkit.defenses import nopeek
from dragkit.defenses.nopeek import distance_correlation
from draglab.chapters import ch13_nopeek as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import study
from draglab.studies import defence_study
from draglab.studies.nopeek import SHIPPED
from draglab.training.nopeek import NopeekRecipe, NopeekTask

device = "cuda" if torch.cuda.is_available() else "cpu"
at = defence_study.AT
prior = load_prior(device=device)
client = load_client(at=at, device=device)
demo = data.demo_images(64)
names = ["astronaut", "coffee"]
photos = torch.stack([demo[name] for name in names]).to(device)


def gaussian(*shape, stream=0):
    """Standard normal numbers, the same on every machine."""
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(1000 * seed + stream)
    )


# %% [markdown]
# ## The loss
#
# The phone's half $f$ and the server's half $g$ are trained together, on the task and against the correlation:
#
# $$ \min_{f,\,g}\; \mathrm{CE}\big(g(f(X)), y\big) + \lambda\, \mathrm{dCor}\big(X, f(X)\big) . $$

# %%
pages.source(NopeekRecipe, NopeekTask.loss)

# %% [markdown]
# **Distance correlation** (Székely, Rizzo and Bakirov, 2007) compares two tables of distances. Take a batch of $N$ photos.
# $D_X$ holds the distances between photos, $D_Z$ those between their messages. Subtract the means of rows and columns,
# and correlate what is left, entry by entry:
#
# $$ \mathrm{dCor}^2 = \frac{\langle A, B\rangle}{\lVert A\rVert\,\lVert B\rVert}, \qquad
# A = H D_X H,\quad B = H D_Z H,\quad H = I - \tfrac1N \mathbf{1}\mathbf{1}^{\!\top} . $$
#
# If photos that are far apart have messages that are far apart, it is near 1. Its charm is a theorem: with Euclidean
# distances, and *with infinitely many photos*, it is 0 exactly when photo and message are independent.

# %%
pages.source(nopeek.distance_correlation, nopeek.centred, nopeek.u_centred)

# %% [markdown]
# The listing has two ways to subtract the means. The first is the formula above; every NoPeek code that we read uses it.
# The second, **U-centring** (Székely and Rizzo, 2014), leaves the diagonal out, and its product is 0 on average for
# independent batches.
#
# ## What the estimate says about nothing
#
# Now the test that any measure of dependence must pass. Both batches are pure noise, drawn separately: one as large as a
# photo, $3 \cdot 64 \cdot 64 = 12{,}288$ numbers, the other as large as a message, $65 \cdot 128 = 8{,}320$. There is no
# dependence, so the truth is 0.

# %%
pixels, features = 3 * 64 * 64, math.prod(client.h_shape)
biased, unbiased = {}, {}
for n in (32, 128, 512):
    x, z = gaussian(n, pixels, stream=1), gaussian(n, features, stream=2)
    biased[n] = float(distance_correlation(x, z))
    unbiased[n] = float(distance_correlation(x, z, unbiased=True, root=False))

# %% tags=["hide-input"]
for n in biased:
    record(f"independent_biased_{n}", biased[n], atol=0.005)
    record(f"independent_unbiased_{n}", unbiased[n], atol=0.03)
print(*chapter.independent_in_words(biased, unbiased), sep="\n")
chapter.independent(biased, unbiased)

# %% [markdown]
# Why? In so many dimensions all distances are nearly equal, and only the diagonal, the distance of a photo to itself,
# is different: it is 0. So both tables are nearly $c\,(\mathbf{1}\mathbf{1}^{\!\top} - I)$, and both centred tables nearly
# $-c\,H$. They correlate because both have a diagonal. U-centring takes that diagonal out.
#
# A bias that were the same for all messages would do no harm: it has no gradient. This one is not. The next figure keeps
# independence and changes only *in how many dimensions the messages vary*:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two curves over the binary logarithm of the number of dimensions: the usual estimate rises from 0.4 to 1, the U-centred one stays at 0", "classes": "dark-light"}, "figure": {"caption": "Estimates between a batch of 128 noise photos and independent noise messages. The true value is 0 everywhere.", "name": "fig-nopeek-bias"}}
doublings = range(0, 13, 2)
batches = [
    (gaussian(128, pixels, stream=3), gaussian(128, 2**k, stream=4 + k))
    for k in doublings
]
floor = [float(distance_correlation(x, z)) for x, z in batches]
plots.curves(
    {
        "dCor as trained": floor,
        "U-centred (squared)": [
            float(distance_correlation(x, z, unbiased=True, root=False))
            for x, z in batches
        ],
    },
    list(doublings),
    xlabel="dimensions of the message, as a power of 2",
    ylabel="estimate",
    points=True,
)

# %% tags=["hide-input"]
print(chapter.floor_in_words(floor, 2 ** doublings[-1]))

# %% [markdown]
# ### On pictures
#
# Photos are not white noise: most of their variance lies in few directions, so their bias is smaller. We cut the four
# demonstration photos into overlapping pieces and send those through the client. For the truth under independence we
# give every piece *another piece's message*: under such a shuffle the U-centred product is 0 on average, exactly.

# %%
large = torch.stack(list(data.demo_images(256).values()))
pieces = chapter.pieces_of(large, 128, seed).to(device)
with torch.no_grad():
    messages = client(pieces)


def estimates(x, z):
    """Both estimates of the squared correlation: as trained, and U-centred."""
    usual = distance_correlation(x, z, root=False)
    return [float(usual), float(distance_correlation(x, z, unbiased=True, root=False))]


on_pieces = {}
for n in (32, 128):
    x, z = pieces[:n], messages[:n]
    on_pieces[f"own message, N = {n}"] = estimates(x, z)
    on_pieces[f"another's message, N = {n}"] = estimates(x, z.roll(1, 0))

# %% tags=["hide-input"]
record("pieces_own", on_pieces["own message, N = 128"], atol=0.05)
record("pieces_other", on_pieces["another's message, N = 128"], atol=0.05)
print(chapter.on_pieces_in_words(on_pieces))
pages.table(
    ["pieces of photos, dCor²", "as trained", "U-centred"],
    [[k, *v] for k, v in on_pieces.items()],
)

# %% [markdown]
# ## Squared distances: another quantity
#
# Several codes replace $\lVert x_i - x_j\rVert$ by its square, which saves a root and the trouble with its gradient at 0.
# But for squared distances $H D H = -2\,H K H$, with $K$ the matrix of inner products. What comes out is the root of
# **linear CKA**, a comparison of covariances. DRAG's cosine option is of this kind as well: between tokens of unit length,
# $1 - \cos$ is half a squared distance.
#
# The theorem is lost with the root. Zero now means *uncorrelated*. Here the message is the square of the photo's one
# number, so it depends on nothing else:

# %%
x = gaussian(512, 1, stream=40)
parabola = {}
for kind in ("euclid", "squared"):
    correlation = distance_correlation(
        x, x**2, dx=kind, dz=kind, unbiased=True, root=False
    )
    parabola[kind] = float(correlation)

centred = [a.cpu().flatten(1) - a.cpu().flatten(1).mean(0) for a in (pieces, messages)]
k, g = (a @ a.T for a in centred)
cka = float(((k * g).sum() / (k.norm() * g.norm())).sqrt())
with_squares = distance_correlation(pieces, messages, dx="squared", dz="squared")

# %% tags=["hide-input"]
record("parabola_euclid", parabola["euclid"], atol=0.05)
print(
    f"z = x², U-centred: {parabola['euclid']:.3f} with distances, {parabola['squared']:.3f} with squared distances."
)
print(
    f"Pieces: {float(with_squares):.5f} with squared distances; the root of linear CKA is {cka:.5f}."
)

# %% [markdown]
# ## A low correlation is not a hidden photo
#
# Suppose the estimate were perfect. What would a small value promise? An attacker asks whether the photo can be
# *computed* from the message. Distance correlation asks whether distances agree. The next cell makes a message that is a
# linear, invertible function of the piece: its coordinates along the directions in which pieces vary, all made equally
# loud, and one of the quieter ones thirty times louder.

# %%
flat = pieces.cpu().flatten(1) - pieces.cpu().flatten(1).mean(0)
_, loudness, directions = torch.linalg.svd(flat, full_matrices=False)
kept = slice(0, len(flat) - 1)  # the mean was taken out, so the last direction is empty
scale = 1 / loudness[kept]
scale[100] *= 30
disguised = flat @ directions[kept].T * scale
back = disguised / scale @ directions[kept]

# %% tags=["hide-input"]
measured = record("disguised", estimates(pieces.cpu(), disguised), atol=0.06)
error = float((back - flat).norm() / flat.norm())
print(
    *chapter.disguised_in_words(measured, on_pieces["own message, N = 128"], error),
    sep="\n",
)

# %% [markdown]
# So a small value is a hope, and an attack has to test it. The attacker of this book knows the trained weights, and
# therefore needs no reply to NoPeek: DRAG through the NoPeek client *is* the adaptive attack. So is an inverse network
# that is trained on its messages.
#
# ## Two photos
#
# The same short attack on the shipped client before and after NoPeek.

# %% tags=["hide-input"]
clients = {"undefended": client}
if zoo.available(SHIPPED):
    clients["NoPeek"] = load_client(SHIPPED, at, device=device)
    print(f"{SHIPPED} was trained with `{zoo.card(SHIPPED)['command']}`.")
else:
    print(f"Not available: {SHIPPED}. `dragkit train nopeek --ship` makes it.")

# %%
turns = {"ci": 40, "laptop": 100, "colab": 400, "paper": 1000}[budget]
config = DragConfig.small(turns)
runs = {}
for name, attacked in clients.items():
    with torch.no_grad():
        h = attacked(photos)
    runs[name] = drag(Message(h, attacked), prior, config, seeds=seed)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Rows of two pictures: the photos, the reconstructions from the undefended client's messages, and from the NoPeek client's messages", "classes": "dark-light"}, "figure": {"caption": "The same short attack without and with NoPeek. Under each picture: MS-SSIM to the photo.", "name": "fig-nopeek-photos"}}
similarity = {name: metrics.ms_ssim(run.images, photos) for name, run in runs.items()}
for name, run in runs.items():
    record(f"ms_ssim_{name.lower()}", similarity[name], atol=0.15)
    record_panel(name.lower(), run.images, min_ssim=0.4)
plots.image_rows(
    {"photo": photos, **{name: run.images for name, run in runs.items()}},
    names,
    {name: [f"{s:.2f}" for s in similarity[name].tolist()] for name in runs},
)

# %% [markdown]
# What did the training do to the messages? Both estimates on the pieces, and the number of directions in which messages
# vary (the squared sum of the variances over the sum of their squares, which is 1 for a single direction):


# %%
def spread(z):
    """In how many directions a batch varies."""
    singular = torch.linalg.svdvals((z - z.mean(0)).flatten(1).double())
    variance = singular.square()
    return float(variance.sum().square() / variance.square().sum())


# %% tags=["hide-input"]
with torch.no_grad():
    sent = {name: each(pieces).cpu() for name, each in clients.items()}
trained = {name: [*estimates(pieces.cpu(), z), spread(z)] for name, z in sent.items()}
print(*chapter.changed_in_words(trained), sep="\n")
chapter.changed(trained)

# %% [markdown]
# ## The control that is missing
#
# NoPeek's client differs from the undefended one in two ways: it was trained *with the loss*, and it was trained
# *further*. A comparison of the two cannot say which of them matters. The control is easy: the same photos, steps and
# settings with $\lambda = 0$. We found it in none of the papers that report on NoPeek.
#
# The other variants change one thing each. Their training and what was measured of them on validation photos is recorded
# with `dragkit sweep defence_nopeek`:

# %% tags=["hide-input"]
variants = study("defence_nopeek")
variants.origin

# %% tags=["hide-input"]
variants.show(chapter.trained)

# %% [markdown]
# ## Measured
#
# `dragkit sweep defence_nopeek` attacks every variant with the same photos and seeds.

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per NoPeek variant and attack, and for the reference rows: mean MS-SSIM to the photo", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM of the reconstruction to the photo (higher leaks more), mean and 95 % interval, by variant and attack.", "name": "fig-nopeek-msssim"}}
variants.intervals("ms_ssim")

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per NoPeek variant and attack, and for the reference rows: mean ST-LPIPS to the photo", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower leaks more), mean and 95 % interval, by variant and attack.", "name": "fig-nopeek-lpips"}}
variants.intervals("st_lpips")

# %% [markdown]
# The bars are mostly the spread of the photos. Differences are taken photo by photo: DRAG on a variant minus DRAG on the
# control.

# %% tags=["hide-input"]
variants.show(chapter.ablation)

# %% tags=["hide-input"]
print(*chapter.effects(variants), sep="\n")

# %% tags=["hide-input"]
for claim in ("nopeek-insufficient", "nopeek-lambda0-control"):
    print(pages.verdict(claim))

# %% [markdown]
# ## Summary
#
# - Distance correlation compares two tables of distances. On a mini-batch of high-dimensional data the usual estimate is
#   far from 0 without any dependence, and it falls when messages vary in fewer directions. U-centring repairs the estimate.
# - With squared distances the number is the root of linear CKA: zero means uncorrelated and no more.
# - A small correlation does not hide a photo: an invertible map can have one.
# - A trained defence is compared with the same training without its loss. Everything else mixes two effects.
#
# **What stops it?** Whether NoPeek stops DRAG here is said by the two claims above, and by the row of the control. The
# loss gives no guarantee: none of its values bounds what an attacker can rebuild. [Chapter 16](16_bounds.ipynb) is about
# quantities that do.
#
# **What this does not show.** One small transformer, one cut, one value of $\lambda$, and a few hundred steps of
# training that begin from a finished client. The authors train from scratch for many epochs, with other networks and
# weights, and a longer training may give up more accuracy for less leakage. The bias of the estimator has nothing to do
# with our scale: it gets worse with larger images.
#
# ## Exercises
#
# **1. Batch of four.** What do the two estimates say about independent noise at $N = 4$? Why does a larger batch help the
# usual estimate so slowly?
#
# <details><summary>Solution</summary>
#
# ```python
# for n in (4, 16, 64, 256):
#     x, z = gaussian(n, pixels, stream=50), gaussian(n, features, stream=51)
#     print(n, distance_correlation(x, z), distance_correlation(x, z, unbiased=True, root=False))
# ```
#
# The diagonal has $N$ entries, the rest of the table $N(N-1)$, but the entries off the diagonal differ from one another by
# a share of only about $1/\sqrt{\text{dimensions}}$. The diagonal stops dominating when $N$ is comparable to the number of
# dimensions, which no mini-batch is.
#
# </details>
#
# **2. Which tokens?** `NopeekRecipe(tokens=...)` decorrelates all tokens, the patches, or CLS alone. Compute the U-centred
# estimate for `messages[:, :1]` and `messages[:, 1:]`. Which part would you expect an attacker to live on?
#
# <details><summary>Solution</summary>
#
# ```python
# for part in (messages[:, :1], messages[:, 1:]):
#     print(estimates(pieces, part))
# ```
#
# A recipe that looks at CLS alone leaves 64 patch tokens as they were, and DRAG compares all tokens. The patches carry the
# photo's layout; one token of 128 numbers cannot hold it.
#
# </details>
#
# **3. Fool the loss.** Name a last layer for the client that makes the trained number much smaller, and that an attacker
# undoes in one line.
#
# <details><summary>Solution</summary>
#
# Multiply one quiet direction of the message by a million. All distances are then distances along this one direction, so
# the message looks one-dimensional to the loss. The attacker divides by a million. The cell with the disguised message does
# this with a factor of thirty.
#
# </details>
