"""What every page here is wrapped in: known host names only, no other sites, security headers."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Guard:
    """Answers known host names only, keeps other sites out, and puts the security headers on.

    `addresses`: any bare IP address is answered as well. A site that points its own name at this
    machine (DNS rebinding) sends that name, never an address.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], addresses: bool = False) -> None:
        self.app = app
        self.hosts = frozenset(name.lower().strip("[]") for name in hosts)
        self.addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may be answered."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(Headers(scope=scope)) or self.app
        return await answer(scope, receive, send_guarded)

    def _refusal(self, headers: Headers) -> Response | None:
        host = host_name(headers.get("host", ""))
        if host not in self.hosts and not (self.addresses and _is_address(host)):
            return PlainTextResponse(
                f"this server does not answer to the name {host!r}; open it by one of "
                f"{', '.join(sorted(self.hosts))}, or add the name to its settings\n",
                400,
            )
        # A link from elsewhere may lead here; a script elsewhere may not use this server up.
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        if site in {"cross-site", "same-site"} and mode != "navigate":
            return PlainTextResponse("not for other sites\n", 403)
        return None


def same_origin(headers: Headers, scheme: str) -> bool:
    """Whether a request that changes something comes from this server's own page, or no page.

    Browsers send `Origin` with every POST; a page of another site cannot leave it out. A program
    that sends none is not driven by a foreign page.
    """
    origin = headers.get("origin")
    return origin is None or origin == f"{scheme}://{headers.get('host', '')}"


def host_name(header: str) -> str:
    """The name in a `Host` header: without port and brackets, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
