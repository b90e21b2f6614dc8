# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Split inference: what is sent
#
# The attack of the [quickstart](00_quickstart.ipynb) read a message that no photo was in. This chapter looks at the message itself: where a
# model can be cut, how large the message is, what the server can do with it, and what changes with depth.
#
# **Goals.** Cut a model at any layer. Say what an intermediate representation keeps of a photo, and measure it without any attack.
# Understand why shuffling the tokens costs the server nothing.
#
# **You need** to know how a vision transformer turns an image into patch tokens.
#
# > **Cost:** CPU, under one minute, 1.2 GB of memory. Measured: see the [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # "ci" looks at every second block; the other budgets at every block
seed = 0

# %% tags=["hide-input"]
import torch
from torchvision.transforms.v2 import functional as F

from dragkit import SplitClient, ThreatModel, cosine_distance, data, defend, load_client
from dragkit.defenses import TokenShuffle
from draglab.chapters import ch01_split_inference as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import study

# %%
demo = data.demo_images(64)
names, photos = list(demo), torch.stack(list(demo.values()))
client = load_client(at="block:9")
print(client)

# %% [markdown]
# ## Two halves of one model
#
# Write a network as two functions, one after the other: the **client** $f_c$ on the phone and the **server** $f_s$,
#
# $$ \text{answer} = f_s(h), \qquad h = f_c(x). $$
#
# $h$ is the **intermediate representation**, IR for short, and all that leaves the phone. `SplitClient` makes the two halves out of a
# model and the name of a layer. It does not copy or rewrite the model: it runs it, and stops it at the cut or starts it there.

# %%
pages.source(SplitClient.forward, SplitClient.server)

# %% [markdown]
# Cutting must not change the answer. We run the whole model, then the two halves of five cuts, and compare the logits.

# %%
depths = (0, 3, 6, 9, 12)
cuts = {f"block:{depth}": load_client(at=f"block:{depth}") for depth in depths}

with torch.no_grad():
    whole = client.model(chapter.normalised(client, photos)).logits
    halves = {at: cut.server(cut(photos)) for at, cut in cuts.items()}

gaps = {at: float((logits - whole).abs().max()) for at, logits in halves.items()}

# %% tags=["hide-input"]
record_panel("photos", photos, min_ssim=0.99)
record("largest_logit_gap", max(gaps.values()), atol=1e-4, direction="lower")
chapter.gap_table(gaps)

# %% [markdown]
# Nothing, or no more than rounding. The server's answer itself is of no interest on these photos (the classifier knows ten classes,
# and an astronaut is none of them). What counts is that the server needs $h$ and nothing else.
#
# ## How large is the message?
#
# Splitting is often justified by saving: less work on the phone, less to send. Look at the second part. A float32 message has four
# bytes per number; half precision would halve it.

# %% tags=["hide-input"]
jpeg = record("jpeg_bytes", chapter.jpeg_bytes(photos), rtol=0.02, unit="bytes")
chapter.size_table(cuts, jpeg)

# %% tags=["hide-input"]
chapter.room_in_the_message(client, jpeg)

# %% [markdown]
# The size does not change with depth, because every block of a vision transformer passes on as many tokens as it got. So nothing in
# the *architecture* forces information out. If depth hides anything, training did it.
#
# ## What depth keeps
#
# Without attacking anyone we can ask how the IR reacts to changes of the photo. We take the distance that the attack uses, 1 minus the
# cosine similarity of two tokens, averaged over tokens, and compare every photo with
#
# - the other photos,
# - a blurred copy of itself,
# - a copy shifted by four pixels, half the width of a patch.
#
# An attacker can tell two pictures apart if their IRs are far apart. A photo is hidden among others if they are close.

# %%
blurred = F.gaussian_blur(photos, [9, 9], [2.0, 2.0])
shifted = photos.roll(4, -1)
shifted[..., :4] = photos[..., :1]  # the left edge, drawn out over what the shift left
copies = {"blurred copy": blurred, "shifted copy": shifted}

depths = list(range(0, 13, 2 if budget == "ci" else 1))
reactions = []  # per depth: name -> mean, smallest and largest distance
for depth in depths:
    cut = load_client(at=f"block:{depth}")
    reactions.append(chapter.reactions(cut, photos, copies))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three curves of IR distance against the block after which the model is cut: to another photo, with a band for the range over pairs, to a blurred copy and to a shifted copy", "classes": "dark-light"}, "figure": {"caption": "IR distance between a photo and another photo (band: smallest and largest of all pairs), its blurred copy, and its shifted copy, by depth of the cut. Means over four photos.", "name": "fig-ir-distance"}}
measured = {
    name: [at_depth[name][0] for at_depth in reactions]
    for name in ("another photo", *copies)
}
for name, values in measured.items():
    record(f"ir_distance_{name.replace(' ', '_')}", values, atol=0.01)
_, lows, highs = zip(
    *(at_depth["another photo"] for at_depth in reactions), strict=True
)
plots.curves(
    measured,
    depths,
    xlabel="cut after block",
    ylabel="IR distance",
    bands={"another photo": (lows, highs)},
    points=True,
)

# %% tags=["hide-input"]
chapter.growth(measured, ["another photo", "blurred copy"])

# %% [markdown]
# Keep the scale of this figure in mind: it is the yardstick for the IR distances that attacks reach. An attack that ends at the height
# of the blurred copy has found the message of *some* picture that close, which is less than having found the photo.
#
# ## Where in the picture?
#
# The average hides where the distance comes from. Each patch token has its own cosine distance, and the 64 of them form a map as large
# as the grid of patches. On top the photo and its copies, below the maps, first for an early cut and then for the last.

# %% tags=["hide-input"] mystnb={"image": {"alt": "One row of three pictures: a photo, its copy shifted by four pixels, and its blurred copy", "classes": "dark-light"}, "figure": {"caption": "A photo and two copies of it.", "name": "fig-copies"}}
cat = names.index("cat")
three = torch.stack([photos[cat], shifted[cat], blurred[cat]])
plots.image_rows({"": three}, ["photo", "shifted", "blurred"])

# %%
maps = {}
for at in ("block:3", "block:12"):
    cut = cuts[at]
    with torch.no_grad():
        patches = cut.tokens(cut(three))[:, cut.layout.prefix_tokens :]
    apart = 1 - torch.cosine_similarity(patches[1:], patches[:1], dim=-1)
    maps[f"shifted\n{at}"], maps[f"blurred\n{at}"] = apart.view(2, 8, 8)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four 8 by 8 maps of the distance of each patch token: shifted and blurred copy, each for a cut after block 3 and after block 12", "classes": "dark-light"}, "figure": {"caption": "Cosine distance of each patch token between the photo and its copy.", "name": "fig-token-maps"}}
plots.heat_maps(maps, "cosine distance", columns=4)

# %% tags=["hide-input"]
chapter.evenness(maps["shifted\nblock:3"], maps["shifted\nblock:12"])

# %% [markdown]
# ## The server does not mind the order
#
# Attention treats tokens as a set: a block applied to tokens in another order gives the same tokens in that other order. Positions
# enter only once, at the very beginning, where the position embeddings are added, and that happens on the phone. After the cut
# nothing depends on the order. So the phone may **shuffle the patch tokens** before it sends them.

# %%
pages.source(TokenShuffle.__call__)

# %%
with torch.no_grad():
    h = client(photos)
    mixed = defend(TokenShuffle.of(client), h, seed)[0]
    plain, shuffled = client.server(h), client.server(mixed)

gap = float((plain - shuffled).abs().max())
moved = float(cosine_distance(client.tokens(mixed), client.tokens(h)).mean())

# %% tags=["hide-input"]
record("shuffle_logit_gap", gap, atol=1e-4, direction="lower")
record("shuffle_ir_distance", moved, atol=0.02)
chapter.shuffled_table(client, plain, shuffled, gap, moved)

# %% [markdown]
# The server answers as before. To an attacker who compares token by token, the shuffled message of a photo looks as far from the
# true one as the distance above says; compare it with the yardstick figure. What does this do to the attack? A longer run has measured it:
# the same attack on validation photos, cut after block 6, tokens in order and tokens shuffled.

# %% tags=["hide-input"]
shuffling = study("shuffle")
shuffling.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per method: mean MS-SSIM of the attack on tokens in order, on shuffled tokens, and of the reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher is closer), mean and 95 % interval, of an attack (DRAG: published, k=2) that does not know of the shuffling.", "name": "fig-shuffle"}}
shuffling.intervals("ms_ssim")

# %% [markdown]
# Do not read too much into it. This attacker *does not know* that the tokens were shuffled. One who knows can compare the two messages as
# sets instead of lists, or learn to tell from a token where it came from. A defence is worth what remains against the attacker who
# knows it; that is the subject of the chapters on defences.
#
# ## The attacker, written down
#
# Every result in this library carries a **threat model**, and an attack that needs more than the threat model grants refuses to run.

# %%
kinds = {
    "the default of this book": ThreatModel(),
    "with public photos to train on": ThreatModel(public_data=True),
    "who knows the defence": ThreatModel(public_data=True, defence_known=True),
    "who sees ten messages of one photo": ThreatModel(queries=10),
    "without the weights": ThreatModel(weights=False),
}

# %% tags=["hide-input"]
pages.table(
    ["attacker", "in words"], [[name, str(threat)] for name, threat in kinds.items()]
)

# %% [markdown]
# ## Summary
#
# - A model is cut at a layer; the phone computes $h = f_c(x)$, the server $f_s(h)$. The answer does not change.
# - In a vision transformer $h$ has the same size at every depth, larger than the photo itself here. Size protects nothing.
# - The distance between IRs of different photos, and of a photo and its copies, is the yardstick for every attack.
# - The server of this transformer ignores the order of the patch tokens, so the order can be withheld.
#
# **What stops it?** Shuffling takes positions from an attacker who does not expect it. It stops nobody who does.
#
# ## Exercises
#
# **1. A client of your own.** `SplitClient(model, at="...", image_size=...)` cuts any PyTorch vision model. Cut a `torchvision` ResNet-18 without
# weights (`torchvision.models.resnet18()`) after `layer2`. What is its layout, and is its server indifferent to order?
#
# <details><summary>Solution</summary>
#
# ```python
# import torchvision
#
# cut = SplitClient(torchvision.models.resnet18(), at="layer2", image_size=64)
# print(cut, cut.layout)
# ```
#
# The IR is a map, channels first (`BCHW`). The server is convolutional and looks at neighbourhoods, so order matters: shuffling the
# positions would change its answers, and `TokenShuffle` refuses.
#
# </details>
#
# **2. Can everything be shuffled?** The prefix token (CLS) stays in front. Why must it?
#
# <details><summary>Solution</summary>
#
# The classifier reads its answer from the first token. The server would read it from some patch instead.
#
# </details>
#
# **3. Cut before the positions are added.** Could a phone that cuts *before* the position embeddings shuffle its tokens?
#
# <details><summary>Solution</summary>
#
# No. The server would add the embeddings of the wrong positions, and the answer would change. The order can be withheld only after it
# has been written into the tokens, and that is why a token can still betray it.
#
# </details>
