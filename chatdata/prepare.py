"""One pass over the chosen rows of each split: read, check, write, with what was found.

The evaluation splits come first, because training rows are compared with theirs.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chatdata import checks
from chatdata.chat_template import lost_tools
from chatdata.choosing import MINIMUM_TRAINING_ROWS, HeldOut, choose, hold_out
from chatdata.reading import Reader
from chatdata.source_files import PinnedData, Source, SourceSplit, open_source
from chatdata.splits import ROLES, Role
from chatdata.text_files import BadFile
from chatdata.writing import Checks, SplitWriting
from chatdata.written import WrittenRows
from retune.errors import BadRequest
from retune.report import BadRows, PreparedData, Split
from retune.request import Data

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from chatdata.privacy import Scanner

EVALUATION_KINDS: dict[Role, str] = {"validation": checks.IN_VALIDATION, "test": checks.IN_TEST}

# Role of the file that is written, rows looked at, rows in all where that is known, bytes fetched from elsewhere.
Progress = Callable[[str, int, int | None, int], None]


def prepare(
    pinned: PinnedData,
    folder: Path,
    *,
    max_seq_length: int | None = None,
    progress: Progress = lambda role, done, rows, fetched: None,
) -> PreparedData:
    """The three files `<role>.jsonl` in the folder.

    Raises:
        BadRequest: splits, files or rows are unusable; every kind of bad row in every split is named with examples.
        CloudError: `DataUnreachable`, the source did not answer.
    """
    data = pinned.data
    source = open_source(pinned)
    tokenizer = load_tokenizer(pinned) if pinned.tokenizer_file else None
    looked_for = Checks(max_seq_length, tokenizer, load_scanner(data), data)
    written: dict[Role, WrittenRows] = {}
    splits: dict[Role, Split] = {}
    problems: list[str] = []
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, ExitStack() as opened:
        reader = Reader(source.system, Path(scratch), data)
        reader.fetch_footers(file for split in source.splits.values() for file in split.files)
        problems += unknown_formats(reader, source, data)
        held: dict[Role, HeldOut] = {}
        if not problems:
            try:
                held = hold_out(reader, source, data)
                problems += too_few_to_share(held, data)
            except BadFile as error:
                problems.append(f"Split '{source.splits['train'].name}' of '{data.source}': {error}")
        for role in ROLES if not problems else ():
            evaluation = {EVALUATION_KINDS[other]: rows for other, rows in written.items()} if role == "train" else {}
            writing = SplitWriting(looked_for, folder / f"{role}.jsonl", evaluation)
            split = source.splits.get(role) or held[role].split
            try:
                chosen = choose(reader, split, data, role, held.get(role))
                report = partial(report_progress, progress, role, chosen.rows, reader)
                splits[role], written[role] = writing.write(chosen, report)
            except BadFile as error:
                problems.append(f"Split '{split.name}' of '{data.source}': {error}")
                continue
            opened.callback(written[role].close)
            splits[role] = splits[role].model_copy(update=describe_source(reader, split, role, source, data))
            problems += refusals(split.name, splits[role], data)
            problems += too_few(role, split.name, splits[role], data)
        fetched = reader.fetched_bytes
    notes, refused = about_tools(pinned, splits)
    problems += refused
    if problems:
        raise BadRequest(problems, advise(splits, data))
    splits = {role: splits[role] for role in ("train", "validation", "test")}
    return PreparedData(
        source=data.source,
        revision=pinned.revision,
        selection=data.selection,
        splits={**splits},
        fetched_bytes=fetched,
        notes=notes + about_weights(splits),
        unused=source.unused,
    )


def unknown_formats(reader: Reader, source: Source, data: Data) -> list[str]:
    """A sentence for each split with files that cannot be read, or whose columns make no known shape."""
    problems = []
    for split in source.splits.values():
        for file in split.files:
            try:
                reader.recognise(file)
            except BadFile as error:
                problems.append(f"Split '{split.name}' of '{data.source}': {error}")
                break
    return problems


def describe_source(reader: Reader, split: SourceSplit, role: Role, source: Source, data: Data) -> dict[str, str]:
    """What the report says of where a role's rows come from: the split, the format, the first row, what is held out."""
    recognised = [reader.recognise(file) for file in split.files]
    shares = {"validation": data.validation_fraction, "test": data.test_fraction}
    return {
        "source_split": split.name,
        "format": "; ".join(dict.fromkeys(each.format.describe() for each in recognised)),
        # The first row is the training split's, or may be.
        "source_row": recognised[0].first_row if role in source.splits else "",
        "held_out": f"{shares[role]:.0%} of '{split.name}', by digest" if role not in source.splits else "",
    }


def about_tools(pinned: PinnedData, splits: dict[Role, Split]) -> tuple[list[str], list[str]]:
    """Notes on rows whose tools the model may never see, and problems where such rows are to be refused."""
    rows = sum(split.tool_rows for split in splits.values())
    if not rows:
        return [], []
    beginning = f"{rows:,} rows have tools, tool calls or tool messages"
    if pinned.chat_template is None:
        named = pinned.data.tokenizer
        advice = (
            f"'{named}' has no chat template" if named else "name the model's tokenizer in data.tokenizer to find out"
        )
        sentence = f"{beginning}; whether the model's chat template renders them is unknown: {advice}."
    else:
        from jinja2 import TemplateError

        try:
            lost = lost_tools(pinned.chat_template)
        except TemplateError as error:
            return [], [f"{beginning}, which the chat template of '{pinned.data.tokenizer}' refuses: {error}."]
        if not lost:
            return [], []
        sentence = f"{beginning}; the chat template of '{pinned.data.tokenizer}' leaves out {', '.join(lost)}."
    if pinned.data.on_lost_tools == "fail":
        return [], [f"{sentence} data.on_lost_tools=warn trains on them all the same."]
    return [sentence], []


def about_weights(splits: Mapping[Role, Split]) -> list[str]:
    """A note on weights that have no effect."""
    rows = sum(split.noted.get(checks.WEIGHT, 0) for split in splits.values())
    return (
        [f"{rows:,} rows have weights, which the component ignores: it trains on all answers in full."] if rows else []
    )


def report_progress(progress: Progress, role: str, rows: int | None, reader: Reader, done: int) -> None:
    progress(role, done, rows, reader.fetched_bytes)


def load_tokenizer(pinned: PinnedData) -> "Tokenizer":
    """The tokenizer that is named.

    Raises:
        BadRequest: its file is none.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(pinned.tokenizer_file))
    # The package raises nothing narrower.
    except Exception as error:
        detail = " ".join(str(error).split())[:200]
        problem = f"data.tokenizer '{pinned.data.tokenizer}': {pinned.tokenizer_file} is not readable: {detail}."
        raise BadRequest([problem], "Name a folder that save_pretrained wrote, or leave data.tokenizer out.") from error


def load_scanner(data: Data) -> "Scanner | None":
    """The scanner for personal data and secrets, if it is wanted."""
    if data.privacy == "off":
        return None
    from chatdata.privacy import load_scanner as load

    return load()


def advise(splits: Mapping[Role, Split], data: Data) -> str:
    """What to do about the problems, in the state that the request is in."""
    bad_rows = data.on_bad_row == "fail" and any(unfit(split, data) for split in splits.values())
    enough = not any(too_few(role, "", split, data) or beyond_limit("", split, data) for role, split in splits.items())
    if bad_rows and enough:
        return "Mend the rows, or set data.on_bad_row=drop to leave them out."
    return "Do what each line says, then run it again."


def unfit(split: Split, data: Data) -> list[BadRows]:
    """What was found of the kinds that make a row unfit, but for those that a setting of their own leaves out."""
    own = {kind for kind, setting in checks.SWITCHES.items() if getattr(data, setting) == "drop"}
    return [bad for bad in split.bad_rows if bad.kind not in split.noted and bad.kind not in own]


def refusals(name: str, split: Split, data: Data) -> list[str]:
    """A sentence for each kind of rows for which the data is refused."""
    bad_rows = unfit(split, data) if data.on_bad_row == "fail" else []
    sentences = [f"Split '{name}' of '{data.source}': {describe_bad_rows(bad)}" for bad in bad_rows]
    refused = {bad.kind for bad in bad_rows}
    left = split.model_copy(update={"dropped": {k: n for k, n in split.dropped.items() if k not in refused}})
    return sentences + beyond_limit(name, left, data)


def beyond_limit(name: str, split: Split, data: Data) -> list[str]:
    """A sentence for each check that would leave out more of a split than a check may."""
    examples = {bad.kind: "; ".join(bad.examples[:2]) for bad in split.bad_rows}
    sentences = []
    for kind, rows in split.dropped.items():
        if rows > data.drop_limit * split.selected:
            switch = checks.SWITCHES.get(kind)
            keep = f"Keep such rows with data.{switch}=note, or leave" if switch else "Mend them, or leave"
            sentences.append(
                f"Split '{name}' of '{data.source}': the check '{kind}' would leave out {rows:,} of {split.selected:,} "
                f"rows, e.g. {examples[kind]}. {keep} them out all the same with data.drop_limit=1."
            )
    return sentences


def describe_bad_rows(bad: BadRows) -> str:
    switch = checks.SWITCHES.get(bad.kind)
    keep = f" data.{switch}=note keeps such rows." if switch else ""
    why = f" Why it matters: {reason}." if (reason := checks.REASONS.get(bad.kind)) else ""
    return f"{bad.rows} row(s): {bad.kind}, e.g. {'; '.join(bad.examples)}.{why}{keep}"


def too_few_to_share(held: Mapping[Role, HeldOut], data: Data) -> list[str]:
    """A sentence when a split has too few rows for the roles that share it, which would else be one for each role."""
    if not held:
        return []
    split, sharing = held["train"].split, [role for role in held if role != "train"]
    rows, needed = held["train"].all_rows, MINIMUM_TRAINING_ROWS + len(sharing)
    if rows >= needed:
        return []
    return [
        f"Split '{split.name}' of '{data.source}' has {rows} row(s), and a run needs {needed}: {MINIMUM_TRAINING_ROWS} "
        f"to train on, and one each for {' and '.join(sharing)}. Add rows, or name a file of others in "
        f"data.{sharing[0]}_split."
    ]


def too_few(role: Role, name: str, split: Split, data: Data) -> list[str]:
    """A sentence when the component would refuse the file for having too few rows."""
    needed = MINIMUM_TRAINING_ROWS if role == "train" else 1
    if split.rows >= needed:
        return []
    if split.selected > split.rows and split.selected >= needed:
        advice = f"{split.selected - split.rows} of {split.selected} were left out; mend those."
    elif data.fraction < 1:
        advice = "Raise data.fraction."
    else:
        advice = "Add rows, or choose another split."
    return [f"Split '{name}' has {split.rows} usable row(s), {role} needs at least {needed}. {advice}"]
