"""Chat data: pinned, checked row by row against the component's contract, written as JSONL, cached by content.

`datasets` loads a hub id or a folder in the hub's layout. The cache's key is the content: the commit of a hub data
set or the digest of a folder's files, the settings, and the source of this module. A hit is believed only after
the files' digests were checked. Files appear atomically.
Source of the row rules: the preprocessing step of `chat_completion_pipeline`.
"""

import hashlib
import json
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.context import TaskRunContext

from retune.errors import BadRequest, CloudError
from retune.folders import home
from retune.report import Part, PreparedData, Split
from retune.request import Data
from retune.waiting import pause
from tasks.retrying import HARMLESS, is_transient

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger("retune.data")

ROLES = ("system", "user", "assistant", "tool")
MINIMUM_TRAINING_ROWS = 10
SHOWN_BAD_ROWS = 5
# Left out, as the component does without a word; counted in the report.
DROPPED = ("fewer than two messages", "no assistant turn")


class PinnedData(Part):
    """A data request whose source cannot change any more."""

    data: Data
    revision: str
    folder: str | None

    def key(self) -> str:
        """Digest of everything that decides the prepared files' content."""
        parts = [self.model_dump_json(), hashlib.sha256(Path(__file__).read_bytes()).hexdigest()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _cache_key(context: TaskRunContext, arguments: dict[str, object]) -> str:
    return f"prepare-data-{arguments['pinned'].key()}"


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=is_transient, **HARMLESS)
def prepare_data(data: Data) -> PreparedData:
    """The three files that the job takes, written now or found from an earlier run and verified.

    Raises:
        BadRequest: the source, a split or rows are unusable; every kind of bad row is named with examples.
        CloudError: `DataUnreachable`, the hub did not answer.
    """
    pinned = pin(data)
    state = write_splits(pinned, return_state=True)
    prepared = state.result()
    if state.name == "Cached" and not _verified(prepared):
        log.warning("prepared data %s was changed or deleted; preparing it again", pinned.key())
        prepared = write_splits.with_options(refresh_cache=True)(pinned)
    elif state.name == "Cached":
        prepared = prepared.model_copy(update={"cached": True})
    for role, split in prepared.splits.items():
        left_out = f", {sum(split.dropped.values())} left out" if split.dropped else ""
        log.info("%s: %d rows%s%s", role, split.rows, left_out, " (cached)" if prepared.cached else "")
    return prepared


@task(
    cache_policy=CachePolicy.from_cache_key_fn(_cache_key),
    persist_result=True,
    result_serializer="json",
)
def write_splits(pinned: PinnedData) -> PreparedData:
    """The checked rows of each split as `<role>.jsonl`, in a folder named by the content's key."""
    data = pinned.data
    roles = {"train": data.train_split, "validation": data.validation_split, "test": data.test_split}
    target = home() / "data" / pinned.key()
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        splits, problems = {}, []
        for role, name in roles.items():
            rows = load_split(pinned, name)
            wanted = rows.select(range(math.ceil(len(rows) * data.fraction)))
            splits[role], bad = _write(wanted, Path(scratch) / f"{role}.jsonl", target / f"{role}.jsonl", data)
            problems += [f"Split '{name}' of '{data.source}': {problem}" for problem in bad]
            problems += _too_few(role, name, splits[role])
        if problems:
            raise BadRequest(problems, "Mend the rows, or set data.on_bad_row=drop to leave them out.")
        target.mkdir(exist_ok=True)
        for role in roles:
            (Path(scratch) / f"{role}.jsonl").replace(target / f"{role}.jsonl")
    return PreparedData(source=data.source, revision=pinned.revision, splits=splits)


def pin(data: Data) -> PinnedData:
    """The request with its source fixed: a hub id to a commit, a folder to the digest of its files."""
    folder = Path(data.source)
    if folder.is_dir():
        return PinnedData(data=data, revision=_folder_digest(folder), folder=str(folder.resolve()))
    if data.source.startswith((".", "/", "~")) or data.source.count("/") > 1:
        raise BadRequest([f"data.source '{data.source}': no such folder (looked from {Path.cwd()})."])
    return PinnedData(data=data, revision=_hub_commit(data), folder=None)


def load_split(pinned: PinnedData, split: str) -> "Dataset":
    """One whole split, through `datasets`.

    Raises:
        BadRequest: the split does not exist, the source holds no data, or a file cannot be read.
    """
    import datasets

    datasets.disable_progress_bars()
    source = {"path": pinned.data.source, "revision": pinned.revision}
    if pinned.folder:
        source = {"path": pinned.folder, "cache_dir": str(home() / "datasets" / pinned.revision)}
    try:
        return datasets.load_dataset(name=pinned.data.subset, split=split, **source)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        detail = " ".join(str(error.__cause__ or error).split())
        raise BadRequest([f"data.source '{pinned.data.source}', split '{split}': {detail}"]) from error
    except ConnectionError as error:
        raise _unreachable(pinned.data.source, error) from error


def bad_reason(row: Mapping[str, object]) -> str | None:
    """Why the component would leave out a row or fail on it; None when the row is usable."""
    messages = row.get("messages")
    if messages is None:
        return "no messages"
    if messages == "":
        return DROPPED[0]
    if not isinstance(messages, list):
        return "messages is not a list"
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            return "a message without role and content"
        if message["role"] not in ROLES:
            return f"unknown role {message['role']!r}"
        if not isinstance(message["content"], str):
            return "content is not text"
    if len(messages) < 2:
        return DROPPED[0]
    if not any(message["role"] == "assistant" and message["content"].strip() for message in messages):
        return DROPPED[1]
    return None


def _write(rows: Iterable[dict], scratch: Path, final: Path, data: Data) -> tuple[Split, list[str]]:
    """Write the usable rows; the split's figures and the rows that may not be left out."""
    dropped: Counter[str] = Counter()
    bad: dict[str, list[int]] = {}
    written = 0
    with scratch.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows, start=1):
            if number % 1000 == 0:
                pause(0)
            reason = bad_reason(row)
            if reason is None:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                written += 1
                continue
            dropped[reason] += 1
            if data.on_bad_row == "fail" and reason not in DROPPED:
                bad.setdefault(reason, []).append(number)
    problems = [
        f"{len(numbers)} row(s) with {reason}, e.g. row {', '.join(map(str, numbers[:SHOWN_BAD_ROWS]))}."
        for reason, numbers in bad.items()
    ]
    split = Split(rows=written, dropped=dict(dropped), sha256=_digest([scratch]), path=str(final))
    return split, problems


def _too_few(role: str, name: str, split: Split) -> list[str]:
    needed = MINIMUM_TRAINING_ROWS if role == "train" else 1
    if split.rows >= needed:
        return []
    return [
        f"Split '{name}' has {split.rows} usable row(s), {role} needs at least {needed}. "
        "Raise data.fraction or choose another split."
    ]


def _hub_commit(data: Data) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

    try:
        return HfApi().dataset_info(data.source, revision=data.revision).sha
    except HFValidationError as error:
        raise BadRequest([f"data.source '{data.source}' is neither a folder nor a hub id."]) from error
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise
        revision = f" at revision '{data.revision}'" if data.revision else ""
        raise BadRequest(
            [
                f"data.source '{data.source}'{revision} is neither a folder here nor a data set that the hub shows you "
                f"(HTTP {error.response.status_code}). Check the name; for a private one set HF_TOKEN."
            ]
        ) from error
    except (HTTPError, OSError, OfflineModeIsEnabled) as error:
        raise _unreachable(data.source, error) from error


def _unreachable(source: str, error: Exception) -> CloudError:
    return CloudError(
        "DataUnreachable",
        f"The hub did not answer for data set '{source}' (and no folder has that name): {error}",
        "Check the network and HF_ENDPOINT, or name a local folder in data.source.",
    )


def _folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    if not files:
        raise BadRequest([f"data.source '{folder}' is an empty folder."])
    return _digest(files, folder)


def _digest(files: Iterable[Path], root: Path | None = None) -> str:
    """SHA-256 over the files' content, and over their names below `root` where one is given."""
    digest = hashlib.sha256()
    for path in files:
        if root:
            digest.update(f"{path.relative_to(root)}\0".encode())
        for block in _blocks(path):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _verified(prepared: PreparedData) -> bool:
    """Whether every file is there with the digest that was recorded."""
    paths = {Path(split.path): split.sha256 for split in prepared.splits.values()}
    return all(path.is_file() and _digest([path]) == digest for path, digest in paths.items())
