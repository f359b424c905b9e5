"""Who may ask a page for what: whoever opened it here by a name that is known, not the page of a stranger in the same browser.

A browser sends what any page tells it to, also to this machine. Such a request names another host (DNS rebinding: the page's
own name leads here now), or comes from another origin (a cross-site request, a websocket); both are refused with 403, and
so is what would change something, unless that was asked for.
"""

import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_READING = ("GET", "HEAD", "OPTIONS")
_PORTS = {"http": 80, "https": 443}
_SEEN = ("host", "origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
"""Headers that decide."""


def nothing_more(path: str) -> bool:
    return False


@dataclass(frozen=True)
class Gate:
    """The gate of one server: it decides which requests are let through.

    host     where it listens. On loopback it answers to this machine's own names and addresses; beyond, also to that host, to
             the machine's name and to any address in numbers, which no stranger's name leads to
    also     further names, as of a proxy before it, whose pages may ask, too
    write    whether requests may change anything
    reading  which paths only read although they are asked with POST
    """

    host: str
    also: tuple[str, ...] = ()
    write: bool = False
    reading: Callable[[str], bool] = nothing_more

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> str | None:
        """Tells why a request is refused, in a line; None where it is let through. Names of headers are in lower case."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._known(named := _parsed(host)):
            return f"Host {host!r} is not known here; start with --allowed-host NAME where that is how you reach this page"
        if origin is not None and not self._same(_parsed(origin, bare=False), named):
            return f"a page of {origin!r} may not ask this one; start with --allowed-host NAME where it is your own"
        if _foreign(method, headers):
            return "the page of another site may not ask this one; open its address by itself"
        if not (self.write or method in _READING or (method == "POST" and self.reading(path))):
            return f"{method} {path} may change something, and this page is read-only; `kd-hpo ui --write` lets those that can"
        return None

    def _known(self, named: SplitResult | None) -> bool:
        """A name and perhaps a port, nothing else."""
        if named is None or named.path or named.query or named.fragment or named.scheme:
            return False
        name = _name(named)
        return name in _LOCAL or name in self.also or self._of_here(name)

    def _of_here(self, name: str) -> bool:
        try:
            address = ip_address(name)
        except ValueError:
            return beyond(self.host) and name in (self.host.lower(), socket.gethostname().lower())
        return address.is_loopback or beyond(self.host)

    def _same(self, origin: SplitResult | None, host: SplitResult | None) -> bool:
        if origin is None or host is None or origin.scheme not in _PORTS:
            return False
        default = _PORTS[origin.scheme]
        same = (_name(origin), origin.port or default) == (_name(host), host.port or default)
        return same or _name(origin) in self.also


def beyond(host: str) -> bool:
    """Whether who listens there can be reached from other machines."""
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host.lower() != "localhost"


def _foreign(method: str, headers: Mapping[str, str]) -> bool:
    """As the browser says it itself, also where it sends no Origin. A link from elsewhere is followed."""
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return not (followed and method in _READING)


def _parsed(text: str, *, bare: bool = True) -> SplitResult | None:
    """None for what is no host, or has a user in it."""
    try:
        parsed = urlsplit(f"//{text}" if bare else text)
        _ = parsed.port  # raises for what is no number
    except ValueError:
        return None
    odd = any(each in text for each in "@, \\\t")
    return None if odd or not parsed.hostname else parsed


def _name(parsed: SplitResult) -> str:
    return (parsed.hostname or "").lower().rstrip(".")


# ---- before a server's own code

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class AsgiGate:
    """A gate before an ASGI application: requests, and websockets before they open."""

    def __init__(self, app: Asgi, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        if scope["type"] != "lifespan":
            given = Headers(scope=scope)
            headers = {name: ", ".join(given.getlist(name)) for name in _SEEN if name in given}
            if reason := self._gate.refusal(scope.get("method", "GET"), scope["path"], headers):
                await PlainTextResponse(f"{reason}\n", HTTPStatus.FORBIDDEN)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def wsgi_gate(app: Wsgi, gate: Gate) -> Wsgi:
    """Puts a gate before a WSGI application."""

    def gated(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        variables = {name: f"HTTP_{name.upper().replace('-', '_')}" for name in _SEEN}
        headers = {name: environ[variable] for name, variable in variables.items() if variable in environ}
        reason = gate.refusal(environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""), headers)
        if reason is None:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{reason}\n".encode()]

    return gated
