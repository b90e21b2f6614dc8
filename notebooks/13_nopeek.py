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

# %%
import math

import torch

from dragkit import data, zoo
from dragkit.attacks.drag import drag
from dragkit.attacks.message import Message
from dragkit.config import DragConfig
from dragkit.defenses import nopeek
from dragkit.defenses.nopeek import distance_correlation
from dragkit.measures import metrics
from draglab import tables
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.studies import defence_study
from draglab.studies.nopeek import CONTROL, SHIPPED
from draglab.training.nopeek import NopeekRecipe, NopeekTask

device = "cuda" if torch.cuda.is_available() else "cpu"
at = defence_study.AT
client = zoo.load_client(at=at, device=device)
prior = zoo.load_prior(device=device)
demo = data.demo_images(64)
names = ["astronaut", "coffee"]
photos = torch.stack([demo[name] for name in names]).to(device)


def gaussian(*shape, stream=0):
    """Standard normal numbers, the same on every machine."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1000 * seed + stream))


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
pages.source(nopeek.distance_correlation, nopeek._centred, nopeek._u_centred)

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
    record(f"independent_biased_{n}", biased[n], atol=0.005)
    record(f"independent_unbiased_{n}", unbiased[n], atol=0.03)
pages.table(
    ["batch of independent noise", "dCor as trained", "its square, U-centred"],
    [[f"N = {n}", biased[n], unbiased[n]] for n in biased],
)

# %%
worst = min(biased.values())
print(
    f"The usual estimate of a correlation that is 0 lies between {worst:.3f} and {max(biased.values()):.3f}, the "
    f"U-centred one between {min(unbiased.values()):+.3f} and {max(unbiased.values()):+.3f}."
)
if worst > 0.9:
    print("At this size the usual estimate cannot tell noise from a copy.")

# %% [markdown]
# Why? In so many dimensions all distances are nearly equal, and only the diagonal, the distance of a photo to itself,
# is different: it is 0. So both tables are nearly $c\,(\mathbf{1}\mathbf{1}^{\!\top} - I)$, and both centred tables nearly
# $-c\,H$. They correlate because both have a diagonal. U-centring takes that diagonal out.
#
# A bias that were the same for all messages would do no harm: it has no gradient. This one is not. The next figure keeps
# independence and changes only *in how many dimensions the messages vary*:

# %% mystnb={"image": {"alt": "Two curves over the binary logarithm of the number of dimensions: the usual estimate rises from 0.4 to 1, the U-centred one stays at 0", "classes": "dark-light"}, "figure": {"caption": "Estimates between a batch of 128 noise photos and independent noise messages. The true value is 0 everywhere.", "name": "fig-nopeek-bias"}}
doublings = range(0, 13, 2)
batches = [(gaussian(128, pixels, stream=3), gaussian(128, 2**k, stream=4 + k)) for k in doublings]
floor = [float(distance_correlation(x, z)) for x, z in batches]
plots.curves(
    {
        "dCor as trained": floor,
        "U-centred (squared)": [float(distance_correlation(x, z, unbiased=True, root=False)) for x, z in batches],
    },
    list(doublings),
    xlabel="dimensions of the message, as a power of 2",
    ylabel="estimate",
    points=True,
)

# %%
if floor[0] < floor[-1]:
    print(
        f"Messages with one dimension score {floor[0]:.2f}, messages with {2 ** doublings[-1]:,} score {floor[-1]:.2f}. Neither "
        "says anything about the photo. A client can lower this loss by varying its messages in fewer directions."
    )

# %% [markdown]
# ### On pictures
#
# Photos are not white noise: most of their variance lies in few directions, so their bias is smaller. We cut the four
# demonstration photos into overlapping pieces and send those through the client. For the truth under independence we
# give every piece *another piece's message*: under such a shuffle the U-centred product is 0 on average, exactly.

# %%
large = torch.stack(list(data.demo_images(256).values()))
pieces = large.unfold(2, 64, 32).unfold(3, 64, 32).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 64, 64)
pieces = pieces[torch.randperm(len(pieces), generator=torch.Generator().manual_seed(seed))][:128].to(device)
with torch.no_grad():
    messages = client(pieces)


def estimates(x, z):
    """Both estimates of the squared correlation."""
    return [float(distance_correlation(x, z, unbiased=how, root=False)) for how in (False, True)]


on_pieces = {
    f"{name}, N = {n}": estimates(pieces[:n], messages[:n] if name == "own message" else messages[:n].roll(1, 0))
    for name in ("own message", "another's message")
    for n in (32, 128)
}
record("pieces_own", on_pieces["own message, N = 128"], atol=0.05)
record("pieces_other", on_pieces["another's message, N = 128"], atol=0.05)
pages.table(["pieces of photos, dCor²", "as trained", "U-centred"], [[k, *v] for k, v in on_pieces.items()])

# %%
share = on_pieces["another's message, N = 32"][0] / on_pieces["own message, N = 32"][0]
later = on_pieces["another's message, N = 128"][0] / on_pieces["own message, N = 128"][0]
print(
    f"Of the number that is trained, {share:.0%} is there without any dependence at N = 32, and {later:.0%} at N = 128."
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
parabola = {
    kind: float(distance_correlation(x, x**2, dx=kind, dz=kind, unbiased=True, root=False))
    for kind in ("euclid", "squared")
}
centred = [a - a.mean(0) for a in (pieces.cpu().flatten(1), messages.cpu().flatten(1))]
k, g = (a @ a.T for a in centred)
cka = float(((k * g).sum() / (k.norm() * g.norm())).sqrt())
with_squares = float(distance_correlation(pieces, messages, dx="squared", dz="squared"))
record("parabola_euclid", parabola["euclid"], atol=0.05)
print(
    f"z = x², squared and U-centred: {parabola['euclid']:.3f} with distances, {parabola['squared']:.3f} with squared distances."
)
print(f"Pieces: {with_squares:.5f} with squared distances; the root of linear CKA is {cka:.5f}.")

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
error = float((back - flat).norm() / flat.norm())
measured = estimates(pieces.cpu(), disguised)
record("disguised", measured, atol=0.06)
print(f"The disguised message: dCor² {measured[0]:.3f} as trained, {measured[1]:.3f} U-centred.")
own = on_pieces["own message, N = 128"]
lower = [name for name, m, o in zip(("as trained", "U-centred"), measured, own, strict=True) if m < o]
print(f"Lower than the client's own message: {', '.join(lower) or 'by neither estimate'}.")
print(f"Undone by the inverse matrix: relative error {error:.1e}.")

# %% [markdown]
# So a small value is a hope, and an attack has to test it. The attacker of this book knows the trained weights, and
# therefore needs no reply to NoPeek: DRAG through the NoPeek client *is* the adaptive attack. So is an inverse network
# that is trained on its messages.
#
# ## Two photos
#
# The same short attack on the shipped client before and after NoPeek.

# %%
config = DragConfig.small({"ci": 40, "laptop": 100, "colab": 400, "paper": 1000}[budget])
clients = {"undefended": client}
if zoo.available(SHIPPED):
    clients["NoPeek"] = zoo.load_client(SHIPPED, at, device=device)
    card = zoo.card(SHIPPED)
    print(f"{SHIPPED} was trained with `{card['command']}`.")
else:
    print(f"Not available: {SHIPPED}. `dragkit train nopeek --ship` makes it.")
runs, similarity = {}, {}
for name, attacked in clients.items():
    with torch.no_grad():
        h = attacked(photos)
    runs[name] = drag(Message(h, attacked), prior, config, seeds=seed)
    similarity[name] = metrics.ms_ssim(runs[name].images, photos)
    record(f"ms_ssim_{name.lower()}", similarity[name], atol=0.15)
    record_panel(name.lower(), runs[name].images, min_ssim=0.4)

# %% mystnb={"image": {"alt": "Rows of two pictures: the photos, the reconstructions from the undefended client's messages, and from the NoPeek client's messages", "classes": "dark-light"}, "figure": {"caption": "The same short attack without and with NoPeek. Under each picture: MS-SSIM to the photo.", "name": "fig-nopeek-photos"}}
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
    variance = torch.linalg.svdvals((z - z.mean(0)).flatten(1).double()).square()
    return float(variance.sum().square() / variance.square().sum())


with torch.no_grad():
    sent = {name: each(pieces).cpu() for name, each in clients.items()}
changed = {name: [*estimates(pieces.cpu(), z), spread(z)] for name, z in sent.items()}
pages.table(
    ["128 pieces", "dCor² as trained", "dCor² U-centred", "directions"],
    [[name, low, fair, f"{wide:.1f}"] for name, (low, fair, wide) in changed.items()],
)

# %%
if "NoPeek" in changed:
    (low0, fair0, wide0), (low1, fair1, wide1) = changed["undefended"], changed["NoPeek"]
    print(f"The trained number went {'down' if low1 < low0 else 'up'} by {abs(low1 - low0):.3f}.")
    print(f"The U-centred one went {'down' if fair1 < fair0 else 'up'} by {abs(fair1 - fair0):.3f}.")
    print(
        f"Messages vary in {'fewer' if wide1 < wide0 else 'no fewer'} directions: {wide0:.1f} before, {wide1:.1f} after."
    )

# %% [markdown]
# ## The control that is missing
#
# NoPeek's client differs from the undefended one in two ways: it was trained *with the loss*, and it was trained
# *further*. A comparison of the two cannot say which of them matters. The control is easy: the same photos, steps and
# settings with $\lambda = 0$. We found it in none of the papers that report on NoPeek.
#
# The other variants change one thing each. Their training and what was measured of them on validation photos is recorded
# with `dragkit sweep defence_nopeek`:

# %%
study = pages.recorded("defence_nopeek")


def trained(rows):
    """How each client was trained that differs from the shipped one, its correlations and its accuracy."""
    models = {
        label: row["models"][row["client"]] for label, row in rows.items() if row.get("client") in row.get("models", {})
    }
    base, table = rows[SHIPPED.removeprefix("nopeek-")]["models"][SHIPPED], []
    for label, model in models.items():
        if rows[label]["method"] != "drag":
            continue
        found = [model["measured"][key]["value"] for key in ("correlation", "correlation_unbiased", "top1")]
        table.append([label, defence_study.changed(model, base) or "-", *found[:2], f"{found[2]:.1%}"])
    return table


print(pages.origin(study) if study else pages.missing("defence_nopeek"))
header = ["client", "changed", "dCor as trained", "U-centred", "accuracy"]
pages.table(header, trained(study["rows"])) if study else None

# %% [markdown]
# ## Measured
#
# `dragkit sweep defence_nopeek` attacks every variant with the same photos and seeds.

# %% mystnb={"image": {"alt": "One dot with a confidence bar per NoPeek variant and attack, and for the reference rows: mean MS-SSIM to the photo", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM of the reconstruction to the photo (higher leaks more), mean and 95 % interval, by variant and attack.", "name": "fig-nopeek-msssim"}}
plots.intervals(pages.summaries(study, "ms_ssim"), "MS-SSIM") if study else None

# %% mystnb={"image": {"alt": "One dot with a confidence bar per NoPeek variant and attack, and for the reference rows: mean ST-LPIPS to the photo", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower leaks more), mean and 95 % interval, by variant and attack.", "name": "fig-nopeek-lpips"}}
plots.intervals(pages.summaries(study, "st_lpips"), "ST-LPIPS") if study else None

# %% [markdown]
# The bars are mostly the spread of the photos. Differences are taken photo by photo: DRAG on a variant minus DRAG on the
# control.

# %%
shipped, control = (name.removeprefix("nopeek-") for name in (SHIPPED, CONTROL))


def verdict(gap):
    """What an interval of (variant - control) in MS-SSIM says."""
    return "leaks less" if gap.high < 0 else "leaks more" if gap.low > 0 else "not told apart"


def ablation(rows):
    """Every row that DRAG attacked: what it leaks, what it is worth, and how it compares with the control."""
    table = []
    for label, row in rows.items():
        if row.get("method") != "drag":
            continue
        same = label == control
        gap = None if same or control not in rows else tables.difference(rows, label, control, "ms_ssim")
        table.append(
            [
                label,
                f"{row['accuracy'][0]:.1%}",
                *(row[metric]["mean"] for metric in ("ms_ssim", "st_lpips")),
                f"{row['retrieval_top1'][0]:.0%}",
                f"{gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})" if gap else "-",
                verdict(gap) if gap else "the control" if same else "no control",
            ]
        )
    return table


header = ["client", "accuracy", "MS-SSIM", "ST-LPIPS", "found among 1,000", "MS-SSIM minus control", "by its interval"]
pages.table(header, ablation(study["rows"])) if study else None


# %%
def read(rows):
    """What NoPeek did, beside what further training did, in sentences."""
    for a, b, what in (
        (control, defence_study.OPEN, "further training alone"),
        (shipped, control, "the loss, beside the same training without it"),
        (shipped, defence_study.OPEN, "both together"),
    ):
        if a not in rows or b not in rows:
            print(f"{what.capitalize()}: not recorded.")
            continue
        gap = tables.difference(rows, a, b, "ms_ssim")
        lost = rows[a]["accuracy"][0] - rows[b]["accuracy"][0]
        effect = "lower" if gap.high < 0 else "higher" if gap.low > 0 else "not told apart"
        print(
            f"{what.capitalize()}: MS-SSIM of DRAG {effect}, {gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}). "
            f"Accuracy: {100 * lost:+.1f} points."
        )
    network = f"{shipped}, inverse network"
    if network in rows and shipped in rows:
        gap = tables.difference(rows, network, shipped, "st_lpips")
        first = "closer than" if gap.high < 0 else "further than" if gap.low > 0 else "not told apart from"
        print(
            f"An inverse network trained on NoPeek's messages is {first} DRAG in ST-LPIPS: {gap.mean:+.3f} "
            f"({gap.low:+.3f} to {gap.high:+.3f})."
        )
    if shipped in rows:
        above = defence_study.above_half(rows, shipped)
        kept = "more than" if above.low > 0 else "less than" if above.high < 0 else "about"
        print(f"DRAG keeps {kept} half of the MS-SSIM that it gains over the prior alone without the defence.")


read(study["rows"]) if study else None

# %%
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
