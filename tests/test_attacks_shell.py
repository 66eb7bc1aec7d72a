"""Texts that a shell would run, in values of jobs and in paths, in every kind of quotes: none is ever a command."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.ai.ml import command
from commands import REHEARSAL, finetune, own_homes, without_prefect
from conftest import Emulator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from variables import Variables

from azureml_emulator.command_line import render
from azureml_emulator.plan import make_plan
from azureml_emulator.wire import ServiceError

# Each makes the file MARK if a shell ever reads it as a command.
ATTACKS = [
    "x'; touch MARK; echo '",
    'x"; touch MARK; echo "',
    "$(touch MARK)",
    "`touch MARK`",
    "; touch MARK #",
    "&& touch MARK",
    "| touch MARK",
    "\n touch MARK\n",
    "\\'; touch MARK; echo \\'",
    '\\"; touch MARK; echo \\"',
    "'\"$(touch MARK)\"'",
    "${IFS}touch${IFS}MARK",
    "$AZUREML_VALUE_0 ${AZUREML_VALUE_1}",
    "> MARK",
    "* ? [a-z] ~ !! {a,b}",
    " leading and trailing ",
    "",
    "-n",
    "${{inputs.v1}} $[[x]] %s \\n \\\\",
    "ü 漢 😀 \t tab",
]
# How a command's author may have written the place of a value, and what stands around it there.
PLACES = [
    ("{}", "", ""),
    ("'{}'", "", ""),
    ('"{}"', "", ""),
    ("--name={}", "--name=", ""),
    ("'a {} b'", "a ", " b"),
    ('"a \'{}\' \\" b"', "a '", "' \" b"),
    ("'it'\\''s {}'", "it's ", ""),
    ("a\\ {}", "a ", ""),
    ('""\'\'{}""', "", ""),
]


def expression(name: str) -> str:
    """How a command names an input."""
    return "${{inputs." + name + "}}"


def words_of(script: str, variables: dict[str, str], folder: Path) -> list[str]:
    """What a script prints, read by /bin/sh, between NULs."""
    run = subprocess.run(
        ["/bin/sh", "-c", script],
        env={"PATH": "/usr/bin:/bin", **variables},
        cwd=folder,
        capture_output=True,
        check=True,
    )
    return run.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_is_one_word_in_every_place(attack: str, tmp_path: Path) -> None:
    """The program gets the value as it was given, and nothing has run."""
    line = " ".join(place.format(expression(f"v{number}")) for number, (place, _, _) in enumerate(PLACES))
    text, variables = render(f"printf '%s\\0' {line}", {f"v{number}": attack for number in range(len(PLACES))}, {})

    assert words_of(text, variables, tmp_path) == [f"{before}{attack}{after}" for _, before, after in PLACES]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "script",
    [
        'printf \'%s\\0\' "$(printf %s "{}")"',
        "printf '%s\\0' \"$(printf %s '{}' \"$(true)\")\"",
        'printf \'%s\\0\' "$(x=$((1 + (2 - 1))); printf %s "{}")"',
        ": # it's a \"comment (\nprintf '%s\\0' {}",
        "(printf '%s\\0' {})",
        "if true; then printf '%s\\0' '{}'; fi",
        "case a in a) printf '%s\\0' {} ;; esac; : ')'",
        "x={}; printf '%s\\0' \"$x\"",
        "printf '%s\\0' {} <<EOF\nit's here\nEOF",
    ],
)
@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_is_one_word_in_every_script(script: str, attack: str, tmp_path: Path) -> None:
    """Substitutions, comments, subshells, cases: the quotes that a value needs are those of where it stands."""
    text, variables = render(script.replace("{}", expression("x")), {"x": attack}, {})

    # A substitution takes line ends from the end of what it puts in.
    assert [word.rstrip("\n") for word in words_of(text, variables, tmp_path)] == [attack.rstrip("\n")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("cat <<EOF\n{}\nEOF", "in a here-document"),
        ("cat <<'EOF' > x\na {}\nEOF", "in a here-document"),
        ("echo $(({}))", "in arithmetic"),
        ('echo "$((1 + {}))"', "in arithmetic"),
        ("echo `echo {}`", "in backticks"),
        ('echo "`echo "{}"`"', "in backticks"),
    ],
)
def test_a_place_where_no_quotes_help_is_refused(command: str, place: str) -> None:
    """When the job is sent, with what to do instead."""
    body = {"jobType": "Command", "command": command.replace("{}", expression("x")), "inputs": {"x": {"value": "1"}}}
    with pytest.raises(ServiceError, match=f"{place}.*Pass it as an argument instead") as refused:
        make_plan("job", body, {}.__getitem__)

    assert refused.value.status == 400


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    attack=st.sampled_from(ATTACKS),
    around=st.lists(st.sampled_from([*"'\"\\a #$`\n()&<;", "$(", "<<", "case"]), max_size=12),
    position=st.integers(0, 12),
)
def test_no_attack_runs_whatever_stands_around_it(
    attack: str, around: list[str], position: int, tmp_path: Path
) -> None:
    """Also in a command that is broken, or that hides its quotes: the shell's text does not depend on the value."""
    command = "".join([*around[:position], expression("x"), *around[position:]])
    try:
        text, variables = render(command, {"x": attack}, {})
    except ServiceError as refused:
        assert "Pass it as an argument instead" in refused.message or "which is not set" in refused.message
        return

    assert text == render(command, {"x": "harmless"}, {})[0]
    environment = {"PATH": "/usr/bin:/bin", **variables}
    subprocess.run(["/bin/sh", "-c", text], env=environment, cwd=tmp_path, capture_output=True, timeout=10, check=False)
    assert not (tmp_path / "MARK").exists()


def test_jobs_get_every_attack_as_it_was_written(emulator: Emulator, tmp_path: Path) -> None:
    """Through the SDK, the service and the step's shell: the values arrive, and no file was made."""
    mark = tmp_path / "mark"
    values = {f"v{number}": attack.replace("MARK", str(mark)) for number, attack in enumerate(ATTACKS)}
    # An input without a value is one that is not given.
    values = {name: value for name, value in values.items() if value}
    program = "import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], 'w'))"
    places = [PLACES[number % 3][0].format(expression(name)) for number, name in enumerate(values)]
    client = emulator.client()
    job = command(
        command=f'python -c "{program}" {shlex.quote(str(tmp_path / "got.json"))} {" ".join(places)}',
        environment="azureml:any:1",
        inputs=values,
    )
    created = client.jobs.create_or_update(job)
    client.jobs.stream(created.name)

    assert client.jobs.get(created.name).status == "Completed"
    assert json.loads((tmp_path / "got.json").read_text()) == [*values.values()]
    assert not mark.exists()


@pytest.fixture
def odd_home(tmp_path: Path, exchanges: Path) -> Iterator[Emulator]:
    """An emulator in a folder whose name a shell would read as commands."""
    folder = tmp_path / 'it\'s a "home" $(touch mark) `id` ; & | #1 100% ü'
    folder.mkdir()
    emulator = Emulator(folder / "home", exchanges)
    with Variables(emulator.env):
        yield emulator
    emulator.stop()


@pytest.mark.exhaustive
def test_a_home_with_quotes_and_commands_in_its_name_runs_jobs(
    odd_home: Emulator, empty_database: Path, tmp_path: Path
) -> None:
    """A whole run: data, training, MLflow's file, the model's server; paths are values too."""
    own = own_homes(tmp_path, empty_database) | {"RETUNE_HOME": str(tmp_path / "retune it's $(touch mark)")}
    ended = finetune(without_prefect() | odd_home.env | own, *REHEARSAL, fresh=True).end()

    assert (ended.code, ended.report["status"]) == (0, "completed"), ended.errors
    assert [path for path in Path.cwd().iterdir() if path.name == "mark"] == []
    assert list(tmp_path.rglob("mark")) == []


def test_a_value_that_no_process_can_be_given_is_refused() -> None:
    """Larger than Linux takes for one variable: said when the job is sent."""
    body = {"jobType": "Command", "command": "true", "inputs": {"x": {"value": "x" * 200_000}}}
    with pytest.raises(ServiceError, match="has 200000 bytes; the limit is 100000") as refused:
        make_plan("job", body, {}.__getitem__)

    assert refused.value.status == 400
