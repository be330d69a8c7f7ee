"""Draw the figures of docs/benchmarks.md from the record of `jaxflow benchmark --json FILE`.

python docs/benchmark_figures.py FILE FOLDER
"""

import json
import sys
from pathlib import Path

from jaxflow.eval.plots.style import (
    CYCLE,
    HATCHES,
    MARKERS,
    PAGE,
    add_legend,
    dress,
    finish,
    new_figure,
    save,
)


def growth(comparisons: list[dict], axis: str):
    """Draw seconds against tokens or layers, both in logarithms, a line for every contender."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for comparison in comparisons:
        for entry in comparison["contenders"]:
            point = (comparison["settings"][axis], entry["seconds"])
            lines.setdefault(entry["name"], []).append(point)
    figure = new_figure(PAGE, 4.5)
    axes = dress(figure.add_subplot(), x=axis, y="seconds a sentence", grid="both")
    for place, (name, points) in enumerate(lines.items()):
        dashes = "-" if name.startswith("jaxflow") else "--"
        style = {"color": CYCLE[place], "marker": MARKERS[place], "linestyle": dashes}
        axes.plot(*zip(*points, strict=True), label=name, markersize=4, **style)
    sizes = [comparison["settings"][axis] for comparison in comparisons]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xticks([], minor=True)
    add_legend(figure, axes.get_lines(), columns=2)
    return finish(figure)


def bars(comparisons: list[dict]):
    """Draw milliseconds: a group of bars for each comparison, a bar for each contender."""
    names = list(dict.fromkeys(e["name"] for one in comparisons for e in one["contenders"]))
    height = 0.8 / len(names)
    figure = new_figure(PAGE, 1.1 + 0.13 * len(names) * len(comparisons))
    axes = dress(figure.add_subplot(), x="milliseconds, less is better", grid="x")
    handles = []
    for place, name in enumerate(names):
        found = [
            (group + (place - (len(names) - 1) / 2) * height, entry["seconds"] * 1e3)
            for group, comparison in enumerate(comparisons)
            for entry in comparison["contenders"]
            if entry["name"] == name
        ]
        style = {"color": CYCLE[place], "hatch": HATCHES[place], "edgecolor": "white"}
        handles.append(axes.barh(*zip(*found, strict=True), height=height, label=name, **style))
    settings = [comparison["settings"] for comparison in comparisons]
    sizes = {"batch": "batch", "tokens": "n", "layers": "L"}
    labels = [", ".join(f"{sizes[k]} {v}" for k, v in s.items() if k in sizes) for s in settings]
    axes.set_yticks(range(len(comparisons)), labels)
    axes.invert_yaxis()
    if len(comparisons) > 1:
        axes.set_xscale("log")  # sizes differ a hundredfold and more
    add_legend(figure, handles, columns=2)
    return finish(figure)


if __name__ == "__main__":
    file, folder = map(Path, sys.argv[1:])
    groups: dict[str, list[dict]] = {}
    for one in json.loads(file.read_text(encoding="utf-8"))["comparisons"]:
        measure = one["settings"].get("measure", "")
        groups.setdefault(f"{one['benchmark']} {measure}".strip(), []).append(one)
    for axis in ("tokens", "layers"):
        figure = growth(groups[f"flow growth in {axis}"], axis)
        save(figure, folder / f"flow-{axis}.svg", "svg")
    for name, group in (("rollout", "rollout"), ("train", "train"), ("models", "models forward")):
        save(bars(groups[group]), folder / f"{name}.svg", "svg")
