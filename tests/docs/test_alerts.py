"""Each alert fires for what it is named after and is silent otherwise, as Prometheus itself evaluates it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import find_program, missing
from tests.operations import ROOT

ALERTS = ROOT / "docs" / "operating" / "alerts.yml"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
}
API = '{job="amun", instance="a:8000"}'
OTHER_API = '{job="amun", instance="b:8000"}'
OF_ALL = {"job": "amun"}  # of an alert about rows, which every API process tells alike
OF_ONE = OF_ALL | {"instance": "a:8000"}

Series = dict[str, str]  # in promtool's notation: a value for each minute; 5x3 stays at 5, 0+60x3 grows by 60


@dataclass(frozen=True)
class Case:
    """Series under which the alert fires ``after`` so many minutes and not yet ``before``, and under which it never does."""

    alert: str
    fires: Series
    quiet: Series
    before: int
    after: int
    labels: dict[str, str] = field(default_factory=lambda: OF_ALL)
    value: str = ""  # for which $value stands in the summary


def told(name: str, values: str, **labels: str) -> Series:
    """The same series of both API processes."""
    more = "".join(f', {label}="{value}"' for label, value in labels.items())
    return {f"{name}{api[:-1]}{more}}}": values for api in (API, OTHER_API)}


def one(name: str, values: str, **labels: str) -> Series:
    return {series: values for series, values in told(name, values, **labels).items() if OTHER_API[1:-1] not in series}


BUCKETS = {"0.25": "90", "0.5": "100", "1": "100", "+Inf": "100"}
SLOW = {"0.25": "90", "0.5": "98", "1": "100", "+Inf": "100"}


def histogram(shares: dict[str, str]) -> Series:
    name, route = "amun_http_request_seconds_bucket", "/v1/deletion-requests"
    found: Series = {}
    for limit, each in shares.items():
        found |= one(name, f"0+{each}x30", method="POST", route=route, le=limit)
    return found


def webhooks(failing: str, oldest: str) -> Series:
    name = "amun_webhook_deliveries_oldest_pending_timestamp_seconds"
    return told("amun_webhooks", failing, state="failing") | told(name, oldest)


def disk(free: str) -> Series:
    return told("amun_data_free_bytes", free) | told("amun_data_size_bytes", "100x30")


def answers(failed: str) -> Series:
    name, route = "amun_http_requests_total", "/v1/deletion-requests"
    good = one(name, "0+98x30", method="POST", route=route, status="202")
    return good | one(name, failed, method="POST", route=route, status="503")


def given_back(alert: str, reason: str, *, other: str) -> Case:
    """Fires for one job that was given back for this reason, and for no number of them that were for the other."""
    name = "amun_jobs_requeued_total"
    fires, quiet = told(name, "0x4 1x30", reason=reason), told(name, "0+1x30", reason=other)
    return Case(alert, fires, quiet, 4, 5, OF_ALL | {"reason": reason})


CASES = [
    Case("AmunDown", one("up", "1 1 0x30"), told("up", "1x30"), 3, 4, OF_ONE),
    Case("AmunDown", {}, told("up", "1x30"), 1, 2),  # nothing is scraped at all
    Case("AmunDatabaseUnavailable", one("amun_up", "1 0x30"), told("amun_up", "1x30"), 1, 2, OF_ONE),
    Case(
        "AmunNoDispatcher",
        told("amun_dispatcher_lease_held", "1 0x30"),
        # One process looked before the other took the lease over.
        one("amun_dispatcher_lease_held", "0x30") | {f"amun_dispatcher_lease_held{OTHER_API}": "1x30"},
        1,
        2,
    ),
    Case(
        "AmunDispatcherStuck",
        told("amun_dispatcher_last_round_timestamp_seconds", "0 60 60x30"),
        told("amun_dispatcher_last_round_timestamp_seconds", "0+60x30"),
        7,
        8,
    ),
    Case(
        "AmunDutyFailing",
        one("amun_dispatcher_duty_failures_total", "1+1x30", duty="seal"),
        one("amun_dispatcher_duty_failures_total", "1x10 2x20", duty="seal"),
        2,
        5,
        OF_ONE | {"duty": "seal"},
    ),
    Case(
        "AmunOverdue",
        told("amun_deletion_requests_overdue", "0 3x30"),
        told("amun_deletion_requests_overdue", "0x30"),
        0,
        1,
        value="3",
    ),
    Case(
        "AmunDueSoonWithoutJob",
        told("amun_deletion_requests_due_soon_without_job", "2x90"),
        told("amun_deletion_requests_due_soon_without_job", "2x50 0x40"),  # planned within the hour
        59,
        60,
        value="2",
    ),
    Case(
        "AmunQueueOld",
        told("amun_jobs_queue_oldest_timestamp_seconds", "0x400", kind="unlearn"),
        told("amun_jobs_queue_oldest_timestamp_seconds", "0+60x400", kind="unlearn"),
        365,
        366,
        OF_ALL | {"kind": "unlearn"},
    ),
    Case(
        "AmunJobFailed",
        told("amun_jobs_ended_total", "0x4 1x30", kind="unlearn", status="failed"),
        told("amun_jobs_ended_total", "0+1x30", kind="unlearn", status="succeeded")
        | told("amun_jobs_ended_total", "7x30", kind="unlearn", status="failed"),
        4,
        5,
        OF_ALL | {"kind": "unlearn", "status": "failed"},
    ),
    given_back("AmunWorkerLost", "lease_expired", other="shutdown"),
    given_back("AmunWorkerLost", "worker_lost", other="internal"),
    given_back("AmunNoGpu", "no_gpu", other="shutdown"),
    Case(
        "AmunVersionQuarantined",
        told("amun_model_versions", "1x30", status="quarantined"),
        told("amun_model_versions", "9x30", status="superseded"),
        4,
        5,
        OF_ALL | {"status": "quarantined"},
        "1",
    ),
    Case(
        "AmunModelWithdrawn",
        told("amun_models", "0 1x30", status="withdrawn"),
        told("amun_models", "1x30", status="ready"),
        0,
        1,
        OF_ALL | {"status": "withdrawn"},
        "1",
    ),
    Case(
        "AmunWebhookFailing",
        webhooks("1x90", "0x90"),
        webhooks("1x90", "0+60x90"),  # it answers again and again in between
        65,
        66,
        OF_ALL | {"state": "failing"},
        "1",
    ),
    Case(
        "AmunWebhookGivenUp",
        told("amun_webhook_deliveries_failed_last_day", "0 2x30"),
        told("amun_webhook_deliveries_failed_last_day", "0x30"),
        0,
        1,
        value="2",
    ),
    Case(
        "AmunEventsUnsealed",
        told("amun_events_oldest_unsealed_timestamp_seconds", "0x30"),
        told("amun_events_oldest_unsealed_timestamp_seconds", "0+60x30"),
        6,
        7,
    ),
    Case("AmunDiskFilling", disk("9x30"), disk("11x30"), 4, 5),
    Case("AmunDiskAlmostFull", disk("2x30"), disk("4x30"), 0, 1),
    Case(
        "AmunDataFolderGone",
        told("up", "1x30"),
        told("up", "1x30") | told("amun_data_free_bytes", "1x30"),
        0,
        1,
        {},
    ),
    Case("AmunErrors", answers("0+2x30"), answers("0+0.5x30"), 5, 8),
    Case("AmunSlow", histogram(SLOW), histogram(BUCKETS), 10, 12, OF_ALL | {"route": "/v1/deletion-requests"}),
]


@pytest.fixture(scope="module")
def promtool() -> str:
    found = find_program("promtool")
    if found is None:
        missing("promtool (Debian: apt-get install prometheus)")
    return str(found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires_for_what_it_is_named_after_and_not_otherwise(case: Case, promtool: str, tmp_path: Path) -> None:
    rule = RULES[case.alert]
    firing = {
        "exp_labels": case.labels | rule["labels"],
        "exp_annotations": {"summary": filled(rule["annotations"]["summary"], case)},
    }
    looks: list[tuple[Series, dict[int, Any]]] = [
        (case.fires, {case.before: [], case.after: [firing]}),
        (case.quiet, {minute: [] for minute in range(min(map(minutes, case.quiet.values())))}),
    ]
    document = {
        "rule_files": [str(ALERTS)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [
                    {"eval_time": f"{minute}m", "alertname": case.alert, "exp_alerts": expected}
                    for minute, expected in at.items()
                ],
            }
            for series, at in looks
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document))
    done = subprocess.run([promtool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def minutes(values: str) -> int:
    """How many values the notation stands for."""
    return sum(1 + int(part.partition("x")[2] or 0) for part in values.split())


def filled(summary: str, case: Case) -> str:
    """The summary as Prometheus fills it in."""
    summary = summary.replace("{{ $value }}", case.value)
    for label, value in case.labels.items():
        summary = summary.replace(f"{{{{ $labels.{label} }}}}", value)
    return summary


def test_each_alert_has_a_case() -> None:
    assert {case.alert for case in CASES} == set(RULES)


def test_promtool_accepts_the_rules(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout
