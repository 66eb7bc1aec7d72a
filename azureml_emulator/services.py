"""The services of one emulator, each given the services it uses, and how they start again and stop.

The services import and use only those built before them, from identity up to scoring.
"""

from dataclasses import dataclass

from azureml_emulator.admin import Admin
from azureml_emulator.assets import Assets
from azureml_emulator.blobs import Blobs
from azureml_emulator.compute import Compute
from azureml_emulator.deployments import Deployments
from azureml_emulator.endpoints import Endpoints
from azureml_emulator.faults import Faults
from azureml_emulator.gateway import Gateway
from azureml_emulator.identity import Identity
from azureml_emulator.jobs import Jobs
from azureml_emulator.operations import Operations
from azureml_emulator.registry import Registry
from azureml_emulator.runs import Runs
from azureml_emulator.steps import JobServices
from azureml_emulator.storage import Storage
from azureml_emulator.tracking import Tracking
from azureml_emulator.workspace import Workspace
from azureml_emulator.world import World


@dataclass(frozen=True)
class Services:
    """All services of one emulator."""

    admin: Admin
    identity: Identity
    operations: Operations
    faults: Faults
    storage: Storage
    blobs: Blobs
    workspace: Workspace
    registry: Registry
    assets: Assets
    compute: Compute
    runs: Runs
    tracking: Tracking
    jobs: Jobs
    deployments: Deployments
    endpoints: Endpoints
    gateway: Gateway

    def recover(self) -> None:
        """Resumes what the last process left, and fails the operations that nothing resumes."""
        self.compute.recover()
        self.jobs.recover()
        self.endpoints.recover()
        self.deployments.recover()
        self.operations.recover()

    def stop(self) -> None:
        """Ends threads and child processes; `world.stopping` is already set."""
        self.operations.stop()
        self.gateway.stop()
        self.deployments.stop()
        self.jobs.stop()
        self.tracking.stop()


def build_services(world: World) -> Services:
    """The services of a world. Nothing runs yet."""
    identity = Identity(world)
    operations = Operations(world)
    faults = Faults(world, identity)
    storage = Storage(world, identity)
    workspace = Workspace(world, identity, storage)
    registry = Registry(world, storage)
    assets = Assets(world, faults, storage, workspace, registry)
    compute = Compute(world, operations, faults)
    runs = Runs(world, storage)
    deployments = Deployments(world, operations, faults, storage, assets, compute)
    endpoints = Endpoints(world, operations, faults, deployments)
    return Services(
        admin=Admin(world),
        identity=identity,
        operations=operations,
        faults=faults,
        storage=storage,
        blobs=Blobs(world, storage),
        workspace=workspace,
        registry=registry,
        assets=assets,
        compute=compute,
        runs=runs,
        tracking=Tracking(world, runs),
        jobs=Jobs(JobServices(world, identity, faults, storage, assets, runs), operations, compute),
        deployments=deployments,
        endpoints=endpoints,
        gateway=Gateway(world, faults, endpoints, deployments),
    )
