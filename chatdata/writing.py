"""One split on its way to its file: each row is checked, compared with those before it, and written or left out."""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
import orjson
import xxhash

from chatdata import checks
from chatdata.duplicates import Conversation, Keys, Lookup, Place, WrittenRows, worth_comparing
from chatdata.lines import can_be_written, json_of
from chatdata.reading import Batch, read_ahead
from chatdata.statistics import Collected
from chatdata.tokens import CHARACTERS_PER_TOKEN, count_tokens
from chatdata.turns import Conversations, Turns, characters_of, end_keys, marks_of, rows_at, turns_of_rows
from retune.report import BadRows, Split
from retune.waiting import pause

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from chatdata.privacy import Scanner

EXAMPLES = 5
EXAMPLE_CHARACTERS = 160
# Tokens of every so many rows make percentiles; the others are counted only where they may be too long.
TOKEN_SAMPLE = 20


class Checks(NamedTuple):
    """What is looked for in the rows of every split."""

    on: bool
    max_seq_length: int | None
    tokenizer: "Tokenizer | None"
    scanner: "Scanner | None"
    redact: bool


class Chosen(NamedTuple):
    """The batches that hold the chosen rows; `rows` in all, as far as that is known."""

    batches: Iterator[Batch]
    rows: int | None
    # Where rows are chosen by digest: the seed, and the bound that a chosen row's digest is below.
    seed: int | None
    below: float


class Look(NamedTuple):
    """What the columns of conversations tell of each; (conversations,) of each but `turns`."""

    turns: Turns
    characters: np.ndarray
    # Which can be written from the bytes of their column.
    writable: np.ndarray
    # Which are surely well-formed, or need not be.
    well_formed: np.ndarray
    # Which may have bad characters; empty where nothing is checked.
    suspicious: np.ndarray
    # Keys of the ends; (conversations, ENDS); empty where nothing is checked.
    ends: np.ndarray


class Found:
    """The rows of one kind so far."""

    def __init__(self) -> None:
        self.rows, self.examples = 0, []


class SplitWriting:
    """The writing of one file."""

    def __init__(self, looked_for: Checks, path: Path, judges: dict[str, WrittenRows]) -> None:
        self.rows = WrittenRows(path, self._await_offset)
        self._writing: Future[None] | None = None
        self._checks, self._path, self._judges = looked_for, path, judges
        self._collected = Collected()
        self._found: defaultdict[str, Found] = defaultdict(Found)
        self._redacted: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._selected = self._written = self._bytes = self._flushed = 0
        self._digest = hashlib.sha256()

    def write(self, chosen: Chosen, progress: Callable[[int], None]) -> Split:
        """The file's rows, written as they are read.

        Raises:
            BadFile: a source file cannot be read.
        """
        looked_at = 0
        with self._path.open("wb") as file, ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
            # One batch is read, the one before it looked at, and the one before that checked.
            for batch, look in read_ahead(map(self._look_at, read_ahead(chosen.batches))):
                pause(0)
                lines = self._check_batch(batch, look, chosen)
                self._await_file()
                self._writing = writer.submit(self._append, file, lines)
                looked_at += len(batch.messages)
                progress(looked_at)
            self._await_file()
        return Split(
            rows=self._written,
            selected=self._selected,
            dropped=dict(self._dropped),
            noted={kind: bad.rows for kind, bad in self._found.items() if kind in checks.ONLY_COUNTED},
            bad_rows=[BadRows(kind=kind, rows=bad.rows, examples=bad.examples) for kind, bad in self._found.items()],
            redacted=dict(self._redacted),
            bytes=self._bytes,
            sha256=self._digest.hexdigest(),
            path=str(self._path),
            statistics=self._collected.summary(),
        )

    def _look_at(self, batch: Batch) -> "tuple[Batch, Look | None]":
        """A batch and, where it is a column, what that tells."""
        if not isinstance(batch.messages, Conversations):
            return batch, None
        # What a scanner replaces is not what the column has.
        if self._checks.scanner:
            return batch._replace(messages=list(batch.messages)), None
        return batch, look_at(batch.messages.turns, self._checks.on)

    def _append(self, file: IO[bytes], lines: list[bytes]) -> None:
        """Write a batch; beside the work on the next one, because nothing here holds the interpreter up."""
        content = b"".join(lines)
        file.write(content)
        # Near duplicates are compared with what is in the file.
        file.flush()
        self._flushed += len(content)
        self._digest.update(content)

    def _await_offset(self, offset: int) -> None:
        """Return when the file holds the batch in which a row begins at this offset."""
        if offset >= self._flushed:
            self._await_file()

    def _await_file(self) -> None:
        """Return when the file holds all batches but the one that is worked on."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _check_batch(self, batch: Batch, look: Look | None, chosen: Chosen) -> list[bytes]:
        """The lines that are to be written of a batch."""
        candidates = list(self._candidates(batch, look, chosen))
        formed = [one for one in candidates if not one.problems]
        if look:
            numbers = np.array([one.number for one in formed], np.int64)
        else:
            look = look_at(turns_of_rows([one.messages for one in formed]), self._checks.on)
            numbers = np.arange(len(formed))
        if self._checks.on:
            self._check_characters(list(itertools.compress(formed, look.suspicious[numbers])))
            formed, numbers = without_problems(formed, numbers)
            self._check_repetitions(formed, look.ends[numbers])
            formed, numbers = without_problems(formed, numbers)
            self._check_lengths(formed, look.characters[numbers])
        for one in candidates:
            if one.problems:
                self._leave_out(one)
        lines = [one.line for one in formed]
        self._collected.add(look.turns, numbers, look.characters[numbers], lines)
        self._selected += len(candidates)
        self._written += len(lines)
        self._bytes += sum(map(len, lines))
        return lines

    def _candidates(self, batch: Batch, look: Look | None, chosen: Chosen) -> Iterator["Candidate"]:
        """The chosen rows of a batch, with what is wrong with their form."""
        rows = len(batch.messages)
        # Of tools a look at the messages tells nothing.
        sure = look.well_formed.tolist() if look and batch.tools is None else [False] * rows
        written_rows = json_of(look.turns, look.writable.tolist()) if look else itertools.repeat(None, rows)
        for number, written in enumerate(written_rows):
            tools = batch.tools[number] if batch.tools else None
            problems = [] if sure[number] else self._problems_of_form(batch, number, tools)
            if written is None:
                try:
                    written = orjson.dumps(batch.messages[number], default=str)
                except TypeError:
                    written = str(Place(batch.file, batch.numbers[number])).encode()
                    problems = problems or [(checks.LONE_SURROGATES, "")]
            if chosen.seed is not None and xxhash.xxh3_64_intdigest(written, chosen.seed) >= chosen.below:
                continue
            if self._checks.scanner and not problems:
                batch.messages[number], written, problems = self._scan(batch.messages[number], written)
            digest = xxhash.xxh3_64_intdigest(written) if self._checks.on else 0
            yield Candidate(batch, number, digest, line_of(written, tools), problems)

    def _problems_of_form(self, batch: Batch, number: int, tools: object) -> list[tuple[str, str]]:
        broken = batch.broken.get(number)
        if broken or not self._checks.on:
            return [broken] if broken else []
        problems = checks.problems_of_form(batch.messages[number])
        if tools is not None and not isinstance(tools, list):
            problems.append((checks.TOOLS_NOT_A_LIST, f"it is {checks.kind_of(tools)}"))
        return problems

    def _check_characters(self, suspects: list["Candidate"]) -> None:
        """Adds what is wrong with the characters of rows that may have some."""
        for one in suspects:
            text = "\n".join(message["content"] for message in one.messages)
            one.problems.extend(checks.problems_of_characters(text.encode()))

    def _scan(
        self, messages: list[dict[str, object]], written: bytes
    ) -> tuple[list[dict[str, object]], bytes, list[tuple[str, str]]]:
        """The messages, without personal data and secrets where they are to be replaced, and what was found."""
        found: Counter[str] = Counter()
        clean = []
        for message in messages:
            content, findings = self._checks.scanner.redact(message["content"])
            found.update(finding.kind for finding in findings)
            clean.append(message | {"content": content})
        if not found:
            return messages, written, []
        if self._checks.redact:
            self._redacted.update(found)
            return clean, orjson.dumps(clean, default=str), []
        return messages, written, [(checks.PRIVATE, ", ".join(f"{count} {kind}" for kind, count in found.items()))]

    def _check_repetitions(self, candidates: list["Candidate"], ends: np.ndarray) -> None:
        """Adds to each row whether it, or one nearly like it, was there before; takes those that were not."""
        keys = Keys(np.array([one.digest for one in candidates], np.uint64), ends)
        known = [(kind, rows, rows.lookup(keys)) for kind, rows in self._others()]
        fresh = np.ones(len(candidates), bool)
        own, *others = (lookup for _, _, lookup in known)
        compared, held = worth_comparing(keys, own, others)
        left_out = 0
        for number in np.flatnonzero(compared | held).tolist():
            one = candidates[number]
            exact, ends = int(keys.exact[number]), tuple(keys.ends[number].tolist())
            conversation = Conversation(one.place, one.batch.messages, one.number, exact, ends)
            if compared[number] and (problem := self._seen_before(number, conversation, known)):
                one.problems.append(problem)
                fresh[number] = False
                left_out += 1
            else:
                self.rows.hold(len(self.rows) + number - left_out, conversation)
        kept = candidates if fresh.all() else list(itertools.compress(candidates, fresh))
        if kept:
            batch, sizes = kept[0].batch, [len(one.line) for one in kept]
            numbers = [batch.numbers[one.number] for one in kept]
            self.rows.add(keys.only(fresh), batch.file, numbers, sizes, self._bytes)

    def _others(self) -> Iterator[tuple[str, WrittenRows]]:
        yield checks.DUPLICATE, self.rows
        yield from self._judges.items()

    def _seen_before(
        self, number: int, conversation: Conversation, known: list[tuple[str, WrittenRows, Lookup]]
    ) -> tuple[str, str] | None:
        for kind, rows, lookup in known:
            if (row := rows.same(conversation, lookup.exact[number])) is not None:
                return kind, f"of {rows.place(row)}"
        for kind, rows, lookup in known:
            if (row := rows.nearly_same(conversation, lookup.ends[number])) is not None:
                near = checks.NEAR_DUPLICATE if kind == checks.DUPLICATE else kind
                return near, f"nearly {rows.place(row)}"
        return None

    def _check_lengths(self, candidates: list["Candidate"], characters: np.ndarray) -> None:
        """Notes rows that are too long, and the tokens of a sample of all."""
        limit, tokenizer = self._checks.max_seq_length, self._checks.tokenizer
        if tokenizer is None:
            long, tokens, about = candidates, (characters // CHARACTERS_PER_TOKEN).tolist(), "about "
        else:
            self._collected.add_tokens(count_tokens(tokenizer, [one.messages for one in candidates[::TOKEN_SAMPLE]]))
            # No token is shorter than a byte, so a row that has no more bytes than the limit needs no count.
            long = [one for one in candidates if limit and len(one.line) > limit]
            tokens, about = count_tokens(tokenizer, [one.messages for one in long]), ""
        for one, count in zip(long, tokens, strict=True) if limit else ():
            if count > limit:
                self._note(checks.TOO_LONG, one, f"{about}{count} tokens")

    def _leave_out(self, one: "Candidate") -> None:
        """Counts a row for each thing that is wrong with it, and as left out for the first."""
        for kind, detail in one.problems:
            self._note(kind, one, detail)
        self._dropped[one.problems[0][0]] += 1

    def _note(self, kind: str, one: "Candidate", detail: str) -> None:
        bad = self._found[kind]
        bad.rows += 1
        if len(bad.examples) < EXAMPLES:
            bad.examples.append(f"{one.place} ({detail})"[:EXAMPLE_CHARACTERS] if detail else str(one.place))


class Candidate(NamedTuple):
    """A chosen row: a number in a batch."""

    batch: Batch
    number: int
    # Of the messages as JSON.
    digest: int
    # The whole row as JSON, with its line feed.
    line: bytes
    # Kinds and details; what is found later is added.
    problems: list[tuple[str, str]]

    @property
    def place(self) -> Place:
        """Where it stands in the source."""
        return Place(self.batch.file, self.batch.numbers[self.number])

    @property
    def messages(self) -> list[dict[str, object]]:
        """Its conversation; of a column, it is made each time."""
        return self.batch.messages[self.number]


def look_at(turns: Turns, check: bool) -> Look:
    """What the turns of conversations tell; of whether they are fit only with `check`."""
    marks = marks_of(turns)
    characters, writable = characters_of(turns, marks), can_be_written(turns, rows_at(turns, marks.controls))
    if not check:
        return Look(turns, characters, writable, np.ones(len(turns.counts), bool), np.zeros(0), np.zeros(0))
    fit = checks.surely_well_formed(turns), checks.suspicious(turns, marks), end_keys(turns)
    return Look(turns, characters, writable, *fit)


def without_problems(rows: list[Candidate], numbers: np.ndarray) -> tuple[list[Candidate], np.ndarray]:
    """Those rows that nothing is wrong with, and their numbers."""
    fine = np.array([not one.problems for one in rows], bool)
    return (rows, numbers) if fine.all() else (list(itertools.compress(rows, fine)), numbers[fine])


def line_of(messages: bytes, tools: object) -> bytes:
    """A row as it is written; the component drops every other column."""
    if tools is None:
        return b'{"messages":%b}\n' % messages
    return b'{"messages":%b,"tools":%b}\n' % (messages, orjson.dumps(tools, default=str))
