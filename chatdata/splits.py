"""Which splits a source has by the names of its files, and which of them trains, validates and tests.

A role without a split is held out from another one; `chatdata.choosing` does that.
"""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Literal

from retune.data_settings import Data
from retune.errors import BadRequest

Role = Literal["train", "validation", "test"]
# The evaluation splits come first, because training rows are compared with theirs.
ROLES: tuple[Role, ...] = ("validation", "test", "train")
AUTO = "auto"
# The usual names, most usual first; then how other names begin.
NAMES: dict[Role, tuple[str, ...]] = {
    "train": ("train", "training", "train_sft"),
    "validation": ("validation", "valid", "val", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "test_sft"),
}
BEGINNINGS: dict[Role, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("valid", "dev", "eval"),
    "test": ("test",),
}
# ultrachat_200k's, as Microsoft's guide uses them.
GUIDE: dict[Role, str] = {"train": "train_sft", "validation": "test_sft", "test": "test_gen"}
# As the hub writes files, and as `datasets` finds the split in any other name.
SHARD = re.compile(r"(?P<split>\w[\w.-]*?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.\w+(?:\.\w+)?")
KEYWORDS = {name: role for role in ROLES for name in NAMES[role]}
KEYWORD = re.compile(rf"(?:^|[^a-zA-Z])({'|'.join(sorted(KEYWORDS, key=len, reverse=True))})(?:[^a-zA-Z]|$)", re.I)
# Beginnings of shards that name no split, such as those of `datasets.save_to_disk`.
GENERIC = ("data", "part", "shard", "chunk", "file")
ALL_FILES, OTHER_FILES = "all files", "other files"
# Files that describe others.
METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json", "config.json")


def split_of(path: str) -> str | None:
    """The split that a file's name, or a folder that it is in, names."""
    pure = PurePosixPath(path)
    if (match := SHARD.fullmatch(pure.name)) and match["split"] not in GENERIC:
        return match["split"]
    for part in (pure.name, *reversed(pure.parts[:-1])):
        if match := KEYWORD.search(part):
            return KEYWORDS[match[1].lower()]
    return None


def splits_by_name(paths: Iterable[str]) -> dict[str, list[str]]:
    """The files of each split, by names below the source; the files that name none are one split."""
    splits: dict[str, list[str]] = {}
    unnamed = []
    for path in filter(is_data, sorted(paths)):
        if (split := split_of(path)) is not None:
            splits.setdefault(split, []).append(path)
        else:
            unnamed.append(path)
    if unnamed:
        several = OTHER_FILES if splits else ALL_FILES
        splits[PurePosixPath(unnamed[0]).name if len(unnamed) == 1 else several] = unnamed
    return splits


def is_data(path: str) -> bool:
    """Whether a file may hold rows: it is neither hidden nor one that describes others."""
    parts = PurePosixPath(path).parts
    return parts[-1] not in METADATA and not any(part.startswith((".", "_")) for part in parts)


def named_splits(data: Data) -> dict[Role, str]:
    """The splits that the request names."""
    names: dict[Role, str] = {
        "validation": data.validation_split,
        "test": data.test_split,
        "train": data.train_split,
    }
    return {role: name for role, name in names.items() if name != AUTO}


def assign_roles(data: Data, known: Iterable[str]) -> dict[Role, str]:
    """The split of each role: as the request names it, else one of the known splits by its name.

    Raises:
        BadRequest: no split is known to train on.
    """
    known = list(known)
    chosen = named_splits(data)
    free = [name for name in known if name not in chosen.values()]
    if not chosen and set(GUIDE.values()) <= set(free):
        return {role: GUIDE[role] for role in ROLES}
    for role in ("train", "validation", "test"):
        if role not in chosen and (name := find_split(role, free, chosen.get("train", ""))):
            chosen[role] = name
            free.remove(name)
    # The only split there is, whatever its name, or the only one that has no role.
    if "train" not in chosen and len(known) == 1 and not named_splits(data):
        return {"train": known[0]}
    if "train" not in chosen and len(free) == 1:
        chosen["train"] = free[0]
    if "train" not in chosen:
        raise BadRequest(
            [f"data.source '{data.source}' has no split that is named for training; its splits: {', '.join(known)}."],
            f"Name one, e.g. --set data.train_split={(free or known or ['train'])[0]}",
        )
    return {role: chosen[role] for role in ROLES if role in chosen}


def find_split(role: Role, free: list[str], train: str) -> str | None:
    """The split whose name is usual for a role; of several that only begin so, the one that ends as train's does."""
    lowered = {name.lower(): name for name in free}
    for name in NAMES[role]:
        if name in lowered:
            return lowered[name]
    similar = [name for name in free if name.lower().startswith(BEGINNINGS[role])]
    ending = train.partition("_")[2]
    return next((name for name in similar if ending and name.endswith(ending)), similar[0] if similar else None)
