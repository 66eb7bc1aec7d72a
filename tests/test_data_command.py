"""`retune data SOURCE`: what a run would train on, without a run and without Azure."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from public_shapes import SHAPES, chat, lines

from retune.request import Request, load
from retune_cli.commands import retune
from retune_cli.running import main, typed

TINY = Path(__file__).resolve().parent.parent / "azureml_emulator/registry/weights/tiny-phi3"


@pytest.fixture(autouse=True)
def retune_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared data goes to the test's own folder."""
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))


def command(*arguments: object) -> Result:
    return CliRunner().invoke(retune, ["data", "--quiet", *map(str, arguments)])


def test_a_usable_source_is_shown(tmp_path: Path) -> None:
    """Format, splits, rows, lengths, three rows as the model sees them, a digest, a preset and the next command."""
    case = SHAPES["sharegpt"](tmp_path / "source")

    shown = command(case.source, "--set", f"data.tokenizer={TINY}")

    assert shown.exit_code == 0, shown.output
    for part in (
        "usable",
        "sharegpt (ShareGPT): conversations as messages; not read: id",
        "held out: 10% of 'sharegpt.jsonl', by digest",
        "Half of the train rows have at most",
        "The first training rows, as the model will see them",
        "<|user|>",
        "How do I keep plant number",
        "digest",
    ):
        assert part in shown.output
    assert f"next: {typed()} run --data {case.source} --set data.tokenizer={TINY}" in shown.output


def test_json_holds_it_all_and_the_preset_is_one(tmp_path: Path) -> None:
    """The preset that is printed is a request for the same data."""
    case = SHAPES["german_columns"](tmp_path / "source")
    columns = "data.columns={question: Frage, answer: Antwort}"

    shown = command(case.source, "--json", "--set", columns)

    found = json.loads(shown.output)
    preset = tmp_path / "preset.yaml"
    preset.write_text(found["preset"], encoding="utf-8")
    assert (found["usable"], found["data"]["splits"]["train"]["format"].partition(" ")[0]) == (True, "question-answer")
    assert load(str(preset), []).data == load("local", [columns], str(case.source)).data
    assert [json.loads(row)["messages"][0]["role"] for row in found["as_seen"]] == ["user"] * 3


def test_unusable_data_is_exit_2_with_its_reason(tmp_path: Path) -> None:
    """As text, as JSON, and as a page."""
    rows = [{"messages": chat(number)} for number in range(20)] + [{"messages": []}]
    path = lines(tmp_path / "chats.jsonl", rows)

    text, document = command(path, "--html", tmp_path / "page.html"), command(path, "--json")

    found = json.loads(document.output)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert (text.exit_code, document.exit_code, found["usable"]) == (2, 2, False)
    assert "not usable" in text.output
    assert "1 row(s): fewer than two messages, e.g. chats.jsonl:21" in " ".join(found["problems"])
    assert "data.on_bad_row=drop" in found["fix"]
    assert "fewer than two messages" in page
    assert command(path, "--set", "data.on_bad_row=drop").exit_code == 0


def test_a_source_takes_the_place_of_a_preset_s_data() -> None:
    """Names of splits and the share of another data set do not hold for it; settings on the command line do."""
    request: Request = load("phi4-ultrachat", ["data.seed=3"], "./chats")

    assert request.data == Request.model_validate({"data": {"source": "./chats", "seed": 3}}).data
    assert request.model.name == "Phi-4"


def test_retune_run_is_the_short_way() -> None:
    """The same command as `python -m flows.finetune`."""
    shown = CliRunner().invoke(retune, ["run", "--help"])

    assert "--data SOURCE" in shown.output
    assert retune.commands["run"] is main


def test_the_presets_are_whole_without_defaults() -> None:
    """The ultrachat presets name the guide's splits and share."""
    for name in ("phi3-ultrachat", "phi4-ultrachat"):
        data = yaml.safe_load((Path("deployments/presets") / f"{name}.yaml").read_text(encoding="utf-8"))["data"]
        assert [data[key] for key in ("train_split", "validation_split", "test_split", "fraction")] == [
            *("train_sft", "test_sft", "test_gen"),
            0.05,
        ]


def tokenizer(folder: Path, settings: str) -> Path:
    """The folder of a tokenizer with these settings."""
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((TINY / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}",
        "{{ messages[0].content + 1 }}",
    ],
    ids=["refuses", "does not fit"],
)
def test_a_row_that_the_template_refuses_is_shown_with_the_refusal(template: str, tmp_path: Path) -> None:
    """The data is usable all the same, and the row is shown as it is."""
    rows = [{"messages": [{"role": "system", "content": "Be brief."}, *chat(number)]} for number in range(30)]
    path = lines(tmp_path / "chats.jsonl", rows)
    folder = tokenizer(tmp_path / "tokenizer", json.dumps({"chat_template": template}))

    shown = json.loads(command(path, "--json", "--set", f"data.tokenizer={folder}").output)

    assert shown["usable"] is True
    assert all(row.startswith("The chat template refuses this row: ") for row in shown["as_seen"])
    assert '"content":"Be brief."' in shown["as_seen"][0]


@pytest.mark.parametrize("settings", ['{"chat_template": ', "[1]"], ids=["cut off", "no object"])
def test_a_broken_tokenizer_config_is_named(settings: str, tmp_path: Path) -> None:
    """With its file, before the data is read."""
    path = lines(tmp_path / "chats.jsonl", [{"messages": chat(number)} for number in range(30)])

    shown = command(path, "--json", "--set", f"data.tokenizer={tokenizer(tmp_path / 'tokenizer', settings)}")

    assert shown.exit_code == 2
    assert "tokenizer_config.json is not readable" in json.loads(shown.output)["problems"][0]


def test_json_has_escapes_in_the_place_of_what_is_not_seen(tmp_path: Path) -> None:
    """As every other document: a text must not turn the terminal's lines around."""
    rows = [{"messages": [{"role": "user", "content": f"\u202e{n}?"}, chat(n)[1]]} for n in range(30)]

    shown = command(lines(tmp_path / "chats.jsonl", rows), "--json")

    assert "\u202e" not in shown.output
    assert "\u202e" in json.loads(shown.output)["as_seen"][0]
