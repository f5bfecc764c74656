"""For what is asked over plain HTTP: a client loads no certificates, which takes it longer than the answer."""

from __future__ import annotations

import ssl

# It knows no authority: should an address turn out to be HTTPS, nobody is believed there.
NO_AUTHORITY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
