"""Every resource manager exchange of this test session against Microsoft's OpenAPI.

The documents are reference data beside the checkout (../shared/wire/swagger); without them these tests are skipped.
Where the real service breaks its own document (../shared/wire/real_service_deviations.json) the emulator may do the
same.
"""

import json
from pathlib import Path

import pytest
from azure.ai.ml import MLClient
from azure.ai.ml.entities import AmlCompute
from openapi import Problem, Specification

WIRE = Path(__file__).parent.parent.parent / "shared" / "wire"
SWAGGER = WIRE / "swagger"
AREA = Path("machinelearningservices", "resource-manager", "Microsoft.MachineLearningServices")
# The api-versions that the emulator answers, with their documents; None: Microsoft's OpenAPI for it is not at hand.
DOCUMENTS: dict[str, Path | None] = {
    "2021-10-01-dataplanepreview": SWAGGER / "sdk" / AREA / "preview" / "2021-10-01-dataplanepreview",
    "2022-02-01-preview": SWAGGER / "specification" / AREA / "preview" / "2022-02-01-preview",
    "2023-04-01": SWAGGER / "specification" / AREA / "stable" / "2023-04-01",
    "2023-04-01-preview": SWAGGER / "specification" / AREA / "preview" / "2023-04-01-preview",
    "2023-08-01-preview": SWAGGER / "specification" / AREA / "preview" / "2023-08-01-preview",
    "2024-01-01-preview": SWAGGER / "specification" / AREA / "preview" / "2024-01-01-preview",
    "2024-10-01-preview": None,
    "2025-01-01-preview": None,
}
# Paths that no document describes, of the service neither.
UNDESCRIBED = ("OperationsStatus/", "OperationResults/", "/history/", "/registrymanagement/")
# What the emulator does beyond the document that is at hand, what the SDK sends against it, and why.
OWN_DEVIATIONS = {
    # The SDK sends the number of its hash version, the service answers text.
    ("CodeVersions_CreateOrUpdate", "req$.properties.properties.hash_version", "INVALID_TYPE", "string got int"),
    # Recorded in 2026: the service leaves these out of its answer to an update.
    ("OnlineEndpoints_CreateOrUpdate", "resp$", "MISSING_REQUIRED", "location"),
    # The document of the registry data plane is of 2021; the field came later and is read by clients.
    ("ModelVersions_Get", "resp$.properties", "ADDITIONAL_PROPERTY", "systemMetadata"),
    ("ModelVersions_List", "resp$.value[].properties", "ADDITIONAL_PROPERTY", "systemMetadata"),
}

pytestmark = pytest.mark.skipif(not SWAGGER.is_dir(), reason=f"Microsoft's OpenAPI documents are not at {SWAGGER}")


def read_exchanges(folder: Path) -> list[dict]:
    """The exchanges that reached a route with an api-version it has."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return [exchange for exchange in found if exchange["response"]["status"] not in (0, 501) and not refused(exchange)]


def refused(exchange: dict) -> bool:
    body = exchange["response"]["body"]
    error = body.get("error") if isinstance(body, dict) else None
    return isinstance(error, dict) and error.get("code") in ("NoRegisteredProviderFound", "MissingApiVersionParameter")


def api_version(exchange: dict) -> str:
    return exchange["request"]["url"].partition("api-version=")[2].partition("&")[0]


def allowed() -> set[tuple[str, str, str, str]]:
    """Breaches of the service itself, in any api-version."""
    lists = json.loads((WIRE / "real_service_deviations.json").read_text(encoding="utf-8"))
    return {(row[0], row[1], row[2], row[3]) for rows in lists.values() for row in rows} | OWN_DEVIATIONS


def test_a_wrong_answer_is_found() -> None:
    """The checker finds a missing discriminator, a wrong type, a wrong enumeration value and a missing header."""
    specification = Specification(sorted(DOCUMENTS["2023-08-01-preview"].glob("*.json")))
    url = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/computes/c"
    body = {
        "properties": {"computeType": "AmlCompute", "provisioningState": "Fine", "properties": {"vmSize": 4, "x": 1}}
    }
    exchange = {
        "request": {"method": "PUT", "url": f"{url}?api-version=2023-08-01-preview", "body": {"properties": {}}},
        "response": {"status": 201, "headers": {}, "body": body},
    }

    assert set(specification.check(exchange)) == {
        Problem("Compute_CreateOrUpdate", "req$.properties", "DISCRIMINATOR_MISSING", "computeType"),
        Problem("Compute_CreateOrUpdate", "req$.properties", "MISSING_REQUIRED", "computeType"),
        Problem("Compute_CreateOrUpdate", "resp$.properties.provisioningState", "ENUM", "Fine"),
        Problem("Compute_CreateOrUpdate", "resp$.properties.properties.vmSize", "INVALID_TYPE", "string got int"),
        Problem("Compute_CreateOrUpdate", "resp$.properties.properties", "ADDITIONAL_PROPERTY", "x"),
        Problem("Compute_CreateOrUpdate", "$", "LRO_HEADERS_MISSING", "201"),
    }


def test_a_tour_is_recorded(ml_client: MLClient, registry_client: MLClient, exchanges: Path) -> None:
    """Exchanges are written, so that the checks below have something to check when this file runs alone."""
    registry_client.models.get("Phi-4", label="latest")
    registry_client.components.get("chat_completion_pipeline", label="latest")
    ml_client.compute.begin_create_or_update(AmlCompute(name="tour", size="Standard_DS3_v2")).result()
    ml_client.compute.begin_delete("tour").result()

    assert len(read_exchanges(exchanges)) > 5


@pytest.mark.parametrize("version", DOCUMENTS)
def test_answers_follow_the_document(version: str, exchanges: Path) -> None:
    """Every exchange of an api-version keeps to Microsoft's document, but for the service's own deviations."""
    folder = DOCUMENTS[version]
    if folder is None:
        pytest.skip(f"Microsoft's OpenAPI for {version} is not in {SWAGGER}")
    specification = Specification(sorted(folder.glob("*.json")))
    tolerated = allowed()
    problems = {
        f"{': '.join(problem)} ({exchange['request']['method']} {exchange['request']['url']})"
        for exchange in read_exchanges(exchanges)
        if api_version(exchange) == version and not any(part in exchange["request"]["url"] for part in UNDESCRIBED)
        for problem in specification.check(exchange)
        if tuple(problem) not in tolerated
    }

    assert "\n".join(sorted(problems)) == ""


def test_no_other_api_version_is_answered(exchanges: Path) -> None:
    """The emulator answered no api-version that is not listed here."""
    described = [
        exchange
        for exchange in read_exchanges(exchanges)
        if not any(part in exchange["request"]["url"] for part in UNDESCRIBED)
    ]

    assert {api_version(exchange) for exchange in described} <= set(DOCUMENTS)
