"""One split on its way to its file: each row is checked, compared with those before it, and written or left out."""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
import orjson
import xxhash

from chatdata import checks
from chatdata.duplicates import Conversation, Keys, Lookup, Place, WrittenRows, worth_comparing
from chatdata.reading import Batch, read_ahead
from chatdata.statistics import Collected
from chatdata.tokens import CHARACTERS_PER_TOKEN, count_tokens
from chatdata.turns import CONTENT, Turns, end_keys, turns_of_column, turns_of_rows
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


class Told(NamedTuple):
    """What the column of a batch tells of its rows, when it is known: which are surely well-formed, the keys of their
    ends, and which may have bad characters."""

    well_formed: Future[list[bool]]
    ends: Future[np.ndarray]
    suspicious: Future[np.ndarray]


class Found:
    """The rows of one kind so far."""

    def __init__(self) -> None:
        self.rows, self.examples = 0, []


class SplitWriting:
    """The writing of one file."""

    def __init__(self, looked_for: Checks, path: Path, judges: dict[str, WrittenRows]) -> None:
        self.rows = WrittenRows(path, self._await_file)
        self._writing: Future[None] | None = None
        self._checks, self._path, self._judges = looked_for, path, judges
        self._collected = Collected()
        self._found: defaultdict[str, Found] = defaultdict(Found)
        self._redacted: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._selected = self._written = self._bytes = 0
        self._digest = hashlib.sha256()

    def write(self, chosen: Chosen, progress: Callable[[int], None]) -> Split:
        """The file's rows, written as they are read.

        Raises:
            BadFile: a source file cannot be read.
        """
        looked_at = 0
        with (
            self._path.open("wb") as file,
            ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
            ThreadPoolExecutor(1, thread_name_prefix="look") as looker,
        ):
            for batch, told in read_ahead(map(partial(self._look_at, looker), chosen.batches)):
                pause(0)
                lines = self._check_batch(batch, told, chosen)
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

    def _look_at(self, looker: Executor, batch: Batch) -> tuple[Batch, Told | None]:
        """A batch and, where it has a column, what that tells; the look at it has begun then."""
        # What a scanner replaced is not what the column has.
        if not self._checks.on or batch.column is None or self._checks.scanner:
            return batch, None
        turns = turns_of_column(batch.column)
        return batch, Told(
            looker.submit(well_formed, batch, turns),
            looker.submit(end_keys, turns),
            looker.submit(checks.suspicious, turns),
        )

    def _append(self, file: IO[bytes], lines: list[bytes]) -> None:
        """Write a batch; beside the work on the next one, because nothing here holds the interpreter up."""
        content = b"".join(lines)
        file.write(content)
        # Near duplicates are compared with what is in the file.
        file.flush()
        self._digest.update(content)

    def _await_file(self) -> None:
        """Return when the file holds all batches but the one that is worked on."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _check_batch(self, batch: Batch, told: Told | None, chosen: Chosen) -> list[bytes]:
        """The lines that are to be written of a batch."""
        candidates = list(self._candidates(batch, told, chosen))
        if self._checks.on:
            formed = [one for one in candidates if not one.problems]
            ends, suspicious = ends_and_suspects(formed, told)
            self._check_characters([formed[row] for row in np.flatnonzero(suspicious).tolist()])
            fit = [row for row, one in enumerate(formed) if not one.problems]
            self._check_lengths([formed[row] for row in fit])
            self._check_repetitions([formed[row] for row in fit], ends[fit])
        kept = []
        for one in candidates:
            for kind, detail in one.problems:
                self._note(kind, one.place, detail)
            if one.problems and (kind := dropped_for(one.problems)):
                self._dropped[kind] += 1
            else:
                kept.append(one)
        lines = [one.line for one in kept]
        self._collected.add([one.messages for one in kept], [one.characters for one in kept], lines)
        self._selected += len(candidates)
        self._written += len(kept)
        self._bytes += sum(map(len, lines))
        return lines

    def _candidates(self, batch: Batch, told: Told | None, chosen: Chosen) -> Iterator["Candidate"]:
        """The chosen rows of a batch, with what is wrong with their form."""
        sure = told.well_formed.result() if told else [False] * len(batch.messages)
        for place, messages in enumerate(batch.messages):
            where = Place(batch.file, batch.numbers[place])
            tools = batch.tools[place] if batch.tools else None
            problems = [] if sure[place] else self._problems_of_form(messages, tools, batch.broken.get(place))
            try:
                written = orjson.dumps(messages, default=str)
            except TypeError:
                written, problems = str(where).encode(), problems or [(checks.LONE_SURROGATES, "")]
            if chosen.seed is not None and xxhash.xxh3_64_intdigest(written, chosen.seed) >= chosen.below:
                continue
            if self._checks.scanner and not problems:
                messages, written, problems = self._scan(messages, written)
            characters = 0 if problems else sum(map(len, map(CONTENT, messages)))
            digest = xxhash.xxh3_64_intdigest(written) if self._checks.on else 0
            yield Candidate(place, where, messages, characters, digest, line_of(written, tools), problems)

    def _problems_of_form(
        self, messages: object, tools: object, broken: tuple[str, str] | None
    ) -> list[tuple[str, str]]:
        if broken or not self._checks.on:
            return [broken] if broken else []
        problems = checks.problems_of_form(messages)
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
            conversation = Conversation(one.place, one.messages, exact, ends)
            if compared[number] and (problem := self._seen_before(number, conversation, known)):
                one.problems.append(problem)
                fresh[number] = False
                left_out += 1
            else:
                self.rows.hold(len(self.rows) + number - left_out, conversation)
        kept = candidates if fresh.all() else list(itertools.compress(candidates, fresh))
        sizes = [len(one.line) for one in kept]
        self.rows.add(keys.only(fresh), [one.place for one in kept], sizes, self._bytes)

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

    def _check_lengths(self, candidates: list["Candidate"]) -> None:
        """Notes rows that are too long, and the tokens of a sample of all."""
        limit, tokenizer = self._checks.max_seq_length, self._checks.tokenizer
        if tokenizer is None:
            for one in candidates if limit else []:
                if (tokens := one.characters // CHARACTERS_PER_TOKEN) > limit:
                    one.problems.append((checks.TOO_LONG, f"about {tokens} tokens"))
            return
        sample = count_tokens(tokenizer, [one.messages for one in candidates[::TOKEN_SAMPLE]])
        self._collected.add_tokens(sample)
        # No token is shorter than a byte, so a row that has no more bytes than the limit needs no count.
        long = [one for one in candidates if limit and len(one.line) > limit]
        for one, tokens in zip(long, count_tokens(tokenizer, [one.messages for one in long]), strict=True):
            if tokens > limit:
                one.problems.append((checks.TOO_LONG, f"{tokens} tokens"))

    def _note(self, kind: str, place: Place, detail: str) -> None:
        bad = self._found[kind]
        bad.rows += 1
        if len(bad.examples) < EXAMPLES:
            bad.examples.append(f"{place} ({detail})"[:EXAMPLE_CHARACTERS] if detail else str(place))


class Candidate(NamedTuple):
    """A chosen row."""

    # Its position in the batch.
    number: int
    place: Place
    messages: list[dict[str, object]]
    # In its texts; 0 if something is wrong with its form.
    characters: int
    # Of the messages as JSON.
    digest: int
    # The whole row as JSON, with its line feed.
    line: bytes
    # Kinds and details; what is found later is added.
    problems: list[tuple[str, str]]


def well_formed(batch: Batch, turns: Turns) -> list[bool]:
    """Which rows are surely well-formed, as far as their column tells; of tools it tells nothing."""
    return [False] * len(batch.messages) if batch.tools else checks.surely_well_formed(turns).tolist()


def ends_and_suspects(candidates: list[Candidate], told: Told | None) -> tuple[np.ndarray, np.ndarray]:
    """The keys of the ends of well-formed rows, and which may have bad characters."""
    if told:
        numbers = [one.number for one in candidates]
        return told.ends.result()[numbers], told.suspicious.result()[numbers]
    turns = turns_of_rows([one.messages for one in candidates])
    return end_keys(turns), checks.suspicious(turns)


def dropped_for(problems: list[tuple[str, str]]) -> str | None:
    """The kind for which a row is left out."""
    return next((kind for kind, _ in problems if kind not in checks.ONLY_COUNTED), None)


def line_of(messages: bytes, tools: object) -> bytes:
    """A row as it is written; the component drops every other column."""
    if tools is None:
        return b'{"messages":%b}\n' % messages
    return b'{"messages":%b,"tools":%b}\n' % (messages, orjson.dumps(tools, default=str))
