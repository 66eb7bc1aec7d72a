"""Admin routes: the request log, the latencies and the identity of the running emulator. They need the admin token.

`GET /admin/requests`, `GET /admin/work`, `GET|PUT /admin/timing`, `GET /admin/status`; quota and faults have their own
rooms.
"""

from dataclasses import asdict

from azureml_emulator.journal import read_log
from azureml_emulator.wire import Answer, Call, Route, ServiceError
from azureml_emulator.world import World


class Admin:
    """What a test or a person may look at and set from outside."""

    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/status", None, self._status, auth="admin"),
            Route("GET", "/admin/requests", None, self._requests, auth="admin"),
            Route("GET", "/admin/work", None, self._work, auth="admin"),
            Route("GET", "/admin/timing", None, self._timing, auth="admin"),
            Route("PUT", "/admin/timing", None, self._set_timing, auth="admin"),
        ]

    def recover(self) -> None:
        """Applies the timing that was set before a restart."""
        for name, seconds in (self._world.store.get("settings", "timing") or {}).items():
            if name in asdict(self._world.timing):
                setattr(self._world.timing, name, seconds)

    def stop(self) -> None:
        """Nothing runs."""

    def _status(self, call: Call) -> Answer:
        settings = self._world.settings
        return Answer(
            200,
            {"home": str(settings.home), "port": settings.port, "rooms": [kind.__name__ for kind in self._world.rooms]},
        )

    def _requests(self, call: Call) -> Answer:
        return Answer(200, {"value": read_log(self._world.settings.home / "requests.jsonl")})

    def _work(self, call: Call) -> Answer:
        """What has gone on, from when to when: long-running operations, jobs and their steps."""
        operations = (record for _, record in self._world.store.list("operations"))
        runs = ({**run, "kind": "run", "started": run["created"]} for _, run in self._world.store.list("runs"))
        value = [{name: one.get(name) for name in ("kind", "started", "ended")} for one in [*operations, *runs]]
        return Answer(200, {"value": sorted(value, key=lambda one: str(one["started"]))})

    def _timing(self, call: Call) -> Answer:
        return Answer(200, asdict(self._world.timing))

    def _set_timing(self, call: Call) -> Answer:
        known = asdict(self._world.timing)
        for name, seconds in call.json().items():
            if name not in known:
                text = f"There is no timing '{name}'. The timings are {', '.join(known)}."
                raise ServiceError(400, "BadRequest", text, shape="arm")
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
                text = f"The timing '{name}' is '{seconds}'; it must be a number of seconds, 0 or more."
                raise ServiceError(400, "BadRequest", text, shape="arm")
        for name, seconds in call.json().items():
            setattr(self._world.timing, name, float(str(seconds)))
        self._world.store.put("settings", "timing", asdict(self._world.timing))
        return self._timing(call)
