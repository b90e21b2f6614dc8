# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tokens: shuffled, dropped, turned, and put back
#
# Noise costs accuracy. The defences of this chapter look better on paper: some of them do not change the server's answer
# *at all*. The client sends its tokens in a secret order, or in a secret basis. Others send less: fewer tokens, fewer
# numbers, fewer bits. The question is the same for all: what does an attacker do who knows?
#
# **Goals.** Show that the order of the tokens is free for the server, and count the bits that it can hide. Put tokens back
# in order, with and without training. See that a missing token is an erasure, and what repeated messages reveal. Count the
# bits of a message. Turn the message by a secret rotation, and read the rotation off the server's weights.
#
# **You need** [chapter 1](01_split_inference.ipynb), which shuffles tokens for the first time, and the contract of a
# defence from [chapter 11](11_noise.ipynb).
#
# > **Cost:** CPU, less than a minute (four short attacks on two photos), 1.2 GB of memory. All else is recorded.
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
from functools import partial

import torch
import transformers

from dragkit import (
    DragConfig,
    Message,
    SplitClient,
    cosine_distance,
    data,
    defend,
    drag,
    hear,
    load_client,
    load_prior,
    make_defence,
    metrics,
)
from dragkit.adaptive.distances import (
    Assignment,
    Gram,
    SlicedWasserstein,
    match,
    token_gram_distance,
)
from dragkit.adaptive.reorder import PositionNetwork, reorder
from dragkit.adaptive.replies import reordered, undone, visible_tokens
from dragkit.bounds import shuffle_bits, success_bound
from dragkit.defenses import FeaturePermutation, Rotation, TokenDrop, TokenShuffle
from dragkit.defenses.public import public_tokens
from dragkit.defenses.tokens import orderless_layout
from dragkit.defenses.transforms import (
    first_weights,
    random_rotation,
    recover_permutation,
    recover_rotation,
    transformed_server,
)
from dragkit.defenses.transport import LowRank, Quantise, TopK
from dragkit.measures import utility
from draglab.chapters import ch12_tokens as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import study
from draglab.studies import defence_study
from draglab.studies.tokens import SHARES
from draglab.studies.transport import BITS, RANKS, TOPK

device = "cuda" if torch.cuda.is_available() else "cpu"
at = defence_study.AT
prior = load_prior(device=device)
demo = data.demo_images(64)
names = ["astronaut", "coffee"]
right = [list(demo).index(name) for name in names]
photos = torch.stack([demo[name] for name in names]).to(device)

# %%
client = load_client(at=at, device=device)
prefix = client.layout.prefix_tokens
with torch.no_grad():
    h = client(photos)
    guesses = client.tokens(client(torch.stack(list(demo.values())).to(device)))
secret = seed + 100_000  # the user's random stream; the attacker draws from another
nearest = partial(chapter.nearest, guesses, right)  # of the right and of a wrong guess

# %% [markdown]
# ## Shuffling is free
#
# After the position embeddings were added, a transformer treats its tokens as a set. Attention compares every token with
# every other one and sums over all of them; LayerNorm and MLP act on each token alone. Let $P$ be a permutation of the
# patch tokens. Then each block, and so the server's whole stack, obeys
#
# $$ F(P h) = P\,F(h) , $$
#
# which is called **permutation equivariance**. The answer is read off the CLS token, which stays in front. So the
# answer does not change, whatever $P$ is, and the server need not know $P$:

# %%
pages.source(TokenShuffle.__call__)

# %%
shuffle = TokenShuffle.of(client)
shuffled = defend(shuffle, h, secret)[0]
with torch.no_grad():
    plain_answer = client.server(h)
    change = chapter.moved(client.server(shuffled), plain_answer)

# %% tags=["hide-input"]
record("shuffle_moves_server", change, atol=1e-5)
print(f"Largest change of the server's output: {change:.1e} of its largest number.")
print(
    f"Smaller than 1e-5: {'yes' if change < 1e-5 else 'NO'}. What is left is the order in which floats are added."
)

# %% [markdown]
# ### Not for every network
#
# A server that looks at positions *after* the cut would notice: windows and relative positions (Swin), rotary embeddings,
# an MLP across tokens (Mixer), convolutions. The library does not trust a list of names. It feeds the server shuffled
# tokens and looks whether the answer stays. Where it does not, shuffling and dropping are refused:

# %%
pages.source(SplitClient.measure_equivariance, orderless_layout)

# %%
with torch.random.fork_rng():
    torch.manual_seed(seed)
    shape = transformers.SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=8,
        window_size=4,
        depths=[2, 2],
        num_heads=[2, 4],
    )
    network = transformers.SwinModel(shape)
swin = SplitClient(network, "encoder.layers.0.blocks.0", image_size=32)
try:
    TokenShuffle.of(swin)
except ValueError as refused:
    print(refused)

# %% [markdown]
# ### How much can an order hide?
#
# The message is a row of floats, so the information in it is finite. With the order $\pi$, the shuffled message $H'$ gives
# back the message $H$. The chain rule of mutual information does the rest:
#
# $$ I(X; H) \le I(X; H', \pi) = I(X; H') + I(X; \pi \mid H') \le I(X; H') + \log_2 n! . $$
#
# An order of $n$ tokens is one of $n!$, so it has at most $\log_2 n!$ bits, and shuffling takes no more than these from
# what the message says about the photo. The bound limits the *defence*, whoever attacks. It does not say that what is left
# is easy to get at.

# %%
pages.source(shuffle_bits)

# %%
tokens, features = client.h_shape
patches = tokens - prefix
hidden = record("shuffle_bits", shuffle_bits(patches), atol=1e-6)
whole_message = tokens * features * 32

# %% tags=["hide-input"]
print(
    f"{patches} patch tokens: at most {hidden:.0f} bits, {hidden / patches:.1f} per token."
)
print(
    f"The message has {whole_message:,} bits, as float32 numbers. The order is {hidden / whole_message:.2%} of that."
)

# %% [markdown]
# ## Putting them back
#
# ### Compare sets
#
# A token-wise distance compares each token with the one that should be there, so a shuffled message looks wrong even to
# somebody who holds the right photo. There is no need for places. Three distances compare the patch tokens as *sets*;
# CLS, which is not shuffled, is compared as before:
#
# - **Gram:** the second moments $H^\top H / n$ of the tokens, which do not depend on their order.
# - **Sliced Wasserstein:** project all tokens on a random direction, *sort*, compare; many directions.
# - **Assignment:** match every token that arrived with one of the guess, no token twice, at the smallest total distance,
#   $\min_\pi \sum_i 1 - \cos(f_c(\hat x)_{\pi(i)}, h'_i)$. The Hungarian method (Kuhn, 1955) finds the best of all $n!$
#   matchings in about $n^3$ steps.

# %%
pages.source(match, Assignment.__call__, Gram.__call__, SlicedWasserstein.of_sets)

# %%
orderless = {
    "token by token": cosine_distance,
    "Gram": Gram(prefix),
    "sliced Wasserstein": SlicedWasserstein(prefix),
    "assignment": Assignment(prefix),
}
apart = {label: nearest(distance, shuffled) for label, distance in orderless.items()}

# %% tags=["hide-input"]
record("right_photo_assigned", [own for own, _ in apart["assignment"]], atol=1e-4)
print(*chapter.sets_in_words(apart), sep="\n")
chapter.candidates("distance to the shuffled message", apart, names)

# %% [markdown]
# None of them needs training or public photos. The matching is solved anew in every turn of the attack, between the tokens
# that arrived and those of the present estimate. That is its weakness: the first estimates are grey fog, and the first
# matchings are guesses.
#
# ### Learn where a token comes from
#
# The position embeddings were added to the tokens, and nothing takes them out again. A token *remembers its place*. How
# clearly? Take the mean token of each place over training photos, and give each token of *other* photos to the place whose
# mean it resembles, no place taken twice:

# %%
pages.source(reorder)

# %% tags=["hide-input"]
try:
    public, tested_on = public_tokens(client).float().to(device), "32 validation photos"
    with torch.no_grad():
        tested = client(data.pick("val", 32, seed=seed)[0].to(device))
except FileNotFoundError:
    public, tested_on = (
        guesses[[i for i in range(len(guesses)) if i not in right]],
        "the two photos, as an illustration",
    )
    tested = h
side = math.isqrt(patches)
own, mirror = (places.to(device) for places in chapter.places(side))

# %%
means = public[:, prefix:].mean(0)
apart_by_place = torch.cdist(tested[:, prefix:], means.expand(len(tested), -1, -1))
by_means = match(apart_by_place)

# %% tags=["hide-input"]
chapter.landed(tested_on, {"mean tokens": by_means}, side)

# %% [markdown]
# The reply of the authors of DRAG (arXiv 2509.11724) trains a classifier of positions on public photos, and lets the Hungarian method turn its
# scores into an order. Ours is a transformer of two blocks *without* position embeddings. It sees all tokens of a message
# at once, so it can use that neighbours look alike. It is taught with tokens missing, so it survives dropping:

# %%
pages.source(PositionNetwork, reordered)

# %% [markdown]
# Training takes minutes on one core, so this page only uses a classifier that is already in the cache, from
# `python -m dragkit.adaptive.reorder`:

# %% tags=["hide-input"]
positions = chapter.cached_positions(client)
print(*chapter.positions_in_words(positions, client), sep="\n")
chapter.classified(tested_on, positions, tested, side)

# %% [markdown]
# ### Left or right
#
# Why does the table have a column for mirrored places? The client was trained on photos and on their mirror images, and the
# two mean the same to it. So its tokens may know their row and their distance from the middle, and hardly their side.
# Ask the distances: how far is the message of the *mirrored* photo?

# %%
with torch.no_grad():
    mirrored = client.tokens(client(photos.flip(-1)))
flipped = {name: by(mirrored, shuffled).tolist() for name, by in orderless.items()}

# %% tags=["hide-input"]
record("mirrored_photo_assigned", flipped["assignment"], atol=0.02)
beside = {
    label: [
        (own, wrong)
        for own, (_, wrong) in zip(flipped[label], apart[label], strict=True)
    ]
    for label in orderless
}
print(chapter.mirrored_in_words(beside["assignment"]))
chapter.candidates("distance to the shuffled message", beside, names, "mirrored")

# %% [markdown]
# A classifier has it worse. If the set fits a photo and its mirror image equally well, the probability of each token is
# one half here and one half there. Probabilities token by token cannot say *all of them here or all of them there*, so the
# Hungarian method decides each token by itself, and left and right get mixed. A look at the columns says how much of what
# goes wrong is of this kind. An attacker who decided the sides together should do better (exercise 1).
#
# The reply *placed* lets the picture decide. It solves the assignment in the loop, and subtracts from the cost of putting
# token $i$ at place $j$ a share of the classifier's $\log p(j \mid i)$. The classifier says which places are possible,
# and the estimate, which is one picture, which of the two sides fits the rest:

# %%
pages.source(Assignment.__call__)

# %% [markdown]
# ## Dropping tokens
#
# Leave out a share $p$ of the patch tokens, chosen at random for each message. The server's attention simply has fewer
# tokens to look at. A token that was left out is zero in $h'$, and everybody sees it:

# %%
pages.source(TokenDrop.__call__, TokenDrop.receive, visible_tokens)

# %%
for share in SHARES:
    drop = TokenDrop.of(client, share)
    sent = defend(drop, h, secret)[0]
    for i, name in enumerate(names):
        received = drop.receive(sent[i : i + 1])
        consequence = utility.consequence(client, h[i : i + 1], received)
        print(f"{name}, {share:.0%} dropped: {consequence}.")

# %% [markdown]
# ### What the mask is worth
#
# Must the attacker mask the missing tokens? A zero has no direction. Its cosine to anything counts as 0, its distance as 1,
# and the gradient of a constant is zero. With the share $s$ of the tokens that arrived, the distance of somebody who does
# *not* know is
#
# $$ d_{\text{unaware}} = s\, d_{\text{masked}} + (1 - s) . $$
#
# Same minimum, same direction of the gradient, only its length differs:

# %%
drop = TokenDrop.of(client, 0.5)
dropped = defend(drop, h, secret)[0]
arrived = drop.arrived(dropped)
masked = nearest(cosine_distance, dropped, arrived)
unmasked = nearest(cosine_distance, dropped)

# %% tags=["hide-input"]
record("dropped_wrong", [wrong for _, wrong in masked], atol=0.05)
chapter.mask_table(masked, unmasked, float(arrived.double().mean()), names)

# %% [markdown]
# So a plain attack with this distance is nearly mask-aware by accident. (Not quite: the distance is weighed against the
# regularisation of the picture, and gradients are clipped.) Where a token's zero is hidden, by noise on top or by a mean
# token in its place, the mask is worth more.
#
# ### k messages, and dropping with shuffling
#
# What one message leaves out, the next one may bring, exactly. After $k$ messages $p^k$ of the tokens are still
# hidden. Shuffling on top does not help against that: the tokens of two messages about one photo are *equal numbers*, so
# the attacker pools them by looking which are the same.

# %%
counts = (1, 2, 4, 8)
both = make_defence("drop:0.5+shuffle", client)
mixed = defend(both, h, secret, max(counts))


def different(messages):
    """How many different patch tokens arrived in messages `(k, N, D)` about a photo."""
    there = both.arrived(messages)[:, prefix:]
    return len(torch.unique(messages[:, prefix:][there], dim=0))


pooled = {k: [different(mixed[:k, i]) for i in range(len(h))] for k in counts}

# %% tags=["hide-input"]
record(
    "pooled_tokens",
    [sum(numbers) / len(numbers) for numbers in pooled.values()],
    atol=4,
)
chapter.pooled_table(pooled, names, patches)

# %% [markdown]
# ## Turning the features
#
# Instead of the order of the tokens, hide what the *features* mean. Send $h' = hQ$ with a secret orthogonal matrix $Q$, and
# give the server weights that undo it on the way: $WQ$ where a map reads the tokens, $Q^\top W$ where one adds to them. Scalar
# products do not change, so attention does not. One thing stands in the way. LayerNorm subtracts the mean of a token's
# features, and $\tfrac1D\, hQ\mathbf 1$ is the old mean exactly when
#
# $$ Q\mathbf 1 = \mathbf 1 . $$
#
# With its gain and bias folded into the maps behind it, LayerNorm then commutes with $Q$. A permutation of the features is
# such a $Q$ as well. (Computational invariance: SliceGPT, arXiv 2401.15024; QuaRot, arXiv 2404.00456.)

# %%
pages.source(random_rotation, transformed_server)

# %%
key = seed + 7
generator = torch.Generator().manual_seed(key)
square = torch.randn(features, features, generator=generator, dtype=torch.float64)
bases = {
    "rotation with Q1 = 1": Rotation.of(client, key),
    "permutation": FeaturePermutation.of(client, key),
    "orthogonal, Q1 ≠ 1": Rotation(client.layout, None, torch.linalg.qr(square)[0]),
}
turned = {label: defend(basis, h, secret)[0] for label, basis in bases.items()}
servers = {label: transformed_server(client, basis) for label, basis in bases.items()}

# %% tags=["hide-input"]
with torch.no_grad():
    shift = {
        label: chapter.moved(servers[label].server(turned[label]), plain_answer)
        for label in bases
    }
    naive = {
        label: chapter.moved(client.server(turned[label]), plain_answer)
        for label in bases
    }
record(
    "secret_moves_server",
    [shift["rotation with Q1 = 1"], shift["permutation"]],
    atol=1e-5,
)
chapter.turned_table(shift, naive)

# %% [markdown]
# ### Undone from the weights
#
# Exact for the server; and the server is the attacker. It holds $W' = WQ$, the public model has $W$, and the orthogonal
# matrix that takes one to the other is the solution of **Procrustes'** problem:
#
# $$ \min_{Q^\top Q = I} \lVert WQ - W' \rVert^2 \;\Rightarrow\; Q = UV^\top \quad\text{with}\quad W^\top W' = U \Sigma V^\top . $$
#
# For a permutation, columns are matched one to one, by the Hungarian method again.

# %%
pages.source(recover_rotation, recover_permutation, undone)

# %%
published = first_weights(client)  # from the published model
recovered = {}
for label in ("rotation with Q1 = 1", "permutation"):
    held = first_weights(servers[label])  # from the operator's file, in float32
    recovered[label] = type(bases[label]).recovered(client.layout, published, held)

# %% tags=["hide-input"]
errors = {
    label: float((basis.matrix - bases[label].matrix).abs().max())
    for label, basis in recovered.items()
}
back = {
    label: float((basis.receive(turned[label]) - h).abs().max() / h.abs().max())
    for label, basis in recovered.items()
}
record("recovered_q_error", list(errors.values()), atol=1e-5)
print(chapter.recovered_in_words(errors))
chapter.recovered_table(errors, back)

# %% [markdown]
# ### Or ignored
#
# Somebody who does not have the server's weights (a third party on the wire, say) cannot do this. But an orthogonal $Q$ leaves the scalar products *between the tokens* alone, $hQ(hQ)^\top = hh^\top$. They compare the matrix of
# cosines between all pairs of tokens:

# %%
pages.source(token_gram_distance)

# %% tags=["hide-input"]
turned_by = {
    "token by token": cosine_distance,
    "cosines between tokens": token_gram_distance,
}
views = {
    label: nearest(distance, turned["rotation with Q1 = 1"])
    for label, distance in turned_by.items()
}
record(
    "right_photo_token_gram",
    [own for own, _ in views["cosines between tokens"]],
    atol=1e-4,
)
chapter.candidates("distance to the rotated message", views, names)

# %% [markdown]
# The right photo is at distance 0, so whoever *has candidates* can check them through the rotation. Whether a search from noise
# finds its way by this distance is another question, for the recorded runs below.
#
# A secret basis can be of use where the server's model is itself private, so that nobody has both $W$ and $W'$. That is
# another threat model than the one of this book.
#
# ## Sending less
#
# Cut the message itself: the $k$ numbers of each token that are farthest from the mean token's; a projection on few
# principal directions; few bits per number. These are not exact for the server. What sets them apart is a *guarantee*. A
# message of $B$ bits takes one of $2^B$ values, so for every attacker and every photo
#
# $$ I(X; H') \le B \text{ bits}, \qquad \Pr[\text{success}] \le \kappa\, 2^{B} , $$
#
# where $\kappa$ is the chance of success without a message ([chapter 16](16_bounds.ipynb)).

# %%
pages.source(TopK.__call__, TopK.bits.fget, LowRank.__call__)

# %%
pages.source(Quantise.__call__, Quantise.bits.fget, success_bound)

# %% tags=["hide-input"]
recipes = (f"topk:{TOPK[-1]}", f"lowrank:{RANKS[-1]}", f"quantise:{BITS[-1]}")
try:
    limits = {recipe: make_defence(recipe, client) for recipe in recipes}
except FileNotFoundError as absent:
    print(
        f"Means, directions and ranges are measured on training photos, which are not here: {absent}"
    )
    limits = {}
got = {
    recipe: limited.receive(defend(limited, h, secret)[0])
    for recipe, limited in limits.items()
}
lost = {
    recipe: float((arrived - h).square().mean() / h.square().mean())
    for recipe, arrived in got.items()
}
bits = {
    recipe: limited.bits  # type: ignore[attr-defined]  # these three have it
    for recipe, limited in limits.items()
}
print(*chapter.useful_bits(bits), sep="\n")
chapter.limited_table(bits, lost, whole_message)

# %% [markdown]
# So at these lengths the guarantee is true and empty, and protection is a matter of measurement again. (With the same
# number of bits, which message leaks least? The figure below compares.)
#
# ## Two photos
#
# Four attackers, the same settings and seeds: on the undefended message; on the shuffled one by somebody who does not know,
# and with the assignment in the loop; on half of the tokens, masked.

# %%
turns = {"ci": 40, "laptop": 100, "colab": 400, "paper": 1000}[budget]
config = DragConfig.small(turns)
attackers = {
    "shuffled, unaware": (shuffle, ""),
    "shuffled, assignment": (shuffle, "assignment"),
    "half dropped, masked": (drop, "mask"),
}

# %%
runs = {"undefended": drag(Message(h, client), prior, config, seeds=seed)}
for label, (defence, reply) in attackers.items():
    message, threat = hear(reply, defend(defence, h, secret), defence, client)
    runs[label] = drag(message, prior, config, seeds=seed, threat=threat)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Rows of two pictures: the photos, then reconstructions from undefended messages, from shuffled ones without and with assignment, and from half of the tokens", "classes": "dark-light"}, "figure": {"caption": "The same two photos, attacked through shuffled and dropped tokens. Under each picture: MS-SSIM to the photo.", "name": "fig-tokens-photos"}}
similarity = {label: metrics.ms_ssim(run.images, photos) for label, run in runs.items()}
for label, run in runs.items():
    name = label.replace(", ", "_").replace(" ", "_")
    record(f"ms_ssim_{name}", similarity[label], atol=0.2)
    if label in ("undefended", "half dropped, masked"):
        record_panel(name, run.images, min_ssim=0.4)
plots.image_rows(
    {"photo": photos, **{label: run.images for label, run in runs.items()}},
    names,
    {label: [f"{value:.2f}" for value in similarity[label].tolist()] for label in runs},
)

# %% tags=["hide-input"]
sides = metrics.ms_ssim(runs["shuffled, assignment"].images, photos.flip(-1))
print(*chapter.on_two_photos(similarity, sides, names), sep="\n")

# %% [markdown]
# ## Measured: shuffled
#
# `dragkit sweep defence_tokens` attacks the same validation photos through shuffled and dropped tokens with every reply.

# %% tags=["hide-input"]
orders = study("defence_tokens")
orders.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per attacker: MS-SSIM of reconstructions from undefended messages, from shuffled messages without and with every reply, and of the prior alone", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher leaks more), mean and 95 % interval, against shuffled tokens. The server's accuracy is the same in all rows.", "name": "fig-tokens-shuffle"}}
orders.show(chapter.shuffled, "ms_ssim")

# %% tags=["hide-input"]
orders.show(chapter.answered, {"shuffle": chapter.SHUFFLES})

# %% tags=["hide-input"]
print(*chapter.shuffled_in_words(orders), sep="\n")

# %% [markdown]
# *Inverse network* is one that was trained on shuffled messages of public photos, without any other reply. It answers with
# the mean of what the set of tokens allows; where sides are undecided it draws both.
#
# The strongest reply was picked on the photos on which it is then reported. That flatters it a little; each reply
# has its own row, so you can judge whether the verdict hangs on the choice. And mind the column *minus unaware*: a
# defence that was only ever tested against attackers who do not know of it would look excellent.
#
# ## Measured: dropped
#
# Now the server pays, so we plot leakage against accuracy. A good defence has its points at the right and at the height of
# *prior only*.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Points with bars in both directions: MS-SSIM of the reconstruction over the server's accuracy, for shuffled tokens, dropped tokens with and without a mask, and both together", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher leaks more) against accuracy, mean and 95 % intervals. Numbers are the share dropped, words the reply.", "name": "fig-tokens-drop"}}
orders.show(chapter.dropped, "ms_ssim")

# %% tags=["hide-input"]
orders.show(chapter.answered, chapter.AFTER_DROPPING)

# %% tags=["hide-input"]
print(*chapter.dropped_in_words(orders), sep="\n")

# %% [markdown]
# ## Measured: less, and turned
#
# `dragkit sweep defence_transport` does the same for shorter messages and for secret bases. Against shorter messages the
# stronger attacker of two counts, by mean MS-SSIM; against the quantised one there is only one, who takes the rounded
# message as it is.

# %% tags=["hide-input"]
transport = study("defence_transport")
transport.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "Points with bars in both directions: MS-SSIM of the reconstruction over the server's accuracy, for messages of few numbers, of low rank and of few bits", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher leaks more) against accuracy for shorter messages, mean and 95 % intervals, stronger attacker.", "name": "fig-tokens-transport"}}
transport.show(chapter.shorter, "ms_ssim")

# %% tags=["hide-input"]
transport.show(chapter.lengths)

# %% tags=["hide-input"]
transport.show(chapter.lengths_in_words)

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per attacker: MS-SSIM of reconstructions from undefended messages and from rotated and permuted features, without a reply, with cosines between tokens, and with the secret read off the weights", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher leaks more), mean and 95 % interval, against secret bases of the features.", "name": "fig-tokens-secret"}}
transport.show(chapter.turned, "ms_ssim")

# %% tags=["hide-input"]
print(*chapter.turned_in_words(transport), sep="\n")

# %% [markdown]
# ## What holds of the paper's section on shuffling
#
# The authors of DRAG (arXiv 2509.11724) study shuffled and dropped tokens in their section 5.5, with the position classifier as the only reply.
# The statements of this book about it, and about the secret bases, which the paper does not have:

# %% tags=["hide-input"]
for statement in chapter.STATEMENTS:
    print(pages.verdict(statement))

# %% tags=["hide-input"]
print(*chapter.paper_in_words(), sep="\n")

# %% [markdown]
# ## Summary
#
# - A transformer's server is equivariant to the order of its patch tokens, so shuffling is free. It hides at most
#   $\log_2 n!$ bits. Networks that look at positions after the cut are refused.
# - Distances between *sets* of tokens attack shuffled messages without training. A classifier of positions with the
#   Hungarian method uses that tokens remember their place. It decides token by token, and so can mix up left and right.
# - A dropped token is a visible erasure. With a cosine the plain attack ignores it by accident. Repeated messages bring it
#   back, in spite of shuffling.
# - A secret rotation with $Q\mathbf 1 = \mathbf 1$ is exact for the server. Procrustes' solution reads it off the server's
#   weights. The Gram matrix of the tokens does not notice it.
# - A message of $B$ bits says at most $B$ bits. The guarantee begins to say something at a few bits, not at thousands.
#
# **What stops it?** Not a secret that the server needs in order to work, for the server is the attacker. Not an order, for
# the tokens carry their places. The figures above say what dropping and shortening cost, and how much they take. Shuffling
# is free, so a client may as well do it, *on top* of a defence that destroys information.
#
# **What this does not show.** One cut, one small network, few turns. At a deeper cut tokens may remember less of their
# place. A client trained so that its tokens forget where they are would be harder to put in order; that was not tried. MS-SSIM
# counts a mirrored picture as a failure, though it gives the photo away, so it can be too low for the replies to
# shuffling. And our classifier was trained in minutes, with photos of the same kind as the user's.
#
# ## Exercises
#
# **1. Decide the sides together.** Give the classifier one place per pair: add up the probabilities of a place and of its
# mirror image. How many tokens are then in the right pair? What is left to decide, and how would you decide it?
#
# <details><summary>Solution</summary>
#
# ```python
# scores = positions(tested)  # where the classifier is in the cache
# pairs = torch.logaddexp(scores, scores[..., mirror])
# found = match(-pairs)
# print(((found == own) | (found == mirror)).double().mean())
# ```
#
# (Do not count right places here. Two places of a pair now score the same, and a tie is broken by the order in which the tokens
# come, which in this test is the true one.) Each pair of places has two tokens, and which is left is one bit: 32 bits, of which one (the mirror image of the whole)
# does not matter much. Tokens of neighbours resemble each other, so choose the bits that make neighbours alike: a graph cut,
# or one pair after the other from the middle outwards. Or let the attack decide: begin with either, and allow `Assignment` to
# exchange tokens within a pair only. Attack both mirror images and keep the one of smaller distance.
#
# </details>
#
# **2. Hide the zeros.** Let a client replace each dropped token by a copy of one that it sends. Has it hidden which
# tokens are missing? What does `Assignment` make of it?
#
# <details><summary>Solution</summary>
#
# No. Two tokens of a photo are never equal to the last bit, so a copy gives itself away, and the attacker drops it again
# (`torch.unique`). Whoever does not notice is misled: a matching one to one must put the copy somewhere. Noise on the
# copies hides them better; then they are noise, and [chapter 11](11_noise.ipynb) applies. And in order, without shuffling,
# a copied token in a wrong place is told by its position.
#
# </details>
#
# **3. A secret for each message.** The rotation is fixed, since the server's weights contain it. Could the client draw a new $Q$
# for each message and send it along encrypted? Who must not have the key, and who needs it?
#
# <details><summary>Solution</summary>
#
# The server needs $Q$ (or $hQ$ turned back) to compute, and the server is the attacker, so the key protects against the
# wire only. Encrypting the whole message does that better. And `token_gram_distance` does not care whether $Q$ changes:
#
# ```python
# for key in range(3):
#     sent = defend(Rotation.of(client, key), h, secret)[0]
#     print(token_gram_distance(client.tokens(h), client.tokens(sent)))
# ```
#
# To go beyond it, angles between tokens must change, and attention is made of these.
#
# </details>
