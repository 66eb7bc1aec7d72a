"""Who is told when a run fails or the sweep finds a leak: Prefect's automations, from deployments/automations.yaml."""

import re
from pathlib import Path

import yaml

from retune.errors import BadRequest
from retune_cli import local

FILE = Path(__file__).resolve().parent.parent / "deployments" / "automations.yaml"
PLACEHOLDER = "<block>"
BLOCK = re.compile(r"[a-z0-9-]{1,100}/[a-zA-Z0-9_-]{1,100}")


def create_automations(block: str) -> list[str]:
    """Make the automations, or bring them up to date, so that they tell the block `type/name`; their names.

    Raises:
        BadRequest: there is no such block, or no Prefect to ask.
    """
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore
    from prefect.exceptions import ObjectNotFound

    if not BLOCK.fullmatch(block):
        raise BadRequest([f"{block[:100]!r} is no block. Write it as type/name, e.g. slack-webhook/retune."])
    kind, _, name = block.partition("/")
    with local.known_prefect(), get_client(sync_client=True) as client:
        try:
            document = client.read_block_document_by_name(name, kind, include_secrets=False)
        except ObjectNotFound as error:
            fix = f"Make it on Prefect's page under Blocks, of type {kind} and with the name {name or 'retune'}."
            raise BadRequest([f"There is no block '{block}' in Prefect."], fix) from error
        text = FILE.read_text(encoding="utf-8").replace(PLACEHOLDER, str(document.id))
        automations = [AutomationCore.model_validate(entry) for entry in yaml.safe_load(text)["automations"]]
        for automation in automations:
            existing = client.read_automations_by_name(automation.name)
            if existing:
                client.update_automation(existing[0].id, automation)
            else:
                client.create_automation(automation)
    return [automation.name for automation in automations]
