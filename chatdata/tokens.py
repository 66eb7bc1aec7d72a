"""Lengths in tokens, by the model's own tokenizer, or estimated from characters where none was named."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from chatdata.chat_template import FILES as TEMPLATE_FILES
from chatdata.source_files import unreachable
from retune.errors import BadRequest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# English text with tokenizers of 32,000 to 200,000 entries; other languages and code have fewer characters a token.
CHARACTERS_PER_TOKEN = 4
# Chat templates put a role's mark before and an end mark after each message.
MARKS_PER_MESSAGE = 4
FILE = "tokenizer.json"


def tokenizer_file(name: str) -> Path:
    """The file of the tokenizer of a folder or a hub id; that of the hub as it is now.

    Raises:
        BadRequest: there is none, or the package that reads it is missing.
        CloudError: `DataUnreachable`, the hub did not answer.
    """
    if find_spec("tokenizers") is None:
        raise BadRequest(
            ["data.tokenizer needs the package 'tokenizers'."], "pip install tokenizers, or leave data.tokenizer out."
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from chatdata.hub import TransportError

    path = Path(name).expanduser() / FILE
    if path.is_file():
        return path.resolve()
    try:
        return Path(hf_hub_download(name, FILE))
    except (HFValidationError, HfHubHTTPError) as error:
        problem = f"data.tokenizer '{name}' is neither a folder with a {FILE} nor a model of the hub with one."
        raise BadRequest([problem], "Check the name; for a private one set HF_TOKEN.") from error
    except (TransportError, LocalEntryNotFoundError, OSError) as error:
        raise unreachable(name, error) from error


def template_files(name: str) -> list[Path]:
    """The files beside a tokenizer that may hold its chat template.

    Raises:
        CloudError: `DataUnreachable`, the hub did not answer.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    from chatdata.hub import TransportError

    folder = Path(name).expanduser()
    if folder.is_dir():
        return [folder / file for file in TEMPLATE_FILES if (folder / file).is_file()]
    files = []
    for file in TEMPLATE_FILES:
        try:
            files.append(Path(hf_hub_download(name, file)))
        # A model has no file, or one, or both.
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, TransportError, OSError) as error:
            raise unreachable(name, error) from error
    return files


def count_tokens(tokenizer: "Tokenizer", conversations: list[list[dict[str, object]]]) -> list[int]:
    """Tokens of each conversation, the marks of a chat template included as an estimate."""
    texts = ["\n".join(str(message["content"]) for message in messages) for messages in conversations]
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [len(tokens) + MARKS_PER_MESSAGE * len(rows) for tokens, rows in zip(encoded, conversations, strict=True)]
