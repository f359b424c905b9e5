"""A study in one picture: what each pair is worth alone, what lambda learned, and what that is worth beside its controls.

    python studies/picture.py runs/proof-cifar10 studies/bench/seed_cifar10_utilities.json studies/seed_cifar10.png

The folder is that of a finished `kd-hpo compare` with learned lambda as `hetero`; the utilities are of
studies/bench/pair_utilities.py.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kd_hpo.study.store.folder import StudyFolder

INK, LEARNED, CONTROL = "#202124", "#0072b2", "#9aa0a6"


def heat(axes, matrix, teacher, student, title, form):
    """A (T, S) matrix with its numbers; dark is high."""
    axes.imshow(matrix, cmap="Blues", vmin=np.nanmin(matrix), vmax=np.nanmax(matrix))
    for t, row in enumerate(matrix):
        for s, value in enumerate(row):
            dark = value > (np.nanmin(matrix) + np.nanmax(matrix)) / 2
            axes.text(s, t, form(value), ha="center", va="center", fontsize=8, color="white" if dark else INK)
    axes.set_xticks(range(len(student)), student, fontsize=8)
    axes.set_yticks(range(len(teacher)), teacher, fontsize=8)
    axes.set_xlabel("student layer", fontsize=8)
    axes.set_ylabel("teacher layer", fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("utilities", type=Path)
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    folder, measured = StudyFolder(given.study), json.loads(given.utilities.read_text())
    comparison = json.loads(folder.comparison("json").read_text())
    teacher, student = measured["teacher"], measured["student"]
    alone = {pair: np.mean(list(seeds.values())) for pair, seeds in measured["accuracy"].items()}
    worth = np.array([[alone[f"{t} -> {s}"] - alone["none"] for s in student] for t in teacher])
    learned = np.mean([folder.result(f"hetero-s{seed}").held_mean for seed in comparison["seeds"]], axis=0)

    figure = Figure(figsize=(11, 3.3), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.25])
    seeds = len(measured["accuracy"]["none"])
    heat(
        left,
        100 * worth,
        teacher,
        student,
        f"one pair alone: points over KD ({seeds} seeds)",
        lambda v: f"{round(v, 1) + 0.0:+.1f}",
    )
    heat(middle, learned, teacher, student, "lambda, learned", lambda v: f"{v:.2f}" if v > 0.005 else "·")
    methods = sorted(comparison["methods"], key=lambda method: method["test"])
    for place, method in enumerate(methods):
        colour = LEARNED if method["method"] == "hetero" else CONTROL
        scores = [each["test"] for each in method["by_seed"].values()]
        right.plot(scores, [place] * len(scores), "o", color=colour, alpha=0.5, markersize=4, markeredgewidth=0)
        right.plot(method["test"], place, "D", color=colour if method["method"] == "hetero" else INK, markersize=5)
    names = {
        "hetero": "learned lambda",
        "random_search": "best random lambda",
        "tpe_lambda": "lambda by TPE",
        "kd": "KD",
        "diagonal": "same depth, balanced",
        "vid": "VID",
        "semckd": "SemCKD",
    }
    right.set_yticks(range(len(methods)), [names.get(m["method"], m["method"]) for m in methods], fontsize=8)
    right.set_title("accuracy on test, a point a seed", fontsize=9, loc="left")
    right.grid(axis="x", color="#e4e6e9", linewidth=0.8)
    right.set_axisbelow(True)
    right.spines[["top", "right", "left"]].set_visible(False)
    right.tick_params(axis="y", length=0)
    right.tick_params(axis="x", labelsize=8)
    figure.savefig(given.output)
    print(f"the picture is in {given.output}")


if __name__ == "__main__":
    main()
