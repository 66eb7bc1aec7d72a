"""Admin routes: the request log, the latencies and the identity of the running emulator. They need the admin token.

`GET /admin/requests`, `GET /admin/work`, `GET|PUT /admin/timing`, `GET /admin/status`; quota and faults have their own
tables in faults.py and compute.py.
"""

from dataclasses import asdict

from azureml_emulator.journal import read_log
from azureml_emulator.wire import Answer, Call, ServiceError
from azureml_emulator.world import World


class Admin:
    """The request log, the work log and the latencies, for tests and for tools."""

    def __init__(self, world: World) -> None:
        self._world = world

    def get_status(self, call: Call) -> Answer:
        settings = self._world.settings
        return Answer(
            200,
            {"home": str(settings.home), "port": settings.port},
        )

    def list_requests(self, call: Call) -> Answer:
        return Answer(200, {"value": read_log(self._world.settings.home / "requests.jsonl")})

    def list_work(self, call: Call) -> Answer:
        """Long-running operations, jobs and their steps, each with its start and end."""
        operations = (record for _, record in self._world.store.list("operations"))
        runs = ({**run, "kind": "run", "started": run["created"]} for _, run in self._world.store.list("runs"))
        value = [{name: record.get(name) for name in ("kind", "started", "ended")} for record in [*operations, *runs]]
        return Answer(200, {"value": sorted(value, key=lambda record: str(record["started"]))})

    def get_timing(self, call: Call) -> Answer:
        return Answer(200, asdict(self._world.timing))

    def put_timing(self, call: Call) -> Answer:
        timings = asdict(self._world.timing)
        for name, seconds in call.json().items():
            if name not in timings:
                text = f"There is no timing '{name}'. The timings are {', '.join(timings)}."
                raise ServiceError(400, "BadRequest", text, shape="arm")
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
                text = f"The timing '{name}' is '{seconds}'; it must be a number of seconds, 0 or more."
                raise ServiceError(400, "BadRequest", text, shape="arm")
        for name, seconds in call.json().items():
            setattr(self._world.timing, name, float(str(seconds)))
        self._world.store.put("settings", "timing", asdict(self._world.timing))
        return self.get_timing(call)
