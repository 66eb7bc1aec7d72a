"""A person is told: what they should know of reaches the block that `retune notify` was given."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect import Flow, flow
from prefect.states import Cancelled, Completed, Failed, State

from retune.errors import BadRequest
from retune_cli.notify import create_automations

BLOCK = "custom-webhook/retune-tests"
TOLD_WITHIN_SECONDS = 60


class Listener:
    """A webhook on loopback that keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[dict] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Nothing on the test's screen."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/told"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A webhook, and nothing else, for one test."""
    listener = Listener()
    yield listener
    listener.close()


@flow(name="another")
def fails_elsewhere() -> None:
    """A run that is not Retune's."""
    raise ValueError("not ours")


def ends(name: str, state: State) -> Flow:
    """A flow of that name whose runs end so."""

    @flow(name=name)
    def one() -> State:
        return state

    return one


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("finetune", Failed(message="the GPU is on fire")),
        ("finetune", Cancelled(name="Declined", message="Rejected by Ada: it rambles")),
        ("sweep", Completed(name="Swept", message="1 endpoint(s) outlived their runs")),
    ],
    ids=["failed", "declined", "leak"],
)
def test_somebody_is_told(name: str, state: State, prefect_api: str, listener: Listener) -> None:
    """Why, and where to look; of another flow's runs they are not, and making the automations twice makes them once."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.client.orchestration import get_client

    text = {"subject": "{{subject}}", "body": "{{body}}"}
    block = CustomWebhookNotificationBlock(name="retune", url=listener.address, json_data=text)
    block.save(BLOCK.partition("/")[2], overwrite=True)
    names = create_automations(BLOCK)
    assert create_automations(BLOCK) == names
    with get_client(sync_client=True) as client:
        assert [len(client.read_automations_by_name(name)) for name in names] == [1] * len(names)

    other = fails_elsewhere(return_state=True)
    ended = ends(name, state)(return_state=True)

    deadline = time.monotonic() + TOLD_WITHIN_SECONDS
    while not listener.heard:
        assert time.monotonic() < deadline, "nobody was told"
        time.sleep(0.2)
    told, *again = list(listener.heard)
    # On a busy machine Prefect may say the same twice.
    assert all(one == told for one in again)
    assert state.name in told["subject"] and state.message in told["body"]
    assert str(ended.state_details.flow_run_id) in told["body"]
    assert other.is_failed()


def test_a_block_that_is_not_there_is_named(prefect_api: str) -> None:
    """With what to do about it."""
    with pytest.raises(BadRequest, match="no block 'slack-webhook/nobody'") as caught:
        create_automations("slack-webhook/nobody")

    assert "slack-webhook" in caught.value.fix
