"""One running emulator: its home and lock, its certificate, its address, and an end in an orderly way."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import certifi
import trustme
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from azureml_emulator.app import Application
from azureml_emulator.home import bind, lock_home
from azureml_emulator.identity import CLOUD, Secrets
from azureml_emulator.journal import EXCHANGES_VARIABLE, Journal
from azureml_emulator.json_types import Json
from azureml_emulator.store import Store, set_aside, write_atomically
from azureml_emulator.world import Settings, World, read_timing

log = logging.getLogger(__name__)

BUNDLE = "ca_bundle.pem"
READY = "ready.json"
# Of a request: until its head has come. A browser or a pool of clients may hold some dozen connections.
HEAD_SECONDS = 10
MOST_CONNECTIONS = 400
# Seconds for requests that run when the end is asked for.
GRACE_SECONDS = 2
# Seconds from the request to end until the process ends, whatever still runs.
END_SECONDS = 4


def make_certificates(home: Path) -> ssl.SSLContext:
    """The server's TLS context. The authority is created once per home; its bundle holds the public roots too."""
    private, public = home / "ca_key.pem", home / "ca.pem"
    authority = read_authority(public, private)
    if authority is None:
        authority = trustme.CA(organization_name="azureml_emulator")
        write_atomically(private, authority.private_key_pem.bytes().decode())
        write_atomically(public, authority.cert_pem.bytes().decode())
    write_atomically(home / BUNDLE, public_roots() + public.read_text(encoding="utf-8"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


def read_authority(public: Path, private: Path) -> trustme.CA | None:
    """The authority of an earlier start; None where there is none that can be read."""
    if not (private.exists() and public.exists()):
        return None
    try:
        return trustme.CA.from_pem(public.read_bytes(), private.read_bytes())
    except ValueError as error:
        for file in (public, private):
            set_aside(file, error)
        return None


def public_roots() -> str:
    """The roots that this machine's programs trust already: a client may need both the emulator and the world."""
    named = [Path(os.environ[name]) for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE") if os.environ.get(name)]
    # A bundle of another emulator's is none of these.
    files = [file for file in named if file.is_file() and file.name != BUNDLE]
    return Path(files[0] if files else certifi.where()).read_text(encoding="utf-8").rstrip("\n") + "\n"


def environment(world: World, identity_header: str) -> dict[str, str]:
    """The variables with which an unchanged azure-ai-ml or mlflow program talks to this emulator."""
    settings, bundle = world.settings, str(world.settings.home / BUNDLE)
    return {
        "ARM_CLOUD_METADATA_URL": f"{world.url}/metadata/endpoints?api-version=2019-05-01",
        "REGISTRY_DISCOVERY_ENDPOINT_URL": f"{world.url}/",
        "AZUREML_CURRENT_CLOUD": CLOUD,
        "IDENTITY_ENDPOINT": f"{world.url}/msi/token",
        "IDENTITY_HEADER": identity_header,
        "REQUESTS_CA_BUNDLE": bundle,
        "SSL_CERT_FILE": bundle,
        "AZURE_SUBSCRIPTION_ID": settings.subscription_id,
        "AZURE_RESOURCE_GROUP": settings.resource_group,
        "AZURE_WORKSPACE_NAME": settings.workspace_name,
    }


def ready_document(world: World, keys: Secrets) -> Json:
    """The document that the emulator prints when it is ready."""
    settings = world.settings
    return {
        "url": world.url,
        "pid": os.getpid(),
        "home": str(settings.home),
        "port": settings.port,
        "subscription_id": settings.subscription_id,
        "resource_group": settings.resource_group,
        "workspace_name": settings.workspace_name,
        "location": settings.location,
        "registry_name": settings.registry_name,
        "ca_bundle": str(settings.home / BUNDLE),
        "request_log": str(settings.home / "requests.jsonl"),
        "admin_token": keys.admin_token,
        "env": dict(environment(world, keys.identity_header)),
    }


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals alone and calls `ready` once it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A connection that only waits for its next request would be closed the TLS way, which waits for the client.
        for connection in list(self.server_state.connections):
            if not isinstance(connection, Connection):
                continue
            if connection.cycle is None or connection.cycle.response_complete:
                connection.transport.abort()
        await super().shutdown(sockets)


class Connection(H11Protocol):
    """A connection that ends when the head of a request takes too long, also its first."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def _wait_for_head(self) -> None:
        """Starts or continues to wait; stops once the head has arrived."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None


def serve(home: Path, port: int | None, weights: dict[str, Path], *, stop_with_stdin: bool) -> bool:
    """Runs an emulator until SIGTERM, SIGINT or (if asked) the end of standard input; false when it ended by itself.

    Raises: HomeInUse, NotPrivate, PortInUse.
    """
    home = home.resolve()
    with lock_home(home):
        listener = bind(home, port)
        context = make_certificates(home)
        store = Store(home / "documents")
        world = World(Settings(home=home, port=listener.getsockname()[1], weights=weights), store, read_timing(store))
        exchanges = os.environ.get(EXCHANGES_VARIABLE)
        application = Application(world, Journal(home / "requests.jsonl", Path(exchanges) if exchanges else None))
        server = Server(web_config(application, context), lambda: announce(world))
        ending = threading.Thread(target=application.stop, name="ending")

        def stop(*_: object) -> None:
            if not world.stopping.is_set():
                world.stopping.set()
                server.should_exit = True
                ending.start()

        dead: list[str] = []

        def stop_for(died: threading.ExceptHookArgs) -> None:
            """Stops the emulator: requests would wait forever for the dead thread."""
            name = died.thread.name if died.thread else "thread"
            trace = (died.exc_type, died.exc_value or died.exc_type(), died.exc_traceback)
            log.critical("%s died; the emulator ends", name, exc_info=trace)
            dead.append(name)
            stop()

        threading.excepthook = stop_for
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        if stop_with_stdin:
            threading.Thread(target=end_with_stdin, daemon=True).start()
        application.recover()
        server.run(sockets=[listener])
        if ending.ident is not None:
            ending.join(END_SECONDS)
        (home / READY).unlink(missing_ok=True)
        return not dead


def web_config(application: Application, context: ssl.SSLContext) -> uvicorn.Config:
    config = uvicorn.Config(
        application.web,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        http=Connection,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=30,
    )
    config.load()
    # uvicorn takes certificates from files only; a context in memory leaves no private key behind.
    config.ssl = context
    return config


def announce(world: World) -> None:
    """Writes HOME/ready.json and HOME/config.json and prints the ready line."""
    document = ready_document(world, Secrets(world.settings.home / "secrets.json"))
    write_config(world)
    file = world.settings.home / READY
    write_atomically(file, json.dumps(document, indent=1))
    print(json.dumps(document), flush=True)


def end_with_stdin() -> None:
    """Asks for the end of this process when its standard input closes."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def write_config(world: World) -> None:
    """HOME/config.json for `MLClient.from_config`."""
    settings = world.settings
    names = {"subscription_id": settings.subscription_id, "resource_group": settings.resource_group}
    write_atomically(
        settings.home / "config.json", json.dumps({**names, "workspace_name": settings.workspace_name}, indent=1)
    )
