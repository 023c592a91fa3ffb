# %% [markdown]
# # Tangent sensitivity, from its definition
#
# Daróczy ("Tangent Space Sensitivity and Distribution of Linear Regions in ReLU Networks", here paper B; its
# journal version is paper C) asks how the gradient of a network's output with respect to its parameters moves
# when the input moves. For a network $f(\theta, x)$ with $K$ outputs, $N_\theta$ parameters and inputs of $D$
# entries this is a matrix of mixed second derivatives,
#
# $$\mathrm{Sens}(x; \theta) = \frac{\partial^2}{\partial\theta\,\partial x} \sum_{k=1}^K f_k(\theta, x)
# \in \mathbb R^{N_\theta \times D} \qquad \text{(B, Definition 3.1; C, Definition 1)}$$
#
# with a row for each parameter and a column for each entry of the input. Its size is the squared Frobenius
# norm $\|\mathrm{Sens}(x;\theta)\|_F^2$. Nothing here needs labels.

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
INPUT_SIZES = (16, 64, 256, 1024)  # D of the networks that are timed
SEEDS = 5  # networks that are trained
EPOCHS = 60

# %%
# %matplotlib inline
import time
from itertools import pairwise

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxsens.data import load, subset
from jaxsens.metrics import (
    mean_tangent_sensitivity,
    relu_mlp_tangent_sensitivity,
    tangent_method,
    tangent_sample_sensitivity,
    tangent_sensitivity,
)
from jaxsens.models import build, fully_connected, perceptron
from jaxsens.train import TrainConfig, make_train, train_ensemble

plt.rcParams["figure.dpi"] = 150

# %% [markdown]
# ## A picture of the matrix
#
# A ReLU network small enough to see every entry: 6 inputs, two hidden layers of 8 and 5 units, 3 outputs.


# %%
def f(params, x):
    """One example to K outputs."""
    weights, biases = params
    for weight, bias in zip(weights, biases, strict=True):
        z = x @ weight + bias
        x = jax.nn.relu(z)
    return z


def network(sizes, key):
    """He's weights, and biases that are not 0."""
    shapes = list(pairwise(sizes))
    keys = jax.random.split(key, 2 * len(shapes))
    weights = [jax.random.normal(k, s) * (2 / s[0]) ** 0.5 for k, s in zip(keys, shapes, strict=False)]
    biases = [0.1 * jax.random.normal(k, (s[1],)) for k, s in zip(keys[len(shapes) :], shapes, strict=True)]
    return weights, biases


params = weights, biases = network((6, 8, 5, 3), jax.random.key(1))
x = jax.random.normal(jax.random.key(2), (6,))

# The definition, in two lines: the gradient of the summed outputs, and its derivative by x.
gradient = jax.grad(lambda params, x: f(params, x).sum())
definition = jax.jacfwd(gradient, argnums=1)(params, x)

# jaxsens has the same under a name.
sens = tangent_sample_sensitivity(f, params, x)
print(
    all(
        jnp.array_equal(a, b) for a, b in zip(jax.tree.leaves(definition), jax.tree.leaves(sens), strict=True)
    )
)

# %%
names, parts = [], []
for layer, (of_weight, of_bias) in enumerate(zip(*sens, strict=True), start=1):
    names += [f"$W_{layer}$", f"$b_{layer}$"]
    parts += [of_weight.reshape(-1, 6), of_bias]
matrix = np.concatenate(parts).T  # parameters from left to right
ends = np.cumsum([len(part) for part in parts])
middles = ends - np.array([len(part) for part in parts]) / 2

figure, axes = plt.subplots(figsize=(9, 2.2), layout="constrained")
largest = np.abs(matrix).max()
image = axes.imshow(
    matrix, aspect="auto", cmap="RdBu", vmin=-largest, vmax=largest, extent=(0, len(matrix.T), 6.5, 0.5)
)
for end in ends[:-1]:
    axes.axvline(end, color="black", linewidth=0.8)
for start in range(8, 48, 8):
    axes.axvline(start, color="black", linewidth=0.4, linestyle=":")
axes.set(xlabel=r"parameters $\theta$, layer by layer", ylabel="entry of $x$")
axes.secondary_xaxis("top").set_xticks(middles, names)
figure.colorbar(image, label=r"$\partial^2 \Sigma_k f_k\, /\, \partial\theta\,\partial x$")
plt.show()

# %% [markdown]
# ## Why it looks like this
#
# Between two kinks a ReLU network is linear in each layer. Write $z_l = h_{l-1} W_l + b_l$ for the
# preactivations of layer $l$ ($h_0 = x$), $J_{l-1} = \partial h_{l-1}/\partial x$ for how the layer's input
# moves with $x$, and $B_l = \partial \sum_k f_k / \partial z_l$ for how the outputs move with $z_l$. Then the
# gradient of a weight is $h_{l-1,i} B_{l,j}$, and the only factor that moves with $x$ is the first:
#
# $$\frac{\partial^2 \sum_k f_k}{\partial W_{l,ij}\, \partial x_d} = J_{l-1,id}\, B_{l,j}, \qquad
# \frac{\partial^2 \sum_k f_k}{\partial b_{l,j}\, \partial x_d} = 0 .$$
#
# - **Block diagonal in $W_1$**: $J_0$ is the identity, so a weight that leaves input $i$ has an entry in row
#   $i$ alone (dotted lines part the weights of the six inputs).
# - **White columns**: a unit that is off has $B_{l,j} = 0$, and its outgoing weights have $J_{l,i} = 0$.
# - **White $b_l$**: biases have zero rows almost everywhere.
#
# Each block is an outer product, and the squared norm of an outer product is a product of squared norms:
#
# $$\|\mathrm{Sens}(x;\theta)\|_F^2 = \sum_{l} \|B_l\|_F^2 \, \|J_{l-1}\|_F^2 .$$
#
# That is the closed form, `relu_mlp_tangent_sensitivity`. The matrix itself is never formed.

# %%
by_definition = sum(float(jnp.sum(part**2)) for part in jax.tree.leaves(definition))
closed_form = float(relu_mlp_tangent_sensitivity(weights, biases, x[None])[0])
print(f"jacfwd(grad):  {by_definition:.6f}")
print(f"closed form:   {closed_form:.6f}, relative difference {abs(closed_form / by_definition - 1):.1e}")

# %% [markdown]
# ## What it costs
#
# `tangent_sensitivity` takes any model and finds the layers in what JAX traces; `method="dense"` is the
# definition. Here: ReLU networks with two hidden layers of 64 units and 10 outputs, and inputs that grow.
# Times are of the quickest of 7 calls with 16 examples, after compilation, on the machine that ran this
# notebook (here two CPU cores, shared with other work).
#
# All but the definition are near each other at this size, and on a busy machine their order changes from run
# to run; [benchmarks](../docs/benchmarks.md) has larger networks on a quiet one.

# %%
methods = {
    "dense, jacfwd(grad)": lambda params, xs: tangent_sensitivity(f, params, xs, method="dense"),
    "streamed": lambda params, xs: tangent_sensitivity(f, params, xs, method="streamed"),
    "structured": lambda params, xs: tangent_sensitivity(f, params, xs, method="structured"),
    "closed form": lambda params, xs: relu_mlp_tangent_sensitivity(*params, xs),
}
EXAMPLES = 16
seconds, values = {name: [] for name in methods}, {name: [] for name in methods}
for size in INPUT_SIZES:
    timed = (
        network((size, 64, 64, 10), jax.random.key(3)),
        jax.random.normal(jax.random.key(4), (EXAMPLES, size)),
    )
    for name, method in methods.items():
        run = jax.jit(method)
        values[name].append(np.asarray(run(*timed)))
        laps = []
        for _ in range(7):
            start = time.perf_counter()
            run(*timed).block_until_ready()
            laps.append(time.perf_counter() - start)
        seconds[name].append(min(laps) / EXAMPLES)
spread = np.ptp(list(values.values()), axis=0) / np.array(values["closed form"])
print(f"largest relative spread of the four values: {spread.max():.1e}")
print("auto takes", tangent_method(f, timed[0], timed[1][0]))

figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
for (name, found), marker in zip(seconds.items(), "os^D", strict=True):
    axes.loglog(INPUT_SIZES, 1e3 * np.array(found), marker=marker, markersize=4, label=name)
axes.set_xticks(INPUT_SIZES, INPUT_SIZES)
axes.minorticks_off()
axes.set(xlabel="entries of the input, D", ylabel="milliseconds an example")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Over examples, and in training
#
# Networks of three hidden layers with 32 units, trained on 500 digits, from several seeds at once. At each
# stage: $\|\mathrm{Sens}(x;\theta)\|_F^2$ at 500 digits that no network has seen.

# %%
data = subset(load("digits"), 500, key=jax.random.key(0))
xs_train, ys_train = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
unseen, labels = jnp.asarray(data.x_test[:500]), data.y_test[:500]

model = fully_connected(3, 32, init="HN")
net = build(model, input_shape=unseen.shape[1:], num_outputs=10)
settings = TrainConfig(learning_rate=1e-3, batch_size=50, max_epochs=EPOCHS, stop_loss=1e-5)
stages = sorted({0, 1, 2, 4, 8, 16, 32, EPOCHS} & set(range(EPOCHS + 1)))
norms, accuracy, mean_matrix = {}, {}, {}


@jax.jit
def measured(params, state, xs):
    of_units = relu_mlp_tangent_sensitivity(*perceptron(model, params, state), xs)
    return of_units, net.predict(params, state, xs).argmax(axis=1) == labels


@jax.jit
def of_mean(params, state, xs):
    return mean_tangent_sensitivity(net.function(state), params, xs)


def observe(epoch, members):
    of_members = [
        jax.tree.map(lambda leaf, i=i: leaf[i], (members.params, members.state)) for i in range(SEEDS)
    ]
    found = [measured(*one, unseen) for one in of_members]
    norms[epoch] = np.array([one for one, _ in found])  # (seeds, examples)
    accuracy[epoch] = np.array([right.mean() for _, right in found])
    if epoch in (0, EPOCHS):
        mean_matrix[epoch] = [float(of_mean(params, state, unseen[:100])) for params, state in of_members]


training = make_train(settings, net.init, net.apply)
keys = jax.random.split(jax.random.key(5), SEEDS)
train_ensemble(training, keys, xs_train, ys_train, snapshots=stages, observe=observe)


def over_seeds(values):
    """Mean and standard error."""
    return np.mean(values, axis=0), np.std(values, axis=0, ddof=1) / len(values) ** 0.5


for epoch in stages:
    (mean, error), (right, of_right) = over_seeds(norms[epoch].mean(axis=1)), over_seeds(accuracy[epoch])
    print(f"epoch {epoch:3d}: mean {mean:8.1f} +- {error:6.1f}, accuracy {right:.3f} +- {of_right:.3f}")

# %%
means = {epoch: found.mean(axis=1) for epoch, found in norms.items()}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
edges = np.geomspace(min(n.min() for n in norms.values()), max(n.max() for n in norms.values()), 60)
for epoch, colour in ((0, "#0072B2"), (EPOCHS, "#D55E00")):
    left.hist(norms[epoch].ravel(), edges, histtype="step", color=colour, label=f"epoch {epoch}")
    left.axvline(norms[epoch].mean(), color=colour, linestyle="--", linewidth=1, label="its mean")
left.set(
    xscale="log",
    xlabel=r"$\|\mathrm{Sens}(x;\theta)\|_F^2$ at one example",
    ylabel=f"examples, of {SEEDS} networks",
)
left.legend(frameon=False)
average, error = (
    np.array(part) for part in zip(*(over_seeds(means[epoch]) for epoch in stages), strict=True)
)
right.errorbar(stages, average, error, color="#333333", marker="o", markersize=3, capsize=2)
right.set(xlabel="epochs of training", ylabel=r"mean of $\|\mathrm{Sens}(x;\theta)\|_F^2$", yscale="log")
right.set_xscale("symlog", linthresh=1)
right.set_xticks(stages, stages)
right.minorticks_off()
right.set_xlim(-0.2, 1.3 * EPOCHS)
plt.show()

# %%
for epoch in (0, EPOCHS):
    ratio, error = over_seeds(norms[epoch].max(axis=1) / np.median(norms[epoch], axis=1))
    print(f"epoch {epoch}: the largest of 500 examples is {ratio:.1f} +- {error:.1f} medians")
    share, error = over_seeds(np.array(mean_matrix[epoch]) / norms[epoch][:, :100].mean(axis=1))
    print(f"epoch {epoch}: |E Sens|^2 is {share:.3f} +- {error:.3f} of E|Sens|^2, over 100 examples")

# %% [markdown]
# The bounds of B (Theorem 3.1) and C (equation 3) are about $\mathbb E\,\|\mathrm{Sens}\|_F^2$, the mean of
# the norms, not about $\|\mathbb E\,\mathrm{Sens}\|_F^2$, the norm of the mean matrix: what points in
# different directions at different examples cancels there.
#
# ## Where it misleads
#
# ReLU does not mind if the weights into a unit are multiplied by $c$ and those out of it divided by $c$. The
# function stays the same; its tangent sensitivity does not.

# %%
scaled = [3 * weights[0], weights[1] / 3, weights[2]], [3 * biases[0], biases[1], biases[2]]
print(f"largest change of an output: {jnp.abs(f(scaled, x) - f(params, x)).max():.1e}")
rescaled = float(relu_mlp_tangent_sensitivity(*scaled, x[None])[0])
print(f"|Sens|^2: {closed_form:.1f} before, {rescaled:.1f} after")

# %% [markdown]
# - So it compares networks that were trained alike; two networks with layers of other scales have other
#   numbers for the same function.
# - In the outputs kept here the mean rises from 1600 +- 400 to 21,800 +- 2900 in training, while the accuracy
#   rises from 10% to 94% (standard errors over 5 seeds). A small value is no sign of a good network: the
#   least one is that of a network which has learned nothing.
# - Its spread over examples is small here: the largest of 500 is 2.7 +- 0.4 medians before training and 1.7
#   +- 0.1 after it. Other data and networks may have heavier tails; look before trusting a mean.
# - The derivative is that between two kinks. It says nothing of how near the next kink is: `linear_regions`
#   does.
