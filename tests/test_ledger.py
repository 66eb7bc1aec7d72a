"""What counts as Retune's own, and when nobody needs it any more: tags and name together, nothing less."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from conftest import Emulator

from retune import names
from retune.request import Workspace
from retune_cloud import cleanup, ledger
from retune_cloud.workspace import find_address

LOCAL = Workspace(emulator=True)
PAST, SOON = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)
OWN = names.tags("ledger-tests", 1)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"owner": "retune"},
        OWN | {"owner": "Retune"},
        OWN | {"owner": "somebody"},
        OWN | {names.KEY_TAG: ""},
        OWN | {names.KEY_TAG: "a key with spaces"},
        OWN | {names.ATTEMPT_TAG: ""},
        OWN | {names.ATTEMPT_TAG: "-1"},
        OWN | {names.ATTEMPT_TAG: "one"},
        {names.KEY_TAG: "ledger-tests", names.ATTEMPT_TAG: "1"},
    ],
    ids=str,
)
def test_tags_that_prove_nothing(tags: dict[str, str]) -> None:
    """Owner, key and attempt, each as `names.tags` writes it."""
    assert names.read_tags(tags) is None


def test_a_late_renewal_does_not_undo_a_later_start() -> None:
    """Tags are merged in the order in which they arrive; the holder is the latest start, not the last arrival."""
    first, second = names.lease_tags(15, "2026-01-01T00:00:00/a"), names.lease_tags(10, "2026-01-01T00:01:00/b")

    lease = names.read_lease(first | second | first)

    assert lease.holder == "2026-01-01T00:01:00/b"
    assert lease.until < datetime.now(UTC) + timedelta(minutes=11)
    assert names.read_lease({"other": "tag"}) is None
    assert names.read_lease({"retune.lease.1": "2026-01-01T00:00:00+00:00 a"}) is None


def test_a_lease_is_never_older_than_its_job() -> None:
    """A dead start's request may arrive when a later start has made the job; the later one needs time to notice."""
    granted = datetime(2026, 1, 1, tzinfo=UTC)
    lease = names.Lease(granted, granted + timedelta(minutes=15), "a")

    assert lease.alive_until(granted - timedelta(hours=1)) == granted + timedelta(minutes=15)
    assert lease.alive_until(granted + timedelta(hours=1)) == granted + timedelta(minutes=75)


def test_names_of_two_workspaces_differ() -> None:
    """Endpoint names are shared by all customers of a region."""
    here, there = (names.endpoint_name(f"subscription/group/{name}", "nightly", 1, "") for name in ("lab", "prod"))

    assert here != there
    assert len(here) <= 32


@pytest.fixture
def endpoints(emulator: Emulator) -> Iterator[dict[str, str]]:
    """Five endpoints by what they are; their names."""
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    place = find_address(LOCAL).id
    expired, alive = names.expiry_tag(PAST), names.expiry_tag(SOON)
    planned = {
        "expired": (names.endpoint_name(place, "ledger-tests", 1, ""), OWN | expired),
        "kept": (names.endpoint_name(place, "ledger-tests", 2, ""), names.tags("ledger-tests", 2) | alive),
        "another name": ("retune-0123456789abcdef-1", OWN | expired),
        "another attempt": (names.endpoint_name(place, "ledger-tests", 3, ""), OWN | expired),
        "untagged": (names.endpoint_name(place, "ledger-tests", 4, ""), {}),
    }
    planned["kept"][1][names.KEPT_TAG] = "true"
    client = emulator.client()
    pollers = [
        client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, tags=tags))
        for name, tags in planned.values()
    ]
    for poller in pollers:
        poller.result()
    yield {what: name for what, (name, _) in planned.items()}
    for poller in [client.online_endpoints.begin_delete(name) for name, _ in planned.values()]:
        poller.result()


def test_only_what_tags_and_name_prove_is_our_own(endpoints: dict[str, str]) -> None:
    """Look-alikes are not even listed; a kept endpoint is nobody's leftover before its expiry."""
    own = {endpoint.name: endpoint for endpoint in ledger.list_endpoints(LOCAL, "ledger-tests")}

    assert own.keys() == {endpoints["expired"], endpoints["kept"]}
    assert "has passed" in str(cleanup.find_leftover_reason(LOCAL, own[endpoints["expired"]]))
    assert cleanup.find_leftover_reason(LOCAL, own[endpoints["kept"]]) is None


def test_a_fresh_endpoint_without_a_visible_job_is_given_time(endpoints: dict[str, str]) -> None:
    """The service may show an endpoint before it shows what goes with it."""
    own = {endpoint.name: endpoint for endpoint in ledger.list_endpoints(LOCAL, "ledger-tests")}
    young = own[endpoints["kept"]]._replace(kept=False)
    old = young._replace(created=PAST)

    assert cleanup.find_leftover_reason(LOCAL, young) is None
    assert cleanup.find_leftover_reason(LOCAL, old) == "its run has no job"
