"""The flow's steps as a plain program: the same SDK calls, one after the other, without Prefect around them.

    python -m benchmarks.one_after_another KEY [section.key=value ...]

For benchmarks.overhead, which starts it with an emulator and a Prefect server named in the environment. It ends with
the endpoint deleted; no guard watches over it and nobody renews the job's lease.
"""

import sys

from retune import names
from retune.request import load
from retune_cloud.cleanup import delete_endpoint
from retune_cloud.tracking import load_mlflow
from tasks.auth import sign_in
from tasks.compute import check_sizes, ensure_cluster, inspect_compute
from tasks.data import prepare_data
from tasks.data_assets import register_data
from tasks.deploy import create_endpoint, deploy, plan_endpoint
from tasks.job import submit_job
from tasks.job_end import wait_for_job
from tasks.metrics import read_metrics
from tasks.model import read_model
from tasks.register import register_model
from tasks.score import score_endpoint


def main(key: str, assignments: list[str]) -> None:
    """One whole run."""
    request = load("local", assignments)
    sign_in.fn(request.workspace)
    model = read_model.fn(request)
    compute = inspect_compute.fn(request)
    check_sizes.fn(request, model, compute)
    cluster = ensure_cluster.fn(request, compute)
    data = register_data.fn(request, prepare_data.fn(request))
    submission = submit_job.fn(request, key, names.holder_name(key), model, cluster, data)
    wait_for_job.fn(request, submission)
    read_metrics.fn(request, submission.job.name)
    registered = register_model.fn(request, submission, model, data)
    endpoint = plan_endpoint(request, submission, compute)
    try:
        create_endpoint.fn(request, endpoint, submission)
        deploy.fn(request, endpoint, registered)
        answers = score_endpoint.fn(request, endpoint, data)
    finally:
        delete_endpoint(request.workspace, endpoint.name, request.limits.delete_minutes)
    print(f"{len(answers)} answers", file=sys.stderr)


if __name__ == "__main__":
    load_mlflow()
    main(sys.argv[1], sys.argv[2:])
