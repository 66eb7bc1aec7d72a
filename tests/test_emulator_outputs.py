"""Outputs with an asset name become data assets and model versions when the step that writes them completes."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from test_emulator_jobs import ENVIRONMENT, error_of, step, wait_for_end

from azureml_emulator.job_body import AssetName
from azureml_emulator.services import build_services
from azureml_emulator.store import Store
from azureml_emulator.world import Settings, Timing, World

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Command, PipelineJob

MLMODEL = "flavors:\n  python_function:\n    loader_module: none\n"


def command_job(job_name: str, line: str, /, **output: str | None) -> "Command":
    """A command job with one output, `result`."""
    from azure.ai.ml import Output, command

    job = command(name=job_name, command=line, environment=ENVIRONMENT, outputs={"result": Output(**output)})
    job.compute = "serverless"
    return job


def two_steps(name: str, second: str = "true") -> "PipelineJob":
    """A pipeline whose first node writes the output `rows`, named `node-rows`, and whose second node reads it."""
    from azure.ai.ml import Input, Output, dsl

    write = step("write", "echo 1 > ${{outputs.rows}}/part", outputs={"rows": Output(type="uri_folder")})
    read = step("read", second, inputs={"rows": Input(type="uri_folder")})

    def chain() -> dict:
        first = write()
        first.outputs.rows.name = "node-rows"
        first.outputs.rows.version = name
        read(rows=first.outputs.rows)
        return {"rows": first.outputs.rows}

    job = dsl.pipeline(name="chain")(chain)()
    job.name = name
    job.settings.default_compute = "serverless"
    return job


def output_ids(client: "MLClient", job: str) -> dict[str, str]:
    """Output name to asset id, as run history shows them."""
    details = client.jobs._runs_operations.get_run_details(job)
    return {name: output.asset_id.partition("/workspaces/")[2] for name, output in details.outputs.items()}


def test_named_output_of_a_job_becomes_a_data_asset(ml_client: "MLClient", tmp_path: Path) -> None:
    """The data asset has the asked version and the job's folder; run history shows the output under the asset's id."""
    job = two_steps("outputs-data")
    job.outputs.rows.name, job.outputs.rows.version = "job-rows", "v1.2"
    created = ml_client.jobs.create_or_update(job)
    assert wait_for_end(ml_client, "outputs-data") == "Completed"
    asset = ml_client.data.get("job-rows", version="v1.2")
    ml_client.jobs.download("outputs-data", download_path=tmp_path, output_name="rows")

    assert (created.outputs["rows"].name, created.outputs["rows"].version) == ("job-rows", "v1.2")
    assert (asset.type, asset.tags) == ("uri_folder", {})
    assert asset.path.endswith("/datastores/workspaceblobstore/paths/azureml/outputs-data/rows/")
    assert output_ids(ml_client, "outputs-data")["rows"].endswith("/data/job-rows/versions/v1.2")
    assert next(tmp_path.rglob("part")).read_text() == "1\n"


def test_named_output_of_a_step_stays_when_the_job_fails(ml_client: "MLClient") -> None:
    """A step's output is registered when the step completes, under the node's name where the job gives none."""
    ml_client.jobs.create_or_update(two_steps("outputs-late-failure", second="exit 3"))
    assert wait_for_end(ml_client, "outputs-late-failure") == "Failed"

    assert ml_client.data.get("node-rows", version="outputs-late-failure").type == "uri_folder"


def test_output_without_a_version_gets_the_next_number(ml_client: "MLClient") -> None:
    """Two jobs with the same asset name make versions 1 and 2; the job itself does not tell the number."""
    for name in ("outputs-first", "outputs-second"):
        ml_client.jobs.create_or_update(
            command_job(name, "echo 1 > ${{outputs.result}}", type="uri_file", name="numbered")
        )
        assert wait_for_end(ml_client, name) == "Completed"

    latest = ml_client.data.get("numbered", label="latest")
    assert (latest.version, latest.type) == ("2", "uri_file")
    assert latest.path.endswith("/paths/azureml/outputs-second/result")
    assert ml_client.jobs.get("outputs-second").outputs["result"].version is None
    assert output_ids(ml_client, "outputs-second")["result"].endswith("/data/numbered/versions/2")


def test_named_model_output_becomes_a_model(ml_client: "MLClient", tmp_path: Path) -> None:
    """An output of type mlflow_model is registered as a model, with its flavors and the run that wrote it."""
    line = f"printf '{MLMODEL}' > ${{{{outputs.result}}}}/MLmodel"
    ml_client.jobs.create_or_update(command_job("outputs-model", line, type="mlflow_model", name="chat", version="7"))
    assert wait_for_end(ml_client, "outputs-model") == "Completed"
    model = ml_client.models.get("chat", version="7")
    ml_client.models.download("chat", version="7", download_path=tmp_path)

    assert (model.type, model.job_name) == ("mlflow_model", "outputs-model")
    assert model.flavors == {"python_function": {"loader_module": "none"}}
    assert next(tmp_path.rglob("MLmodel")).read_text() == MLMODEL
    assert output_ids(ml_client, "outputs-model")["result"].endswith("/models/chat/versions/7")


@pytest.mark.parametrize(
    ("name", "output", "message"),
    [
        (
            "outputs-taken",
            {"type": "uri_folder", "name": "taken", "version": "1"},
            "'taken' version '1' exists",
        ),
        ("outputs-no-mlmodel", {"type": "mlflow_model", "name": "empty"}, "The MLmodel file is missing"),
    ],
    ids=["version taken", "no model"],
)
def test_output_that_cannot_be_registered_fails_its_step(
    ml_client: "MLClient", name: str, output: dict, message: str
) -> None:
    """The step fails with the reason and nothing is registered."""
    from azure.ai.ml.entities import Data

    path = "azureml://datastores/workspaceblobstore/paths/elsewhere/"
    ml_client.data.create_or_update(Data(name="taken", version="1", type="uri_folder", path=path))
    ml_client.jobs.create_or_update(command_job(name, "true", **output))

    assert wait_for_end(ml_client, name) == "Failed"
    assert message in error_of(ml_client, name)
    assert ml_client.data.get("taken", version="1").path.endswith("/elsewhere/")


def test_failed_step_registers_nothing(ml_client: "MLClient") -> None:
    """An output of a step that fails is no asset."""
    from azure.core.exceptions import ResourceNotFoundError

    ml_client.jobs.create_or_update(command_job("outputs-failed", "exit 1", type="uri_folder", name="unfinished"))
    assert wait_for_end(ml_client, "outputs-failed") == "Failed"

    with pytest.raises(ResourceNotFoundError):
        ml_client.data.get("unfinished", version="1")


def test_output_is_registered_once(tmp_path: Path) -> None:
    """A step that runs again after a restart finds its output registered; another run's output is the next version."""
    world = World(Settings(tmp_path, 1), Store(tmp_path / "documents"), Timing())
    assets, name = build_services(world).assets, AssetName("rows", None)
    runs = ("first", "first", "second")

    numbers = [assets.register_output(name, "uri_folder", f"azureml/{run}/rows", run) for run in runs]
    assert numbers == ["1", "1", "2"]
