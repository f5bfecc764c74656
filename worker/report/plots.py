"""Plots of an audit, read from the document alone: the same document gives the same bytes."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

Json = dict[str, Any]

MODELS = ("before", "after", "retrained", "now")
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {
    "before": "#D55E00",
    "after": "#0072B2",
    "retrained": "#009E73",
    "now": "#0072B2",
    "forget": "#CC79A7",
    "controls": "#999999",
}
MARKERS = {"before": "s", "after": "o", "retrained": "D", "now": "o"}
DASHES = {"before": "--", "after": "-", "retrained": ":", "now": "-"}
STYLE: Any = {
    "svg.hashsalt": "amun",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
WIDTH = 6.7  # inches: the text width of an A4 page
SUMMARISED = {"z": "z (primary)", "rmia": "RMIA", "lira": "LiRA", "absolute_z": "|z|", "loss": "loss"}


def draw(audit: Json) -> dict[str, bytes]:
    """Every plot that this audit has data for, as SVG by name: no curve where the audit prints no AUC."""
    if not _present(audit):
        return {}
    plots = {"difficulty": by_difficulty(audit)}
    if any(estimate["auc"] is not None for estimate in _new(audit)["estimates"]):
        plots |= {"summary": summary(audit), "roc": roc(audit), "histograms": histograms(audit)}
    return plots


def summary(audit: Json) -> bytes:
    """Each attack against its null with the 95% interval, and the tolerance as a band."""
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _figure(2.4, left=0.85, top=0.3, bottom=0.5)
        shown = [entry["name"] for entry in _new(audit)["estimates"] if entry["name"] in SUMMARISED]
        names = _present(audit)
        for position, name in enumerate(names):
            entries = {entry["name"]: entry for entry in audit[name]["estimates"]}
            offset = (position - (len(names) - 1) / 2) * 0.22
            for row, attack in enumerate(shown):
                entry = entries[attack]
                axes.plot([entry["low"], entry["high"]], [row + offset] * 2, color=COLOURS[name])
                label = name if row == 0 else None
                axes.plot(
                    entry["estimate"], row + offset, MARKERS[name], color=COLOURS[name], markersize=4, label=label
                )
        tolerance = audit["rule"]["tolerance"]
        axes.axvspan(-tolerance, tolerance, color="#EEEEEE", linewidth=0, label="tolerance")
        axes.axvline(0, color="#BBBBBB", linewidth=0.8)
        axes.set_yticks(range(len(shown)), [SUMMARISED[attack] for attack in shown])
        axes.invert_yaxis()
        axes.set_xlabel("AUC minus its level for never-trained images (0: cannot be told apart), with 95% interval")
        _legend(figure, axes)
        return _svg(figure)


def roc(audit: Json) -> bytes:
    """ROC of z on logarithmic axes, where an attacker with few false alarms lives."""
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _figure(2.9, left=0.7, top=0.1, bottom=0.5)
        least = 1.0
        for name in _present(audit):
            scores = audit[name]["scores"]["z"]
            truth = [1] * len(scores["forget"]) + [0] * len(scores["controls"])
            false, true, _ = roc_curve(truth, [*scores["forget"], *scores["controls"]], drop_intermediate=False)
            least = min(least, 1 / len(scores["controls"]), 1 / len(scores["forget"]))
            axes.plot(np.maximum(false, least), np.maximum(true, least), DASHES[name], color=COLOURS[name], label=name)
        axes.plot([least, 1], [least, 1], color="#BBBBBB", linewidth=0.8, label="guessing")
        axes.set(xscale="log", yscale="log", xlim=(least, 1.05), ylim=(least, 1.05))
        for axis in (axes.xaxis, axes.yaxis):  # 0.01 instead of a power of ten
            axis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("false positive rate (controls called members)")
        axes.set_ylabel("true positive rate")
        axes.legend(loc="lower right", frameon=False)
        return _svg(figure)


def histograms(audit: Json) -> bytes:
    """z of forget samples against audit controls, a panel for each model."""
    with matplotlib.rc_context(STYLE):
        names = _present(audit)
        figure, panels = _panels(names)
        values = [value for name in names for group in audit[name]["scores"]["z"].values() for value in group]
        bins = np.linspace(np.quantile(values, 0.005), np.quantile(values, 0.995), 31)
        for axes, name in zip(panels, names, strict=True):
            for group in ("controls", "forget"):
                shown = np.clip(audit[name]["scores"]["z"][group], bins[0], bins[-1])
                axes.hist(
                    shown, bins, density=True, histtype="stepfilled", alpha=0.55, color=COLOURS[group], label=group
                )
        panels[0].set_ylabel("density")
        _label(figure, "z, in standard deviations of never-trained images (higher: more like a member)")
        _legend(figure, panels[0])
        return _svg(figure)


def by_difficulty(audit: Json) -> bytes:
    """z of each forget sample and control against how hard its image is."""
    with matplotlib.rc_context(STYLE):
        names = _present(audit)
        figure, panels = _panels(names)
        for axes, name in zip(panels, names, strict=True):
            _scatter(axes, audit[name]["scores"])
        panels[0].set_ylabel("z (standard deviations)")
        _label(figure, "mean signal of reference models that were not trained on the image (higher: easier)")
        _legend(figure, panels[0], markerscale=2)
        return _svg(figure)


def _scatter(axes: Axes, scores: Json) -> None:
    for group, size in (("controls", 4), ("forget", 6)):
        axes.scatter(
            scores["difficulty"][group], scores["z"][group], size, color=COLOURS[group], linewidths=0, label=group
        )
    axes.axhline(0, color="#BBBBBB", linewidth=0.8)


def _figure(
    height: float, *, left: float, top: float, bottom: float, panels: int = 1
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure of the text's width and its panels side by side; margins in inches.

    Margins that fit what is written there: matplotlib's own layouts draw everything twice to find them, which took two
    thirds of the time of a report.
    """
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left / WIDTH, bottom / height, 1 - 0.05 / WIDTH, 1 - top / height, wspace=0.07)
    return figure, axes


def _panels(names: list[str]) -> tuple[Figure, NDArray[np.object_]]:
    """A panel for each model, under its name."""
    figure, panels = _figure(2.1, left=0.65, top=0.5, bottom=0.5, panels=len(names))
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name)
    return figure, panels


def _legend(figure: Figure, axes: Axes, **options: Any) -> None:
    """What the colours mean, in a row above all panels."""
    entries = axes.get_legend_handles_labels()
    figure.legend(*entries, loc="upper right", borderaxespad=0.2, ncols=len(entries[0]), frameon=False, **options)


def _label(figure: Figure, text: str) -> None:
    """Below all panels."""
    figure.supxlabel(text, size=9, y=0.02)


def _present(audit: Json) -> list[str]:
    return [name for name in MODELS if audit.get(name) and audit[name]["scores"].get("z")]


def _new(audit: Json) -> Json:
    """The model that the document is about."""
    found: Json = audit["now"] or audit["after"]
    return found


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
