"""The files that a data set's card names, beside those that `datasets` finds for it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_client import Client

FILES = ("data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet", "more/train.parquet")
TRAIN, TEST = "{split: train, path: data/train-*}", "{split: test, path: data/test-*}"
MORE = "data_files: [{split: train, path: more/*}]"
# By data set: the card's `configs`.
SIMPLE = {
    "patterns": f"[{{config_name: default, data_files: [{TRAIN}, {TEST}]}}]",
    "any-name": f"[{{config_name: only, data_files: [{TEST}]}}]",
    "default-by-name": f"[{{config_name: more, {MORE}}}, {{config_name: default, data_files: [{TRAIN}]}}]",
    "default-by-mark": f"[{{config_name: first, data_files: [{TRAIN}]}}, {{config_name: more, default: true, {MORE}}}]",
    "lists": "[{config_name: all, data_files: [{split: train, path: [more/train.parquet, data/train-1.*]}]}]",
}
OTHERS = {
    "folder": "[{config_name: all, data_dir: data}]",
    "no-splits": "[{config_name: all, data_files: data/*.parquet}]",
    "deep": "[{config_name: all, data_files: [{split: train, path: '**/train*'}]}]",
    "settings": f"[{{config_name: all, data_files: [{TRAIN}], drop_labels: true}}]",
    "none": "",
}
FIND = """
from chatdata.hub import files_named_by_card, hub_system
from chatdata.source_files import PinnedData, files_found_by_datasets
from retune.request import Data
commit = HfApi().dataset_info(name).sha
pinned = PinnedData(data=Data(source=name, subset=subset), revision=commit)
found = files_found_by_datasets(pinned)
found = {split: [file.removeprefix("hf://") for file in files] for split, files in found.items()}
result = [files_named_by_card(hub_system(), name, commit, subset), found]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets of the same few files, each with a card of its own."""
    root = tmp_path_factory.mktemp("hub")
    for name, configs in (SIMPLE | OTHERS).items():
        for file in FILES:
            path = root / "lab" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"text": [file]}), path)
        (root / "lab" / name / "README.md").write_text(f"---\nconfigs: {configs}\n---\n" if configs else "")
    return root


@pytest.mark.parametrize(
    ("name", "subset"),
    [*((name, None) for name in (SIMPLE | OTHERS)), ("default-by-name", "more"), ("default-by-mark", "first")],
)
def test_a_card_names_the_files_that_datasets_finds(client: Client, name: str, subset: str | None) -> None:
    """The same ones in the same order, or none where the card does more than name parquet files."""
    by_card, by_datasets = client.run(FIND, name=f"lab/{name}", subset=subset)

    assert by_datasets
    assert by_card == (by_datasets if name in SIMPLE else {})
