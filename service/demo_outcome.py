"""What the demo prints of a report: before, after and retrained side by side."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

MODELS = ("before", "after", "retrained")
ACCURACIES = (("forget", "accuracy, forget"), ("retained", "accuracy, retained"), ("controls", "accuracy, controls"))


def print_outcome(console: Console, document: dict[str, Any]) -> bool:
    """Print the tables of a report document; True where a version was released as `pass` or `exact`."""
    audits = {name: document["audit"][name] for name in MODELS if document["audit"].get(name)}
    utilities = {name: document["utility"][name] for name in audits}
    table = Table(title="before and after unlearning, and retrained without the forget set", padding=(0, 0))
    table.add_column("", no_wrap=True)
    for name in audits:
        table.add_column(name, justify="right", no_wrap=True)
    for key, title in ACCURACIES:
        table.add_row(title, *(f"{100 * utilities[name][key]:.1f} %" for name in audits))
    table.add_section()
    for statistic in [entry["name"] for entry in audits["after"]["estimates"]]:
        table.add_row(_title(statistic), *(_interval(audits[name], statistic) for name in audits))
    table.add_section()
    table.add_row("verdict", *(f"[bold]{audit['verdict']}[/bold]" for audit in audits.values()))
    console.print(table)
    console.print(
        "AUC of each attack on forget images against never-trained controls, with its 95% interval: 0.5 is not told apart, "
        f"for loss {_null(audits['after'])}. R is the remaining membership: 1 a member, 0 never trained. "
        "! marks what the verdict rule finds significant and outside its tolerance.",
        soft_wrap=False,
    )
    return _print_decision(console, document)


def _print_decision(console: Console, document: dict[str, Any]) -> bool:
    """The ladder's steps, the verdict and what the gate made of it; True where it released a `pass` or `exact`."""
    steps, finding, gate = document["action"]["steps"], document["finding"], document["gate"]
    for step in steps[:-1]:
        verdict = step["verdict"].replace("_", "-")
        console.print(f"Step {step['number']} of the ladder, {step['method']}: {verdict}.", soft_wrap=True)
    last = steps[-1]
    released = gate["decision"] == "released"
    colour = "green" if released else "red"
    console.print(
        f"The verdict is [bold]{finding['verdict'].replace('_', '-')}[/bold] at step {last['number']} of the ladder, "
        f"{last['method']}; the new version was [{colour}]{gate['decision']}[/{colour}]: {gate['reason']}.",
        soft_wrap=True,
    )
    for reason in finding["reasons"]:
        console.print(f"  {reason}", soft_wrap=True)
    return released and finding["verdict"] in ("pass", "exact")


def _title(statistic: str) -> str:
    return "R, remaining" if statistic == "membership" else f"AUC {statistic}"


def _interval(audit: dict[str, Any], statistic: str) -> str:
    for entry in audit["estimates"]:
        if entry["name"] == statistic:
            value = entry["estimate"] if entry["auc"] is None else entry["auc"]
            shift = value - entry["estimate"]
            mark = "[red]![/red]" if entry["bad"] else " "
            return f"{value:.2f} ({entry['low'] + shift:.2f}, {entry['high'] + shift:.2f}){mark}"
    return "-"


def _null(audit: dict[str, Any]) -> str:
    level = audit["loss_null"]
    return f"{level:.3f}" if level is not None else "not known"
