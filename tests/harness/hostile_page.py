"""A web page that attacks servers on this machine, as any page in a browser may, and the server that it is from.

Each attack is sent as JSON with CORS, as text with CORS, and as text without. The page reports what it could read; the
test checks what changed.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

# The name of the attack on a server that lets every page in, which must succeed.
CONTROL = "control"
PAGE = """<!doctype html><title>An innocent page</title><p>Hello.<script>
const attacks = ATTACKS;
const ways = [["cors", "application/json"], ["cors", "text/plain"], ["no-cors", "text/plain"]];
async function send({method, url, body}, mode, kind) {
  const content = method === "GET" || body === null ? undefined : JSON.stringify(body);
  const headers = content === undefined ? {} : {"Content-Type": kind};
  // Without asking first, a page sends what a form may send.
  const sent = mode === "no-cors" && method !== "GET" ? "POST" : method;
  try {
    const answer = await fetch(url, {method: sent, mode, headers, body: content});
    return {status: answer.status, text: (await answer.text()).slice(0, 200)};
  } catch (error) {
    return {status: 0, text: ""};
  }
}
async function attack() {
  const seen = {};
  for (const one of attacks) {
    seen[one.name] = [];
    for (const [mode, kind] of ways) seen[one.name].push(await send(one, mode, kind));
  }
  return seen;
}
</script>"""


class Attack(NamedTuple):
    """One request that a page would like to send; the body is sent as JSON."""

    name: str
    method: str
    url: str
    body: object = None


class Handler(BaseHTTPRequestHandler):
    """The page at `/`, and at `/open` what every page may read."""

    attacks: list[Attack]

    def do_GET(self) -> None:
        if self.path == "/open":
            self._answer("read by anybody")
            return
        tried = [*self.attacks, Attack(CONTROL, "GET", f"http://localhost:{self.server.server_port}/open")]
        self._answer(PAGE.replace("ATTACKS", json.dumps([attack._asdict() for attack in tried])))

    def _answer(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        if origin := self.headers.get("Origin"):
            self.send_header("Access-Control-Allow-Origin", origin)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def hostile_page(attacks: list[Attack]) -> Iterator[str]:
    """The address of a page with these attacks, which its function `attack()` carries out."""
    handler = type("Attacks", (Handler,), {"attacks": attacks})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
