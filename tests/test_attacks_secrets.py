"""Passwords, keys and tokens where a name or an address is meant: refused before anything is created, shown nowhere."""

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Command, creating_calls, requests_so_far
from conftest import Emulator, Run

from retune.errors import BadRequest, CloudError
from retune.request import Data, Request, load, parse, parse_run_key
from retune.texts import SECRET, redact

CANARY = "Xq7canaryXq7canaryXq7canaryXq7canary"
# Each with the canary where the secret is.
TEXTS = [
    f"http://user:{CANARY}@host/data",
    f"https://{CANARY}@huggingface.co/datasets/a/b",
    f"https://account.blob.core.windows.net/c/x?sv=2021&sig={CANARY}%3D&se=2030",
    f"https://bucket.s3.amazonaws.com/x?X-Amz-Signature={CANARY}",
    f"s3://bucket/x?token={CANARY}",
    f"ftp://:{CANARY}@host/x",
    f"abfss://container:{CANARY}@account.dfs.core.windows.net/x",
    f"hf_{CANARY}",
    f"ghp_{CANARY}",
    f"github_pat_{CANARY}",
    f"pnu_{CANARY}",
    f"sk-proj-{CANARY}",
    f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={CANARY}",
    f"Endpoint=sb://x;SharedAccessKey={CANARY}",
    f"eyJ{CANARY}.eyJ{CANARY}.{CANARY}",
    f"Bearer eyJ{CANARY}.eyJ{CANARY}",
    f"{CANARY * 3}"[:86] + "==",
]
HARMLESS = [
    "abfss://container@account.dfs.core.windows.net/data/train.jsonl",
    "https://huggingface.co/datasets/HuggingFaceH4/ultrachat_200k",
    "az://container/data",
    "user@example.com",
    "hf_dataset_of_chats_from_our_support_desk_2026",
    "sk-learn-model-for-customer-support-chats",
    "task-specific-model-with-a-long-name-of-many-words",
    "data/train?sorted=yes&page=2",
    "token-classification",
    "a" * 200,
    "2f1c9a" * 11,
]
PLACES = [
    *("data.source", "data.train_split", "data.revision", "data.subset", "data.tokenizer", "model.name"),
    *("model.registered_name", "model.version", "training.huggingface_id", "workspace.resource_group"),
    *("serving.instance_type", "compute.name"),
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("place", PLACES)
def test_no_setting_holds_a_secret(place: str, text: str) -> None:
    """Nor is it in the refusal."""
    section, _, key = place.partition(".")
    for document in ({section: {key: text}}, {section: {key: f"before {text} after"}}):
        with pytest.raises(BadRequest) as refused:
            parse(document)
        assert CANARY not in str(refused.value) and key in str(refused.value)


# The last one is known by its end, which is no part of a key.
@pytest.mark.parametrize("text", TEXTS[:-1])
def test_no_command_line_shows_a_secret(tmp_path: Path, text: str) -> None:
    """In a value, in a key, as the preset, in a preset's file, as a run's key."""
    file = tmp_path / "preset.yaml"
    file.write_text(f"data:\n  source: '{text}'\n")
    broken = tmp_path / "broken.yaml"
    broken.write_text(f"data: [{text}\n  x: :\n")
    for ask in (
        lambda: load("local", [f"data.source={text}"]),
        lambda: load("local", [f"data.{text}=1"]),
        lambda: load("local", [text]),
        lambda: load(text, []),
        lambda: load(str(file), []),
        lambda: load(str(broken), []),
        lambda: parse_run_key(text),
    ):
        with pytest.raises(BadRequest) as refused:
            ask()
        assert CANARY not in str(refused.value) + refused.value.message + repr(refused.value)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_alike_is_taken(text: str) -> None:
    """Names and addresses as people have them."""
    assert redact(text) == text and not SECRET.search(text)
    # An address of the Hub becomes the id that it holds.
    assert Data(source=text).source in (text, text.removeprefix("https://huggingface.co/datasets/"))


@pytest.mark.parametrize("text", TEXTS[:9])
def test_a_refused_run_leaves_its_secret_nowhere(finetune: Callable[..., Run], emulator: Emulator, text: str) -> None:
    """Not in the report, not in the terminal, and the cloud was asked for nothing."""
    before = requests_so_far(emulator)
    run = finetune(f"data.source={text}")

    assert (run.code, run.report["status"]) == (2, "rejected")
    assert CANARY not in str(run.report) + run.errors
    assert creating_calls(emulator, before) == []


def test_prefect_s_refusal_of_parameters_does_not_quote_them(environment: dict[str, str]) -> None:
    """A run from a deployment gets its parameters from Prefect, which keeps what is said of them."""
    code = (
        "from flows.finetune import finetune\n"
        f"state = finetune(data={{'source': {TEXTS[0]!r}}}, return_state=True)\n"
        "print(state.type.value, state.message)"
    )
    ended = Command(["-c", code], environment).end()

    assert ended.output.startswith("FAILED") and "data" in ended.output, ended
    assert CANARY not in ended.output + ended.errors


def test_errors_of_others_are_quoted_without_secrets() -> None:
    """Whatever a service or a library puts into its message."""
    error = CloudError("X", f"GET {TEXTS[2]} failed", f"Look at {TEXTS[0]}.")

    assert CANARY not in f"{error} {error!r} {error.message} {error.fix} {error.args}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &a [x]\nb: *a\n", "refers to another part"),
        ("model:\n  name: a\n  name: b\n", "the key 'name' occurs here for the second time"),
        ("data: 1\nmodel: {}\ndata: 2\n", "the key 'data' occurs here for the second time"),
        ("a: " + "[" * 5000 + "]" * 5000, "not readable as YAML"),
        ("x: " + "y" * (1 << 20), "at most 1048576"),
        ("x: " + "9" * 5000, "not readable as YAML"),
    ],
)
def test_a_preset_that_explodes_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """Before it has taken memory, and with what is wrong."""
    file = tmp_path / "preset.yaml"
    file.write_text(text)

    with pytest.raises(BadRequest, match=problem):
        load(str(file), [])


def test_settings_have_no_field_that_is_not_checked() -> None:
    """Every text of a request, wherever it stands."""
    for section in Request.model_fields:
        with pytest.raises(BadRequest) as refused:
            parse({section: {"anything": TEXTS[0]}})
        assert CANARY not in str(refused.value)
