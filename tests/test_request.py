"""Presets and `--set`: what is accepted, and that every problem is named with its place."""

from pathlib import Path

import pytest

from retune.errors import BadRequest
from retune.request import PRESETS, Request, Section, find_preset, load, parse, parse_run_key


def problems_of(text: str, tmp_path: Path, *assignments: str) -> list[str]:
    """The problems of a preset with this text."""
    path = tmp_path / "preset.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadRequest) as caught:
        load(str(path), list(assignments))
    return caught.value.problems


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_preset_loads(path: Path) -> None:
    """Each preset file is a complete, valid request."""
    assert isinstance(load(path.stem, []), Request)


def test_every_field_has_a_description() -> None:
    """A key's description is its only documentation, so none is missing."""
    sections = [Request, *Section.__subclasses__()]
    missing = [
        f"{section.__name__}.{name}"
        for section in sections
        for name, field in section.model_fields.items()
        if not field.description
    ]

    assert missing == []


def test_set_overrides_one_key_and_keeps_the_preset_s_others(tmp_path: Path) -> None:
    """`--set` merges into a section instead of replacing it."""
    path = tmp_path / "preset.yaml"
    path.write_text("data:\n  source: somewhere/chats\n  fraction: 0.5\n", encoding="utf-8")

    request = load(str(path), ["data.fraction=0.25", "training.learning_rate=1e-3"])

    assert request.data.source == "somewhere/chats"
    assert request.data.fraction == 0.25
    assert request.training == {"learning_rate": "1e-3"}


def test_all_problems_are_reported_at_once_with_file_and_line(tmp_path: Path) -> None:
    """Five problems in one file are five messages, each with its line."""
    text = "modle:\n  name: x\ndata:\n  fraction: 3\n  frction: 1\ncompute:\n  tier: spot\ntraining:\n  a: [1]\n"
    found = problems_of(text, tmp_path)

    assert [problem.split(": ")[0].rsplit(":", 1)[1] for problem in found] == ["4", "5", "7", "9", "1"]
    assert any("unknown key 'modle'. Did you mean 'model'?" in problem for problem in found)
    assert any("unknown key 'data.frction'. Did you mean 'fraction'?" in problem for problem in found)


@pytest.mark.parametrize(
    ("assignment", "fix"),
    [
        ("data.fraction=0", "greater than 0"),
        ("data.fraction=1.5", "less than or equal to 1"),
        ("data.fraction=abc", "valid number"),
        ("data.on_bad_row=ignore", "'fail' or 'drop'"),
        ("compute.name=a", "match pattern"),
        ("compute.name=gpu-1", "must not end in a hyphen and digits"),
        ("compute.min_nodes=3", "min_nodes 3 is above max_nodes 1"),
        ("compute.tier=spot", "'dedicated' or 'low_priority'"),
        ("serving.instance_count=0", "greater than or equal to 1"),
        ("serving.request_timeout_seconds=181", "less than or equal to 180"),
        ("serving.deployment=Demo", "match pattern"),
        ("score.rows=0", "greater than or equal to 1"),
        ("score.payload=json", "'nested' or 'flat'"),
        ("training.learning_rate=[1]", "Expected a text, a number, true or false"),
        ("nonsense", "section.key=value"),
        ("servng.instance_count=1", "Did you mean 'serving'?"),
        ("data=folder", "section.key=value"),
        ("data.train_split=train[:80%]", "Name the split 'train', take the leading share of it with data.fraction"),
        ("data.format=csv", "'auto', 'openai', 'sharegpt'"),
        ("data.columns={frage: prompt}", "frage is no part of a row; write part: column"),
        ("data.validation_fraction=0.9", "less than or equal to 0.4"),
        ("limits.poll_seconds=0", "greater than or equal to 0.2"),
    ],
)
def test_a_wrong_assignment_is_refused_with_its_fix(assignment: str, fix: str, tmp_path: Path) -> None:
    """Each wrong value names the key and says what is expected."""
    found = problems_of("data: {}\n", tmp_path, assignment)

    assert len(found) == 1
    assert fix in found[0]


def test_a_split_cannot_train_and_judge(tmp_path: Path) -> None:
    """The split to train on must differ from those that judge the model, where both are named."""
    (problem,) = problems_of("data: {train_split: rows, test_split: rows}\n", tmp_path)

    assert "train_split 'rows' must differ" in problem


@pytest.mark.parametrize("text", ["data: [", "- a\n- b\n", "just text"], ids=["broken", "list", "text"])
def test_a_file_that_is_no_preset_is_refused(text: str, tmp_path: Path) -> None:
    """YAML that is broken or has no sections is a bad request, not a traceback."""
    assert "preset.yaml" in problems_of(text, tmp_path)[0]


def test_an_unknown_preset_lists_the_known_ones() -> None:
    """A mistyped preset name shows the names that exist."""
    with pytest.raises(BadRequest, match=r"Preset 'lcoal' is neither .*local"):
        find_preset("lcoal")


@pytest.mark.parametrize("key", ["", "a b", "-x", "x" * 65, "ü"])
def test_a_run_key_that_azure_names_cannot_hold_is_refused(key: str) -> None:
    """Keys become parts of job names and tags."""
    with pytest.raises(BadRequest, match="run-key"):
        parse_run_key(key)


@pytest.mark.parametrize(
    "character", ["\0", "\a", "\n", "\x1b", "\x7f", "\x9b", "\u202e", "\u2028", "\u200b", "\ufeff", "\u061c"]
)
@pytest.mark.parametrize(("section", "key"), [("data", "source"), ("training", "huggingface_id"), ("model", "version")])
def test_a_control_character_is_refused_in_every_text(section: str, key: str, character: str) -> None:
    """Terminals, pages and command lines make something else of it; the refusal shows it escaped."""
    with pytest.raises(BadRequest) as caught:
        parse({section: {key: f"a{character}b"}})

    (problem,) = caught.value.problems
    assert problem.startswith(section) and f"holds the invisible character {character!r}" in problem
    assert character not in problem


def test_an_absurdly_long_text_is_refused_and_not_repeated() -> None:
    """The refusal says how long it is, and shows its beginning."""
    with pytest.raises(BadRequest) as caught:
        parse({"data": {"source": "x" * 100_000}, "training": {"optim": "y" * 5000, "z" * 2000: 1}})

    assert "has 100000 characters; at most 1000 are allowed" in caught.value.problems[0]
    assert "'optim' has 5000 characters" in caught.value.problems[1]
    assert all(len(problem) < 1000 for problem in caught.value.problems)


@pytest.mark.parametrize(
    "document",
    [{"data": {"s\x1b[31m": 1}}, {"\x1b]0;": 1}, {"training": {"a\x1b": [1]}}, {"training": {"a\x1b": "b"}}],
)
def test_a_key_that_is_refused_is_shown_escaped(document: dict[str, object]) -> None:
    """An escape sequence in a key does nothing to the terminal."""
    with pytest.raises(BadRequest) as caught:
        parse(document | {"x" * 5000: 1})

    assert not any("\x1b" in problem or len(problem) > 1000 for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("data.seed=" + "9" * 5000, "exceeded maximum size"),
        ("score.seed=" + "9" * 400, "is no number that can be used"),
        ("training.x=" + "9" * 400, "is no number that can be used"),
        ("training.x=.nan", "is no number that can be used"),
        ("training.x=" + "[" * 3000, "has 3000 characters"),
        ("\x1b[31mfoo", "holds the invisible character"),
        ("training.huggingface_id=a\nb", "--set 'training.huggingface_id=a\\nb': holds the invisible character '\\n'"),
    ],
    ids=["digits", "seed", "number", "nan", "depth", "escape", "line-end"],
)
def test_an_absurd_value_is_a_bad_request(assignment: str, said: str, tmp_path: Path) -> None:
    """No traceback, and nothing for the terminal to obey."""
    (problem,) = problems_of("data: {}\n", tmp_path, assignment)

    assert said in problem and "\x1b" not in problem and len(problem) < 1000


@pytest.mark.parametrize(
    "preset", ["\x1b]0;T\x07", "x" * 5000, "a\0b", "../" * 2000], ids=["escape", "long", "nul", "deep"]
)
def test_a_preset_that_cannot_be_a_file_is_refused(preset: str) -> None:
    """As one that is not there, shown escaped."""
    with pytest.raises(BadRequest, match="is neither a preset nor a file") as caught:
        find_preset(preset)

    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 1000


def test_too_many_parameters_are_refused() -> None:
    """A component has some seventy inputs."""
    with pytest.raises(BadRequest, match="has 5000 keys; at most 200"):
        parse({"training": {f"x{number}": 1 for number in range(5000)}})


def test_quotes_and_other_letters_are_texts() -> None:
    """What a shell would read otherwise is left alone here: no command line is built from it."""
    request = parse({"data": {"source": 'it\'s "здесь" $HOME'}, "training": {"huggingface_id": "x'; id; echo '"}})

    assert request.data.source == 'it\'s "здесь" $HOME'


@pytest.mark.parametrize("setting", ["duplicates", "evaluation_overlap", "near_duplicates", "privacy"])
def test_off_is_a_word_where_a_setting_can_be_off(setting: str, tmp_path: Path) -> None:
    """On the command line and in a preset, without quotes, though YAML reads it as false."""
    preset = tmp_path / "preset.yaml"
    preset.write_text(f"data:\n  {setting}: off\n", encoding="utf-8")

    assert getattr(load("local", [f"data.{setting}=off"]).data, setting) == "off"
    assert getattr(load(str(preset), []).data, setting) == "off"
