"""Which requests to a server on this machine are answered: those of programs and of the server's own pages.

Loopback is not private: any web page can send requests to it. Browsers state the page's origin (`Origin`,
`Sec-Fetch-Site`). A page whose domain was rebound to this machine still sends that domain as `Host`. Programs send
neither of the first two. Every local server of ours asks here, so it needs the standard library only.

Source: https://fetch.spec.whatwg.org/#origin-header and https://www.w3.org/TR/fetch-metadata/
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OWN_NAMES = ("localhost", "127.0.0.1")
# Sec-Fetch-Site of a request from the server's own pages, and of an address that a person typed.
OWN_SITES = ("same-origin", "none")
# Clients leave these out of an address.
DEFAULT_PORTS = {"http": 80, "https": 443}


def refusal(headers: Mapping[str, str], *, scheme: str, port: int) -> str | None:
    """Why a request is refused, or None; `headers` by lower-case names, `scheme` and `port` those of the server."""
    host = headers.get("host", "")
    suffixes = [f":{port}", *([""] if DEFAULT_PORTS[scheme] == port else [])]
    if host.lower() not in {name + suffix for name in OWN_NAMES for suffix in suffixes}:
        return f"The Host '{host}' is not a name of this server. Use {' or '.join(f'{n}:{port}' for n in OWN_NAMES)}."
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"{scheme}://{host.lower()}":
        return f"Requests from pages of '{origin}' are refused."
    site = headers.get("sec-fetch-site", "none")
    if site not in OWN_SITES:
        return f"Requests from pages of other addresses are refused (Sec-Fetch-Site '{site}')."
    return None


def is_json(headers: Mapping[str, str]) -> bool:
    """Whether the body is declared as JSON, which a page cannot do for another address without the server's consent."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


class SameOrigin:
    """An ASGI application in front of another: a refused request gets 403 before its body is read."""

    def __init__(self, application: "ASGIApp", *, scheme: str, port: int) -> None:
        self._application = application
        self._scheme = scheme
        self._port = port

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope.get("headers", ())}
        reason = refusal(headers, scheme=self._scheme, port=self._port) if scope["type"] == "http" else None
        if reason is None:
            await self._application(scope, receive, send)
            return
        body = f"{reason}\n".encode()
        kind = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 403, "headers": kind})
        await send({"type": "http.response.body", "body": body})
