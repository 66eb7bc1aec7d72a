"""Ask the endpoint questions of the test split and check that it answers.

Source: the guide's scoring cell. Unlike it, the choice of rows has a seed, and an empty or malformed answer fails.
The call is our own, because the SDK's `invoke` keeps one endpoint's key in a header dictionary that later calls share.
"""

import json
import logging
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chatdata.questions import last_question
from retune.errors import CloudError
from retune.report import Answer, Endpoint, PreparedData, Split
from retune.request import Request, Score
from retune.waiting import pause
from retune_cloud import workspace as cloud
from retune_cloud.answers import required
from tasks.showing import show_questions
from tasks.step import repeatable_step

if TYPE_CHECKING:
    import requests

log = logging.getLogger("retune.score")

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
# The gateway answers these while a fresh deployment's instances join; a repeat of a question is harmless.
BUSY = (429, 502, 503)
FIXES = {
    401: "The endpoint's key was refused: see the endpoint's authentication mode.",
    404: "No deployment has traffic: see the endpoint's traffic rules.",
    408: "Raise serving.request_timeout_seconds or lower score.max_new_tokens.",
    424: "The model's own code failed: see the deployment's log.",
    429: "The deployment is overloaded: raise serving.instance_count.",
}


@repeatable_step
def score_endpoint(request: Request, endpoint: Endpoint, data: PreparedData) -> list[Answer]:
    """The answers to `score.rows` rows of the test split, chosen by `score.seed`.

    Raises:
        CloudError: `ScoringRefused`, `EmptyAnswer` or `MalformedAnswer`.
    """
    from azure.ai.ml.entities import EndpointAuthKeys

    client = cloud.workspace_client(request.workspace)
    uri = required(client.online_endpoints.get(endpoint.name).scoring_uri, "the endpoint's address")
    keys = client.online_endpoints.get_keys(endpoint.name)
    if not isinstance(keys, EndpointAuthKeys):
        raise CloudError(
            "ScoringRefused", "The endpoint takes tokens, not keys.", "Set its authentication mode to key."
        )
    answers = []
    with _patient_session(required(keys.primary_key, "the endpoint's key")) as session:
        for conversation, expected in choose_rows(data.splits["test"], request.score):
            pause(0)
            began = time.monotonic()
            output = _question(session, uri, conversation, request)
            answers.append(
                Answer(
                    prompt=conversation[-1]["content"],
                    expected=expected,
                    output=output,
                    seconds=round(time.monotonic() - began, 2),
                )
            )
            log.info("%d/%d answered in %.1f s", len(answers), request.score.rows, answers[-1].seconds)
    show_questions(answers)
    return answers


def choose_rows(split: Split, score: Score) -> list[tuple[list[dict[str, str]], str]]:
    """Conversations that end with a user turn, each with the answer that the row itself gives (empty if none)."""
    with Path(split.path).open("rb") as file:
        rows = (json.loads(line)["messages"] for line in file)
        questions = [question for messages in rows if (question := _split_last_answer(messages)) is not None]
    chosen = random.Random(score.seed).sample(range(len(questions)), min(score.rows, len(questions)))
    return [questions[number] for number in chosen]


def build_payload(conversation: list[dict[str, str]], score: Score) -> Mapping[str, Json]:
    """The request's body in either shape: `nested` for the MLflow server, `flat` for the base model's own."""
    parameters: Mapping[str, Json] = {
        "temperature": score.temperature,
        "top_p": score.top_p,
        "do_sample": score.do_sample,
        "max_new_tokens": score.max_new_tokens,
    }
    if score.payload == "flat":
        return {"input_data": {"input_string": conversation, "parameters": parameters}}
    return {"input_data": {"input_string": [conversation], "parameters": parameters}, "params": {}}


def read_answer(body: object) -> str:
    """The text in `{"output": ...}`, in a list of one, or alone.

    Raises:
        CloudError: `MalformedAnswer` or `EmptyAnswer`.
    """
    value = body
    while isinstance(value, (list, dict)):
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        elif isinstance(value, dict) and "output" in value:
            value = value["output"]
        else:
            break
    if not isinstance(value, str):
        raise CloudError(
            "MalformedAnswer",
            f"The endpoint answered {json.dumps(body)[:300]}, which holds no text.",
            "Try the other score.payload (nested or flat); see the deployment's log.",
        )
    if not value.strip():
        raise CloudError(
            "EmptyAnswer",
            "The endpoint answered an empty text.",
            "See the deployment's log and the job's metrics; raise score.max_new_tokens.",
        )
    return value.strip()


def _split_last_answer(messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], str] | None:
    """The beginning of a conversation that the endpoint can be asked, and the row's own answer to it."""
    last = last_question([message["role"] for message in messages])
    if last is None:
        return None
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages[: last + 1]]
    return turns, "".join(turn["content"] for turn in messages[last + 1 : last + 2])


def _patient_session(key: str) -> "requests.Session":
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    session = requests.Session()
    again = Retry(total=5, backoff_factor=1, status_forcelist=BUSY, allowed_methods=None, raise_on_status=False)
    session.mount("https://", HTTPAdapter(max_retries=again))
    session.headers["Authorization"] = f"Bearer {key}"
    return session


def _question(session: "requests.Session", uri: str, conversation: list[dict[str, str]], request: Request) -> str:
    import requests

    seconds = request.serving.request_timeout_seconds
    try:
        # A little above the service's own limit, so that its 408 comes first.
        response = session.post(uri, json=build_payload(conversation, request.score), timeout=(10, seconds + 15))
    except requests.RequestException as error:
        raise CloudError(
            "ScoringRefused", f"The endpoint at {uri} did not answer: {error}", "See the deployment's log."
        ) from error
    if response.status_code != 200:
        reason = response.headers.get("ms-azureml-model-error-reason") or response.text[:300]
        raise CloudError(
            "ScoringRefused",
            f"The endpoint answered HTTP {response.status_code}: {reason}",
            FIXES.get(response.status_code, "See the deployment's log."),
        )
    try:
        return read_answer(response.json() if response.content.strip() else "")
    except requests.JSONDecodeError as error:
        raise CloudError(
            "MalformedAnswer", f"The endpoint answered no JSON: {response.text[:300]}", "See the deployment's log."
        ) from error
