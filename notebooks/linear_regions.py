# %% [markdown]
# # A tour of linear regions
#
# A network of piecewise linear activations is linear on each of many convex regions of its input space. Each
# region has one **activation pattern**: which hidden units are on. Novak, Bahri, Abolafia, Pennington and
# Sohl-Dickstein ("Sensitivity and Generalization in Neural Networks: an Empirical Study", here paper E) count
# how many regions a path through the data crosses, its **transitions**. Only the paper's abstract was at hand
# here: its claims are quoted, and no equation numbers. Nothing here needs labels.

# %% cellView="form"
# @title Install jaxsens where it is missing; JAX, Flax and NumPy stay as they are
SOURCE = "jaxsens"  # or the path or URL of a wheel or of a checkout

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tempfile

HELD = r"jax|jaxlib|jax-(cuda|rocm).*|libtpu|flax|numpy"
PLUGINS = {"[cuda12]": "jax-cuda12-plugin", "[cuda13]": "jax-cuda13-plugin", "[tpu]": "libtpu"}


def pip_install(*options):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def install(source):
    from packaging.requirements import Requirement

    versions = {}
    for found in importlib.metadata.distributions():
        versions.setdefault(re.sub(r"[-_.]+", "-", found.name).lower(), found.version)
    held = {name: version for name, version in versions.items() if re.fullmatch(HELD, name)}
    # What jaxsens needs is read from its own metadata; this installs nothing.
    report = pip_install("--dry-run", "--no-deps", "--ignore-installed", "--report", "-", source)
    needs = map(Requirement, json.loads(report)["install"][0]["metadata"]["requires_dist"])
    needs = [n for n in needs if n.name in held and (n.marker is None or n.marker.evaluate({"extra": ""}))]
    unfit = [n for n in needs if not n.specifier.contains(held[n.name], prereleases=True)]
    if unfit:
        here = ", ".join(f"{n.name} {held[n.name]}" for n in unfit)
        # Without its extra, jax would leave the plugin for the GPU or TPU behind.
        extra = next((extra for extra, plugin in PLUGINS.items() if plugin in held), "")
        needed = " ".join(f"'{n.name}{extra if n.name == 'jax' else ''}{n.specifier}'" for n in unfit)
        raise SystemExit(f"jaxsens does not fit {here}: run %pip install -U {needed} yourself, and restart.")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.writelines(f"{name}=={version}\n" for name, version in held.items())
        constraints.flush()
        pip_install("--constraint", constraints.name, source)
    importlib.invalidate_caches()


if importlib.util.find_spec("jaxsens") is None:
    install(SOURCE)

# %% tags=["parameters"]
SEEDS = 5
EPOCHS = 60
PIXELS = 160  # of the pictures, along each side
PAIRS = 100  # pairs of images, and as many test images

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxsens.data import load, subset
from jaxsens.metrics import (
    activation_codes,
    count_crossings,
    jacobian_norms,
    mlp_preactivations,
    plane,
    plane_points,
    random_directions,
    region_labels,
    segment,
    shuffled_pixels,
    slice_regions,
    transition_count,
)
from jaxsens.models import build, fully_connected, perceptron
from jaxsens.plotting import SlicePanel, figure_of_slices
from jaxsens.stats import spearman
from jaxsens.train import TrainConfig, make_train, train_ensemble

plt.rcParams["figure.dpi"] = 90
COLOURS = ("#0072B2", "#D55E00")


def with_error(values, digits=2):
    """Mean over the networks, and its standard error."""
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.{digits}f} +- {error:.{digits}f}"


# %% [markdown]
# ## Networks
#
# ReLU networks of three hidden layers with 16 units, from several seeds at once, on 500 digits of 8 x 8
# pixels in $[0, 1]$. They are kept as they start and as they end.

# %%
data = subset(load("digits"), 500, key=jax.random.key(0))
xs_train, ys_train = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
xs_test = jnp.asarray(data.x_test)

model = fully_connected(3, 16, init="HN")
net = build(model, input_shape=xs_test.shape[1:], num_outputs=10)
settings = TrainConfig(learning_rate=1e-3, batch_size=50, max_epochs=EPOCHS, stop_loss=1e-5)
stages = {}


def keep(epoch, members):
    of_members = [
        jax.tree.map(lambda leaf, i=i: leaf[i], (members.params, members.state)) for i in range(SEEDS)
    ]
    stages["before training" if epoch == 0 else "after training"] = [
        perceptron(model, *one) for one in of_members
    ]


keys = jax.random.split(jax.random.key(1), SEEDS)
training = make_train(settings, net.init, net.apply)
train_ensemble(training, keys, xs_train, ys_train, snapshots=(0, EPOCHS), observe=keep)


def f(params, x):
    """One image to 10 outputs, by the plain matrices."""
    hidden = x.ravel()
    for weight, bias in zip(*params, strict=True):
        z = hidden @ weight + bias
        hidden = jax.nn.relu(z)
    return z


logits = jax.jit(jax.vmap(f, (None, 0)))
for stage, networks in stages.items():
    right = [float((logits(params, xs_test).argmax(axis=1) == data.y_test).mean()) for params in networks]
    print(f"{stage}: test accuracy {with_error(right, 3)}")


# %% [markdown]
# ## A slice
#
# The plane through three training images of different classes. The hue is the predicted class, each region
# has its own shade of it, thick lines part classes. `region_labels` tells apart what the pixels see;
# `slice_regions` finds all polygons exactly.

# %%
firsts = [int(np.flatnonzero(np.asarray(data.y_train) == digit)[0]) for digit in (0, 1, 4)]
through = plane(*xs_train[jnp.array(firsts)])
corners = np.asarray(through.coordinates)
middle, half = (corners.min(axis=0) + corners.max(axis=0)) / 2, 0.65 * np.ptp(corners, axis=0).max()
extent = (middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half)
grid = plane_points(through, extent, resolution=PIXELS).reshape(-1, *xs_test.shape[1:])

panels = []
for stage, networks in stages.items():
    weights, biases = networks[0]
    codes = activation_codes(mlp_preactivations(weights, biases, grid))
    regions = region_labels(codes.reshape(PIXELS, PIXELS, -1))
    exact = len(slice_regions(weights, biases, through, extent).polygons)
    panels.append(
        SlicePanel(
            regions,
            np.asarray(logits(networks[0], grid).argmax(axis=1)).reshape(PIXELS, PIXELS),
            points=corners,
            point_labels=np.asarray(data.y_train)[firsts],
            extent=extent,
            title=stage,
            note=f"{exact} regions, {regions.max() + 1} of them hold a pixel's centre",
        )
    )
figure_of_slices(panels, columns=2, class_names=[f"digit {digit}" for digit in range(10)])

# %%
for stage, networks in stages.items():
    found = [len(slice_regions(*params, through, extent).polygons) for params in networks]
    print(f"{stage}: {with_error(found, 0)} regions on this square, {SEEDS} networks")

# %% [markdown]
# ## Along a segment: exactly, and by sampling
#
# On the way from one image to another, the number of transitions between sampled points,
#
# $$t = \sum_i \big\| c(z_i) - c(z_{i+1}) \big\|_1 ,$$
#
# with $c(z)$ the pattern at point $z$, misses a unit that switches twice between two samples. It rises to the
# number of boundaries on the segment as the points get denser. `count_crossings` finds that number without
# sampling: between two boundaries the network is linear, so the next boundary is known.

# %%
key = jax.random.key(2)
starts, others = (xs_train[jax.random.permutation(k, len(xs_train))[:PAIRS]] for k in jax.random.split(key))


steps = 2 ** np.arange(10)  # Each halves the steps before it, and keeps their points.
paths = jax.vmap(lambda a, b: segment(a, b, num_points=int(steps[-1]) + 1))(starts, others)


@jax.jit
def sampled(params, paths):
    """Transitions from point to point on each segment, in fewer and in more steps: (10, pairs)."""
    codes = activation_codes(mlp_preactivations(*params, paths.reshape(-1, *starts.shape[1:])))
    codes = codes.reshape(*paths.shape[:2], -1)
    along = jax.vmap(lambda path: transition_count(path, closed=False))
    return jnp.stack([along(codes[:, :: int(steps[-1] // number)]) for number in steps])


counts = {}
for stage, networks in stages.items():
    exact, found = (
        np.asarray(count_crossings(*networks[0], starts, others)),
        np.asarray(sampled(networks[0], paths)),
    )
    counts[stage] = exact, found
    print(f"{stage}: {exact.mean():.1f} crossings a segment, from {exact.min()} to {exact.max()}")
    print("   never too many:", bool((found <= exact).all()))

figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
for (stage, (exact, found)), colour in zip(counts.items(), COLOURS, strict=True):
    missed = exact - found
    mean, error = missed.mean(axis=1), missed.std(axis=1, ddof=1) / PAIRS**0.5
    print(f"{stage}, missed:", ", ".join(f"{n}: {m:.2f}" for n, m in zip(steps, mean, strict=True)))
    axes.errorbar(steps, mean, error, color=colour, marker="o", markersize=3, capsize=2, label=stage)
axes.set(xscale="log", xlabel="sampled steps along the segment", ylabel="crossings missed, of a segment")
axes.set_xticks(steps, steps)
axes.minorticks_off()
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Near the data and away from it
#
# Segments between two training images, cut into 20 pieces: the crossings in each piece over its length. Ends
# of a segment are data, its middle is away from them. To compare, the same images with each one's pixels
# shuffled: points as bright as digits that are no digits.

# %%
shuffled = tuple(shuffled_pixels(k, s) for k, s in zip(jax.random.split(key), (starts, others), strict=True))
sets = {"images": (starts, others), "images with shuffled pixels": shuffled}
PIECES = 20
middles = (np.arange(PIECES) + 0.5) / PIECES


def density(params, starts, others):
    """Crossings per unit length in each piece, mean over the pairs: (pieces,)."""
    cuts = jax.vmap(lambda a, b: segment(a, b, num_points=PIECES + 1))(starts, others)
    pieces = (cuts[:, :-1].reshape(-1, *starts.shape[1:]), cuts[:, 1:].reshape(-1, *starts.shape[1:]))
    counts = count_crossings(*params, *pieces).reshape(-1, PIECES)
    lengths = jnp.sqrt(jnp.sum((others - starts) ** 2, axis=(1, 2, 3)))[:, None] / PIECES
    return np.asarray(counts.sum(axis=0) / (lengths * jnp.ones(PIECES)).sum(axis=0))


densities = {
    (stage, kind): np.array([density(params, *ends) for params in networks])
    for stage, networks in stages.items()
    for kind, ends in sets.items()
}
figure, axes = plt.subplots(1, 2, figsize=(8, 2.9), layout="constrained", sharey=True)
for ax, kind in zip(axes, sets, strict=True):
    for stage, colour in zip(stages, COLOURS, strict=True):
        found = densities[stage, kind]
        ax.errorbar(
            middles,
            found.mean(axis=0),
            found.std(axis=0, ddof=1) / SEEDS**0.5,
            color=colour,
            marker="o",
            markersize=3,
            capsize=2,
            label=stage,
        )
    ax.set(title=f"between two {kind}", xlabel="place on the segment")
axes[0].set_ylabel("crossings per unit length")
axes[0].set_ylim(0)
axes[0].legend(frameon=False)
plt.show()

# %%
for (stage, kind), found in densities.items():
    ratio = found[:, [0, -1]].mean(axis=1) / found[:, PIECES // 2 - 1 : PIECES // 2 + 1].mean(axis=1)
    whole = found.mean(axis=1)
    print(f"{stage}, {kind}: {with_error(whole)} per unit length; ends over middle {with_error(ratio)}")

# %% [markdown]
# ## Does the density of regions follow the Jacobian norm?
#
# At each test image: the crossings on short segments through it, in random directions, per unit length; and
# the norm of its Jacobian $\|\partial f / \partial x\|_F$. One is of the places where the slope changes, the
# other is of the slope.

# %%
RADIUS, DIRECTIONS = 0.5, 32
points = xs_test[:PAIRS]
rays = RADIUS * random_directions(jax.random.key(3), points.shape[1:], DIRECTIONS)
below = (points[:, None] - rays).reshape(-1, *points.shape[1:])
above = (points[:, None] + rays).reshape(-1, *points.shape[1:])
norms_of = jax.jit(lambda params, xs: jacobian_norms(f, params, xs))

figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for ax, (stage, networks), colour in zip(axes, stages.items(), COLOURS, strict=True):
    found = []
    for params in networks:
        crossed = np.asarray(count_crossings(*params, below, above)).reshape(-1, DIRECTIONS)
        local = crossed.mean(axis=1) / (2 * RADIUS)
        norms = norms_of(params, points)
        found.append((norms.before_softmax, norms.after_softmax, local))
    rho = [[spearman(norm, local, num_bootstrap=100).value for norm in both] for *both, local in found]
    for name, values in zip(("logits", "softmax"), np.array(rho).T, strict=True):
        print(f"{stage}: Spearman's rho with the Jacobian norm of the {name} {with_error(values)}")
    ax.scatter(found[0][0], found[0][2], s=10, color=colour, alpha=0.6, linewidths=0)
    ax.set(
        title=f"{stage}, one network", xlabel=r"Jacobian norm of the logits, $\|\partial f/\partial x\|_F$"
    )
axes[0].set_ylabel("crossings per unit length")
plt.show()

# %% [markdown]
# ## What came out, and where it misleads
#
# The numbers of this section are those of the outputs kept with this notebook, with standard errors over 5
# seeds.
#
# - **Training removes regions.** Crossings per unit length between two images fall from 3.95 +- 0.39 to 2.69
#   +- 0.22, between images with shuffled pixels from 4.25 +- 0.40 to 2.22 +- 0.14.
# - **It leaves more of them near the data.** After training the ends of a segment, which are images, have
#   1.40 +- 0.14 times the crossings of its middle, before it 0.89 +- 0.07. With shuffled pixels the ratio
#   stays below 1: 0.71 +- 0.06 before, 0.83 +- 0.07 after. Compare it with its value before training, not
#   with 1: biases start at 0, so that the pattern depends on the direction of the input alone, and the middle
#   of a segment is nearer to the origin, where the same directions are closer together.
# - **More regions are not less robustness.** They are the places where the slope changes. E's claim, that
#   trained networks are more robust near the data, is about the norm of the Jacobian. On MNIST and CIFAR-10
#   it holds for that of the softmax and not for that of the logits
#   ([numbers](../experiments/README.md#paper-e-robustness-near-the-data)).
# - **Neither measure stands for the other.** At single test images Spearman's rho of the density of regions
#   and the Jacobian norm of the logits is -0.14 +- 0.04 after training and 0.03 +- 0.09 before. Over 575
#   networks that fit 1000 MNIST images the Jacobian norm of the softmax ranks how much worse they do on test
#   images (Kendall's tau 0.65, 95% interval from 0.61 to 0.68), and transitions do not (0.05, from -0.01 to
#   0.11).
# - **Sampled counts depend on the sampling.** Compare networks on equal points, or count exactly.
