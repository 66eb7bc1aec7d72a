"""Scoring: what stands between a caller and a deployment's server.

Checks the endpoint's key, chooses a deployment by traffic or by the `azureml-model-deployment` header, keeps the limits
of the deployment, and answers with the service's status codes: 401 key, 404 no deployment with traffic, 408 longer than
the request timeout, 424 the model's own error, 429 too many requests at once, 502 and 503 a server that broke off or is
not ready. Its errors are plain text, as the service's are.

Source: https://learn.microsoft.com/azure/machine-learning/how-to-troubleshoot-online-endpoints
"""

import hmac
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from uuid import uuid4

import httpx

from azureml_emulator.deployment_rules import key_of, seconds
from azureml_emulator.deployments import Deployments
from azureml_emulator.endpoints import Endpoints
from azureml_emulator.faults import Fault, Faults
from azureml_emulator.json_types import Json, object_at, whole_at
from azureml_emulator.wire import Answer, Call
from azureml_emulator.world import World

GUIDE = (
    "\nPlease check this guide to understand why this error code might have been returned \n"
    "https://docs.microsoft.com/en-us/azure/machine-learning/how-to-troubleshoot-online-endpoints#http-status-codes\n"
)
# The gateway's own messages, by status.
REFUSALS = {
    408: "upstream request timeout",
    429: "too many pending requests",
    502: "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
    503: "no healthy upstream",
}


@dataclass(frozen=True)
class Reply:
    """A server's answer: status, body and content type."""

    status: int
    content: bytes
    kind: str


class Gateway:
    """The scoring addresses of all endpoints."""

    def __init__(self, world: World, faults: Faults, endpoints: Endpoints, deployments: Deployments) -> None:
        self._world = world
        self._faults = faults
        self._endpoints = endpoints
        self._deployments = deployments
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._client = httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))

    def stop(self) -> None:
        self._client.close()

    def score(self, call: Call) -> Answer:
        endpoint = self._endpoints.find(call.path_params["endpoint"])
        if endpoint is None or endpoint["state"] == "Creating":
            return plain(404, "There is no endpoint at this address.")
        refusal = check_key(endpoint, call.headers.get("authorization", ""))
        if refusal:
            return plain(401, refusal)
        deployment = self._choose(endpoint, call.headers.get("azureml-model-deployment"))
        if deployment is None:
            return plain(404, "The endpoint does not have a valid deployment with positive weight.")
        key = key_of(str(endpoint["name"]), str(deployment["name"]))
        if not self._enter(key, most_at_once(deployment)):
            return plain(429, REFUSALS[429])
        try:
            return self._forward(call, key, deployment)
        finally:
            self._leave(key)

    def _choose(self, endpoint: Json, deployment_name: str | None) -> Json | None:
        """The named deployment, else a random one weighted by traffic."""
        deployments = self._deployments.named(str(endpoint["name"]))
        if deployment_name:
            return deployments.get(deployment_name.lower())
        traffic = object_at(endpoint, "traffic")
        shares = {name: share for name in traffic if (share := whole_at(traffic, name)) and name in deployments}
        if not shares:
            return None
        return deployments[random.choices(list(shares), list(shares.values()))[0]]

    def _enter(self, key: str, most: int) -> bool:
        with self._lock:
            if self._running[key] >= most:
                return False
            self._running[key] += 1
            return True

    def _leave(self, key: str) -> None:
        with self._lock:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    def _forward(self, call: Call, key: str, deployment: Json) -> Answer:
        """The server's answer, with the headers and the status codes of the service around it."""
        started = time.monotonic()
        timeout = seconds(object_at(deployment, "properties", "requestSettings")["requestTimeout"])
        fault = self._faults.take("score", key)
        if fault and fault.effect == "gateway":
            return gateway_fault(fault)
        if fault and fault.effect != "slow":
            reply = server_fault(fault)
        else:
            if fault:
                self._faults.hold(fault, lambda: time.monotonic() - started >= timeout)
            try:
                reply = self._ask(call, deployment, timeout - (time.monotonic() - started))
            except httpx.TimeoutException:
                return plain(408, REFUSALS[408])
            except httpx.HTTPError:
                return plain(502, REFUSALS[502])
        if reply is None:
            return plain(503, REFUSALS[503])
        headers = {
            "Content-Type": reply.kind if reply.kind.isascii() and reply.kind.isprintable() else "text/plain",
            "azureml-model-deployment": str(deployment["name"]),
            "azureml-model-session": str(deployment["name"]),
            "x-ms-run-fn-exec-ms": f"{(time.monotonic() - started) * 1000:.3f}",
            "x-ms-run-function-failed": str(reply.status != 200),
            "x-request-id": call.headers.get("x-request-id") or str(uuid4()),
        }
        if reply.status == 200:
            return Answer(200, reply.content, headers)
        failure = plain(424, reply.content.decode("utf-8", "replace"))
        reason = {
            "ms-azureml-model-error-statuscode": str(reply.status),
            "ms-azureml-model-error-reason": "model_error",
        }
        return Answer(424, failure.body, {**headers, **reason, **failure.headers})

    def _ask(self, call: Call, deployment: Json, timeout: float) -> Reply | None:
        """The reply of the deployment's server, or None when it is not ready.

        Raises: httpx.TimeoutException after `timeout` seconds, httpx.HTTPError when the server breaks off.
        """
        if timeout <= 0:
            raise httpx.ReadTimeout("no time is left for the model")
        endpoint = str(deployment["endpoint"])
        server = self._deployments.server(endpoint, str(deployment["name"]))
        address = server.address if server else None
        if address is None:
            return None
        kind = call.headers.get("content-type", "application/json")
        path = call.path[len(f"/scoring/{endpoint}") :]
        answer = self._client.request(
            call.method, address + path, content=call.body, headers={"content-type": kind}, timeout=timeout
        )
        return Reply(answer.status_code, answer.content, answer.headers.get("content-type", "application/json"))


def plain(status: int, text: str) -> Answer:
    return Answer(status, (text + GUIDE).encode(), {"Content-Type": "text/plain; charset=utf-8"})


def check_key(endpoint: Json, header: str) -> str | None:
    """Why the Authorization header is refused; None when it holds one of the endpoint's keys or its token."""
    scheme, _, secret = header.partition(" ")
    if scheme.lower() != "bearer" or not secret:
        return "key_auth_bad_header_forbidden"
    names = ("primary_key", "secondary_key") if endpoint["auth_mode"] == "Key" else ("token",)
    right = any(hmac.compare_digest(secret.encode(), str(endpoint[name]).encode()) for name in names)
    return None if right else "key_auth_access_denied"


def most_at_once(deployment: Json) -> int:
    """Requests that a deployment takes at the same time, running and waiting."""
    return (
        2
        * whole_at(object_at(deployment, "properties", "requestSettings"), "maxConcurrentRequestsPerInstance")
        * whole_at(deployment, "capacity")
    )


def server_fault(fault: Fault) -> Reply:
    """The reply that a fault puts in place of a server's answer."""
    if fault.effect == "empty":
        return Reply(200, b"", "application/json")
    if fault.effect == "malformed":
        return Reply(200, b'{"output": "half an ans', "application/json")
    return Reply(fault.status, fault.error_message().encode(), "text/plain")


def gateway_fault(fault: Fault) -> Answer:
    """The gateway's own refusal, which never reaches a container."""
    answer = plain(fault.status, fault.message or REFUSALS.get(fault.status, fault.error_message()))
    retry_after = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    return Answer(answer.status, answer.body, {**answer.headers, **retry_after})
