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

# %%
import json
import math

import torch
import transformers

from dragkit import cache, data, zoo
from dragkit.adaptive.distances import Assignment, Gram, SlicedWasserstein, match, token_gram_distance
from dragkit.adaptive.reorder import PositionNetwork, fit_positions, reorder
from dragkit.adaptive.replies import hear, reordered, undone, visible_tokens
from dragkit.attacks.message import Message
from dragkit.bounds import shuffle_bits, success_bound
from dragkit.cache import weights_digest
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.defenses import FeaturePermutation, Rotation, TokenDrop, TokenShuffle, defend, make
from dragkit.defenses.public import public_tokens
from dragkit.defenses.tokens import _orderless
from dragkit.defenses.transforms import (
    first_weights,
    random_rotation,
    recover_permutation,
    recover_rotation,
    transformed_server,
)
from dragkit.defenses.transport import LowRank, Quantise, TopK
from dragkit.distance import cosine_distance
from dragkit.measures import metrics, utility
from dragkit.methods import METHODS, Setting
from dragkit.zoo.knowledge import Knowledge
from draglab import tables
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.studies import defence_study
from draglab.studies.first_checks import PAPER
from draglab.studies.tokens import AFTER_DROP, ORDERS, SHARES
from draglab.studies.transport import BITS, RANKS, SECRET, TOPK

device = "cuda" if torch.cuda.is_available() else "cpu"
at = defence_study.AT
client = zoo.load_client(at=at, device=device)
prefix = client.layout.prefix_tokens
known = Knowledge(zoo.CLIENT, at, zoo.PRIOR, device)
demo = data.demo_images(64)
names = ["astronaut", "coffee"]
right = [list(demo).index(name) for name in names]
photos = torch.stack([demo[name] for name in names]).to(device)
with torch.no_grad():
    h = client(photos)
    guesses = client.tokens(client(torch.stack(list(demo.values())).to(device)))
secret = seed + 100_000  # the user's random stream; the attacker draws from another one


def moved(answers, plain):
    """Largest change of the server's output, in units of its largest number."""
    return float((answers - plain).abs().max() / plain.abs().max())


def nearest(distance, message, mask=None):
    """Distance to each of two messages: of the right photo, and of the nearest of the other demonstration photos."""
    out = []
    for i, place in enumerate(right):
        arrived = None if mask is None else mask[i : i + 1].expand(len(guesses), -1)
        found = distance(guesses, message[i : i + 1].expand_as(guesses), arrived).clamp(min=0)
        out.append((float(found[place]), float(torch.cat([found[:place], found[place + 1 :]]).min())))
    return out


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
    change = record("shuffle_moves_server", moved(client.server(shuffled), plain_answer), atol=1e-5)
print(f"Largest change of the server's output: {change:.1e} of its largest number.")
print(f"Smaller than 1e-5: {'yes' if change < 1e-5 else 'NO'}. What is left is the order in which floats are added.")

# %% [markdown]
# ### Not for every network
#
# A server that looks at positions *after* the cut would notice: windows and relative positions (Swin), rotary embeddings,
# an MLP across tokens (Mixer), convolutions. The library does not trust a list of names. It feeds the server shuffled
# tokens and looks whether the answer stays. Where it does not, shuffling and dropping are refused:

# %%
pages.source(SplitClient.measure_equivariance, _orderless)

# %%
with torch.random.fork_rng():
    torch.manual_seed(seed)
    shape = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, window_size=4, depths=[2, 2], num_heads=[2, 4]
    )
    swin = SplitClient(transformers.SwinModel(shape), "encoder.layers.0.blocks.0", image_size=32)
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
print(f"{patches} patch tokens: at most {hidden:.0f} bits, {hidden / patches:.1f} per token.")
print(f"The message has {whole_message:,} bits, as float32 numbers. The order is {hidden / whole_message:.2%} of that.")

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
pages.source(match, Assignment.__call__, Gram.__call__, SlicedWasserstein._of_sets)

# %%
orderless = {
    "token by token": cosine_distance,
    "Gram": Gram(prefix),
    "sliced Wasserstein": SlicedWasserstein(prefix),
    "assignment": Assignment(prefix),
}
apart = {label: nearest(distance, shuffled) for label, distance in orderless.items()}
record("right_photo_assigned", [own for own, _ in apart["assignment"]], atol=1e-4)
pages.table(
    ["distance to the shuffled message", *(f"{name}: {who}" for name in names for who in ("right", "nearest wrong"))],
    [[label, *(value for pair in pairs for value in pair)] for label, pairs in apart.items()],
)

# %%
lost = [label for label, pairs in apart.items() if any(own >= other for own, other in pairs)]
exact = [label for label, pairs in apart.items() if all(own < 1e-4 for own, _ in pairs)]
print(f"Exactly 0 for the right photo, up to rounding: {', '.join(exact) or 'none'}.")
print(f"The right photo is not the nearest one by: {', '.join(lost) or 'none of them'}.")

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

# %%
try:
    public, told = public_tokens(client).float().to(device), "32 validation photos"
    with torch.no_grad():
        tested = client(data.pick("val", 32, seed=seed)[0].to(device))
except FileNotFoundError:
    public, told = guesses[[i for i in range(len(guesses)) if i not in right]], "the two photos, as an illustration"
    tested = h
means = public[:, prefix:].mean(0)
side = math.isqrt(patches)
own = torch.arange(patches, device=device)
mirror = own.view(side, side).flip(1).flatten()  # same row, same distance from the middle, other side


def landed(scores):
    """Shares of tokens that are put into their own place, into its mirror image, and elsewhere; as cells of a table."""
    found = match(-scores)
    shares = [float((found == place).double().mean()) for place in (own, mirror)]
    return [f"{share:.1%}" for share in (*shares, 1 - sum(shares))]


columns = ["own place", "mirrored place", "elsewhere"]
by_means = -torch.cdist(tested[:, prefix:].float(), means.expand(len(tested), -1, -1))
pages.table(
    [told, *columns],
    [["mean tokens", *landed(by_means)], ["chance", *(f"{v / patches:.1%}" for v in (1, 1, patches - 2))]],
)

# %% [markdown]
# The reply of the authors of DRAG (arXiv 2509.11724) trains a classifier of positions on public photos, and lets the Hungarian method turn its
# scores into an order. Ours is a transformer of two blocks *without* position embeddings. It sees all tokens of a message
# at once, so it can use that neighbours look alike. It is taught with tokens missing, so it survives dropping:

# %%
pages.source(PositionNetwork, reordered)

# %% [markdown]
# Training takes minutes on one core, so this page only uses a classifier that is already in the cache, from
# `python -m dragkit.adaptive.reorder`:

# %%
wanted = {"name": "position classifier", "client": zoo.CLIENT, "at": at, "weights": weights_digest(client.model)}
cards = [json.loads(file.read_text()) for file in sorted((cache.cache_dir() / "probes").glob("*.json"))]
cached = [card for card in cards if wanted.items() <= card.items()]
learned = None
if cached:
    card = max(cached, key=lambda one: one["steps"])
    choices = {name: card[name] for name in ("n_train", "n_held_out", "steps", "seed")}
    positions = fit_positions(client, **choices)  # reads the file
    for what, measured in positions.card["measured"].items():
        low, high = measured["ci"]
        print(f"{what}: {measured['value']:.1%} [{low:.1%}, {high:.1%}], {measured['n']} held-out training photos.")
    learned = landed(positions(tested))
else:
    print(f"No position classifier of {zoo.CLIENT} at {at} is in {cache.cache_dir() / 'probes'}.")
    print(f"`python -m dragkit.adaptive.reorder --client {zoo.CLIENT} --at {at}` trains one.")

# %%
pages.table([told, *columns], [["position classifier", *learned]]) if learned else None

# %% [markdown]
# ### Left or right
#
# Why does the table have a column for mirrored places? The client was trained on photos and on their mirror images, and the
# two mean the same to it. So its tokens may know their row and their distance from the middle, and hardly their side.
# Ask the distances: how far is the message of the *mirrored* photo?

# %%
with torch.no_grad():
    mirrored = client.tokens(client(photos.flip(-1)))
flipped = {label: distance(mirrored, shuffled).tolist() for label, distance in orderless.items()}
record("mirrored_photo_assigned", flipped["assignment"], atol=0.02)
pages.table(
    [
        "distance to the shuffled message",
        *(f"{name}: {who}" for name in names for who in ("mirrored", "nearest wrong")),
    ],
    [
        [label, *(value for i in range(len(names)) for value in (flipped[label][i], apart[label][i][1]))]
        for label in orderless
    ],
)

# %%
ratio = max(flipped["assignment"][i] / apart["assignment"][i][1] for i in range(len(names)))
if ratio < 0.25:
    print(
        f"By assignment the mirrored photo is at most {ratio:.0%} as far as the nearest wrong photo: nearly as good as the"
    )
    print("right one. Comparing sets may find the photo, its mirror image, or a mixture of both.")
else:
    print(
        f"By assignment the mirrored photo is up to {ratio:.0%} as far as the nearest wrong photo: sides are told apart."
    )

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
        told = utility.consequence(client, h[i : i + 1], drop.receive(sent[i : i + 1]))
        print(f"{name}, {share:.0%} dropped: {told}.")

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
s = float(arrived.double().mean())
masked, unmasked = nearest(cosine_distance, dropped, arrived), nearest(cosine_distance, dropped)
rows = [
    [f"{name}, {who}", masked[i][j], unmasked[i][j], s * masked[i][j] + 1 - s]
    for i, name in enumerate(names)
    for j, who in enumerate(("right photo", "nearest wrong"))
]
record("dropped_wrong", [pair[1] for pair in masked], atol=0.05)
pages.table([f"{s:.1%} of the tokens arrived", "masked", "unaware", "predicted: s · masked + 1 - s"], rows)

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
both = make("drop:0.5+shuffle", client)
mixed = defend(both, h, secret, max(counts))
pooled = {
    k: [len(torch.unique(mixed[:k, i, prefix:][both.arrived(mixed[:k, i])[:, prefix:]], dim=0)) for i in range(len(h))]
    for k in counts
}
record("pooled_tokens", [sum(found) / len(found) for found in pooled.values()], atol=4)
pages.table(
    ["messages", *(f"{name}: different tokens" for name in names), "predicted: n (1 - pᵏ)"],
    [[k, *found, f"{patches * (1 - 0.5**k):.0f}"] for k, found in pooled.items()],
)

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
rotation, permutation = Rotation.of(client, key), FeaturePermutation.of(client, key)
generator = torch.Generator().manual_seed(key)
any_q = torch.linalg.qr(torch.randn(features, features, generator=generator, dtype=torch.float64))[0]
bases = {
    "rotation with Q1 = 1": rotation,
    "permutation": permutation,
    "orthogonal, Q1 ≠ 1": Rotation(client.layout, None, any_q),
}
turned = {label: defend(basis, h, secret)[0] for label, basis in bases.items()}
servers = {label: transformed_server(client, basis) for label, basis in bases.items()}
with torch.no_grad():
    shift = {label: moved(servers[label].server(turned[label]), plain_answer) for label in bases}
    naive = {label: moved(client.server(turned[label]), plain_answer) for label in bases}
record("secret_moves_server", [shift["rotation with Q1 = 1"], shift["permutation"]], atol=1e-5)
pages.table(
    ["change of the server's output", "weights changed to match", "public weights"],
    [[label, f"{shift[label]:.1e}", f"{naive[label]:.1e}"] for label in bases],
)

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
rows, errors = [], {}
published = first_weights(client)  # from the published model
for label in ("rotation with Q1 = 1", "permutation"):
    basis = bases[label]
    held = first_weights(servers[label])  # from the operator's file, in float32
    found = type(basis).recovered(client.layout, published, held)
    errors[label] = float((found.matrix - basis.matrix).abs().max())
    back = float((found.receive(turned[label]) - h).abs().max() / h.abs().max())
    rows.append([label, f"{errors[label]:.1e}", f"{back:.1e}"])
record("recovered_q_error", list(errors.values()), atol=1e-5)
pages.table(["secret", "largest error of a number of Q", "of the message turned back"], rows)

# %%
if max(errors.values()) < 1e-5:
    print("Recovered to the rounding of the weights. The attack then goes on with the message as it was.")
else:
    print("Not recovered to rounding: the weights here do not determine the secret.")

# %% [markdown]
# ### Or ignored
#
# Somebody who does not have the server's weights (a third party on the wire, say) cannot do this. But an orthogonal $Q$ leaves the scalar products *between the tokens* alone, $hQ(hQ)^\top = hh^\top$. He compares the matrix of
# cosines between all pairs of tokens:

# %%
pages.source(token_gram_distance)

# %%
turned_by = {"token by token": cosine_distance, "cosines between tokens": token_gram_distance}
views = {label: nearest(distance, turned["rotation with Q1 = 1"]) for label, distance in turned_by.items()}
record("right_photo_token_gram", [own for own, _ in views["cosines between tokens"]], atol=1e-4)
pages.table(
    ["distance to the rotated message", *(f"{name}: {who}" for name in names for who in ("right", "nearest wrong"))],
    [[label, *(value for pair in pairs for value in pair)] for label, pairs in views.items()],
)

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
pages.source(TopK.__call__, TopK.bits.fget, LowRank.__call__, Quantise.__call__, Quantise.bits.fget, success_bound)

# %%
rows, shortest = [], whole_message
try:
    for recipe in (f"topk:{TOPK[-1]}", f"lowrank:{RANKS[-1]}", f"quantise:{BITS[-1]}"):
        limited = make(recipe, client)
        got = limited.receive(defend(limited, h, secret)[0])
        error = float((got - h).square().mean() / h.square().mean())
        bound = success_bound(1 / 1000, limited.bits)
        shortest = min(shortest, limited.bits)
        rows.append([recipe, f"{limited.bits:,}", f"{limited.bits / whole_message:.1%}", error, f"{bound:.0%}"])
except FileNotFoundError as absent:
    print(f"Means, directions and ranges are measured on training photos, which are not here: {absent}")
pages.table(
    ["defence", "bits", "of the message", "squared error / ‖h‖²", "bound: found among 1,000"], rows
) if rows else None

# %%
if rows:
    useful = math.log2(1000)
    print(f"To bound who is found among 1,000 photos, a message must have fewer than log2(1,000) = {useful:.1f} bits.")
    print(f"The shortest one above has {shortest:,}, which is {shortest / useful:,.0f} times as many.")

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
    "undefended": (None, ""),
    "shuffled, unaware": (shuffle, ""),
    "shuffled, assignment": (shuffle, "assignment"),
    "half dropped, masked": (drop, "mask"),
}
runs, similarity = {}, {}
for label, (defence, reply) in attackers.items():
    if defence is None:
        runs[label] = METHODS["drag"].run(Message(h, client), known, Setting(config, seed))
    else:
        message, threat = hear(reply, defend(defence, h, secret), defence, client)
        runs[label] = METHODS["drag"].run(message, known, Setting(config, seed, threat=threat))
    similarity[label] = metrics.ms_ssim(runs[label].images, photos)
    name = label.replace(", ", "_").replace(" ", "_")
    record(f"ms_ssim_{name}", similarity[label], atol=0.2)
    if label in ("undefended", "half dropped, masked"):
        record_panel(name, runs[label].images, min_ssim=0.4)

# %% mystnb={"image": {"alt": "Rows of two pictures: the photos, then reconstructions from undefended messages, from shuffled ones without and with assignment, and from half of the tokens", "classes": "dark-light"}, "figure": {"caption": "The same two photos, attacked through shuffled and dropped tokens. Under each picture: MS-SSIM to the photo.", "name": "fig-tokens-photos"}}
plots.image_rows(
    {"photo": photos, **{label: run.images for label, run in runs.items()}},
    names,
    {label: [f"{value:.2f}" for value in similarity[label].tolist()] for label in runs},
)

# %%
average_of = {label: float(values.mean()) for label, values in similarity.items()}
back = average_of["shuffled, assignment"] - average_of["shuffled, unaware"]
taken = average_of["undefended"] - average_of["shuffled, unaware"]
print(f"On these two photos shuffling takes {taken:+.2f} of MS-SSIM from somebody who does not know of it.")
word = "gives" if back > 0 else "does not help"
print(f"The assignment in the loop, without training or public photos, {word}: {back:+.2f}.")
sides = metrics.ms_ssim(runs["shuffled, assignment"].images, photos.flip(-1)).tolist()
for name, here, there in zip(names, similarity["shuffled, assignment"].tolist(), sides, strict=True):
    nearer = "like neither" if max(here, there) < 0.1 else "like both" if abs(here - there) < 0.05 else ""
    nearer = nearer or ("more like the mirror image" if there > here else "more like the photo")
    print(f"{name} by assignment: MS-SSIM {here:.2f} to the photo, {there:.2f} to its mirror image ({nearer}).")
dropping = average_of["half dropped, masked"] - average_of["undefended"]
print(f"Half of the tokens, masked: {dropping:+.2f} against the undefended attack.")
print("Two photos and few turns decide nothing. The recorded runs do.")

# %% [markdown]
# ## Measured: shuffled
#
# `dragkit sweep defence_tokens` attacks the same validation photos through shuffled and dropped tokens with every reply.

# %%
study = pages.recorded("defence_tokens")
print(pages.origin(study) if study else pages.missing("defence_tokens"))
shuffles = ["shuffle", *(f"shuffle, {reply}" for reply in (*ORDERS, "inverse network"))]


def pick(study, labels, metric):
    """(mean, low, high) of those rows that were recorded."""
    found = pages.summaries(study, metric)
    return {label: found[label] for label in labels if label in found}


# %% mystnb={"image": {"alt": "One dot with a confidence bar per attacker: MS-SSIM of reconstructions from undefended messages, from shuffled messages without and with every reply, and of the prior alone", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher leaks more), mean and 95 % interval, against shuffled tokens. The server's accuracy is the same in all rows.", "name": "fig-tokens-shuffle"}}
around = [defence_study.OPEN, *shuffles, defence_study.PRIOR]
plots.intervals(pick(study, around, "ms_ssim"), "MS-SSIM") if study else None


# %%
def by_interval(found, above, below):
    """What an interval says about a difference: above 0, below 0, or nothing."""
    return above if found.low > 0 else below if found.high < 0 else "undecided"


def answered(rows, unaware, replies):
    """Each reply against the attacker who does not know, and against the undefended attack, on the same photos."""
    out = []
    for label in replies:
        if label in rows and unaware in rows:
            gain = tables.difference(rows, label, unaware, "ms_ssim")
            left = tables.difference(rows, label, defence_study.OPEN, "ms_ssim")
            out.append(
                [
                    label,
                    rows[label]["ms_ssim"]["mean"],
                    rows[label]["st_lpips"]["mean"],
                    f"{rows[label]['retrieval_top1'][0]:.0%}",
                    f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]",
                    by_interval(gain, "helps", "harms"),
                    f"{left.mean:+.3f} [{left.low:+.3f}, {left.high:+.3f}]",
                ]
            )
    return out


header = ["reply", "MS-SSIM", "ST-LPIPS", "found among 1,000", "minus unaware", "the reply", "minus undefended"]
replies = answered(study["rows"], "shuffle", shuffles[1:]) if study else []
pages.table(header, replies) if replies else print("No reply has been recorded here yet, so there is no verdict.")

# %%
if replies:
    rows = study["rows"]
    told = {what: [row[0] for row in replies if row[5] == what] for what in ("helps", "harms", "undecided")}
    print("; ".join(f"{what}: {', '.join(which)}" for what, which in told.items() if which) + ".")
    ranked = sorted((row[0] for row in replies), key=lambda label: rows[label]["ms_ssim"]["mean"], reverse=True)
    best, second = ranked[0], ranked[1]
    gap = tables.difference(rows, best, second, "ms_ssim")
    print(
        f"Strongest by mean MS-SSIM: {best}, before {second} by {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
        f" ({by_interval(gap, 'decided', 'reversed')})."
    )
    if {"shuffle, placed", "shuffle, reorder"} <= set(rows):
        gap = tables.difference(rows, "shuffle, placed", "shuffle, reorder", "ms_ssim")
        said = by_interval(gap, "better", "worse")
        print(
            f"Classifier and picture together, beside the classifier alone: {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] ({said})."
        )
    left = tables.difference(rows, best, defence_study.OPEN, "ms_ssim")
    if left.high < 0:
        print(
            f"Even from this attacker shuffling takes {-left.mean:.3f} of MS-SSIM [{-left.high:.3f}, {-left.low:.3f}]."
        )
    else:
        print(f"Shuffling takes nothing from this attacker that could be told from chance: {left.mean:+.3f}.")
    plain, defence = (rows[label]["accuracy"] for label in (defence_study.OPEN, "shuffle"))
    same = "It costs the server nothing" if abs(plain[0] - defence[0]) < 1e-9 else "It costs the server something"
    print(f"{same}: accuracy {plain[0]:.1%} without, {defence[0]:.1%} with it.")

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

# %%
kinds = {
    "shuffled": [(label, label.partition(", ")[2] or "unaware") for label in ("shuffle", "shuffle, reorder")],
    "dropped, unaware": [(f"drop:{share}", "") for share in SHARES],
    "dropped, masked": [(f"drop:{share}, mask", f"{share:g}") for share in SHARES],
    "dropped and shuffled": [
        ("drop:0.5+shuffle", "unaware"),
        ("drop:0.5+shuffle, reorder", "reorder"),
        ("drop:0.5+shuffle, placed", "placed"),
    ],
    "dropped, masked, trained server": [("drop:0.5, mask, trained server", "0.5")],
}


def against_accuracy(study, kinds, metric):
    """Series of points (accuracy, leakage, text) for `plots.tradeoff`."""

    def point(label, text):
        row = study["rows"][label]
        return tuple(row["accuracy"]), (row[metric]["mean"], *row[metric]["ci"]), text

    series = {"undefended": [point(defence_study.OPEN, "")]}
    for name, labels in kinds.items():
        found = [point(label, text) for label, text in labels if label in study["rows"]]
        series |= {name: found} if found else {}
    return series


def neighbours(study, metric):
    """Heights of the reference rows."""
    return {name: study["rows"][name][metric]["mean"] for name in (defence_study.PRIOR,) if name in study["rows"]}


# %% mystnb={"image": {"alt": "Points with bars in both directions: MS-SSIM of the reconstruction over the server's accuracy, for shuffled tokens, dropped tokens with and without a mask, and both together", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher leaks more) against accuracy, mean and 95 % intervals. Numbers are the share dropped, words the reply.", "name": "fig-tokens-drop"}}
plots.tradeoff(
    against_accuracy(study, kinds, "ms_ssim"), "accuracy of the server", "MS-SSIM", neighbours(study, "ms_ssim")
) if study else None

# %%
drops = []
if study:
    rows = study["rows"]
    for share in SHARES:
        drops += answered(rows, f"drop:{share}", [f"drop:{share}, {reply}" for reply in ("mask", "inverse network")])
    drops += answered(
        rows, "drop:0.5+shuffle", [f"drop:0.5+shuffle, {reply}" for reply in (*AFTER_DROP, "inverse network")]
    )
pages.table(header, drops) if drops else print("No share has been recorded here yet, so there is no verdict.")

# %%
if drops:
    masks = {row[0]: row[5] for row in drops if row[0].endswith("mask")}
    undecided = [label for label, what in masks.items() if what == "undecided"]
    if len(undecided) == len(masks):
        print("Masking makes no difference that could be told from chance at any share, as derived above.")
    else:
        print("Masking: " + "; ".join(f"{label} {what}" for label, what in masks.items()) + ".")
    for share in SHARES:
        cost = study["rows"][defence_study.OPEN]["accuracy"][0] - study["rows"][f"drop:{share}"]["accuracy"][0]
        half = defence_study.above_half(study["rows"], f"drop:{share}, mask")
        keeps = by_interval(half, "keeps more than half", "keeps less than half")
        print(
            f"{share:.0%} dropped costs {100 * cost:.1f} points of accuracy; the masking attacker: {keeps} of the MS-SSIM "
            "that the undefended attack gains over the prior alone."
        )

# %% [markdown]
# ## Measured: less, and turned
#
# `dragkit sweep defence_transport` does the same for shorter messages and for secret bases. Against shorter messages the
# stronger attacker of two counts, by mean MS-SSIM; against the quantised one there is only one, who takes the rounded
# message as it is.

# %%
transport = pages.recorded("defence_transport")
print(pages.origin(transport) if transport else pages.missing("defence_transport"))


def stronger(study, recipe, reply):
    """Of the rows without and with the reply, the one of higher mean MS-SSIM."""
    labels = [label for label in (recipe, f"{recipe}, {reply}") if label in study["rows"]]
    return max(labels, key=lambda label: study["rows"][label]["ms_ssim"]["mean"], default=recipe)


shorter = {
    "largest numbers": [(f"topk:{share}", "visible", f"{share:g}") for share in TOPK],
    "low rank": [(f"lowrank:{rank}", "projected", f"rank {rank}") for rank in RANKS],
    "few bits": [(f"quantise:{bits}", "", f"{bits} bit") for bits in BITS],
}
kinds = (
    {
        name: [(stronger(transport, recipe, reply), text) for recipe, reply, text in family]
        for name, family in shorter.items()
    }
    if transport
    else {}
)

# %% mystnb={"image": {"alt": "Points with bars in both directions: MS-SSIM of the reconstruction over the server's accuracy, for messages of few numbers, of low rank and of few bits", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher leaks more) against accuracy for shorter messages, mean and 95 % intervals, stronger attacker.", "name": "fig-tokens-transport"}}
plots.tradeoff(
    against_accuracy(transport, kinds, "ms_ssim"), "accuracy of the server", "MS-SSIM", neighbours(transport, "ms_ssim")
) if transport else None

# %%
lengths = []
if transport:
    rows = transport["rows"]
    for family in kinds.values():
        for label, _ in family:
            if label in rows:
                half = defence_study.above_half(rows, label)
                cost = rows[defence_study.OPEN]["accuracy"][0] - rows[label]["accuracy"][0]
                keeps = by_interval(half, "yes", "no")
                lengths.append([label, f"{100 * cost:.1f} points", rows[label]["ms_ssim"]["mean"], keeps])
pages.table(["stronger attacker", "costs", "MS-SSIM", "keeps half"], lengths) if lengths else print(
    "No shorter message has been recorded here yet, so there is no verdict."
)

# %%
if lengths:
    stops = [f"{row[0]} (for {row[1]})" for row in lengths if row[-1] == "no"]
    print(f"Takes more than half from the stronger attacker: {', '.join(stops) or 'none of them'}.")

# %% mystnb={"image": {"alt": "One dot with a confidence bar per attacker: MS-SSIM of reconstructions from undefended messages and from rotated and permuted features, without a reply, with cosines between tokens, and with the secret read off the weights", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher leaks more), mean and 95 % interval, against secret bases of the features.", "name": "fig-tokens-secret"}}
hiding = [label for label in (transport["rows"] if transport else ()) if label.partition(",")[0] in SECRET]
plots.intervals(
    pick(transport, [defence_study.OPEN, *hiding, defence_study.PRIOR], "ms_ssim"), "MS-SSIM"
) if hiding else None

# %%
for recipe in SECRET:
    if transport and f"{recipe}, undo" in transport["rows"]:
        found = tables.difference(transport["rows"], f"{recipe}, undo", defence_study.OPEN, "ms_ssim")
        equal = "as if there were no defence" if abs(found.mean) < 0.02 else "not quite as without the defence"
        print(f"{recipe}, read off the weights: {found.mean:+.3f} of MS-SSIM against undefended, {equal}.")

# %%
if transport and "rotate, token gram" in transport["rows"]:
    rows, label = transport["rows"], "rotate, token gram"
    for other, what in (
        ("rotate", "unaware"),
        (defence_study.PRIOR, "the prior alone"),
        (defence_study.OPEN, "undefended"),
    ):
        found = tables.difference(rows, label, other, "ms_ssim")
        said = by_interval(found, "better", "worse")
        print(
            f"Cosines between tokens, against {what}: {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] ({said})."
        )
    if tables.difference(rows, label, defence_study.PRIOR, "ms_ssim").low <= 0:
        print(
            "It is not told apart from guessing without a message: in these few turns the reply does not find its way."
        )
    print(f"Keeps more than half: {by_interval(defence_study.above_half(rows, label), 'yes', 'no')}.")

# %% [markdown]
# ## What holds of the paper's section on shuffling
#
# The authors of DRAG (arXiv 2509.11724) study shuffled and dropped tokens in their section 5.5, with the position classifier as the only reply.
# The statements of this book about it, and about the secret bases, which the paper does not have:

# %%
ids = ["shuffle-defeats-plain-attack", "shuffle-reorder-recovers", "drop-tokens", "shuffle-insufficient"]
ids += [f"{recipe}-insufficient" for recipe in SECRET]
for id_ in ids:
    print(pages.verdict(id_))

# %%
measured = {claim["id"]: claim for claim in pages.recorded("claims") or [] if claim["id"] in ids}
theirs = [claim for claim in measured.values() if claim["source"].startswith(PAPER)]
if theirs:
    holding = [claim["id"] for claim in theirs if claim["holds"]]
    failing = [claim["id"] for claim in theirs if not claim["holds"]]
    print(f"Of {len(theirs)} statements about section 5.5, {len(holding)} hold here.")
    print(f"Failing: {', '.join(failing)}." if failing else "None fails at this scale.")
else:
    print("None of the statements about section 5.5 has been measured here yet.")

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
