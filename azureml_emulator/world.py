"""The state that all services share: settings, documents, latencies, and the signal that the emulator stops."""

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from azureml_emulator.json_types import number_at
from azureml_emulator.store import Store
from azureml_emulator.wire import PROVIDER, ServiceError

log = logging.getLogger(__name__)


@dataclass
class Timing:
    """Seconds: how long the emulator takes for what Azure takes minutes for, and how long a new token is good.

    All are settable by `PUT /admin/timing`.
    """

    retry_after_seconds: float = 1.0  # 0: no Retry-After header, as the service; clients then poll every 5 to 30 s
    compute_seconds: float = 0.3
    queue_seconds: float = 0.2
    prepare_seconds: float = 0.2
    finalize_seconds: float = 0.2
    endpoint_seconds: float = 0.5
    deployment_seconds: float = 0.2
    delete_seconds: float = 0.3
    token_seconds: float = 24 * 3600.0  # the SDK asks for a new token 300 s before the end of the old one


def read_timing(store: Store) -> Timing:
    """The timing that was set before a restart; the default one for what was not set."""
    kept = store.get("settings", "timing") or {}
    return Timing(**{name: number_at(kept, name) for name in asdict(Timing()) if name in kept})


@dataclass(frozen=True)
class Settings:
    """Names and folders, fixed for the life of the process. `weights`: a registry model's name to a local folder."""

    home: Path
    port: int
    subscription_id: str = "11111111-1111-1111-1111-111111111111"
    tenant_id: str = "22222222-2222-2222-2222-222222222222"
    resource_group: str = "local"
    workspace_name: str = "local"
    location: str = "eastus"
    registry_name: str = "azureml"
    weights: dict[str, Path] = field(default_factory=dict)


class Interrupted(ServiceError):
    """Work was cut off because the emulator stops; the next start resumes it."""

    def __init__(self) -> None:
        super().__init__(503, "Interrupted", "The emulator is stopping.")


def run_or_report(work: Callable[[], None], subject: str, report: Callable[[str], None]) -> None:
    """Do the work of a thread that must not die: an error that it does not expect is logged and reported.

    Raises: Interrupted when the emulator is stopping.
    """
    try:
        work()
    except Interrupted:
        raise
    except Exception as error:
        log.exception("%s failed", subject)
        report(f"The emulator failed: {type(error).__name__}: {error}")


@dataclass
class World:
    """One emulator as its services see it."""

    settings: Settings
    store: Store
    timing: Timing
    stopping: threading.Event = field(default_factory=threading.Event)

    def pause(self, seconds: float) -> None:
        """Sleeps for a settable latency. Raises: Interrupted when the emulator is stopping."""
        if self.stopping.wait(seconds):
            raise Interrupted

    @property
    def url(self) -> str:
        return f"https://localhost:{self.settings.port}"

    @property
    def workspace_id(self) -> str:
        """The ARM id of the workspace, without the address of the server."""
        return (
            f"/subscriptions/{self.settings.subscription_id}/resourceGroups/{self.settings.resource_group}"
            f"/providers/{PROVIDER}/workspaces/{self.settings.workspace_name}"
        )

    @property
    def registry_id(self) -> str:
        return f"azureml://registries/{self.settings.registry_name}"

    @property
    def workspace_guid(self) -> str:
        """The workspace's own id, as in operation ids and storage container names; the same in every start."""
        return str(uuid5(NAMESPACE_URL, self.workspace_id))

    @property
    def tracking_url(self) -> str:
        """The MLflow REST base of the workspace, for processes that the emulator starts."""
        return f"{self.url}/mlflow/v1.0{self.workspace_id}"
