"""Train a small vision Transformer on digits and compare its attention maps with occlusion.

    python examples/digits.py --out runs/digits

scikit-learn's 8 x 8 digits (pip install scikit-learn), a minute or two on two cores; a finished run
in the folder is not trained again. For every test image and layer the map of raw attention, rollout
and flow is correlated over the patches with occlusion (how far the predicted class's probability
falls when a patch is hidden) and with the gradient's norm. The results are in docs/results/digits.
"""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from sklearn.datasets import load_digits

import jaxflow
import jaxflow.eval
from jaxflow.models import Model, ViTConfig, init
from jaxflow.train import ArrayBatches, FitConfig, cross_entropy, fit


def load_splits() -> dict[str, dict[str, np.ndarray]]:
    """Return grey images ``[S, 8, 8, 1]`` in [0, 1], labels and places in the data, by split."""
    digits = load_digits()
    grey = (digits.images[..., None] / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(grey))  # the same for every seed of training
    every = {"grey": grey, "labels": digits.target.astype(np.int32), "rows": np.arange(len(grey))}
    parts = {"train": order[540:], "val": order[360:540], "test": order[:360]}
    return {name: {k: v[np.sort(rows)] for k, v in every.items()} for name, rows in parts.items()}


def widen(path, leaf: jax.Array) -> jax.Array:
    """Scale a fresh parameter, drawn for large models, to what suits a small one."""
    name = path[-1].key
    if name == "kernel":  # [in, out]: a layer keeps its input's scale
        return leaf * (len(leaf) ** -0.5 / 0.02)
    return leaf / 0.02 if name in ("position", "cls") else leaf


def shift(key: jax.Array, grey: jax.Array) -> jax.Array:
    """Move each image ``[B, 8, 8, 1]`` by up to a pixel, background coming in."""
    wide = jnp.pad(grey, ((0, 0), (1, 1), (1, 1), (0, 0)))
    starts = jax.random.randint(key, (len(grey), 2), 0, 3)
    return jax.vmap(
        lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), grey.shape[1:])
    )(wide, starts)


def train(out: Path, splits, config: FitConfig, sizes: dict) -> tuple[Model, dict]:
    """Return the trained model and its accuracy on the splits ``val`` and ``test``."""
    pixels = splits["train"]["grey"]
    mean, std = (round(float(value), 4) for value in (pixels.mean(), pixels.std()))
    vit = ViTConfig(
        image=(8, 8), channels=1, labels=tuple("0123456789"), mean=(mean,), std=(std,),
        dropout=0.05, attention_dropout=0.05, hidden_width=4 * sizes["width"], **sizes,
    )  # fmt: skip
    model = Model(vit, jax.tree.map_with_path(widen, init(vit, config.seed)), None)
    apply = model.module.apply

    def loss(params, rng, grey, labels):
        shift_rng, dropout_rng = jax.random.split(rng)
        inputs = (shift(shift_rng, grey) - mean) / std
        options = {"train": True, "rngs": {"dropout": dropout_rng}}
        return cross_entropy(apply(params, inputs, method="classify", **options), labels)

    def score(predict):
        found = {}
        for name in ("val", "test"):
            inputs = (splits[name]["grey"] - mean) / std
            right = np.asarray(predict(inputs)).argmax(-1) == splits[name]["labels"]
            found[name] = {"accuracy": float(right.mean()), "n": len(right)}
        return found

    arrays = {name: splits["train"][name] for name in ("grey", "labels")}
    batches = ArrayBatches(arrays, config.batch, config.epochs, config.seed)
    result = fit(model, batches, config, out, loss=loss, score=score)
    return result.model, result.accuracy


def maps_and_targets(model: Model, images: dict[str, np.ndarray], seed: int):
    """Return maps ``[S, L, P]`` by row, targets ``[S, P]``, and where flow is at its bound."""
    vit, grey = model.config, images["grey"]
    pixels = np.asarray((grey - np.float32(vit.mean[0])) / np.float32(vit.std[0]))
    output = model(pixels)
    attention = np.asarray(output.attention)  # [S, L, H, n, n]
    classes = np.asarray(output.logits).argmax(-1)
    maps = {}
    for method, heads, ratio in itertools.product(
        ("raw", "rollout", "flow"), ("mean", "min", "max"), (0.0, 0.5, 0.9)
    ):
        if not ratio or method == "rollout":
            options = jaxflow.eval.VisionOptions("cls", heads, ratio)
            name = f"{method} {heads}" + (f", {ratio:g} discarded" if ratio else "")
            maps[name] = jaxflow.eval.patch_scores(attention, options, (method,))[method][..., 1:]
    bound = jaxflow.saturation(attention, sources=0)
    shape = maps["raw mean"].shape
    side, count = vit.patch, 8 // vit.patch
    down, across = np.indices((count, count)) - (count - 1) / 2
    ink = grey.reshape(len(grey), count, side, count, side).mean((2, 4), dtype=np.float64)
    maps["column sum"] = np.broadcast_to(bound.bound[:, None, 1:], shape)
    maps["middle"] = np.broadcast_to(-np.hypot(down, across).reshape(-1), shape)
    maps["ink"] = np.broadcast_to(ink.reshape(len(grey), 1, -1), shape)
    drawn = [np.random.default_rng([seed, int(row)]).random(shape[1:]) for row in images["rows"]]
    maps["random"] = np.stack(drawn)
    targets = {
        "occlusion by grey": jaxflow.eval.occlusion_maps(model, pixels, classes, fill="mean"),
        "occlusion by black": jaxflow.eval.occlusion_maps(model, pixels, classes, fill="black"),
        "gradient norm": jaxflow.eval.patch_gradients(model, pixels, classes),
    }
    return maps, {n: v.reshape(len(grey), -1) for n, v in targets.items()}, bound.reached[..., 1:]


def main(
    out: Path = Path("runs/digits"),
    seed: int = 0,
    epochs: int = 100,
    patch: int = 2,
    layers: int = 4,
    samples: int = 360,
) -> None:
    """Train on digits (in the folder `out`), and compare the maps of some test images.

    A patch has a side of 1, 2 or 4 pixels.
    """
    splits, config = load_splits(), FitConfig(seed=seed, epochs=epochs, batch=64, warmup=0.1)
    sizes = {"patch": patch, "layers": layers, "heads": 4, "width": 64}
    model, accuracy = train(out, splits, config, sizes)
    print(", ".join(f"accuracy on {n} {found['accuracy']:.3f}" for n, found in accuracy.items()))
    images = {name: values[:samples] for name, values in splits["test"].items()}
    maps, targets, reached = maps_and_targets(model, images, seed)
    head = ["", *(f"L{layer + 1}" for layer in range(layers)), "interval at the top"]
    for target, reference in targets.items():
        rows = []
        for name, scores in maps.items():
            correlations = np.asarray(jaxflow.spearman(scores, reference[:, None]))  # [S, L]
            cells = jaxflow.eval.summarise(correlations, seed)
            low, high = cells[-1].ci95
            rows.append((name, *(f"{c.mean:.2f}" for c in cells), f"[{low:.2f}, {high:.2f}]"))
        print(f"\nSpearman's correlation with {target}\n")
        print(jaxflow.eval.Table.of(head, rows).to_markdown())
    shares = reached.mean((0, -2, -1))
    print("\nflows at their bound, by layer:", ", ".join(f"{share:.2f}" for share in shares))


if __name__ == "__main__":
    tyro.cli(main)
