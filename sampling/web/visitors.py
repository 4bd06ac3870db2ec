"""Who may ask: the host names of this server, pages of this server only, and a token if there is one."""

from __future__ import annotations

import hmac
import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from intarsia.files import sha256_bytes

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Refusal(NamedTuple):
    """The status and the sentence of an answer to a visitor who may not ask."""

    status: int
    sentence: str


@dataclass(frozen=True)
class Visitors:
    """Rules for visitors.

    Attributes:
        names: host names that are answered, in lower case.
        addresses: whether every IP address in the place of a name is answered; another site's page can bring
            a name of its own, but not an address of this machine.
        token: text that every request must bring; empty for none.
    """

    names: frozenset[str]
    addresses: bool = False
    token: str = ""

    @property
    def cookie(self) -> str:
        """Name of the cookie with the token; servers on other ports of this host have another one."""
        return f"intarsia-{sha256_bytes(self.token.encode())[:12]}"

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why a request is not answered; None if it is.

        Args:
            method: HTTP method.
            path: path without the query.
            headers: headers by name in lower case.
        """
        host = headers.get("host", "")
        if not self._is_own(host):
            # A page of another site whose name points here would come with that name.
            return Refusal(421, "this server is not reached by that host name; see --host-name")
        origin = headers.get("origin")
        if origin is not None and _host_of(origin) != host.lower():
            return Refusal(403, "the page of another site cannot use this server")
        site = headers.get("sec-fetch-site", "none")
        link = method == "GET" and path == "/" and headers.get("sec-fetch-dest") == "document"
        if site not in ("same-origin", "none") and not link:
            return Refusal(403, "the page of another site cannot use this server")
        if self.token and not self._has_token(headers):
            return Refusal(
                401, "this server needs its token: open /?token=TOKEN, or send Authorization: Bearer TOKEN"
            )
        return None

    def brings_token(self, path: str, query: bytes) -> bool:
        """Whether this is the address `/?token=...` with the right token."""
        given = parse_qs(query.decode("latin-1")).get("token", [""])
        return bool(self.token) and path == "/" and _same(given[0], self.token)

    def _is_own(self, host: str) -> bool:
        name = re.sub(r":\d+$", "", host).lower()
        return name in self.names or (self.addresses and _is_address(name))

    def _has_token(self, headers: Mapping[str, str]) -> bool:
        kind, _, sent = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(sent.strip(), self.token):
            return True
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return kept is not None and _same(kept.value, self.token)


def visitors_of(host: str, names: Collection[str] = (), token: str = "") -> Visitors:
    """The rules for a server on `host`.

    Args:
        host: address to listen on. On a loopback address only loopback names are answered; on any other also
            IP addresses, `host` and this machine's own name.
        names: other host names that are answered.
        token: as `Visitors.token`.
    """
    own = {*LOOPBACK, "[::1]"}
    if host not in LOOPBACK:
        machine = socket.gethostname()
        own |= {host, machine, f"{machine}.local"}
    return Visitors(frozenset(name.lower() for name in {*own, *names}), host not in LOOPBACK, token)


def _host_of(origin: str) -> str:
    """Host and port of an origin in lower case; empty for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _same(sent: str, token: str) -> bool:
    """Compare in a time that does not depend on where they differ."""
    return hmac.compare_digest(sent.encode(), token.encode())
