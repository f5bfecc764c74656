"""How often a key may ask, and how often an address may send wrong keys.

Counts are kept in the memory of one API process, so that no request waits for another server: with n processes behind a
load balancer a key gets up to n times the limit, and a restart forgets. Windows are fixed and start at the first request.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict

from limits import RateLimitItem, parse_many
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from models.settings import Settings
from service.errors import TooManyRequests

MOST_COUNTS = 20_000


class BoundedStorage(Storage):
    """Counts in memory, the oldest forgotten beyond ``most``.

    The library's own in-memory storage grows with the addresses that it sees and walks over all of them every 10 ms.
    """

    STORAGE_SCHEME = None  # made here, never by a URI

    def __init__(self, most: int = MOST_COUNTS) -> None:
        super().__init__()
        self._most = most
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # hits, end of the window
        self._lock = threading.Lock()

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        at = time.time()
        with self._lock:
            hits, ends = self._counts.get(key, (0, 0.0))
            if ends <= at:
                hits, ends = 0, at + expiry
                self._counts.pop(key, None)  # to the young end
            self._counts[key] = (hits + amount, ends)
            if len(self._counts) > self._most:
                self._counts.popitem(last=False)
            return hits + amount

    def get(self, key: str) -> int:
        hits, ends = self._counts.get(key, (0, 0.0))
        return hits if ends > time.time() else 0

    def get_expiry(self, key: str) -> float:
        return self._counts.get(key, (0, time.time()))[1]

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        with self._lock:
            forgotten = len(self._counts)
            self._counts.clear()
        return forgotten

    def clear(self, key: str) -> None:
        with self._lock:
            self._counts.pop(key, None)

    def __len__(self) -> int:
        return len(self._counts)


class RateLimits:
    """Both limits of one process. Raises ValueError for a setting that is none, naming it."""

    def __init__(self, settings: Settings) -> None:
        self._of_keys = _parsed("rate_limit", settings.rate_limit)
        self._of_addresses = _parsed("failed_auth_limit", settings.failed_auth_limit)
        self._keys = FixedWindowRateLimiter(BoundedStorage())
        self._addresses = FixedWindowRateLimiter(BoundedStorage())

    def count_request(self, key_id: str) -> None:
        """Raises TooManyRequests for a key that has used its window up."""
        wait = _wait(self._keys, self._of_keys, key_id)
        if wait is not None:
            raise TooManyRequests("This key sends requests too fast: wait as long as Retry-After says.", wait)

    def count_wrong_key(self, address: str | None) -> None:
        """Raises TooManyRequests for an address that has sent too many wrong keys; a right one from there still passes."""
        wait = _wait(self._addresses, self._of_addresses, _network(address))
        if wait is not None:
            raise TooManyRequests(
                "Too many wrong keys came from this address: wait as long as Retry-After says, and send a live key.",
                wait,
            )


def _parsed(name: str, text: str) -> list[RateLimitItem]:
    if not text:
        return []
    try:
        return parse_many(text)
    except ValueError:
        raise ValueError(f'AMUN_{name.upper()} must be limits such as "100/second;3000/minute", or empty') from None


def _wait(limiter: FixedWindowRateLimiter, limits: list[RateLimitItem], who: str) -> float | None:
    """Seconds until ``who`` may come again; None: now. What a short window refuses is not counted in a longer one."""
    full = next((limit for limit in sorted(limits) if not limiter.hit(limit, who)), None)
    return limiter.get_window_stats(full, who).reset_time - time.time() if full is not None else None


def _network(address: str | None) -> str:
    """What one caller controls: an IPv4 address, or the 64 bits of an IPv6 network."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return address or "unknown"  # a local socket has no address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)
