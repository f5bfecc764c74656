"""The runbook, the alerts and the dashboard say what is there: settings, commands, metrics, one entry for each alert."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from models.revisions import REVISIONS
from models.settings import Settings
from service import schema
from service.app import create_app
from service.cli import app as amun
from tests.operations import PAGE, ROOT, settings_table, table_in

FOLDER = ROOT / "docs" / "operating"
TEXT = PAGE.read_text(encoding="utf-8")
ALERTS: dict[str, Any] = yaml.safe_load((FOLDER / "alerts.yml").read_text())
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
SUFFIXES = ("", "_total", "_bucket", "_count", "_sum")
NAME = re.compile(r"\b(?:amun|process|python)_[a-z_]+\b")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every name that a scrape may hold."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("scraped"))
    schema.upgrade(settings)
    app = create_app(settings, dispatch=False)
    with TestClient(app):
        registry: CollectorRegistry = app.state.registry
        return {family.name + suffix for family in registry.collect() for suffix in SUFFIXES}


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in RULES)
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def test_every_metric_of_an_alert_or_a_panel_is_exported(exported: set[str]) -> None:
    named = {name for expression in expressions() for name in NAME.findall(expression)}
    assert len(named) > 20
    assert named - exported == set()


def test_every_metric_that_the_runbook_names_is_exported(exported: set[str]) -> None:
    named = {name for name in re.findall(r"`(amun_[a-z_]+)`", TEXT) if not name.endswith("_")}
    assert named
    assert named - exported == set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_has_a_severity_a_summary_and_an_entry_of_its_name(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["expr"].count("(") == rule["expr"].count(")")
    entry = TEXT.split(f"\n### {rule['alert']}\n", 1)[1].split("\n#", 1)[0]
    assert len(entry.split()) > 15


def test_an_entry_is_of_an_alert_that_is_there() -> None:
    assert set(re.findall(r"^### (Amun\w+)$", TEXT, re.MULTILINE)) == {rule["alert"] for rule in RULES}


def test_panels_have_ids_of_their_own_and_say_what_they_show() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels if panel["type"] != "row")


def test_prometheus_is_shown_the_alerts_and_a_key_file() -> None:
    found = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert found["rule_files"] == ["alerts.yml"]
    (scrape,) = found["scrape_configs"]
    assert scrape["job_name"] == "amun"
    assert "credentials_file" in scrape["authorization"]


def test_the_table_of_settings_is_that_of_the_code() -> None:
    """`python -m tests.operations` writes it anew."""
    assert table_in(TEXT) == settings_table()
    assert all(field.description for field in Settings.model_fields.values())


def commands_of(text: str) -> list[list[str]]:
    """Every `amun …` of the page, split as a shell would."""
    fenced = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    inline = [code.replace("\n", " ") for code in re.findall(r"`(amun [^`]+)`", text)]
    found = []
    for line in [*fenced, *inline]:
        words = shlex.split(line, comments=True)
        if "amun" in words:
            found.append(words[words.index("amun") + 1 :])
    return found


@pytest.mark.parametrize("words", commands_of(TEXT), ids=" ".join)
def test_a_command_of_the_page_is_one(words: list[str]) -> None:
    command: click.Command = typer.main.get_command(amun)
    rest = list(words)
    while isinstance(commands := getattr(command, "commands", None), dict):
        assert rest, "a group is no command"
        assert rest[0] in commands, rest[0]
        command = commands[rest.pop(0)]
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known


def test_a_link_within_the_page_leads_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors
    for path in re.findall(r"\]\(([a-z][^)#:]*)\)", TEXT):
        assert (PAGE.parent / path).exists(), path


def test_workers_know_the_revisions_that_migrations_have() -> None:
    assert REVISIONS[-1] == schema.expected_revision()
    assert {path.name.split("_")[0] for path in schema.MIGRATIONS.glob("versions/0*.py")} == set(REVISIONS)
