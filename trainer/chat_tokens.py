"""Conversations to tokens by the model's chat template, with labels on the assistant's words only.

The template's own {% generation %} marks say which those are. For a template without them it is the text that an
assistant's turn adds to its prompt.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from trainer.chat_files import Row, messages_of, tools_of
from trainer.step import StepError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

IGNORED_LABEL = -100
GENERATION_MARK = re.compile(r"{%-?\s*generation\b")


@dataclass(frozen=True)
class TokenRow:
    input_ids: list[int]
    labels: list[int]


def tokenize_rows(
    split: str, rows: list[tuple[int, Row]], tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> list[TokenRow]:
    """One token row a conversation; `rows` carry their number in the file.

    Raises: StepError with the row that the template refuses.
    """
    from jinja2 import TemplateError

    tokenize = tokenize_by_marks if GENERATION_MARK.search(tokenizer.get_chat_template()) else tokenize_by_turns
    token_rows = []
    for number, row in rows:
        try:
            token_rows.append(tokenize(row, tokenizer, max_length))
        except TemplateError as error:
            raise StepError(
                f"Failure while applying chat template to dataset: {error} (row {number} of the {split} data). "
                "Make the roles fit the model's template."
            ) from error
    return token_rows


def tokenize_by_marks(row: Row, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> TokenRow:
    encoded = cast(
        "BatchEncoding",
        tokenizer.apply_chat_template(
            messages_of(row),
            tools=tools_of(row),
            return_dict=True,
            return_assistant_tokens_mask=True,
            truncation=True,
            max_length=max_length,
        ),
    )
    return label_row(encoded["input_ids"], [bool(mark) for mark in encoded["assistant_masks"]])


def tokenize_by_turns(row: Row, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> TokenRow:
    """Marks a token as the assistant's when it lies within the text that an assistant's turn adds to its prompt."""

    def render(count: int, prompt: bool = False) -> str:
        text = tokenizer.apply_chat_template(
            messages[:count], tools=tools_of(row), tokenize=False, add_generation_prompt=prompt
        )
        return cast(str, text)

    messages = messages_of(row)
    text = render(len(messages))
    spans = [
        # Templates may close the last turn with a token of its own: only what the full text shares counts.
        (shared_length(text, render(turn, prompt=True)), shared_length(text, render(turn + 1)))
        for turn, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, truncation=True, max_length=max_length
    )
    marks = [any(start <= first and last <= end for start, end in spans) for first, last in encoded["offset_mapping"]]
    return label_row(encoded["input_ids"], marks)


def shared_length(text: str, other: str) -> int:
    for position, (character, other_character) in enumerate(zip(text, other, strict=False)):
        if character != other_character:
            return position
    return min(len(text), len(other))


def label_row(input_ids: list[int], marks: list[bool]) -> TokenRow:
    return TokenRow(
        input_ids, [token if marked else IGNORED_LABEL for token, marked in zip(input_ids, marks, strict=True)]
    )
