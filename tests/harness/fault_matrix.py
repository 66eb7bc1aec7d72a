"""The fault matrix as data: the calls that a run makes, what may befall each, and what may happen without a call.

`docs/faults.md` is written from these tables by `make faults`, which runs every cell (tests/test_fault_matrix.py).
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

# Where a run stands when it is hit, and so what a cell needs: `attach` takes over a job that is done, `cluster` does so
# without the cluster, `submit` trains on rows that were never uploaded, `train` on rows that are there.
Phase = Literal["attach", "cluster", "submit", "train"]

WORKSPACE = "/workspaces/local"
# In a path: a job of Retune's. A cell hits its own only, because guards of earlier cells may still look at theirs.
JOB = "retune-[^/]+"
WITHOUT_ANSWER = "-"
# Parts of the paths of kinds of calls; the other calls read, create or delete.
PATHS = {
    "poll": ("OperationsStatus/", f"/jobs/{JOB}"),
    "store": ("/LocalUpload/", "/ExperimentRun/"),
    "track": ("/history/", "/mlflow/"),
    "score_endpoint": ("/scoring/", "/listKeys"),
}


class Route(NamedTuple):
    """One kind of call; `calls` says which of several in a run are hit, and `token` whether it carries one."""

    method: str
    path: str
    phase: Phase
    calls: tuple[int, ...] = (1,)
    token: bool = True
    settings: tuple[str, ...] = ()

    def matches(self, method: str, path: str) -> bool:
        """Whether a request is one of these."""
        return method == self.method and re.search(self.path, path) is not None

    @property
    def kind(self) -> str:
        """What the call is for, which decides what takes its faults: the SDK's retries, a task's, or a loop."""
        for kind, parts in PATHS.items():
            if any(part in self.path for part in parts):
                return kind
        return {"GET": "read", "DELETE": "delete"}.get(self.method, "create")


class Event(NamedTuple):
    """Something that goes wrong in the service, and the settings that make it matter. `runs`: the last one counts."""

    faults: list[dict[str, object]]
    phase: Phase
    settings: tuple[str, ...] = ()
    runs: int = 1


class Cell(NamedTuple):
    """One run of the matrix."""

    row: str
    column: str
    phase: Phase
    faults: list[dict[str, object]]
    settings: tuple[str, ...] = ()
    runs: int = 1

    @property
    def id(self) -> str:
        """The test's name, e.g. `job PUT-503`."""
        return f"{self.row}-{self.column}"

    def faults_for(self, key: str) -> list[dict[str, object]]:
        """The faults, on the job of one run."""
        own = f"retune-{key}-1"
        return [
            fault | {"path": str(fault["path"]).replace(JOB, own)} if "path" in fault else fault
            for fault in self.faults
        ]


SHORT_LEASE = ("limits.lease_minutes=0.05",)
ROUTES: dict[str, Route] = {
    "cloud metadata GET": Route("GET", r"^/metadata/endpoints$", "attach", token=False),
    "token GET": Route("GET", r"^/msi/token$", "attach", token=False),
    "workspace GET": Route("GET", rf"{WORKSPACE}$", "attach"),
    "service discovery GET": Route("GET", r"^/discovery$", "attach", token=False),
    "sizes GET": Route("GET", r"/vmSizes$", "attach"),
    "cluster GET": Route("GET", rf"{WORKSPACE}/computes/[^/]+$", "attach"),
    "registry discovery GET": Route("GET", r"^/registrymanagement/.*/discovery$", "attach"),
    "base model list GET": Route("GET", r"/registries/[^/]+/models/[^/]+/versions$", "attach"),
    "base model GET": Route("GET", r"/registries/[^/]+/models/[^/]+/versions/[^/]+$", "attach"),
    "component list GET": Route("GET", r"/registries/[^/]+/components/[^/]+/versions$", "attach"),
    "cluster PUT": Route("PUT", rf"{WORKSPACE}/computes/[^/]+$", "cluster"),
    "cluster operation GET": Route("GET", r"/computeOperationsStatus/", "cluster"),
    "component GET": Route("GET", r"/registries/[^/]+/components/[^/]+/versions/[^/]+$", "train"),
    "data asset GET": Route("GET", rf"{WORKSPACE}/data/[^/]+/versions/[^/]+$", "attach", (1, 3)),
    "data asset PUT": Route("PUT", rf"{WORKSPACE}/data/[^/]+/versions/[^/]+$", "submit"),
    "datastore GET": Route("GET", rf"{WORKSPACE}/datastores/[^/]+$", "submit"),
    "datastore secrets POST": Route("POST", rf"{WORKSPACE}/datastores/[^/]+/listSecrets$", "submit"),
    "blob HEAD": Route("HEAD", r"/LocalUpload/", "submit", token=False),
    "blob PUT": Route("PUT", r"/LocalUpload/", "submit", (1, 2), token=False),
    "job PUT": Route("PUT", rf"{WORKSPACE}/jobs/[^/]+$", "train"),
    "job GET": Route("GET", rf"{WORKSPACE}/jobs/{JOB}$", "train", (1, 2, 3)),
    "lease PATCH": Route("PATCH", r"^/history/.*/runs/[^/]+$", "attach", (1, 2), settings=SHORT_LEASE),
    "steps GET": Route("GET", rf"^/history/.*/runs/{JOB}/children$", "train"),
    "step's children GET": Route("GET", r"^/history/.*/runs/(?!retune-)[^/]+/children$", "train"),
    "step's job GET": Route("GET", rf"{WORKSPACE}/jobs/(?!retune-)[^/]+$", "train"),
    "step's run GET": Route("GET", r"^/history/.*/runs/(?!retune-)[^/]+$", "train"),
    "step's details GET": Route("GET", r"^/history/.*/runs/(?!retune-)[^/]+/details$", "train"),
    "step's log GET": Route("GET", r"/ExperimentRun/dcid\.[^/]+/user_logs/", "train", token=False),
    "metrics GET": Route("GET", r"^/mlflow/.*/runs/get$", "attach"),
    "metrics history GET": Route("GET", r"^/mlflow/.*/metrics/get-history$", "attach"),
    "metrics search POST": Route("POST", r"^/mlflow/.*/runs/search$", "attach"),
    "model GET": Route("GET", rf"{WORKSPACE}/models/[^/]+/versions/[^/]+$", "train"),
    "model list GET": Route("GET", rf"{WORKSPACE}/models/[^/]+/versions$", "train"),
    "model PUT": Route("PUT", rf"{WORKSPACE}/models/[^/]+/versions/[^/]+$", "train"),
    "endpoint PUT": Route("PUT", r"/onlineEndpoints/[^/]+$", "attach", (1, 2)),
    "endpoint operation GET": Route("GET", r"/mfeOperationsStatus/oeidp:", "attach", (1, 2)),
    "endpoint GET": Route("GET", r"/onlineEndpoints/[^/]+$", "attach", (1, 3)),
    "deployment PUT": Route("PUT", r"/onlineEndpoints/[^/]+/deployments/[^/]+$", "attach"),
    "deployment operation GET": Route("GET", r"/mfeOperationsStatus/odidp:", "attach", (1, 2)),
    "deployment GET": Route("GET", r"/onlineEndpoints/[^/]+/deployments/[^/]+$", "attach"),
    "deployment list GET": Route("GET", r"/onlineEndpoints/[^/]+/deployments$", "attach"),
    "keys POST": Route("POST", r"/onlineEndpoints/[^/]+/listKeys$", "attach"),
    "question POST": Route("POST", r"^/scoring/", "attach", token=False),
    "endpoint DELETE": Route("DELETE", r"/onlineEndpoints/[^/]+$", "attach"),
}

FOR_EVER = "403 for ever"
EXPIRED = "expired token"
HAPPENS = "happens"
FAULTS: dict[str, dict[str, object]] = {
    "401": {"status": 401},
    "403": {"status": 403},
    "404": {"status": 404},
    "408": {"status": 408},
    "409": {"status": 409},
    "429, wait 1 s": {"status": 429, "retry_after": 1},
    "429": {"status": 429},
    "500": {"status": 500},
    "503": {"status": 503},
    "dropped before": {"effect": "drop"},
    "dropped after": {"effect": "drop_after"},
    "slow": {"effect": "slow", "seconds": 3},
    "truncated": {"effect": "truncate"},
    EXPIRED: {"effect": "expired_token"},
    FOR_EVER: {"status": 403, "calls": None},
}

EVENTS: dict[str, Event] = {
    "a step fails": Event([{"on": "step", "name": "*finetune", "effect": "fail"}], "train"),
    "the job stays Queued": Event(
        [{"on": "step", "effect": "hang_queued", "calls": None}], "train", ("limits.queue_minutes=0.03",)
    ),
    "a step is NotResponding and comes back": Event(
        [{"on": "step", "name": "*finetune", "effect": "not_responding", "seconds": 2}], "train"
    ),
    "a node is preempted": Event([{"on": "step", "name": "*finetune", "effect": "preempt", "seconds": 1}], "train"),
    "a step takes too long": Event(
        [{"on": "step", "name": "*finetune", "effect": "slow", "seconds": 60}], "train", ("limits.run_minutes=0.05",)
    ),
    "the job is not visible for 3 s": Event([{"on": "job", "effect": "not_found", "seconds": 3}], "train"),
    "no quota for the cluster": Event([{"on": "quota", "effect": "refuse"}], "cluster"),
    "the model is not visible for 3 s": Event(
        [{"on": "asset", "name": "models/*", "effect": "not_found", "seconds": 3}], "train"
    ),
    "the endpoint fails": Event([{"on": "endpoint", "effect": "fail"}], "attach"),
    "the endpoint hangs": Event(
        [{"on": "endpoint", "effect": "hang", "seconds": 6}], "attach", ("limits.deploy_minutes=0.05",)
    ),
    "the endpoint is not visible for 3 s": Event([{"on": "endpoint", "effect": "not_found", "seconds": 3}], "attach"),
    "the endpoint stays busy after each change": Event(
        [{"on": "endpoint", "effect": "busy", "seconds": 2, "calls": None}], "attach"
    ),
    "the endpoint's name is reserved": Event([{"on": "delete", "effect": "reserved", "seconds": 6}], "attach", runs=2),
    "the deployment fails": Event([{"on": "deployment", "effect": "fail"}], "attach"),
    "the deployment hangs": Event(
        [{"on": "deployment", "effect": "hang", "seconds": 6}], "attach", ("limits.deploy_minutes=0.05",)
    ),
    "the deployment is not visible for 3 s": Event(
        [{"on": "deployment", "effect": "not_found", "seconds": 3}], "attach"
    ),
    "no quota for the deployment": Event([{"on": "quota", "effect": "refuse"}], "attach"),
    "the model's code fails once": Event([{"on": "score", "effect": "status", "status": 500}], "attach"),
    "the model's code fails": Event([{"on": "score", "effect": "status", "status": 500, "calls": None}], "attach"),
    "the gateway answers 503 once": Event([{"on": "score", "effect": "gateway", "status": 503}], "attach"),
    "the gateway answers 503": Event([{"on": "score", "effect": "gateway", "status": 503, "calls": None}], "attach"),
    "the gateway answers 429 once": Event([{"on": "score", "effect": "gateway", "status": 429}], "attach"),
    "the gateway answers 429": Event([{"on": "score", "effect": "gateway", "status": 429, "calls": None}], "attach"),
    "an answer is empty": Event([{"on": "score", "effect": "empty"}], "attach"),
    "an answer is malformed": Event([{"on": "score", "effect": "malformed"}], "attach"),
    "an answer takes too long": Event(
        [{"on": "score", "effect": "slow", "seconds": 5}], "train", ("serving.request_timeout_seconds=1",)
    ),
    "the deletion hangs for 4 s": Event([{"on": "delete", "effect": "hang", "seconds": 4}], "attach"),
    "the deletion fails once": Event([{"on": "delete", "effect": "fail"}], "attach"),
}

# Kinds of faults, by how a client has to take them.
KINDS_OF_FAULTS = {
    "refused": ("401", "403", EXPIRED, FOR_EVER),
    "missing or taken": ("404", "409"),
    "overloaded": ("408", "429, wait 1 s", "429", "500", "503"),
    "cut off": ("dropped before", "dropped after", "slow", "truncated"),
}

# What `make test` runs: each kind of call with each kind of fault, each fault, each phase, and a few events.
SAMPLE = (
    # To read
    "token GET-401",
    "registry discovery GET-404",
    "cluster GET-429",
    "sizes GET-slow",
    # To create
    "job PUT-403 for ever",
    "cluster PUT-409",
    "job PUT-503",
    "job PUT-dropped after",
    "endpoint PUT-429, wait 1 s",
    # To poll
    "endpoint operation GET, call 2-expired token",
    "cluster operation GET-404",
    "job GET, call 2-500",
    "deployment operation GET-truncated",
    # To store
    "blob PUT-403",
    "blob HEAD-404",
    "blob PUT-500",
    "blob PUT, call 2-dropped before",
    # To track
    "lease PATCH-403",
    "metrics GET-404",
    "steps GET-408",
    "metrics GET-truncated",
    # To ask the model
    "keys POST-403",
    "question POST-404",
    "question POST-503",
    "question POST-truncated",
    # To delete
    "endpoint DELETE-403",
    "endpoint DELETE-409",
    "endpoint DELETE-500",
    "endpoint DELETE-dropped after",
    # What happens without a call
    "no quota for the cluster-happens",
    "the job is not visible for 3 s-happens",
    "no quota for the deployment-happens",
    "the deletion fails once-happens",
)


def cells() -> Iterator[Cell]:
    """Every cell: each call of each route with each fault that applies to it, then the events."""
    for name, route in ROUTES.items():
        for call in route.calls:
            for fault in FAULTS:
                if applies(fault, route, call):
                    hit = {"on": "request", "method": route.method, "path": route.path, "from_call": call}
                    yield Cell(row(name, call), fault, route.phase, [hit | FAULTS[fault]], route.settings)
    for name, event in EVENTS.items():
        yield Cell(name, HAPPENS, event.phase, event.faults, event.settings, event.runs)


def applies(fault: str, route: Route, call: int) -> bool:
    """Whether a call can meet a fault: one without a token has none that expires, one refusal for ever is enough."""
    if fault == EXPIRED:
        return route.token
    return fault != FOR_EVER or (route.method not in ("GET", "HEAD") and call == 1)


def row(name: str, call: int) -> str:
    """The row's name, e.g. `job GET, call 2`."""
    return name if call == 1 else f"{name}, call {call}"


def render(outcomes: dict[str, str]) -> str:
    """docs/faults.md from the outcome of each cell's id."""
    routes = [row(name, call) for name, route in ROUTES.items() for call in route.calls]
    table = [[name, *(outcomes.get(f"{name}-{fault}", WITHOUT_ANSWER) for fault in FAULTS)] for name in routes]
    events = [[name, outcomes.get(f"{name}-{HAPPENS}", WITHOUT_ANSWER)] for name in EVENTS]
    return TEXT.format(
        calls=markdown([["call", *FAULTS], *table]), events=markdown([["event", "the run ends"], *events])
    )


def markdown(rows: Iterable[list[str]]) -> str:
    """A table whose first row is the heading."""
    first, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([first, "|" + "---|" * (first.count(" | ") + 1), *others])


TEXT = """# What a run does when something fails

Written by `make faults`, which runs the flow once for each cell against the emulator and checks that the run ends
`completed`, or with an error of a name and a fix; that there is one job for its key and attempt; that no endpoint is
left; and that the state in Prefect says the same. [faults-settings.md](faults-settings.md) tells how to set a fault.

## A call fails

One call fails once, and each later one is answered; `call 2` is the second such call of the run. *403 for ever*: each
call fails, as without a permission. *Dropped before* closes the connection before the call has had its effect,
*dropped after* before the answer. *Slow* is 3 s, *truncated* half an answer. `-`: it cannot happen to this call.

{calls}

## Something fails in the service

{events}
"""
