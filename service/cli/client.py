"""The service over HTTP, as every command sees it. httpx is imported at the first call: `amun --help` needs none of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import typer

from service.cli.output import note
from service.cli.stopped import Deadline, Refused, Unreachable

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0
TRIES = 5  # of one call, where the service asks to come back later
MOST_WAIT_SECONDS = 60.0  # a longer Retry-After is for the caller to decide
LARGEST_PAGE = 200

Params = Mapping[str, Any]


class Api:
    """Calls to one service with one key. ``machine`` is True where JSON alone may go to standard output.

    Every call raises Refused for an answer that is no success and Unreachable where there is none. GETs, and what is said
    to be safe to send ``again``, are sent again where a 429 or 503 says when.
    """

    def __init__(self, url: str, key_file: Path | None, *, machine: bool = False, seconds: float | None = None) -> None:
        self.machine = machine
        self.deadline = Deadline()
        self._url = url.rstrip("/")
        self._key_file = key_file
        self._seconds = seconds
        self._client: httpx.Client | None = None

    @property
    def http(self) -> httpx.Client:
        """Opened at the first call, so that what needs no service asks for no key."""
        if self._client is None:
            import httpx

            from service.plain import NO_AUTHORITY

            _check_url(self._url)
            headers = {"Authorization": f"Bearer {_key(self._key_file)}", "Accept-Encoding": "identity"}
            limit = self._seconds or ANSWER_SECONDS
            timeout = httpx.Timeout(limit, connect=self._seconds or CONNECT_SECONDS)
            # A proxy of the environment is for what lies elsewhere: it could not reach this host, and would see the key.
            parts = urlsplit(self._url)
            self._client = httpx.Client(
                base_url=self._url,
                headers=headers,
                timeout=timeout,
                trust_env=parts.hostname not in LOOPBACK,
                verify=NO_AUTHORITY if parts.scheme == "http" else httpx.create_ssl_context(),
            )
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def get(self, path: str, params: Params | None = None) -> httpx.Response:
        return self._send("GET", path, again=True, params=_given(params or {}))

    def post(
        self, path: str, body: Any = None, *, again: bool = False, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return self._send("POST", path, again=again, json={} if body is None else body, headers=headers)

    def delete(self, path: str) -> httpx.Response:
        return self._send("DELETE", path, again=False)

    def put(self, path: str, content: Callable[[], Iterator[bytes]], size: int, seconds: float) -> httpx.Response:
        """Stream ``size`` bytes that ``content()`` yields, anew for each try."""
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        return self._send("PUT", path, again=True, content=content, headers=headers, timeout=seconds)

    def pages(self, path: str, params: Params, most: int | None) -> tuple[list[dict[str, Any]], bool]:
        """Up to ``most`` records of a list, page by page, and whether there are more; None: all of them."""
        return self._gathered(lambda paging: self.get(path, {**params, **paging}), most)

    def search(self, path: str, body: Mapping[str, Any], most: int | None) -> tuple[list[dict[str, Any]], bool]:
        """As ``pages``, of a search whose terms may name a person: all of it goes in the body. It changes nothing."""
        return self._gathered(lambda paging: self.post(path, {**body, **paging}, again=True), most)

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str] | None = None, *, seconds: float = ANSWER_SECONDS
    ) -> Iterator[httpx.Response]:
        """A GET whose body is read while it arrives; ``seconds`` is the longest silence. Breaking off is Unreachable."""
        import httpx

        limits = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        with self._answered(), self.http.stream("GET", path, headers=headers, timeout=limits) as answer:
            if not answer.is_success:
                answer.read()
                raise Refused(answer)
            yield answer

    def _send(self, method: str, path: str, *, again: bool, **more: Any) -> httpx.Response:
        content = more.pop("content", None)
        for left in reversed(range(TRIES)):
            self.deadline.check()
            if content is not None:
                more["content"] = content()
            with self._answered():
                answer = self.http.request(method, path, **more)
            if answer.is_success:
                return self._ours(answer)
            wait = _retry_after(answer)
            if not again or not left or wait is None or wait > MOST_WAIT_SECONDS:
                break
            note(f"the service asks to wait {wait:.0f} s ({answer.status_code})")
            self.deadline.sleep(wait)
        raise Refused(answer)

    def _ours(self, answer: httpx.Response) -> httpx.Response:
        if answer.content and not answer.headers.get("Content-Type", "").startswith("application/json"):
            raise Unreachable(f"What {self._url} answered is no JSON: it is not this service. Is --url right?")
        return answer

    def _gathered(
        self, page: Callable[[dict[str, Any]], httpx.Response], most: int | None
    ) -> tuple[list[dict[str, Any]], bool]:
        rows: list[dict[str, Any]] = []
        paging: dict[str, Any] = {"limit": LARGEST_PAGE if most is None else min(most, LARGEST_PAGE)}
        while True:
            answer = page(paging).json()
            rows += answer["data"]
            if answer["next_cursor"] is None or (most is not None and len(rows) >= most):
                break
            paging["cursor"] = answer["next_cursor"]
        return rows[:most], answer["next_cursor"] is not None or (most is not None and len(rows) > most)

    @contextmanager
    def _answered(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.TimeoutException as error:
            self.deadline.check()
            what = "connect" if isinstance(error, httpx.ConnectTimeout) else "answer"
            raise Unreachable(f"The service at {self._url} did not {what} in time.") from None
        except httpx.ConnectError as error:
            if "[SSL" in str(error):
                raise Unreachable(
                    f"No safe connection to {self._url}: {error}. SSL_CERT_FILE names a file with the certificates to trust."
                ) from None
            raise Unreachable(
                f"There is no service at {self._url}: start it (`amun up`), or say where it is (--url or AMUN_URL)."
            ) from None
        except httpx.TransportError as error:
            raise Unreachable(f"The connection to {self._url} broke off: {error or type(error).__name__}.") from None


def _given(params: Params) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise typer.BadParameter(f"{url} is no http:// or https:// address (--url or AMUN_URL)")
    if parts.username is not None or parts.password is not None:
        raise typer.BadParameter("the address must hold no password: the key comes from AMUN_API_KEY or --key-file")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        note(f"warning: {parts.hostname} is asked over http, so the key travels where others can read it: use https")


def _key(file: Path | None) -> str:
    """The API key: a file if one is given, else the environment. Raises typer.BadParameter."""
    key = os.environ.get("AMUN_API_KEY", "").strip()
    if file is not None:
        try:
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                note(f"warning: others on this machine can read {file}: chmod 600 it")
            key = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"the key file cannot be read: {error}") from None
    if not key:
        raise typer.BadParameter("an API key is needed: set AMUN_API_KEY, or give --key-file FILE")
    if not key.isascii() or not key.isprintable() or " " in key:  # httpx would quote it in an error
        raise typer.BadParameter("that is no API key: it looks like unl_<id>_<secret>, on one line")
    return key


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds that a 429 or 503 asks to wait; None where it does not say."""
    said = answer.headers.get("Retry-After", "").strip()
    if answer.status_code not in (429, 503) or not said:
        return None
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
