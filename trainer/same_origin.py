"""Who may talk to a server on this machine: its programs and its own pages, and no page of another address.

Loopback is not private: any page that a browser shows may send requests to it. A browser says where a request comes
from (`Origin`, `Sec-Fetch-Site`), and a page that makes its own name point to this machine still says that name
(`Host`). Programs send neither of the first two. Standard library only, because the quickest of our servers uses it.

Source: https://fetch.spec.whatwg.org/#origin-header and https://www.w3.org/TR/fetch-metadata/
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OWN_NAMES = ("localhost", "127.0.0.1")
# What a browser says of a request of a page of ours, and of an address that a person has typed.
OWN_SITES = ("same-origin", "none")


def refusal(headers: Mapping[str, str], *, scheme: str, port: int) -> str | None:
    """Why a request is refused, or None; `headers` by lower-case names, `scheme` and `port` those of the server."""
    host = headers.get("host", "")
    if host.lower() not in {f"{name}:{port}" for name in OWN_NAMES}:
        return f"The Host '{host}' is not a name of this server."
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"{scheme}://{host.lower()}":
        return f"The Origin '{origin}' is another address."
    site = headers.get("sec-fetch-site", "none")
    if site not in OWN_SITES:
        return f"The request comes from a page of another address (Sec-Fetch-Site '{site}')."
    return None


def is_json(headers: Mapping[str, str]) -> bool:
    """Whether the body is said to be JSON: a page cannot send that to another address without being asked first."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


class SameOrigin:
    """An ASGI application that answers 403 to what is refused, before any of the body is read."""

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
