"""Tables and plot of benchmarks/paper.py, from the units that are done."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks import machine

Unit = dict[str, Any]

GAP = ("UA", "RA", "TA", "FT AUC")
SHOWN = (*GAP, "LiRA", "z", "R", "SVC")
PAPER = {
    0.1: {
        "Retrain": "94.49 / 100 / 94.33 / 50.00, 0",
        "FT": "95.16 / 96.64 / 92.21 / 52.08, 2.06",
        "RL": "95.54 / 97.47 / 92.17 / 51.33, 1.74",
        "GA": "98.94 / 99.22 / 93.39 / 60.96, 4.28",
        "l1-sparse": "94.29 / 95.63 / 91.55 / 51.21, 2.16",
        "SalUn": "96.25 / 98.14 / 93.06 / 50.88, 1.44",
        "AMUN": "95.45 / 99.57 / 93.45 / 50.18, 0.62",
        "AMUN+SalUn": "95.02 / 99.58 / 93.29 / 50.72, 0.68",
        "D_F only: RL": "100 / 100 / 94.45 / 61.85, 4.31",
        "D_F only: GA": "4.77 / 5.07 / 5.09 / 49.78, 68.53",
        "D_F only: SalUn": "100 / 100 / 94.47 / 61.09, 4.11",
        "D_F only: AMUN": "94.28 / 97.47 / 91.67 / 52.24, 1.94",
        "D_F only: AMUN+SalUn": "94.19 / 97.71 / 91.79 / 51.93, 1.77",
    },
    0.5: {
        "Retrain": "92.09 / 100 / 91.85 / 50.01, 0",
        "AMUN": "93.50 / 99.71 / 92.39 / 49.99, 0.57",
        "SalUn": "96.68 / 99.89 / 91.97 / 50.86, 1.42",
    },
}
"""UA / RA / TA / FT AUC, Avg gap of the paper: ResNet-18, 200 epochs, 128 references; for context only."""


def average_gap(measured: Unit, goal: Unit) -> float:
    """Mean of the absolute differences in UA, RA, TA and FT AUC, in points."""
    return float(np.mean([abs(measured[name] - goal[name]) for name in GAP]))


def mean_of(units: Iterable[Unit]) -> dict[str, float]:
    units = list(units)
    return {name: float(np.mean([unit[name] for unit in units])) for name in SHOWN}


def write(document: dict[str, Any], path: Path) -> None:
    """PATH.json, PATH.md and PATH.png."""
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(document))
    if any(rows(document, share) for share in document["setting"]["shares"]):
        plot(document).savefig(path.with_suffix(".png"), dpi=130)


def runs_of(document: dict[str, Any], share: float) -> dict[str, list[Unit]]:
    """Measured runs of each method at a share, with their forget set's number."""
    found: dict[str, list[Unit]] = {}
    for unit in document["units"]:
        parts = unit["unit"].split(" | ")
        if len(parts) == 4 and float(parts[1]) == share:
            found.setdefault(parts[0], []).append(unit | {"set": int(parts[2])})
    return found


def rows(document: dict[str, Any], share: float) -> list[tuple[str, list[Unit], list[float]]]:
    """Method, its runs, and their Avg gaps to the retrained models of the same forget set."""
    found = runs_of(document, share)
    retrained = found.get("Retrain", [])
    lines = []
    for method, units in found.items():
        gaps = []
        for unit in units:
            # A retrained model is compared with the other ones of its forget set: the floor of noise.
            others = [one for one in retrained if one["set"] == unit["set"] and one["unit"] != unit["unit"]]
            if others:
                gaps.append(average_gap(unit, mean_of(others)))
        lines.append((method, units, gaps))
    return lines


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    setting, units = document["setting"], {unit["unit"]: unit for unit in document["units"]}
    lines = [
        f"# The paper's tables, --scale {document['scale']}",
        "",
        f"CIFAR-10 as JPEG, {setting['side']} x {setting['side']} pixels: {setting['trained']:,} images trained on, "
        f"{setting['tested']:,} never. {setting['network']}, {setting['recipe']['epochs']} epochs of training, "
        f"{setting['epochs']} of unlearning, {setting['references']} reference models (the paper: ResNet-18, 200 epochs, 128 "
        "references), so absolute numbers are not the paper's. UA, RA, TA: accuracy on forget, retained and test images. "
        "FT AUC: online RMIA, forget against half of the test images; LiRA and z likewise; R: remaining membership; "
        "SVC: share of the forget set that the SVC attack calls non-members. Avg gap: mean absolute difference of UA, "
        "RA, TA and FT AUC to the retrained models of the same forget set; in the row of Retrain that of one to the "
        "others, the floor of noise. ± is the standard deviation over forget sets and seeds.",
        "",
        machine.line(document["machine"]),
        "",
    ]
    if document["left"]:
        lines += [f"**Not finished: {len(document['left'])} units are left, from {document['left'][0]!r} on.**", ""]
    for share in setting["shares"]:
        found = rows(document, share)
        if not found:
            continue
        seconds_retrain = float(
            np.mean([unit["seconds"] for method, runs, _ in found if method == "Retrain" for unit in runs])
        )
        of_paper = PAPER.get(share, {})
        lines += [
            f"## Forget {share:.0%}",
            "",
            f"| method | {' | '.join(SHOWN)} | Avg gap | seconds | of retraining | the paper's UA / RA / TA / FT AUC, Avg gap |",
            "|---|" + "---|" * (len(SHOWN) + 4),
        ]
        for method, runs, gaps in sorted(found, key=lambda row: (row[0] != "Retrain", np.mean(row[2] or [1e9]))):
            values = " | ".join(
                f"{np.mean([run[name] for run in runs]):.2f} ± {np.std([run[name] for run in runs]):.2f}"
                for name in SHOWN
            )
            seconds = float(np.mean([run["seconds"] for run in runs]))
            gap = f"**{np.mean(gaps):.2f}** ± {np.std(gaps):.2f}" if gaps else ""
            lines.append(
                f"| {method} | {values} | {gap} | {seconds:.1f} | 1/{seconds_retrain / max(seconds, 1e-9):.1f} | "
                f"{of_paper.get(method, '')} |"
            )
        lines += ["", f"Tuned with {strengths(units, share)}", ""]
    lines += costs(document, units) + small(units) + kinds(units) + sequence(units)
    return "\n".join(lines) + "\n"


def strengths(units: dict[str, Unit], share: float) -> str:
    """What was chosen for each method."""
    chosen = []
    for name, unit in units.items():
        if name.startswith("tuning ") and float(name.split(" | ")[1]) == share:
            values = ", ".join(f"{key} {value}" for key, value in unit["chosen"].items())
            chosen.append(f"{name.removeprefix('tuning ').split(' | ')[0]} ({values}; of {unit['tried']})")
    return "; ".join(chosen) + "."


def costs(document: dict[str, Any], units: dict[str, Unit]) -> list[str]:
    """What training once costs, so that unlearning is cheap."""
    total = sum(unit["seconds"] for name, unit in units.items() if name.startswith("references "))
    rehearsed = sum(unit["seconds"] for name, unit in units.items() if name.startswith("rehearsal "))
    original = units.get("original", {}).get("seconds", 0.0)
    epochs = document["setting"]["recipe"]["epochs"]
    return [
        "## What training costs once, before any request",
        "",
        f"The model {original:.0f} s, the {document['setting']['references']} reference models {total:.0f} s, all rehearsals "
        f"{rehearsed:.0f} s. Seconds of a method include its adversarial set; `of retraining` is against the {epochs} epochs "
        "that were run.",
        "",
    ]


def small(units: dict[str, Unit]) -> list[str]:
    """What rehearsal showed at each size."""
    lines = [
        "## Rehearsed strengths, shown on requests they were not chosen on",
        "",
        "| size | share of D_R | learning rate | weights x | requests | R before | R after (error) | AUC(z) | accuracy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, unit in units.items():
        if not name.startswith("rehearsal "):
            continue
        one = unit["strength"]
        auc = f"{100 * one['auc_z_mean']:.1f}" if one["auc_z_mean"] is not None else ""
        error = f" ({one['membership_standard_error']:.2f})" if one["membership_standard_error"] is not None else ""
        lines.append(
            f"| {one['size']} | {name.split()[2]} | {one['learning_rate']} | {one['weight_scale']} | {one['requests']} | "
            f"{one['membership_before']:+.2f} | {one['membership']:+.2f}{error} | {auc} | "
            f"{100 * one['accuracy_change_mean']:+.2f} points |"
        )
    return [*lines, ""]


def kinds(units: dict[str, Unit]) -> list[str]:
    """Forget sets that are not a random tenth."""
    found = {name.removeprefix("kind "): unit for name, unit in units.items() if name.startswith("kind ")}
    if not found:
        return []
    lines = [
        "## Forget sets of other kinds",
        "",
        f"| forget | images | model | {' | '.join(SHOWN)} | Avg gap |",
        "|---|---|---|" + "---|" * (len(SHOWN) + 1),
    ]
    for kind, unit in found.items():
        for model, measured in unit["models"].items():
            gap = average_gap(measured, unit["models"]["retrained"])
            values = " | ".join(f"{measured[name]:.2f}" for name in SHOWN)
            lines.append(f"| {kind} | {unit['size']} | {model} | {values} | {f'{gap:.2f}' if gap else ''} |")
    return [*lines, ""]


def sequence(units: dict[str, Unit]) -> list[str]:
    """Five requests one after the other."""
    if "sequence" not in units:
        return []
    lines = [
        f"## Five requests of {units['sequence']['size']} in sequence, each on the examples nearest to the network it finds",
        "",
        "All that was forgotten so far against the test images.",
        "",
        f"| after | {' | '.join(SHOWN)} |",
        "|---|" + "---|" * len(SHOWN),
    ]
    for number, step in enumerate(units["sequence"]["steps"], start=1):
        lines.append(f"| {number} | {' | '.join(f'{step[name]:.2f}' for name in SHOWN)} |")
    return [*lines, ""]


def plot(document: dict[str, Any]) -> Figure:
    """Avg gap against cost, a panel for each share."""
    shares = [share for share in document["setting"]["shares"] if rows(document, share)]
    figure = Figure(figsize=(6.5 * len(shares), 4.2), layout="constrained")
    for axes, share in zip(figure.subplots(1, len(shares), squeeze=False)[0], shares, strict=True):
        for method, runs, gaps in rows(document, share):
            if not gaps:
                continue
            seconds, gap = float(np.mean([run["seconds"] for run in runs])), float(np.mean(gaps))
            without, own = method.startswith("D_F only"), "rehearsed" in method
            colour = "#999999" if without else "#D55E00" if own else "#009E73" if method == "Retrain" else "#0072B2"
            axes.errorbar(seconds, gap, yerr=np.std(gaps), fmt="o", color=colour, markersize=5, linewidth=1)
            axes.annotate(method, (seconds, gap), xytext=(5, 3), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", yscale="log", title=f"forget {share:.0%}")
        axes.set_xlabel("seconds of one request (adversarial set included)")
        axes.set_ylabel("Avg gap to retraining (points)")
        axes.spines[["top", "right"]].set_visible(False)
    return figure
