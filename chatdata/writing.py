"""One split on its way to its file: each row is checked and written or left out, then repetitions are cut out again."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import polars as pl

from chatdata import checks
from chatdata.conversations import Conversation, lines_of, to_json, to_series
from chatdata.nested import map_texts, texts_of, without_escapes
from chatdata.reading import Batch, read_ahead
from chatdata.repetitions import ends_of, find_repetitions
from chatdata.sources import file_digest
from chatdata.statistics import summarize
from chatdata.tokens import CHARACTERS_PER_TOKEN, count_tokens
from chatdata.written import RowLocation, WrittenRows
from retune.data_settings import Data
from retune.report import BadRows, Split
from retune.waiting import pause

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from chatdata.privacy import Scanner

EXAMPLES = 5
EXAMPLE_CHARACTERS = 160
# Tokens of every so many rows make percentiles; the others are counted only where they may be too long.
TOKEN_SAMPLE = 20
COPIED_BYTES = 1 << 20
# Of rows that have more than roles and contents: the messages as JSON, and the line.
NO_LINES = [*(pl.lit(None, pl.String).alias(name) for name in ("coded", "whole")), pl.lit(False).alias("tools")]
# What is known of each row that is written. `exact` and `ends` are digests that repetitions have in common.
WRITTEN = {
    "file": pl.String,
    "number": pl.Int64,
    "size": pl.Int64,
    "letters": pl.String,
    "characters": pl.UInt32,
    "tokens": pl.UInt32,
    "exact": pl.UInt64,
    "ends": pl.List(pl.UInt64),
    "tools": pl.Boolean,
}


class Checks(NamedTuple):
    """What is looked for in the rows of every split."""

    max_seq_length: int | None
    tokenizer: "Tokenizer | None"
    scanner: "Scanner | None"
    data: Data


class Chosen(NamedTuple):
    """The batches that hold the chosen rows; `rows` in all, as far as that is known."""

    batches: Iterator[Batch]
    rows: int | None


class Problems:
    """What was found in the rows of a split, by kind."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def drop(self, location: RowLocation, problems: list[tuple[str, str]]) -> None:
        """Counts a row for each of its problems, and as dropped for the first."""
        for kind, detail in problems:
            self._count(kind, location, detail)
        self.dropped[problems[0][0]] += 1

    def note(self, kind: str, location: RowLocation, detail: str) -> None:
        """Counts a row that is kept."""
        self._count(kind, location, detail)
        self.noted[kind] += 1

    def _count(self, kind: str, location: RowLocation, detail: str) -> None:
        self._rows[kind] += 1
        if len(self._examples[kind]) < EXAMPLES:
            self._examples[kind].append(f"{location} ({detail})"[:EXAMPLE_CHARACTERS] if detail else str(location))

    def report(self) -> list[BadRows]:
        """The kinds, in the order of their first rows."""
        return [BadRows(kind=kind, rows=rows, examples=self._examples[kind]) for kind, rows in self._rows.items()]


class SplitWriting:
    """The writing of one file."""

    def __init__(self, looked_for: Checks, path: Path, evaluation: dict[str, WrittenRows]) -> None:
        self._checks, self._path, self._evaluation = looked_for, path, evaluation
        self._problems = Problems()
        self._redacted: Counter[str] = Counter()
        self._selected = self._written = 0

    def write(self, chosen: Chosen, progress: Callable[[int], None]) -> tuple[Split, WrittenRows]:
        """The file's rows, written as they are read; and what later splits are compared with.

        Raises:
            BadFile: a source file cannot be read.
        """
        parts = [pl.DataFrame(schema=WRITTEN)]
        with self._path.open("wb") as file:
            for batch in read_ahead(chosen.batches):
                pause(0)
                parts.append(self._write_batch(file, batch))
                self._selected, self._written = self._selected + len(batch), self._written + len(parts[-1])
                progress(self._selected)
        rows = pl.concat(parts).with_row_index("row")
        rows = self._drop_repetitions(rows)
        self._note_long(rows)
        sample = rows.filter(pl.col("row") % TOKEN_SAMPLE == 0)["tokens"] if self._checks.tokenizer else pl.Series()
        split = Split(
            rows=len(rows),
            tool_rows=int((rows["tools"] | rows["letters"].str.contains("t")).sum()),
            selected=self._selected,
            dropped=dict(self._problems.dropped),
            noted=dict(self._problems.noted),
            bad_rows=self._problems.report(),
            redacted=dict(self._redacted),
            bytes=self._path.stat().st_size,
            sha256=file_digest(self._path),
            path=str(self._path),
            statistics=summarize(self._path, rows, sample),
        )
        return split, WrittenRows(self._path, rows)

    def _write_batch(self, file: IO[bytes], batch: Batch) -> pl.DataFrame:
        """What is known of the rows of a batch that are written."""
        rows = self._drop_unfit(batch, describe(self._well_formed(batch)))
        rows = rows.with_columns(
            exact=pl.coalesce("coded", "line").hash(),
            ends=ends_of(pl.col("longest")),
            line=pl.coalesce("whole", "line") + "\n",
            file=pl.lit(batch.file),
        )
        rows = rows.with_columns(size=pl.col("line").str.len_bytes())
        file.write(rows["line"].str.join("").item().encode())
        return self._with_tokens(rows).select(pl.col(name).cast(kind) for name, kind in WRITTEN.items())

    def _well_formed(self, batch: Batch) -> pl.DataFrame:
        """Rows whose form is fit; (number, messages, coded, whole, tools). Of a plain column, all rows."""
        if isinstance(batch.conversations, pl.Series) and not self._checks.scanner:
            return pl.DataFrame({"number": batch.numbers, "messages": batch.conversations}).with_columns(NO_LINES)
        numbers, conversations, tools = [], [], []
        for position, (number, conversation) in enumerate(zip(batch.numbers, rows_of(batch), strict=True)):
            problem = batch.broken.get(position)
            problems = [problem] if problem else checks.problems_of_row(*conversation)
            if self._checks.scanner and not problems:
                conversation, problems = self._scan(self._checks.scanner, conversation)
            if not problems and checks.has_weight(conversation.checked()):
                problems = self._weigh(RowLocation(batch.file, number))
            if problems:
                self._problems.drop(RowLocation(batch.file, number), problems)
            else:
                numbers.append(number)
                conversations.append(conversation)
                tools.append(checks.uses_tools(conversation.checked(), conversation.tools))
        messages = to_series([conversation.checked() for conversation in conversations])
        lines = pl.DataFrame(map(lines_of, conversations), {"coded": pl.String, "whole": pl.String}, orient="row")
        flags = pl.Series("tools", tools, pl.Boolean)
        return lines.select(pl.Series("number", numbers, pl.Int64), messages, "coded", "whole", flags)

    def _weigh(self, location: RowLocation) -> list[tuple[str, str]]:
        """What is wrong with a row that has a weight; nothing where weights are only noted."""
        if self._checks.data.weights == "note":
            self._problems.note(checks.WEIGHT, location, "")
            return []
        return [(checks.WEIGHT, "")]

    def _scan(self, scanner: "Scanner", conversation: Conversation) -> tuple[Conversation, list[tuple[str, str]]]:
        """The conversation, without personal data and secrets where they are to be replaced, and what was found."""
        findings: Counter[str] = Counter()

        def redact(text: str) -> str:
            content, new = scanner.redact(text)
            findings.update(finding.kind for finding in new)
            return content

        clean = []
        for message in conversation.checked():
            extras = {name: value for name, value in message.items() if name not in ("role", "content")}
            clean.append(message | {"content": redact(message["content"])} | redact_all(extras, scanner, redact))
        tools = redact_all({"tools": conversation.tools}, scanner, redact)["tools"]
        if not findings or self._checks.data.privacy == "redact":
            self._redacted.update(findings)
            return Conversation(clean, tools), []
        return conversation, [(checks.PRIVATE, ", ".join(f"{count} {kind}" for kind, count in findings.items()))]

    def _drop_unfit(self, batch: Batch, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows without a problem in roles and texts."""
        unfit = [letters for letters in rows["letters"].unique() if not checks.are_fit(letters)]
        suspects = rows.filter(pl.col("unfit") | pl.col("letters").is_in(unfit))
        dropped = []
        for row, number, messages, coded in suspects.select("row", "number", "messages", "coded").iter_rows():
            # What has more than roles and contents, such as tool calls, was checked with all that it has.
            judge = checks.problems_of_conversation if coded is None else checks.problems_of_texts
            if problems := judge(messages):
                self._problems.drop(RowLocation(batch.file, number), problems)
                dropped.append(row)
        return rows.filter(~pl.col("row").is_in(dropped)) if dropped else rows

    def _with_tokens(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows with their tokens: estimated, or counted for a sample and for what may be too long."""
        limit, tokenizer = self._checks.max_seq_length, self._checks.tokenizer
        if tokenizer is None:
            return rows.with_columns(tokens=pl.col("characters") // CHARACTERS_PER_TOKEN)
        # No token is shorter than a byte, so a row that has no more bytes than the limit needs no count.
        long = pl.col("size") > limit if limit else pl.lit(False)
        counted = rows.filter(long | ((self._written + pl.int_range(pl.len())) % TOKEN_SAMPLE == 0))
        tokens = count_tokens(tokenizer, counted["messages"].to_list())
        counts = counted.select("row", tokens=pl.Series(tokens, dtype=pl.UInt32))
        # Rows stay in the order in which they were written.
        return rows.join(counts, on="row", how="left", maintain_order="left")

    def _drop_repetitions(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows that repeat no other; the file has these alone afterwards."""
        data, dropped = self._checks.data, []
        actions = {kind: getattr(data, setting) for kind, setting in checks.SWITCHES.items()}
        left_out = {kind for kind, action in actions.items() if action in ("drop", "bad_row")}
        near = data.near_duplicates != "off"
        with closing(WrittenRows(self._path, rows)) as file:
            for row, kind, detail in find_repetitions(file, self._evaluation, dropped=left_out, near=near):
                match actions[kind]:
                    case "note":
                        self._problems.note(kind, file.location(row), detail)
                    case "drop" | "bad_row":
                        self._problems.drop(file.location(row), [(kind, detail)])
                        dropped.append(row)
        if not dropped:
            return rows
        kept = rows.with_columns(kept=~pl.col("row").is_in(dropped))
        cut_out(self._path, kept)
        return kept.filter("kept").drop("kept")

    def _note_long(self, rows: pl.DataFrame) -> None:
        """Notes rows that are too long."""
        if self._checks.max_seq_length:
            about = "" if self._checks.tokenizer else "about "
            long = rows.filter(pl.col("tokens") > self._checks.max_seq_length)
            for file, number, tokens in long.select("file", "number", "tokens").iter_rows():
                self._problems.note(checks.TOO_LONG, RowLocation(file, number), f"{about}{tokens} tokens")


def redact_all(values: dict[str, object], scanner: "Scanner", redact: Callable[[str], str]) -> dict[str, object]:
    """The values with each text in them redacted. All are scanned at once first: most of their texts are short."""
    decoded = {name: map_texts(value, without_escapes) for name, value in values.items()}
    if not scanner.find("\n".join(texts_of(decoded))):
        return values
    return {name: map_texts(value, redact) for name, value in decoded.items()}


def rows_of(batch: Batch) -> Iterable[Conversation]:
    """The rows of a batch one by one."""
    if isinstance(batch.conversations, pl.Series):
        return map(Conversation, batch.conversations.to_list())
    return batch.conversations


def describe(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with a number in this batch, and what their messages tell: letters of roles, characters, whether they
    may be unfit, the two longest texts, and the line."""
    messages = pl.col("messages").list
    role, content = pl.element().struct.field("role"), pl.element().struct.field("content")
    # A system message is the first, and often that of all conversations.
    length = pl.when(role == "system").then(0).otherwise(content.str.len_bytes() + 1)
    return (
        rows.with_row_index("row")
        .with_columns(line=to_json(pl.col("messages")))
        .with_columns(
            letters=messages.eval(checks.letter_of_role(role)).list.join(""),
            characters=messages.eval(content.str.len_chars()).list.sum(),
            unfit=messages.eval(checks.is_blank(content)).list.any() | checks.may_be_unfit(pl.col("line")),
            longest=messages.eval(content.gather(length.arg_sort().tail(2))),
        )
    )


def cut_out(path: Path, rows: pl.DataFrame) -> None:
    """Take the rows that are not `kept` out of their file."""
    runs = rows.group_by(run=pl.col("kept").rle_id(), maintain_order=True).agg(
        pl.col("kept").first(), pl.col("size").sum()
    )
    source = target = 0
    with path.open("r+b") as file:
        for kept, size in runs.select("kept", "size").iter_rows():
            for start in range(0, size if kept and source > target else 0, COPIED_BYTES):
                file.seek(source + start)
                content = file.read(min(COPIED_BYTES, size - start))
                file.seek(target + start)
                file.write(content)
            source, target = source + size, target + size * kept
        file.truncate(target)
