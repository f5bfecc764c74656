"""What every command over HTTP does alike: keys, addresses, errors, exit statuses, completion, start-up."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import uuid
from email.utils import format_datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from models.base import now
from models.deletion_request import LIVE
from models.records import JobKind, JobStatus, RequestStatus, Role
from service.cli import app, choices
from service.cli.exits import MEANINGS
from service.cli.output import due
from service.due import PERIODS
from service.routers.reports import Verdict
from tests.conftest import free_port
from tests.service.cli.conftest import Amun, at
from tests.service.cli.contract import KEY, Answer, Contract, as_json, problem
from tests.service.conftest import Headers

ROOT = Path(__file__).resolve().parents[3]
LIST = ("jobs", "list", "--json")
NONE = {"data": [], "next_cursor": None}


def test_the_command_line_offers_what_the_service_knows() -> None:
    assert [each.value for each in choices.RequestStatus] == [each.value for each in RequestStatus]
    assert set(choices.LIVE) == {each.value for each in LIVE}
    assert set(choices.WAITING) < set(choices.LIVE)
    assert get_args(choices.JobStatus) == tuple(each.value for each in JobStatus)
    assert set(choices.JOB_ENDED) < set(get_args(choices.JobStatus))
    assert get_args(choices.JobKind) == tuple(each.value for each in JobKind)
    assert get_args(choices.Verdict) == get_args(Verdict)
    assert get_args(choices.Regulation) == tuple(PERIODS)
    assert set(get_args(choices.KeyRole)) == {each.value for each in Role}


def test_a_key_comes_from_a_file_before_the_environment(
    amun: Amun, operator: Headers, shop: Headers, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(operator["Authorization"].removeprefix("Bearer ") + "\n")
    file.chmod(0o600)
    done = amun(shop, *LIST, "--key-file", file)
    assert (done.status, done.out, done.err) == (0, "[]\n", "")
    assert amun(None, *LIST, "--key-file", file).status == 0
    file.chmod(0o644)
    assert f"others on this machine can read {file}" in amun(None, *LIST, "--key-file", file).err


def test_without_a_key_the_ways_to_give_one_are_told(amun: Amun, tmp_path: Path) -> None:
    for options in ((), ("--key-file", tmp_path / "nothing")):
        done = amun(None, *LIST, *options)
        assert (done.status, done.out) == (2, "")
    assert "AMUN_API_KEY" in amun(None, *LIST).err


@pytest.mark.parametrize("key", ["two words", "umläut", "unl_a\nunl_b", "unl_\x07"])
def test_a_key_that_can_be_none_is_never_echoed(key: str, amun: Amun) -> None:
    done = amun({"Authorization": f"Bearer {key}"}, *LIST)
    assert done.status == 2
    assert key not in done.err


def test_there_is_no_option_for_the_key_itself() -> None:
    for command in (LIST, ("requests", "create")):
        for option in ("--api-key", "--token"):
            assert CliRunner().invoke(app, [*command, option, "x"]).exit_code == 2


def test_a_revoked_key_is_refused(amun: Amun) -> None:
    done = amun(KEY, *LIST)
    assert (done.status, done.out) == (3, "")
    assert "401 A valid API key is needed" in done.err


def test_a_service_that_is_not_there_is_told_with_its_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = at(url)(KEY, *LIST)
    assert (done.status, done.out) == (4, "")
    assert f"There is no service at {url}" in done.err


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://me:secret@127.0.0.1:9"])
def test_an_address_of_another_form_is_wrong_usage(url: str) -> None:
    done = at("http://127.0.0.1:9")(KEY, *LIST, "--url", url)
    assert done.status == 2
    assert "secret" not in done.err or "secret@" not in done.err


def test_an_answer_of_something_else_is_told_from_one_of_the_service(contract: Contract) -> None:
    page = Answer(200, b"<html>welcome</html>", {"Content-Type": "text/html"})
    for answer in (page, Answer(404, b"nothing here", {"Content-Type": "text/plain"})):
        contract.answer("GET", "/v1/jobs", answer)
        done = at(contract.url)(KEY, *LIST)
        assert (done.status, done.out) == (4 if answer is page else 3, "")
        assert "Is --url right?" in done.err


def test_a_key_is_not_sent_on_to_another_place(contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs", Answer(302, b"", {"Location": f"{contract.url}/elsewhere"}))
    assert at(contract.url)(KEY, *LIST).status == 3
    assert [asked.path for asked in contract.asked] == ["/v1/jobs"]


def test_a_failure_of_the_service_names_the_trace(contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs", problem(500, "Something went wrong"))
    done = at(contract.url)(KEY, *LIST)
    assert (done.status, done.out) == (4, "")
    assert "trace_id: t" in done.err


def test_what_a_problem_says_can_not_drive_the_terminal(contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs", problem(409, "\x1b[2J\x07[red]"))
    assert "409 �[2J�[red]" in at(contract.url)(KEY, *LIST).err


@pytest.mark.parametrize("status", [429, 503])
def test_a_get_waits_as_long_as_the_service_asks(status: int, contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs", problem(status, Retry_After="0"), as_json(NONE))
    done = at(contract.url)(KEY, *LIST)
    assert (done.status, done.json) == (0, [])
    assert f"the service asks to wait 0 s ({status})" in done.err


def test_a_date_to_come_back_at_is_understood(contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs", problem(503, Retry_After=format_datetime(now(), usegmt=True)), as_json(NONE))
    assert at(contract.url)(KEY, *LIST).status == 0


@pytest.mark.parametrize(
    ("headers", "tries"),
    [({"Retry_After": "0"}, 5), ({"Retry_After": "3600"}, 1), ({}, 1), ({"Retry_After": "soon"}, 1)],
    ids=["for ever", "much later", "nothing said", "no time"],
)
def test_waiting_has_an_end(headers: dict[str, str], tries: int, contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs", problem(503, **headers))
    assert at(contract.url)(KEY, *LIST).status == 4
    assert len(contract.asked) == tries


def test_a_post_that_is_not_safe_to_repeat_is_sent_once(contract: Contract) -> None:
    contract.answer("POST", "/v1/jobs/j/retry", problem(503, Retry_After="0"))
    assert at(contract.url)(KEY, "jobs", "retry", "j").status == 4
    assert len(contract.asked) == 1


def test_a_key_over_plain_http_to_another_host_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.cli.client.CONNECT_SECONDS", 0.2)
    done = at("http://amun.invalid")(KEY, *LIST)
    assert done.status == 4
    assert "use https" in done.err


@pytest.mark.parametrize(
    ("days", "style", "said"),
    [(-1, "red", "1 day overdue"), (0, "yellow", "0 days left"), (7, "yellow", "7 days left"), (8, "", "8 days left")],
)
def test_what_is_overdue_is_red_and_what_is_due_soon_yellow(days: int, style: str, said: str) -> None:
    shown = due({"due_at": "2026-12-24T23:59:59Z", "days_left": days})
    assert (shown.plain, shown.style) == (f"2026-12-24 ({said})", style)


def test_what_has_ended_is_not_due_any_more() -> None:
    assert due({"due_at": "2026-12-24T23:59:59Z", "days_left": None}).plain == "2026-12-24"


def help_of(*command: str) -> str:
    done = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 0
    return " ".join(done.stdout.split())


def commands(*group: str) -> list[str]:
    listed = CliRunner().invoke(app, [*group, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
    return re.findall(r"^│ ([a-z-]+) ", listed.split("Commands", 1)[-1], re.MULTILINE)


@pytest.mark.parametrize("group", ["requests", "jobs", "reports", "models", "training-sets", "webhooks", "events"])
def test_each_command_over_http_documents_its_exit_statuses(group: str) -> None:
    found = commands(group)
    assert "list" in found
    for command in found:
        text = help_of(group, command)
        if (group, command) == ("reports", "verify"):
            assert "3 integrity only" in text
            continue
        for status, meaning in MEANINGS.items():
            assert f"{int(status)} {meaning}" in text, (command, status)
        for option in ("--url", "--key-file", "--json", "AMUN_URL", "AMUN_API_KEY"):
            assert option in text, (command, option)


def fresh(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=120,
        check=True,
    )


def test_help_loads_nothing_that_takes_long() -> None:
    heavy = "('httpx', 'sqlalchemy', 'pydantic', 'fastapi', 'celery', 'torch', 'worker')"
    probe = (
        "import sys; from typer.testing import CliRunner; from service.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert fresh("-c", probe).stdout.strip() == "[]"


def test_help_takes_well_under_a_second_of_the_processor() -> None:
    fresh("-m", "service.cli", "--help")  # compiles what was not
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    fresh("-m", "service.cli", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.9


def test_a_command_over_http_loads_no_database() -> None:
    probe = (
        "import sys; from typer.testing import CliRunner; from service.cli import app; "
        "done = CliRunner().invoke(app, ['jobs', 'list', '--url', 'http://127.0.0.1:9'], env={'AMUN_API_KEY': 'x'}); "
        "print(done.exit_code, [m for m in ('sqlalchemy', 'fastapi', 'celery') if m in sys.modules])"
    )
    assert fresh("-c", probe).stdout.strip() == "4 []"


def completed(url: str, headers: Headers, line: str) -> list[str]:
    words = line.split(" ")
    done = fresh(
        "-m",
        "service.cli",
        AMUN_URL=url,
        AMUN_API_KEY=headers["Authorization"].removeprefix("Bearer "),
        _AMUN_COMPLETE="complete_bash",
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_completes_commands_statuses_and_names(
    amun: Amun, url: str, digits: uuid.UUID, operator: Headers
) -> None:
    assert completed(url, operator, "amun req") == ["requests"]
    assert completed(url, operator, "amun jobs list --status su") == ["succeeded"]
    assert completed(url, operator, "amun requests list --status awaiting_r") == ["awaiting_release"]
    assert completed(url, operator, "amun models show dig") == ["digits-cnn"]
    assert completed(url, operator, "amun models show x") == []


def test_completion_is_silent_where_the_service_does_not_answer() -> None:
    assert completed(f"http://127.0.0.1:{free_port()}", KEY, "amun models show ") == []


def test_completion_can_be_installed(tmp_path: Path) -> None:
    done: Any = fresh(
        "-m", "service.cli", "--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert "complete_bash" in done.stdout
