# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Choosing a defence
#
# Which defence should I deploy, and what does it cost? The chapters before this one took the defences one family at a
# time. Here they stand in one figure and one table, each with its price and with the strongest attacker that was tried.
# There is no winner to announce in advance: the answer depends on who attacks, on how much accuracy you can spare and
# on how often the same photo is sent.
#
# **Goals.** Ask five questions in the right order. Read a Pareto figure, and see how much a careless evaluation flatters
# a defence. Find out which of the paper's verdicts on defences hold at this scale. Fill in an audit card.
#
# **You need** the [assembled attack](06_drag.ipynb), and the terms of the defence chapters before this one.
#
# > **Cost:** CPU, less than a minute (three short attacks on one photo), 1.2 GB of memory. All else is recorded.
# > Measured: see the [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # how many turns the three live attacks may take
seed = 0

# %% tags=["hide-input"]
import torch

from dragkit import (
    DragConfig,
    ThreatModel,
    data,
    defend,
    drag,
    hear,
    load_client,
    load_prior,
    make_defence,
    metrics,
)
from dragkit.adaptive.replies import REPLIES
from dragkit.defenses import BaseDefence
from dragkit.measures import utility
from draglab import frontier
from draglab.chapters import ch17_choosing as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel

device = "cuda" if torch.cuda.is_available() else "cpu"
at = "block:6"
client = load_client(at=at, device=device)
prior = load_prior(device=device)
photo = data.demo_images(64)["astronaut"][None].to(device)
with torch.no_grad():
    h = client(photo)

# %% [markdown]
# ## Five questions
#
# 1. **Who attacks, and what do they hold?** The client's weights, the server's, public photos, the defence, the key?
# 2. **How much accuracy can you spare?** Defences are compared at a price, never at a "strength".
# 3. **Who is the strongest attacker that was tried?** A defence has the score of that one, not of the average one.
# 4. **How often is the same photo sent?** Noise that is drawn anew can be averaged away.
# 5. **Is there a guarantee, or a measurement?** A measured defence is one that these attacks did not break.
#
# The order matters. A defence that fails the first question needs no measurement, and one that you cannot afford needs
# none either. This is how a threat model is written down here; a run under a weaker one is refused:

# %%
pages.source(ThreatModel)

# %% [markdown]
# ## One message, three attackers
#
# The client multiplies its features by a secret rotation. The server holds weights in the rotated basis, so its answer
# stays what it was. Is that a good defence? Here is one message, and three attackers who hear it.

# %%
recipe = "rotate"
defence = make_defence(recipe, client)
messages = defend(defence, h, seed)
print(f"The server must know: {defence.server_knows}. Utility: {defence.utility}.")
print(utility.consequence(client, h, defence.receive(messages[0])))

# %% [markdown]
# `hear` turns what was received into what an attack is given, and says what this attacker is assumed to have. The
# attack itself is the same in all three runs.

# %%
turns = {"ci": 40, "laptop": 100, "colab": 400, "paper": 1000}[budget]
config = DragConfig.small(turns)
attackers = {"": "does not know", "token gram": "knows", "undo": "holds server"}
runs = {}
for reply, label in attackers.items():
    message, threat = hear(reply, messages, defence, client)
    runs[label] = drag(message, prior, config, seeds=seed, threat=threat)

# %% tags=["hide-input"]
for reply, label in attackers.items():
    print(
        f"{label}: {REPLIES[reply].label if reply else 'takes the message for an undefended one'}."
    )
seen = {label: float(metrics.ms_ssim(run.images, photo)) for label, run in runs.items()}
far = {label: float(metrics.st_lpips(run.images, photo)) for label, run in runs.items()}
first, *_, last = runs
record("st_lpips_unaware", far[first], atol=0.15)
record("st_lpips_aware", far[last], atol=0.08)
record("ms_ssim_aware", seen[last], atol=0.15)
print(
    f"Done: {len(runs)} attacks of {len(runs[first].trace['distance'])} turns each, DRAG ({config.label})."
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "The photo of an astronaut, then three reconstructions from the same rotated message, by attackers who know more from left to right", "classes": "dark-light"}, "figure": {"caption": "One defended message, three attackers. Under each picture: MS-SSIM and ST-LPIPS to the photo.", "name": "fig-choosing-three"}}
record_panel("aware", runs[last].images, min_ssim=0.4)
plots.image_grid(
    torch.cat([photo, *(run.images for run in runs.values())]),
    4,
    ["photo", *(f"{label}\n{seen[label]:.2f}, {far[label]:.2f}" for label in runs)],
)

# %% tags=["hide-input"]
chapter.three_attackers_in_words(far)

# %% [markdown]
# So the verdict on a rotation follows from question 1. If the server's operator is the attacker, they own the rotated
# weights, and the rotation is written in them. If only the line is tapped, the rotation is a cipher, and ordinary
# encryption does the same with less trouble. It helps against somebody in between, who hears messages in clear and knows
# only the published model.
#
# ## What was recorded
#
# Six studies attacked defences at the same cut, on the same validation photos, with the same number of turns. `gather`
# reads them all into a list of points.

# %%
pages.source(frontier.Point)

# %% tags=["hide-input"]
defences = chapter.gather()
chapter.origins(defences)

# %% [markdown]
# ## The strongest attacker, and what nothing beats
#
# Let $\mathcal{A}$ be the attacks that were tried on defence $d$, aware or not, and $\ell_a(d)$ the mean ST-LPIPS to the
# photo that attack $a$ reaches; small means close. What is claimed for $d$ is the *worst case* over what was tried,
#
# $$ \ell(d) = \min_{a \in \mathcal{A}} \ell_a(d) . $$
#
# It bounds nothing: an attack that nobody tried may be stronger. With utility $u(d)$, the accuracy of the server, $d'$
# **beats** $d$ if
#
# $$ u(d') \ge u(d), \quad \ell(d') \ge \ell(d), \quad\text{and one of the two is strict.} $$
#
# What no other beats is the **Pareto frontier**. Only there does a choice remain, between accuracy and privacy.

# %%
pages.source(frontier.worst_attack, frontier.frontier)

# %% [markdown]
# The same defences twice. First as an evaluation with one unchanged attack would show them, then with the strongest
# attacker that was tried. Both figures have the same axes. Up is private, right is useful.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Scatter of accuracy against ST-LPIPS, one point with bars per defence, coloured by family, for an attacker who does not know of the defence", "classes": "dark-light"}, "figure": {"caption": "Recorded, attacker unaware: accuracy against ST-LPIPS to the photo (higher is more private), with 95 % intervals. Named: what no other defence beats.", "name": "fig-pareto-unaware"}}
chapter.unaware_figure(defences)

# %% tags=["hide-input"] mystnb={"image": {"alt": "The same scatter of accuracy against ST-LPIPS with the same axes, for the strongest attacker tried on each defence", "classes": "dark-light"}, "figure": {"caption": "Recorded, strongest attacker tried: the same defences and axes. Named: what no other defence beats.", "name": "fig-pareto-strongest"}}
chapter.strongest_figure(defences)

# %% tags=["hide-input"]
chapter.frontier_in_words(defences)

# %% [markdown]
# ### How much it flatters
#
# For each defence, how much closer the strongest attacker gets than the unaware one, photo by photo. Values cannot be
# negative in the mean, because the strongest is chosen on the photos on which it is reported; a small value that is
# barely above 0 may be the luck of that choice.

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a bar per defence: the difference in ST-LPIPS between the unaware attacker and the strongest", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS of the unaware attacker minus that of the strongest, on the same photos, with 95 % interval. Defences whose strongest attacker is the unaware one are left out.", "name": "fig-flattery"}}
chapter.flattery_figure(defences)

# %% tags=["hide-input"]
chapter.flattery_in_words(defences)

# %% [markdown]
# The last line has two readings. Either there is nothing to adapt to, as with a client whose weights *are* the defence
# and are known. Or nobody has found the right reply yet.
#
# ## Every defence
#
# What it costs, and what the server must be told. "Exact" means that the server's answer does not change, "approximate"
# that it does, "trained" that a network was trained for the defence. The last two columns come from the code:

# %%
pages.source(BaseDefence)

# %% tags=["hide-input"]
chapter.costs_table(defences)

# %% [markdown]
# The intervals of the loss treat the two accuracies as independent. They were measured on the same photos, so the true
# intervals are narrower, and an exact defence loses exactly nothing.
#
# And what leaks, to one message. MS-SSIM and retrieval are high when much leaks, ST-LPIPS is low.

# %% tags=["hide-input"]
chapter.leaks_table(defences)

# %% tags=["hide-input"]
chapter.retrieval_table(defences)

# %% [markdown]
# Names with `lambda0` or "no mask" are controls, not defences: the same training without the term that is meant to
# protect, or the trained client without its mask. A defence that is no better than its control owes its effect to
# something else. Controls are in the tables and figures, and are not chosen below.
#
# ## What the paper says of defences
#
# Three statements of the DRAG paper, each tested here as a claim with an interval: DISCO is not enough, NoPeek is not
# enough, and shuffling helps until the attacker puts the tokens back in order. "Not enough" has a fixed meaning in these
# tests: an attacker keeps more than half of the MS-SSIM that DRAG gains over the prior alone.

# %% tags=["hide-input"]
chapter.verdicts(
    "disco-insufficient",
    "nopeek-insufficient",
    "shuffle-reorder-recovers",
    "shuffle-insufficient",
)

# %% tags=["hide-input"]
chapter.paper_in_words()

# %% [markdown]
# A claim that does not hold here does not refute the paper, whose clients, photos and budgets are larger. A claim that
# holds says that the statement survives a change of all of these.
#
# ## Choosing
#
# Now the procedure can run. Say how many points of accuracy you can spare, keep what is affordable, and take what leaks
# least to the strongest attacker tried.

# %%
pages.source(frontier.affordable)

# %% tags=["hide-input"]
chosen = chapter.choices(defences)
chapter.choices_table(chosen)

# %% tags=["hide-input"]
chapter.choices_in_words(chosen)

# %% [markdown]
# The best of many defences on 32 photos is partly the luckiest of many. Before you deploy it, attack it again on photos
# on which it was not chosen.
#
# ### How often is a photo sent?
#
# The table above counts attackers who hear a photo once. A camera that sends every frame, or an app that tries again
# after a lost connection, gives them more. Where more messages were tried:

# %% tags=["hide-input"]
chapter.messages_table(defences)

# %% tags=["hide-input"]
chapter.verdicts("queries-undo-noise")

# %% [markdown]
# ### Guarantee or measurement?
#
# All of the above is of the second kind: an upper bound on privacy, that falls with every attack somebody invents. A
# lower bound that holds for *every* attacker exists for noise of known shape and for messages of few bits; what it is
# worth is the subject of the chapter on bounds. Whether the attacks respect the bounds is a test of both:

# %% tags=["hide-input"]
chapter.verdicts("gallery-bound-holds", "bit-budget")

# %% [markdown]
# ## An audit card
#
# One page that somebody else can check. Write "not tested" where nothing was tested; an empty field reads as "fine".
#
# | | Field | Write down |
# |---|---|---|
# | 1 | System | model and checksum of its weights, cut, shape and type of the message, bytes per query |
# | 2 | Threat model | who attacks; what they know of client, defence and key; public photos, prior, queries per photo, computing |
# | 3 | Data | name, number of photos, licence, how far they are from what the prior was trained on |
# | 4 | Defence | mechanism, parameters, who holds keys and seeds, how it was trained |
# | 5 | Utility | metric with and without the defence, with intervals, on the whole test set |
# | 6 | Attacks | name, version, settings, tuned on what, adapted to the defence or not, steps, time, machine |
# | 7 | Reconstruction | a structural and a perceptual metric: median, interval, and the worst 5 % of photos |
# | 8 | Identification | found first and among the first five of how many, chance, interval |
# | 9 | Meaning | does an independent classifier see the same class? attributes? |
# | 10 | Guarantee | kind, value, assumptions, and how far the best attack is from it |
# | 11 | Repeated queries | the same with 1, 4 and 16 messages of a photo |
# | 12 | References | floor, prior only, ceiling |
# | 13 | Examples | six pictures: best, middle, worst; photos of people who agreed |
# | 14 | Verdict | against thresholds that were fixed before, and what was *not* tested |
# | 15 | Repeat | command, commit, seeds, date |
#
# What the recorded studies can fill in, for the choice at two points:

# %% tags=["hide-input"]
chapter.audit_card(defences, chosen.get(2), client.h_shape)

# %% [markdown]
# ## Summary
#
# - First the threat model. Exact defences hide order or basis, and are worth what the secret is worth to *this* attacker.
# - Compare at equal accuracy, with the strongest attacker tried, on the same photos. A defence is never "of strength 2".
# - An attacker who does not know of the defence flatters it. Report both, and call the weak one by its name.
# - Count messages. Fresh noise is an allowance that is spent with each query.
# - Controls come with the defence: training without the protective term, a random mask in the place of a learned one.
# - Measured privacy is an upper bound that only falls. Where harm would be grave, ask for a guarantee, or send less.
#
# **What stops it?** Of what was tried, read the tables: they are computed from the records. What is certain without any
# record is what was never sent. A photo that stays on the phone, a smaller cut of it, an answer instead of features: before
# you choose a defence for a message, ask whether the message is needed.
#
# **What this does not show.** Photos of 64 × 64 pixels and ten classes, which prior, client and attacker have in common.
# One client, one cut. 40 turns where the paper takes thousands, so a longer attack may get more out of each message. 32 photos:
# differences below some hundredths cannot be told. Attackers were not tuned for each defence, and the list of replies
# is ours. Servers were trained for some of the defences only. And a metric is not harm: nobody was asked
# whether they recognise the person. The [claims table](../book/claims.md) lists each claim with its verdict at this scale.
#
# ## Exercises
#
# **1. Another defence.** Set `recipe = "lowrank:16"` and the attackers to `""` and `"projected"`. What does the server's answer
# do, and which of the five questions decides here?
#
# <details><summary>Solution</summary>
#
# Nothing is secret now: anybody sees which directions were sent. So the first question does not decide, the second does. The
# server's answer may change, because directions are gone for the server as well. The attacker compares in the directions
# that were sent and lets the prior fill in the rest. Look at both metrics: they need not agree on how much that helps.
#
# </details>
#
# **2. A free defence.** A colleague reports: "accuracy unchanged to the last digit, and the published attack fails
# completely." Which two questions do you ask?
#
# <details><summary>Solution</summary>
#
# *Did the attacker know?* and *what is the secret, and who holds it?* If the server's answer is unchanged for every message,
# the server can still tell apart all that it could before. So the information is in the message, and only its form has
# changed. What remains is whether the form can be found out: by statistics, by an invariant distance, or from weights that the
# attacker holds anyway. The three pictures of the live part come from one message: compare them.
#
# </details>
#
# **3. Chance at the top.** Twenty defences are in truth equally good, and each mean has a standard error of 0.02. By how much will
# the best of them seem better than the average one?
#
# <details><summary>Solution</summary>
#
# The largest of twenty independent normal draws lies about 1.87 standard deviations above the mean, so by 0.037: more than many
# real differences. `torch.randn(100_000, 20).max(1).values.mean()` gives the factor. Measured on the same photos the
# means are not independent, which makes the effect smaller. Choose on some photos, report on others.
#
# </details>
