"""A Hugging Face hub on loopback: serves the data sets below a folder to the real, unmodified clients.

    python -m benchmarks.hub --root FOLDER [--port N]

FOLDER/<owner>/<name>/ holds a data set, see benchmarks.hub_data. Small files are served in place, LFS files by a
redirect to a signed address on a second port, as from a CDN. Of models, which lie in FOLDER/.models/<owner>/<name>/, it
serves the files alone. It knows no uploads and no Xet.
`Hub` runs it as a process of its own. Its `env` makes it the client's proxy too: it sees, logs and refuses what is
asked of any other host. Calls of the benchmark itself, which are not logged:

    GET    /admin/requests   what was asked and sent
    POST   /admin/faults     adds a fault, a JSON object with the fields of hub_server.Fault
    POST   /admin/commits    {"name": "owner/name", "folder": PATH}: `main` moves to the content of that folder
    DELETE /admin            forgets requests and faults
"""

import argparse
import contextlib
import fnmatch
import http.client
import json
import select
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.hub_routes import Site
from benchmarks.hub_server import Server, Traffic

START_SECONDS = 120
STOP_SECONDS = 10


class Hub:
    """A hub in a process of its own, for a `with` statement; it ends with the statement, or with this process."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> "Hub":
        command = [sys.executable, "-m", "benchmarks.hub", "--root", str(self._root.absolute()), "--stop-with-stdin"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
        )
        readable, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline() if readable else ""
        if not line:
            self.__exit__()
            raise RuntimeError(
                f"The hub on '{self._root}' did not start within {START_SECONDS} s. See its errors above."
            )
        self.url: str = json.loads(line)["url"]
        self.env = environment(self.url)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def requests(self) -> list[dict[str, object]]:
        """What was asked and sent, see `Request`; an answer that takes longer than a moment is shown as it stands."""
        return self._admin("GET", "/admin/requests")

    def bytes_sent(self, pattern: str = "*") -> int:
        """Bytes of the bodies of all answers whose path fits the shell pattern."""
        return sum(entry["bytes"] for entry in self.requests() if fnmatch.fnmatchcase(entry["path"], pattern))

    def fault(self, path: str, **effects: object) -> None:
        """Adds a fault with the fields of `Fault`, for example `fault("/cdn/*", status=503, calls=2)`."""
        self._admin("POST", "/admin/faults", {"path": path, **effects})

    def commit(self, name: str, folder: Path) -> str:
        """Moves `main` of a data set to the content of a folder, which must not change from now on; the commit's id."""
        return self._admin("POST", "/admin/commits", {"name": name, "folder": str(folder.absolute())})["commit"]

    def reset(self) -> None:
        """Forgets requests and faults; commits stay."""
        self._admin("DELETE", "/admin")

    def _admin(self, method: str, path: str, document: object = None) -> "dict | list":
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=START_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, None if document is None else json.dumps(document))
            response = connection.getresponse()
            answer = json.loads(response.read())
        if response.status >= 400:
            raise ValueError(f"{method} {path}: {answer['error']}")
        return answer


def environment(url: str) -> dict[str, str]:
    """The variables that lead Hugging Face's clients to this hub, and to no other host."""
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), url)
    direct = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    # `datasets` asks its viewer at http://datasets-server.<host of the hub>, a name that only the proxy can serve.
    return {
        **proxies,
        **direct,
        "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder with <owner>/<name>/")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: any free one)")
    parser.add_argument("--stop-with-stdin", action="store_true", help="stop when standard input closes")
    options = parser.parse_args()
    if not options.root.is_dir():
        parser.error(f"the folder '{options.root}' does not exist")
    site, traffic = Site(options.root), Traffic()
    servers = [Server(site, traffic, options.port, is_cdn=False), Server(site, traffic, 0, is_cdn=True)]
    site.url, site.cdn = (server.url() for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"url": site.url, "cdn": site.cdn, "data_sets": site.data_sets.names()}), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        if options.stop_with_stdin:
            sys.stdin.read()
        else:
            threading.Event().wait()
    for server in servers:
        server.stopping.set()


if __name__ == "__main__":
    main()
