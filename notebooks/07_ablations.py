# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Deep layers: what each ingredient is worth
#
# DRAG is a dozen ingredients. Each comes with a good story, and the chapters before this one told them. A story is
# not a measurement. Here the ingredients are taken out one by one, at the cut where the attack has the hardest job,
# and the pictures are compared photo by photo.
#
# **Goals.** See how depth changes the attack, and ask what is in a deep message at all. Read paired differences with
# intervals. Learn which ingredients pay at this scale, and how to tell when a comparison cannot say.
#
# **You need** the [assembled attack](06_drag.ipynb) and the terms of [guidance](04_guidance.ipynb).
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
budget = "ci"  # how many turns the two live attacks may take
seed = 0

# %%
import dataclasses

import torch

from dragkit import data, zoo
from dragkit.attacks.drag import drag
from dragkit.attacks.message import Message
from dragkit.config import DragConfig
from dragkit.distance import cosine_distance
from dragkit.measures import intervals, metrics
from dragkit.measures.readout import fit_readout
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel

device = "cuda" if torch.cuda.is_available() else "cpu"
config = DragConfig.small({"ci": 80, "laptop": 200, "colab": 400, "paper": 1000}[budget])
prior = zoo.load_prior(device=device)
demo = data.demo_images(prior.image_size)
names = ["astronaut", "coffee"]
photos = torch.stack([demo[name] for name in names]).to(device)

# %% [markdown]
# ## Deeper
#
# The same short attack, once after block 3 and once after block 12, on the same photos with the same seeds. IR
# distances of different blocks are measured in different spaces. To compare them, we give each a unit: the distance
# between the messages of the two photos at that block. Zero is the photo itself, one is *somebody else's photo*.

# %%
runs, unit, similarity = {}, {}, {}
for at in ("block:3", "block:12"):
    client = zoo.load_client(at=at, device=device)
    with torch.no_grad():
        h = client(photos)
        tokens = client.tokens(h)
        unit[at] = float(cosine_distance(tokens, tokens.roll(1, 0)).mean())
    runs[at] = drag(Message(h, client), prior, config, seeds=seed)
    similarity[at] = metrics.ms_ssim(runs[at].images, photos)
    record(f"ms_ssim_{at.replace(':', '_')}", similarity[at], atol=0.1)
    record(f"distance_{at.replace(':', '_')}", runs[at].distance, atol=0.06)
    record(f"unit_{at.replace(':', '_')}", unit[at], atol=0.005)

# %% mystnb={"image": {"alt": "Three rows of two pictures: the photos, and reconstructions from block 3 and from block 12", "classes": "dark-light"}, "figure": {"caption": "The same attack at two depths. Under each picture: MS-SSIM to the photo and IR distance to the message.", "name": "fig-depth"}}
record_panel("depth", torch.cat([run.images for run in runs.values()]), min_ssim=0.4)
plots.image_rows(
    {"photo": photos, **{at: run.images for at, run in runs.items()}},
    names,
    {
        at: [f"{s:.2f}, distance {d:.3f}" for s, d in zip(similarity[at].tolist(), run.distance.tolist(), strict=True)]
        for at, run in runs.items()
    },
)

# %%
relative = {at: float(run.distance.mean()) / unit[at] for at, run in runs.items()}
pages.table(
    ["mean of two photos", "MS-SSIM", "IR distance", "between the photos", "relative"],
    [
        [at, float(similarity[at].mean()), float(run.distance.mean()), unit[at], relative[at]]
        for at, run in runs.items()
    ],
)

# %%
fell = float(similarity["block:12"].mean()) < float(similarity["block:3"].mean())
print("At block 12 the pictures are", "further from" if fell else "no further from", "the photos than at block 3.")
nearer = relative["block:12"] < relative["block:3"]
print(
    "In units of another photo's distance, the message is fitted", "better" if nearer else "no better", "at block 12."
)
if fell and nearer:
    print("The message is easier to fit and the photo harder to find: so it looks if more pictures share a message.")
elif fell:
    print("In these units the search itself got harder; whether information is lost too, this run cannot say.")
else:
    print("On these two photos depth did no harm at this budget.")

# %% [markdown]
# ## What is in the message, without any attack
#
# When an attack fails at block 12, two explanations compete. Either the message no longer determines the photo, and
# no attack can do better. Or it does, and the attack does not find it. An attack's own result cannot separate the
# two, but a much simpler reader can: **a linear map**, fitted by ridge regression on thousands of (message, photo)
# pairs, from a token to the pixels of its patch. It does not search, and it has no idea of photos but their mean.

# %%
pages.source(fit_readout)

# %% [markdown]
# Whatever such a map shows on photos it was not fitted on, *is in the message*: a lower bound, and an honest one. It
# proves nothing in the other direction. What a linear map cannot read may still be there for a better reader. And it
# needs something that DRAG does not: public photos, and a phone's half to run them through.
#
# The recorded comparison on the published ViT-S, `deep`, used it to choose its cut: from the last block upwards,
# the first at which the linear map reaches an MS-SSIM of 0.6 on training photos it has not seen.

# %% mystnb={"image": {"alt": "One dot with a confidence bar per block of the published ViT-S: MS-SSIM of the photo that a linear map reads from the message", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM of a linear readout of the message, mean and 95 % interval, by block (ViT-S, unseen training photos).", "name": "fig-readout"}}
deep = pages.recorded("deep")
read = {at: tuple(interval) for at, interval in deep["linear_readout_ms_ssim"].items()} if deep else {}
if not deep:
    print(pages.missing("deep"))
elif not read:
    print("The recorded run was given its cut by hand, so it holds no linear readout.")
plots.intervals(read, "MS-SSIM of a linear readout") if read else None


# %%
def read_deep(result):
    """What the linear readout says about the attacks at the chosen cut, in sentences."""
    at, read = result["at"], result["linear_readout_ms_ssim"]
    for method in ("DRAG", "rMLE"):
        mean, (low, high) = result["rows"][method]["ms_ssim"]["mean"], result["rows"][method]["ms_ssim"]["ci"]
        line = f"{at}: {method} reaches an MS-SSIM of {mean:.3f} ({low:.3f} to {high:.3f})"
        if at not in read:
            print(line + ".")
        elif high < read[at][1]:
            print(f"{line}, less than a linear map reads ({read[at][0]:.3f}). It left something in the message.")
        elif low > read[at][2]:
            print(f"{line}, more than a linear map reads ({read[at][0]:.3f}).")
        else:
            print(f"{line}; a linear map reads {read[at][0]:.3f}. Not told apart.")


if deep:
    read_deep(deep)

# %% [markdown]
# The two numbers come from different photos (training and validation), so their intervals are compared, and not photo
# by photo.
#
# ## One ingredient at a time
#
# The recorded ablation cuts the in-house ViT after its last block. All variants attack the same validation photos
# with the same seeds and as many turns. `DragConfig.small` is the base: the published ingredients, with settings for
# small models that were chosen on training photos (below).

# %%
base = DragConfig.small(100)
settings = {f.name: getattr(base, f.name) for f in dataclasses.fields(DragConfig)}
changed = {name: value for name, value in settings.items() if value != getattr(DragConfig.paper(), name)}
print("DragConfig.small(100), where it differs from the published settings:", changed)


# %%
def differences(result, to, metric, only=None):
    """Paired difference of every attack to the row `to`, with its interval."""
    values = {
        name: row["per_photo"][metric]
        for name, row in result["rows"].items()
        if "distance" in row and name != to and (only is None or name in only)
    }
    return {name: intervals.paired_difference(v, result["rows"][to]["per_photo"][metric]) for name, v in values.items()}


def verdict(interval, worse="higher"):
    """In words, whether an interval of (variant - base) excludes zero, and on which side."""
    if interval.low == interval.high == 0:
        return "the same pictures"
    if interval.low <= 0 <= interval.high:
        return "not told apart"
    return "worse" if (interval.low > 0) == (worse == "higher") else "better"


# %% mystnb={"image": {"alt": "One dot with a confidence bar per variant of DRAG and per reference row: mean ST-LPIPS to the photo after block 12", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower is closer), mean and 95 % interval, one ingredient changed at a time, block 12.", "name": "fig-ablations"}}
ablations = pages.recorded("ablations")
print(pages.origin(ablations) if ablations else pages.missing("ablations"))
block12 = pages.at_block(ablations, "block:12") if ablations else None
plots.intervals(pages.summaries(block12, "st_lpips"), "ST-LPIPS") if ablations else None

# %% [markdown]
# These bars are mostly the spread of the *photos*: some are easy for every variant. That two bars overlap therefore
# says nothing. The comparison is made photo by photo: the variant's value minus DRAG's, and then the mean with its
# interval.

# %% mystnb={"image": {"alt": "One dot with a confidence bar per variant: mean paired difference in ST-LPIPS to DRAG; to the right of zero the variant is worse", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS of the variant minus that of DRAG on the same photo, mean and 95 % interval. Right of zero: the change makes it worse.", "name": "fig-ablation-differences"}}
changes = {m: differences(block12, "DRAG", m) if ablations else {} for m in ("st_lpips", "ms_ssim")}
found = {name: tuple(interval) for name, interval in changes["st_lpips"].items()}
plots.intervals({"DRAG": 0.0, **found}, "ST-LPIPS minus DRAG's") if ablations else None


# %%
def read_ablations(changes):
    """Both metrics' differences and verdicts, one row per variant."""
    rows = []
    for name, lpips in changes["st_lpips"].items():
        ssim = changes["ms_ssim"][name]
        both = verdict(lpips), verdict(ssim, worse="lower")
        rows.append([name, f"{lpips.mean:+.3f}", both[0], f"{ssim.mean:+.3f}", both[1]])
    return rows


verdicts = read_ablations(changes)
header = ["changed", "ST-LPIPS, difference", "by its interval", "MS-SSIM, difference", "by its interval"]
pages.table(header, verdicts) if ablations else None

# %%
for what in ("worse", "better"):
    both = [row[0] for row in verdicts if row[2] == row[4] == what]
    if ablations:
        print(f"{what.capitalize()} than DRAG by both metrics: {', '.join(both) or 'none'}.")
if ablations:
    split = [row[0] for row in verdicts if {row[2], row[4]} == {"worse", "better"}]
    print(f"Worse by one and better by the other: {', '.join(split) or 'none'}.")
    open_ = [row[0] for row in verdicts if row[2] == row[4] == "not told apart"]
    print(f"Not told apart from DRAG by either: {', '.join(open_) or 'none'}.")
    print(
        f"{len(verdicts)} comparisons in two metrics: with 95 % intervals, about {0.05 * 2 * len(verdicts):.0f} of "
        f"{2 * len(verdicts)} verdicts would come out by chance if no change mattered."
    )

# %% [markdown]
# The same changes in the middle of the network, after block 6, beside those after block 12:


# %%
def at_both(result, metric="st_lpips"):
    """Differences of a metric and their verdicts at block 6 and at block 12, one row per variant."""
    found = [differences(pages.at_block(result, at), "DRAG", metric) for at in ("block:6", "block:12")]
    return [
        [name, *(cell for gaps in found for cell in (f"{gaps[name].mean:+.3f}", verdict(gaps[name])))]
        for name in found[0]
    ]


both = at_both(ablations) if ablations and "DRAG, block:6" in ablations["rows"] else []
header = ["changed", "block 6, ST-LPIPS", "by its interval", "block 12, ST-LPIPS", "by its interval"]
pages.table(header, both) if both else print("Block 6 has not been recorded here.")

# %%
if both:
    opposed = [row[0] for row in both if {row[2], row[4]} == {"worse", "better"}]
    print(f"Worse at one depth and better at the other: {', '.join(opposed) or 'none'}.")
    twice = [row[0] for row in both if row[2] == row[4] == "worse"]
    print(f"Worse at both depths: {', '.join(twice) or 'none'}.")

# %% [markdown]
# How to read it, and how not to.
#
# - *Not told apart* is a statement about this measurement: so many photos, so many turns. It is not "makes no difference".
# - An ingredient is taken out while all other settings stay as they were chosen *with* it. That favours the base: a
#   raw gradient may want another rate than Adam's direction.
# - The same holds for DPS, UGD and MPGD. Their rates mean other things, and a rate for each was set once and is not
#   tuned. A "worse" in these rows is a statement about that rate. [Chapter 4](04_guidance.ipynb) shows how much it
#   matters.
# - "Decode the last latent" changes the last step only: the published attack does not end with Tweedie's estimate.
# - The rows "published" undo what the search for the small prior changed, one setting or all of them.
#
# ## How hard to push
#
# The guidance rate once more, now measured. Too low ignores the message, too high leaves the prior.

# %% mystnb={"image": {"alt": "One dot with a confidence bar per guidance rate: mean ST-LPIPS to the photo, and the reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower is closer), mean and 95 % interval, by guidance rate, block 12.", "name": "fig-rate-sweep"}}
rates = pages.recorded("rates")
print(pages.origin(rates) if rates else pages.missing("rates"))
plots.intervals(pages.summaries(pages.at_block(rates, "block:12"), "st_lpips"), "ST-LPIPS") if rates else None


# %%
def best_row(result, metric):
    """The attack's row of the best mean."""
    sign = 1 if metrics.DIRECTION[metric] == "lower" else -1
    tried = {name: row for name, row in result["rows"].items() if "distance" in row}
    return min(tried, key=lambda name: sign * tried[name][metric]["mean"])


def read_rates(result):
    """Where the optimum lies, whether it is told from the ends, and what the attacker would choose."""
    tried = [name for name, row in result["rows"].items() if "distance" in row]
    best = best_row(result, "st_lpips")
    print(f"Lowest ST-LPIPS: {best}. Highest MS-SSIM: {best_row(result, 'ms_ssim')}.")
    ends = differences(result, best, "st_lpips", only=(tried[0], tried[-1]))
    for name, gap in ends.items():
        print(f"{name} minus {best}: {gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}), {verdict(gap)}.")
    if len(ends) == 2 and all(verdict(gap) == "worse" for gap in ends.values()):
        print("So the optimum lies inside the range, and both ends are worse: the trade-off is there.")
    elif len(ends) == 2:
        print("The best mean lies inside the range, but not both ends are told apart from it.")
    else:
        print("The best rate is the end of the range: this sweep does not bracket an optimum.")
    mean = {name: sum(result["rows"][name]["distance"]) / len(result["rows"][name]["distance"]) for name in tried}
    seen = min(mean, key=mean.get)
    print(f"The attacker sees the IR distance only. It is smallest at {seen} ({mean[seen]:.3f}).")
    if seen != best:
        gap = differences(result, best, "st_lpips", only=(seen,))[seen]
        print(f"Choosing by it costs {gap.mean:+.3f} in ST-LPIPS ({gap.low:+.3f} to {gap.high:+.3f}), {verdict(gap)}.")


for cut in reversed(rates["blocks"]) if rates else ():
    print(f"After {cut}:")
    read_rates(pages.at_block(rates, cut))

# %% [markdown]
# The best rate is named *after* looking at these photos. That is fine for the question of the sweep, which is whether
# there is an optimum inside. It would be wrong as a choice of settings; those come from training photos.
#
# ## How long to push
#
# Is a bad picture at block 12 a matter of patience? Every method, each with as many seconds as DRAG needs for 20 to 160
# turns. Most of the others have cheaper iterations, so they get more of them ([chapter 8](08_baselines.ipynb) explains the
# methods). The inverse network answers at once and has one value.

# %% mystnb={"image": {"alt": "Curves with bands over the budget in turns of DRAG: mean ST-LPIPS of each method, and a horizontal line for the inverse network", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower is closer) against the budget, in turns of DRAG; the others have the same seconds. Means and 95 % intervals, block 12.", "name": "fig-budgets"}}
budgets = pages.recorded("budgets")
print(pages.origin(budgets) if budgets else pages.missing("budgets"))

spent = pages.by_turns(budgets, "st_lpips") if budgets else {}
plots.over_budgets(
    spent, ylabel="ST-LPIPS", levels={"inverse network": budgets["rows"]["inverse network"]["st_lpips"]["mean"]}
) if budgets else None


# %%
def read_budgets(result, methods):
    """DRAG against every other method at each budget, and each method against itself at twice the budget."""
    rows = result["rows"]
    tried = sorted({row["turns"] for row in rows.values() if "turns" in row})
    told = []
    for turns in tried:
        cells: list[object] = [turns, f"{rows[f'DRAG, {turns} turns']['seconds_per_photo']:.1f}"]
        for rival in methods:
            if rival != "DRAG":
                ours, theirs = (rows[f"{m}, {turns} turns"]["per_photo"]["st_lpips"] for m in ("DRAG", rival))
                gap = intervals.paired_difference(ours, theirs)
                cells.append(f"{gap.mean:+.3f}, {verdict(gap)}")
        told.append(cells)
    a, b = tried[-2:]
    for method in methods:
        more, less = (rows[f"{method}, {n} turns"]["per_photo"]["st_lpips"] for n in (b, a))
        gap = intervals.paired_difference(more, less)
        print(
            f"{method}, {a} to {b} turns: ST-LPIPS {gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}), {verdict(gap)}."
        )
    return pages.table(["turns", "s per photo", *(f"DRAG - {m}" for m in methods if m != "DRAG")], told)


read_budgets(budgets, list(spent)) if budgets else None

# %% [markdown]
# Seconds were equalised by timing the attacks side by side first, on a machine that had other things to do: take their
# ratio as rough. Where the last doubling of the budget still gives a clear improvement, the attack has not converged, and
# its result is a lower bound on what leaks. [Chapter 8](08_baselines.ipynb) has the published budgets, on fewer photos.
#
# ## Where the settings come from
#
# `DragConfig.small` was chosen on *training* photos, at two cuts, the embeddings and block 12: random trials, then one setting of
# the best trial at a time. The best is the one with the lowest ST-LPIPS in the mean over both cuts. The log is kept
# whole, with the losers. The tables compare each setting with the winner, photo by photo.

# %%
search = pages.recorded("search")
print(pages.origin(search) if search else pages.missing("search"))


def read_search(result, at, shown=5):
    """The winner, the next settings, the published and the worst at one cut, each with its difference to the winner."""
    rows = pages.at_block(result, at)
    is_winner = {name: row["config"] == result["winner"] for name, row in rows["rows"].items()}
    winner = next(name for name, yes in is_winner.items() if yes)
    gaps = differences(rows, winner, "st_lpips")
    order = sorted(rows["rows"], key=lambda name: rows["rows"][name]["st_lpips"]["mean"])
    published = next(iter(rows["rows"]))  # the first trial
    kept = [n for i, n in enumerate(order) if i < shown or n in (winner, published) or i == len(order) - 1]
    table = []
    for name in kept:
        row = rows["rows"][name]
        told = f"{gaps[name].mean:+.3f}, {verdict(gaps[name])}" if name in gaps else "the winner"
        place = f"{order.index(name) + 1}. {name}{' (published)' if name == published else ''}"
        table.append([place, row["st_lpips"]["mean"], row["ms_ssim"]["mean"], told])
    close = sum(verdict(gap) == "not told apart" for gap in gaps.values())
    print(f"{at}: of {len(gaps)} other settings, {close} are not told apart from the winner on these photos.")
    return pages.table([f"{len(order)} settings at {at}", "ST-LPIPS", "MS-SSIM", "minus the winner"], table)


read_search(search, "block:0") if search else None

# %%
read_search(search, "block:12") if search else None

# %% [markdown]
# The best of many settings on a few photos is partly the luckiest of many. Its advantage on *these* photos is an
# overestimate; what it is worth on others is what the ablation above measured, on photos that the search never saw.
#
# ## Summary

# %%
if ablations:
    for name, lpips, by_lpips, ssim, by_ssim in verdicts:
        print(f"{name}: {by_lpips} by ST-LPIPS ({lpips}), {by_ssim} by MS-SSIM ({ssim}).")
else:
    print("The ablation has not been recorded here, so this page has no verdict on any ingredient.")

# %% [markdown]
# - Depth acts in two ways that look alike: the message may determine less, or the search may get harder. A linear
#   readout bounds the first from below.
# - Ingredients are judged by paired differences on the same photos. Overlapping bars of means say nothing.
# - Two metrics can disagree, and then the finding is that they disagree.
# - "Not told apart" and "worth nothing" are different findings.
# - Settings come from training photos, results from validation photos.
#
# **What stops it?** Not depth alone. As long as a linear map still reads the photo from a message, a failed attack
# says something about the attack. Ask of a cut what its message *holds*, before asking which attack fails on it.
#
# **What this does not show.** One in-house ViT, one cut, a hundred turns where the paper takes 4,000, 64 pixels, ten
# classes. An ingredient that does not pay here may pay at full scale, where the prior is far better and the budget
# forty times as large. The [claims table](../book/claims.md) lists each claim with its verdict at this scale.
#
# ## Exercises
#
# **1. A fair chance.** "No Adam" keeps the rate that was chosen with Adam. Give the raw gradient its own: try three
# rates at block 12 on the two photos, `config.with_(smoothing="none", guidance_rate=...)`. Which photos should the
# choice be made on, to be able to report the result on these two?
#
# <details><summary>Solution</summary>
#
# On others: `data.pick("train", 10)` has training photos, if the data set is there.
#
# ```python
# for rate in (0.1, 0.2, 0.45):
#     print(rate, drag(h, client, prior, config.with_(smoothing="none", guidance_rate=rate), seeds=seed))
# ```
#
# A spherical step uses the direction only, so the rate means the same with and without Adam. What differs is how
# steadily the directions add up, and a direction that jitters can bear a higher rate.
#
# </details>
#
# **2. Why paired?** Two variants differ by 0.01 on every one of 32 photos, and the photos' values have a standard
# deviation of 0.1. How wide is the interval of each mean, and how wide that of the paired difference?
#
# <details><summary>Solution</summary>
#
# Each mean has a standard error of $0.1/\sqrt{32} \approx 0.018$, so its 95 % interval is about $\pm 0.035$, and the
# two overlap almost entirely. The difference is 0.01 on every photo: its interval has no width at all.
#
# </details>
#
# **3. One seed.** All variants use the same seeds. What would change if each had its own, and what does it mean for
# "4 turns per step", which draws noise in another order?
#
# <details><summary>Solution</summary>
#
# With the same noise, part of the luck of the draw is common to both and cancels in the difference. With other noise
# it does not, and the interval gets wider. A variant that draws in another order has other noise after the first
# turn, so it never enjoys that cancellation: its interval is honest, only wider.
#
# </details>
