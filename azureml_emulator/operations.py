"""Long-running operations: work in a thread, its state on disk, and the polling routes that show it.

Three polling styles are spoken, as the service does: `mfeOperationsStatus` (endpoints, deployments),
`mfeOperationResults` (job cancellation, deletions) and `computeOperationsStatus` (compute).
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Literal
from urllib.parse import urlencode
from uuid import uuid4

from azureml_emulator.json_types import Json, object_at
from azureml_emulator.wire import PROVIDER, Answer, Call, ServiceError, now
from azureml_emulator.world import Interrupted, World, run_or_report

Style = Literal["mfe", "compute"]
# Ended operations that can still be polled. A client that was held up for long finds its own among so many.
KEPT = 500
NEVER = "0001-01-01T00:00:00+00:00"
# The service's own abbreviations in operation ids.
PREFIXES = {"endpoints": "oeidp", "deployments": "odidp", "jobs": "jc"}


class Operations:
    """Operations by id. An operation is InProgress until its work returns (Succeeded) or raises (Failed)."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ended: deque[str] = deque()

    def start(self, kind: str, key: str, work: Callable[[], None], *, style: Style = "mfe") -> str:
        """The id of a new operation whose `work` has begun. `work` raises ServiceError to fail the operation."""
        guid = str(uuid4())
        operation_id = f"{PREFIXES[kind]}:{self._world.workspace_guid}:{guid}" if kind in PREFIXES else guid
        record: Json = {"kind": kind, "key": key, "style": style, "status": "InProgress", "started": now()}
        self._world.store.put("operations", operation_id, record)
        self.resume(operation_id, work)
        return operation_id

    def resume(self, operation_id: str, work: Callable[[], None]) -> None:
        """Runs the work of an operation that an earlier process left unfinished."""
        name = f"operation {operation_id}"
        threading.Thread(target=self._run, args=(operation_id, work), name=name, daemon=True).start()

    def unfinished(self, kind: str) -> list[tuple[str, str]]:
        """(operation id, key) of every operation of a kind that has not ended, oldest first."""
        records = [(record["started"], name, record) for name, record in self._world.store.list("operations")]
        return [
            (name, str(record["key"]))
            for _, name, record in sorted(records, key=lambda entry: entry[:2])
            if record["kind"] == kind and record["status"] == "InProgress"
        ]

    def finish(self, operation_id: str, error: ServiceError | None = None, *, canceled: bool = False) -> None:
        """Writes the end of an operation; the first end stands. The oldest of many ended ones are forgotten."""

        def close(record: Json) -> None:
            if record["status"] != "InProgress":
                return
            self._ended.append(operation_id)
            record["status"] = "Canceled" if canceled else "Failed" if error else "Succeeded"
            record["ended"] = now()
            if error:
                record["error"] = {"code": error.code, "message": error.message}

        self._world.store.change("operations", operation_id, close)
        while len(self._ended) > KEPT:
            self._world.store.delete("operations", self._ended.popleft())

    def status_url(self, operation_id: str, api_version: str, *, style: Style = "mfe") -> str:
        """The address for the Azure-AsyncOperation header."""
        collection = "computeOperationsStatus" if style == "compute" else "mfeOperationsStatus"
        suffix = "&service=new" if style == "compute" else ""
        return f"{self._location_url(collection, operation_id)}?api-version={api_version}{suffix}"

    def result_url(self, operation_id: str, api_version: str) -> str:
        """The address for the Location header of a 202 answer."""
        return f"{self._location_url('mfeOperationResults', operation_id)}?api-version={api_version}"

    def polling_headers(self) -> dict[str, str]:
        """Retry-After, unless the timing says that it is not sent. It goes on first answers and on polling answers."""
        seconds = self._world.timing.retry_after_seconds
        if seconds != int(seconds):
            # The SDK reads Retry-After of a 202 as a whole number; parts of a second have their own header.
            return {"x-ms-retry-after-ms": f"{seconds * 1000:.0f}"}
        return {"Retry-After": f"{seconds:.0f}"} if seconds else {}

    def recover(self) -> None:
        """Fails the operations that no service resumed; called after every service has recovered."""
        records = self._world.store.list("operations")
        ended = sorted((str(record["ended"]), name) for name, record in records if "ended" in record)
        self._ended.extendleft(name for _, name in reversed(ended))
        running = {thread.name for thread in threading.enumerate()}
        for name, record in records:
            if record["status"] == "InProgress" and f"operation {name}" not in running:
                self.finish(
                    name, ServiceError(500, "InternalServerError", "The service restarted during the operation.")
                )

    def stop(self) -> None:
        """Waits shortly for running work, which sees `world.stopping`."""
        deadline = time.monotonic() + 1.0
        for thread in threading.enumerate():
            if thread.name.startswith("operation "):
                thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, operation_id: str, work: Callable[[], None]) -> None:
        def attempt() -> None:
            try:
                work()
            except Interrupted:
                raise
            except ServiceError as error:
                self.finish(operation_id, error)
            else:
                self.finish(operation_id)

        def fail(message: str) -> None:
            self.finish(operation_id, ServiceError(500, "InternalServerError", message))

        # An interrupted operation stays InProgress on disk: the next start takes it up.
        with suppress(Interrupted):
            run_or_report(attempt, f"operation {operation_id}", fail)

    def _location_url(self, collection: str, operation_id: str) -> str:
        settings = self._world.settings
        return (
            f"{self._world.url}/subscriptions/{settings.subscription_id}/providers/{PROVIDER}"
            f"/locations/{settings.location}/{collection}/{operation_id}"
        )

    def _record(self, call: Call) -> Json:
        record = self._world.store.get("operations", call.path_params["operation"])
        if record is None:
            name = call.path_params["operation"]
            raise ServiceError(404, "ResourceNotFound", f"The operation '{name}' was not found.", shape="arm")
        return record

    def get_status(self, call: Call) -> Answer:
        record = self._record(call)
        body: Json = {
            "id": call.path,
            "name": call.path_params["operation"],
            "status": "Updating" if record["status"] == "InProgress" else record["status"],
            "startTime": record["started"],
            "endTime": record.get("ended", NEVER),
            "percentComplete": 0.0,
        }
        if "error" in record:
            body["error"] = record["error"]
        return Answer(200, body, self.polling_headers())

    def get_result(self, call: Call) -> Answer:
        record = self._record(call)
        if record["status"] == "InProgress":
            query = urlencode(call.query)
            location = f"{call.base_url}{call.raw_path}?{query}"
            return Answer(202, {}, {**self.polling_headers(), "Location": location})
        if record["status"] == "Failed":
            error = object_at(record, "error")
            raise ServiceError(400, str(error["code"]), str(error["message"]))
        return Answer(200)

    def get_compute_status(self, call: Call) -> Answer:
        record = self._record(call)
        body: Json = {"status": record["status"]}
        if record["status"] == "Succeeded":
            body["percentComplete"] = 100.0
        if "error" in record:
            body["error"] = record["error"]
        return Answer(200, body, self.polling_headers())
