"""Step 2, chat_completion_model_import: brings the foundation model into one Hugging Face folder.

Takes an MLflow model, a Hugging Face folder or a name on the hub, in the order pytorch_model_path, mlflow_model_path,
huggingface_id. Copies files as they are; loads nothing into memory.

    python -m trainer.model_import --mlflow_model_path weights/tiny-phi3 --output_dir out
"""

import hashlib
import json
import shutil
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from trainer import step
from trainer.step import StepError

MODEL_INFO = "model_info.json"
FINETUNE_CONFIG = "finetune_config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Only what transformers loads: repositories also carry other formats of the same weights.
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.py", "LICENSE*"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    output_dir: Path
    pytorch_model_path: Path | None = None
    mlflow_model_path: Path | None = None
    huggingface_id: str | None = None
    finetune_config_path: Path | None = None
    validation_output: Path | None = None


def main() -> None:
    settings = step.parse_arguments(Settings, __doc__)
    folders, name = find_source(settings)
    check_model(folders, name)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        copy_files(folder, settings.output_dir)
    if settings.finetune_config_path:
        shutil.copyfile(settings.finetune_config_path, settings.output_dir / FINETUNE_CONFIG)
    info = describe_model(settings.output_dir, name)
    (settings.output_dir / MODEL_INFO).write_text(json.dumps(info, indent=2) + "\n")
    print(f"imported {name}: {info['parameters']:,} parameters, sha256 {info['sha256']}", flush=True)


def find_source(settings: Settings) -> tuple[list[Path], str]:
    """The folders that together hold the model, and its name."""
    if path := settings.pytorch_model_path or settings.mlflow_model_path:
        if not path.is_dir():
            raise StepError(f"The model path {str(path)!r} is no folder. Give the folder with MLmodel or config.json.")
        return model_folders(path)
    if settings.huggingface_id:
        return [download_model(settings.huggingface_id)], settings.huggingface_id
    raise StepError("No model given. Pass one of mlflow_model_path, pytorch_model_path or huggingface_id.")


def model_folders(path: Path) -> tuple[list[Path], str]:
    """The parts of an MLflow model, written by mlflow.transformers or by Azure, and its name.

    A plain Hugging Face folder is its own only part.
    """
    if not (path / "MLmodel").exists():
        return [path], provenance_name(path)
    import yaml

    described = yaml.safe_load((path / "MLmodel").read_text())
    name = (described.get("metadata") or {}).get("base_model_name") or path.name
    parts = [path / part for part in ("data/config", "data/tokenizer", "data/model", "components/tokenizer", "model")]
    folders = [part for part in parts if part.is_dir()]
    if not folders:
        raise StepError(
            f"The MLflow model {str(path)!r} has neither model/ nor data/model/. Log it with mlflow.transformers."
        )
    return folders, name


def provenance_name(path: Path) -> str:
    """The name in the folder's PROVENANCE.json, else the folder's name."""
    provenance = path / "PROVENANCE.json"
    return json.loads(provenance.read_text())["name"] if provenance.exists() else path.name


def download_model(huggingface_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(huggingface_id, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise StepError(
            f"Model {huggingface_id!r} could not be downloaded from the Hugging Face hub ({error}). "
            "Check the name and the network, or pass a folder as pytorch_model_path."
        ) from error


def check_model(folders: list[Path], name: str) -> None:
    def has(*names: str) -> bool:
        return any((folder / file).exists() for folder in folders for file in names)

    template_in_config = any(
        "chat_template" in json.loads(path.read_text())
        for folder in folders
        if (path := folder / "tokenizer_config.json").exists()
    )
    missing = [
        what
        for what, present in (
            ("config.json", has("config.json")),
            ("a tokenizer (tokenizer.json)", has(*TOKENIZERS)),
            ("weights (model.safetensors)", has(*WEIGHTS)),
            ("a chat template (chat_template.jinja)", template_in_config or has("chat_template.jinja")),
        )
        if not present
    ]
    if missing:
        raise StepError(
            f"Model {name!r} lacks {', '.join(missing)}. Save model and tokenizer with "
            "save_pretrained into one folder; a model without a chat template is no chat model."
        )


def copy_files(folder: Path, target: Path) -> None:
    for path in folder.iterdir():
        if path.is_file() and path.name != "MLmodel":
            shutil.copyfile(path, target / path.name)


def describe_model(folder: Path, name: str) -> dict[str, str | int]:
    """Name, number of parameters and one sha256 over all weight files in the order of their names."""
    digest, parameters = hashlib.sha256(), 0
    for path in sorted(folder.glob("*.safetensors")):
        parameters += count_parameters(path)
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return {"name": name, "parameters": parameters, "sha256": digest.hexdigest()}


def count_parameters(path: Path) -> int:
    """Numbers in a safetensors file, by its header: 8 bytes of length, then JSON with the shape of each tensor."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


if __name__ == "__main__":
    step.run(main)
