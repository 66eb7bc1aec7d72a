"""The hub's file system, which counts what it fetches, and the files that a data set's card names.

huggingface_hub repeats a request that was refused for its rate or cut off; nothing here does so again.
"""

import threading
from typing import Any, Literal

from huggingface_hub import HfApi, HfFileSystem, errors
from huggingface_hub.hf_file_system import HfFileSystemFile
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError


class NamedFiles(BaseModel):
    """The files of one split, as paths and patterns below the data set."""

    split: str
    path: str | list[str]

    @property
    def patterns(self) -> list[str]:
        """The paths and patterns."""
        return [self.path] if isinstance(self.path, str) else self.path


class Subset(BaseModel):
    """An entry of `configs` in a data set's card that does nothing but name files.

    Source: https://huggingface.co/docs/hub/datasets-manual-configuration
    """

    model_config = ConfigDict(extra="forbid")

    config_name: str
    default: Literal[True] | None = None
    data_files: list[NamedFiles]


# What the hub's client raises where no answer came.
TransportError: type[Exception] = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]
SUBSETS = TypeAdapter(list[Subset])


class CountingFile(HfFileSystemFile):
    """A file of the hub that reads exactly the ranges that it is asked for."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        content = super()._fetch_range(start, end)
        self.fs.count(len(content))
        # What a proxy cut short would else pass for a file that is damaged at its origin.
        if len(content) != end - start:
            raise ConnectionError(f"{len(content)} bytes came of the {end - start} that were asked for.")
        return content


class CountingHub(HfFileSystem):
    """The hub, with the number of bytes of content that were fetched from it."""

    # Instances of fsspec's file systems are shared; the count belongs to one preparation.
    cachable = False

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.fetched_bytes = 0
        self._lock = threading.Lock()

    def count(self, size: int) -> None:
        with self._lock:
            self.fetched_bytes += size

    def _open(  # pyright: ignore[reportIncompatibleMethodOverride] the hub's own takes more, which fsspec does not pass
        self, path: str, mode: str = "rb", **settings: Any
    ) -> CountingFile:
        return CountingFile(self, path, mode=mode, **{"revision": None} | settings)


def hub_system() -> CountingHub:
    """The hub that HF_ENDPOINT names, with the token that its own rules find."""
    return CountingHub()


def files_named_by_card(system: HfFileSystem, name: str, commit: str, subset: str | None) -> dict[str, list[str]]:
    """The parquet files of each split of a subset, or of the default one, in the order in which they are read.

    Empty where the card does not simply name such files. `datasets` would find the same ones, but its import and its
    builder take longer than to read a few per cent of a data set.

    Raises:
        HfHubHTTPError: the hub does not show the data set.
    """
    hub = HfApi()
    # A gated data set shows its card to everybody.
    hub.auth_check(name, repo_type="dataset")
    try:
        card = hub.dataset_info(name, revision=commit).card_data
        subsets = SUBSETS.validate_python(card.get("configs") if card else None)
    except ValidationError:
        return {}
    chosen = [each for each in subsets if is_chosen(each, subset, len(subsets))]
    if len(chosen) != 1:
        return {}
    root = f"datasets/{name}@{commit}"
    splits = {
        files.split: [path for pattern in files.patterns for path in matching(system, root, pattern)]
        for files in chosen[0].data_files
    }
    plain = all(paths and all(path.endswith(".parquet") for path in paths) for paths in splits.values())
    return splits if plain else {}


def is_chosen(subset: Subset, wanted: str | None, known: int) -> bool:
    """Whether a subset is the wanted one, or the default where none is wanted."""
    if wanted:
        return subset.config_name == wanted
    return known == 1 or subset.config_name == "default" or bool(subset.default)


def matching(system: HfFileSystem, root: str, pattern: str) -> list[str]:
    """The files below the root that a pattern names; none where it could name hidden files or those of elsewhere."""
    elsewhere = "://" in pattern or pattern.startswith("/") or ".." in pattern.split("/")
    return [] if "**" in pattern or elsewhere else sorted(system.glob(f"{root}/{pattern}", expand_info=False))
