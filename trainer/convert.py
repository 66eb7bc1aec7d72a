"""Step 5, ft_nlp_model_converter: writes the trained model as an MLflow model that answers chat messages.

The folder is mlflow.transformers' own, with the task llm/v1/chat: what `mlflow.pyfunc.load_model` loads from it answers
`predict({"messages": [...]})` with chat completions. Adapters that training left unmerged are merged here.

    python -m trainer.convert --model_path trained --mlflow_model_folder out
"""

import json
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import step
from trainer.finetune import ADAPTER, TRAINING_INFO
from trainer.step import StepError

if TYPE_CHECKING:
    from transformers import Pipeline

REQUIREMENTS = ("mlflow", "torch", "transformers", "accelerate", "safetensors")

CARD = """\
---
license: unknown
base_model: {name}
---

# {name}, fine-tuned for chat completion

{steps} training steps. The licence is the base model's.
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    model_path: Path
    mlflow_model_folder: Path


def main() -> None:
    settings = step.parse_arguments(Settings, __doc__)
    step.forbid_downloads()
    step.require_folder(settings.model_path, "model_path", "the training")
    if settings.mlflow_model_folder.exists() and any(settings.mlflow_model_folder.iterdir()):
        raise StepError(f"{str(settings.mlflow_model_folder)!r} is not empty. Give a new folder.")
    info = read_info(settings.model_path)
    pipeline = load_pipeline(settings.model_path)
    # MLflow records this as the model's source; a path of this machine means nothing elsewhere.
    pipeline.model.name_or_path = str(info["name"])
    save(pipeline, settings.mlflow_model_folder, info)
    if (settings.model_path / "LICENSE").exists():
        shutil.copyfile(settings.model_path / "LICENSE", settings.mlflow_model_folder / "LICENSE.txt")
    size = sum(path.stat().st_size for path in settings.mlflow_model_folder.rglob("*") if path.is_file())
    print(f"converted {info['name']} to an MLflow model of {size:,} bytes", flush=True)


def read_info(model_path: Path) -> dict[str, object]:
    path = model_path / TRAINING_INFO
    if not path.exists():
        raise StepError(
            f"{str(path)!r} is missing: the training did not finish. Run it again with resume_from_checkpoint."
        )
    return json.loads(path.read_text())


def load_pipeline(model_path: Path) -> "Pipeline":
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    model = AutoModelForCausalLM.from_pretrained(model_path)
    if (model_path / ADAPTER).is_dir():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, model_path / ADAPTER).merge_and_unload()
    return pipeline("text-generation", model=model, tokenizer=AutoTokenizer.from_pretrained(model_path))


def save(pipeline: "Pipeline", folder: Path, info: dict[str, object]) -> None:
    from huggingface_hub import ModelCard
    from mlflow.transformers import save_model

    save_model(
        transformers_model=pipeline,
        path=str(folder),
        task="llm/v1/chat",
        # Without this list MLflow tries to guess it and imports whatever transformers offers.
        pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS],
        model_card=ModelCard(CARD.format(**info)),
        metadata={
            "base_model_name": info["name"],
            "base_model_task": "chat-completion",
            "base_model_sha256": info["sha256"],
        },
    )


if __name__ == "__main__":
    step.run(main)
