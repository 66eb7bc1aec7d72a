"""Lengths in tokens, by the model's own tokenizer, or estimated from characters where none was named."""

from pathlib import Path
from typing import TYPE_CHECKING

from chatdata.sources import unreachable
from retune.errors import BadRequest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# English text with tokenizers of 32,000 to 200,000 entries; other languages and code have fewer characters a token.
CHARACTERS_PER_TOKEN = 4
# Chat templates put a role's mark before and an end mark after each message.
MARKS_PER_MESSAGE = 4


def load_tokenizer(name: str) -> "Tokenizer":
    """The tokenizer of a folder or a hub id.

    Raises:
        BadRequest: there is none, or the package that reads it is missing.
        CloudError: `DataUnreachable`, the hub did not answer.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise BadRequest(
            ["data.tokenizer needs the package 'tokenizers'."], "pip install tokenizers, or leave data.tokenizer out."
        ) from error
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError

    path = Path(name).expanduser() / "tokenizer.json"
    if not path.is_file():
        try:
            path = Path(hf_hub_download(name, "tokenizer.json"))
        except (HFValidationError, HfHubHTTPError) as error:
            problem = (
                f"data.tokenizer '{name}' is neither a folder with a tokenizer.json nor a model of the hub with one."
            )
            raise BadRequest([problem], "Check the name; for a private one set HF_TOKEN.") from error
        except (HTTPError, LocalEntryNotFoundError, OSError) as error:
            raise unreachable(name, error) from error
    return Tokenizer.from_file(str(path))


def count_tokens(tokenizer: "Tokenizer", conversations: list[list[dict[str, object]]]) -> list[int]:
    """Tokens of each conversation, the marks of a chat template included as an estimate."""
    texts = ["\n".join(str(message["content"]) for message in messages) for messages in conversations]
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [len(one) + MARKS_PER_MESSAGE * len(rows) for one, rows in zip(encoded, conversations, strict=True)]
