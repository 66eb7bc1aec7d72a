"""The request's section `data`: where chats come from, how they are read and split, and what is left out."""

import re
from typing import Literal, get_args
from urllib.parse import unquote

from pydantic import Field, field_validator, model_validator

from retune.section import Section

# The shapes of rows that are recognised; chatdata/formats.py says how each is read.
FormatName = Literal[
    "openai", "sharegpt", "preference", "alpaca", "prompt-completion", "prompt-response", "question-answer"
]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
PARTS = (
    *("messages", "tools", "system", "prompt", "completion", "response", "question", "answer", "context"),
    *("instruction", "input", "output", "history", "chosen", "rejected"),
)
HUB_ADDRESS = re.compile(
    r"(?P<site>hf://datasets/|https?://(?:www\.)?huggingface\.co/datasets/)"
    r"(?P<name>[^/@?#]+/[^/@?#]+)(?:@(?P<revision>[^/?#]+))?(?P<path>/[^?#]*)?(?:[?#].*)?"
)
# How the path of a page begins that shows a revision.
REVISION_PAGES = ("tree", "blob", "resolve", "raw")
SLICE = re.compile(r"(?P<split>[^\[\]]+)\[(?P<start>[^:\]]*):(?P<end>[^\]]*)\]")


def settings_of_address(address: str) -> dict[str, str]:
    """The settings that an address of the hub stands for, as a browser shows it or as `hf://` writes it; empty for any
    other source.

    Raises:
        ValueError: a part of the address cannot be taken over.
    """
    if (match := HUB_ADDRESS.fullmatch(address.strip())) is None:
        return {}
    name, revision = match["name"], match["revision"]
    subset = split = None
    page, *parts = [unquote(part) for part in (match["path"] or "").split("/") if part] or [""]
    if match["site"].startswith("hf"):
        split = file_of_address(name, [page, *parts] if page else [])
    elif page in REVISION_PAGES and parts:
        revision, split = parts[0], file_of_address(name, parts[1:])
    elif page == "viewer" and len(parts) <= 2:
        subset, split = [*parts, None, None][:2]
    elif page:
        raise ValueError(f"'{page}' of the address names no data; write data.source={name}")
    settings = {"source": name, "revision": revision, "subset": subset, "train_split": split}
    usual = {"revision": "main", "subset": "default"}
    return {key: value for key, value in settings.items() if value is not None and value != usual.get(key)}


def file_of_address(name: str, parts: list[str]) -> str | None:
    """The file, or pattern of files, that the rest of an address names."""
    if parts and not re.search(r"[.*?\[]", parts[-1]):
        folder = "/".join(parts)
        raise ValueError(
            f"the address names the folder '{folder}'; write data.source={name} and name the files, e.g. "
            f"data.train_split={folder}/*.parquet"
        )
    return "/".join(parts) or None


class Data(Section):
    """Chat data: where it comes from, how much of it is used, and what is done about rows that are unfit."""

    source: str = Field(
        default="HuggingFaceH4/ultrachat_200k",
        min_length=1,
        description="Hugging Face dataset id or address, file, folder, fsspec URL (abfss://, az://, https:// ...), or "
        "data asset azureml:NAME:VERSION.",
    )
    subset: str | None = Field(default=None, description="Configuration of the data set, where it has several.")
    revision: str | None = Field(
        default=None,
        description="Commit of a hub data set; a branch or tag stands for the commit that it is at, as reported.",
    )
    format: Literal["auto", FormatName] = Field(
        default="auto", description="Shape of the rows. `auto`: recognised from the columns and the first rows."
    )
    columns: dict[str, str] = Field(
        default={},
        description="Columns with unusual names, by the part that each is, e.g. {prompt: Frage, completion: Antwort}.",
    )
    fraction: float = Field(default=1, gt=0, le=1, description="Share of each split that is used, in (0, 1].")
    selection: Literal["head", "hash"] = Field(
        default="head",
        description="Which rows: the leading ones, as in the guide, or by a seeded digest of each conversation, "
        "whatever its place. A larger fraction contains the smaller one.",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of what is chosen, and what is held out, by digest.")
    train_split: str = Field(
        default="auto",
        min_length=1,
        description="Split, file or pattern of files to train on. `auto`: by the usual names.",
    )
    validation_split: str = Field(default="auto", min_length=1, description="Split or files whose loss is measured.")
    test_split: str = Field(
        default="auto", min_length=1, description="Split or files whose prompts the endpoint is asked."
    )
    validation_fraction: float = Field(
        default=0.1, gt=0, le=0.4, description="Share of the training split that is held out where no split validates."
    )
    test_fraction: float = Field(
        default=0.1, gt=0, le=0.4, description="Share of the training split that is held out where no split tests."
    )
    on_bad_row: Literal["fail", "drop"] = Field(
        default="fail",
        description="What to do about rows that the component would fail on or leave out: refuse the data, or leave "
        "them out.",
    )
    duplicates: Literal["bad_row", "drop", "note", "off"] = Field(
        default="bad_row",
        description="Rows that are there twice. `bad_row`: as on_bad_row says; `off`: not looked for.",
    )
    evaluation_overlap: Literal["bad_row", "drop", "note", "off"] = Field(
        default="bad_row", description="Training rows that are also in an evaluation split."
    )
    near_duplicates: Literal["note", "drop", "off"] = Field(
        default="note",
        description="Rows that nearly repeat another one of their split, or training rows that nearly repeat one of an "
        "evaluation split: a guess, so such rows are kept unless `drop` is asked for.",
    )
    weights: Literal["bad_row", "drop", "note"] = Field(
        default="bad_row",
        description="Rows with an answer whose `weight` is not 1. The component does not know weights: with `note` it "
        "trains on such answers in full.",
    )
    on_lost_tools: Literal["warn", "fail"] = Field(
        default="warn",
        description="What to do where rows have tools or tool calls that the model's chat template leaves out, or "
        "where data.tokenizer does not say which template that is.",
    )
    drop_limit: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of a split's rows that one check may leave out; beyond, the run is refused.",
    )
    tokenizer: str | None = Field(
        default=None,
        min_length=1,
        description="Folder or hub id of the model's tokenizer. Unset: a token is taken for four characters.",
    )
    privacy: Literal["off", "refuse", "redact"] = Field(
        default="off",
        description="Scan for personal data and secrets: rows with any are bad rows, or have it replaced.",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_hub_address(cls, values: object) -> object:
        """The hub id of an address of the hub, and the revision, the subset and what to train on that it names."""
        if not isinstance(values, dict) or not isinstance(source := values.get("source"), str):
            return values
        named = settings_of_address(source)
        for key, value in named.items():
            if key != "source" and values.get(key) not in (None, "auto", value):
                raise ValueError(f"the address names {key} {value!r}, and data.{key} is {values[key]!r}: leave one out")
        return values | named

    @field_validator("duplicates", "evaluation_overlap", "near_duplicates", "privacy", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        """YAML reads `off` without quotes as false."""
        return "off" if value is False else value

    @field_validator("columns")
    @classmethod
    def _parts_are_known(cls, columns: dict[str, str]) -> dict[str, str]:
        if unknown := [part for part in columns if part not in PARTS]:
            raise ValueError(
                f"{', '.join(unknown)} is no part of a row; write part: column, with the parts {', '.join(PARTS)}"
            )
        return columns

    @field_validator("train_split", "validation_split", "test_split")
    @classmethod
    def _is_no_slice(cls, split: str) -> str:
        if match := SLICE.fullmatch(split):
            raise ValueError(
                f"a slice is not read here. Name the split '{match['split']}', take the leading share of it with "
                "data.fraction, e.g. data.fraction=0.8, and let other rows be held out with data.validation_fraction "
                "and data.test_fraction"
            )
        return split
