"""The scoring program: one real process on a real MLflow model, asked over HTTP."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from raw_requests import FOREIGN, http, status_of

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "azureml_emulator" / "registry" / "weights" / "tiny-phi3"
USER = {"role": "user", "content": "What is the capital of France?"}
ASSISTANT = {"role": "assistant", "content": "Paris."}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained base as an MLflow model, inside the folder that is served."""
    folder = tmp_path_factory.mktemp("serve")
    trained = folder / "trained"
    subprocess.run(
        [sys.executable, "-m", "trainer.model_import", "--pytorch_model_path", WEIGHTS, "--output_dir", trained],
        cwd=ROOT,
        check=True,
    )
    info = json.loads((trained / "model_info.json").read_text())
    (trained / "training_info.json").write_text(json.dumps(info | {"steps": 0}))
    served = folder / "served" / "model"
    subprocess.run(
        [sys.executable, "-m", "trainer.convert", "--model_path", trained, "--mlflow_model_folder", served],
        cwd=ROOT,
        check=True,
    )
    return served


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[str]:
    """The address of a server that was given the folder around the model; it is not ready yet."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.serve", "--model", model.parent], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    port = json.loads(process.stdout.readline())["port"]
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    log = process.communicate(timeout=10)[0]
    assert "POST /score 200" in log


@pytest.fixture(scope="module")
def ready(server: str) -> str:
    assert requests.get(server, timeout=5).status_code == 503
    deadline = time.monotonic() + 60
    while requests.get(server, timeout=5).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return server


def ask(server: str, turns: object, **parameters: object) -> requests.Response:
    payload = {"input_data": {"input_string": turns, "parameters": {"max_new_tokens": 5, **parameters}}, "params": {}}
    return requests.post(f"{server}/score", json=payload, timeout=30)


def test_a_list_of_conversations_is_answered_with_a_list(ready: str) -> None:
    """The nested payload gives one text a conversation, in their order."""
    alone = ask(ready, [USER]).json()["output"]
    answer = ask(ready, [[USER], [USER, ASSISTANT, USER]])

    assert answer.status_code == 200
    assert len(answer.json()) == 2
    assert answer.json()[0] == alone


def test_one_conversation_is_answered_with_an_output(ready: str) -> None:
    """The flat payload gives one text under the key output; sampling parameters are taken."""
    answer = ask(ready, [USER], temperature=0.6, top_p=0.9, do_sample=True)

    assert answer.status_code == 200
    assert list(answer.json()) == ["output"]


@pytest.mark.parametrize(
    ("turns", "parameters", "fix"),
    [
        pytest.param([], {}, 'Send {"input_data": {"input_string": ', id="no messages"),
        pytest.param("Hi", {}, 'Send {"input_data": {"input_string": ', id="text"),
        pytest.param([USER, ASSISTANT], {}, "the last must be user", id="ends with the assistant"),
        pytest.param(
            [[USER], [USER, USER]], {}, "Conversation 2 has the roles user, user", id="roles do not alternate"
        ),
        pytest.param([{"role": "user"}], {}, 'Each needs "role" and "content"', id="no content"),
        pytest.param([USER], {"tempurature": 1}, "Known are temperature, top_p", id="unknown parameter"),
        pytest.param([USER], {"temperature": 0, "do_sample": True}, "or do_sample false", id="nothing to sample"),
        pytest.param([USER], {"temperature": -1}, "or do_sample false", id="temperature"),
        pytest.param([USER], {"max_new_tokens": 0}, "a whole number of 1 or more", id="no new tokens"),
        pytest.param([USER | {"content": "word " * 600}], {}, "the model takes 511. Shorten it", id="too long"),
    ],
)
def test_malformed_requests_are_refused_with_the_fix(
    ready: str, turns: object, parameters: dict[str, object], fix: str
) -> None:
    """The status is 400 and the error says what to send."""
    answer = ask(ready, turns, **parameters)

    assert answer.status_code == 400
    assert fix in answer.json()["error"]


def test_a_body_that_is_no_json_is_refused(ready: str) -> None:
    """The parser's own words tell where it stopped."""
    answer = requests.post(f"{ready}/score", data="nope", headers={"Content-Type": "application/json"}, timeout=5)

    assert answer.status_code == 400
    assert "The body is no JSON" in answer.json()["error"]


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_a_page_of_another_address_is_refused(server: str, headers: dict[str, str]) -> None:
    """Before the model is asked anything."""
    sent = http(headers, int(server.rpartition(":")[2]))

    assert status_of(f"{server}/score", {"Content-Type": "application/json"} | sent, b"{}") == 403
    assert status_of(server, sent) == 403


@pytest.mark.exhaustive
def test_a_model_that_does_not_load_ends_the_program(model: Path, tmp_path: Path) -> None:
    """The deployment fails at once, with the traceback in its log."""
    (tmp_path / "MLmodel").write_text((model / "MLmodel").read_text())

    done = subprocess.run(
        [sys.executable, "-m", "trainer.serve", "--model", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "Traceback" in done.stderr
