"""GET of a server that a test started, without the certificates that httpx loads for each call otherwise."""

from __future__ import annotations

from functools import partial

import httpx

from service.plain import NO_AUTHORITY

get = partial(httpx.get, trust_env=False, verify=NO_AUTHORITY)
