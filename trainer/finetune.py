"""Step 4, chat_completion_finetune: trains the imported model on the prepared rows and saves the best one.

LoRA or all weights, by transformers' Trainer. Measures the validation loss before the first step and of the model
that is saved; reports to the step's and the pipeline's MLflow run. Does not evaluate on the test rows.

    python -m trainer.finetune --model_selector_output model --preprocess_output data --pytorch_model_folder out

Writes a Hugging Face folder, checkpoints/ and training_info.json; adapter/ too where LoRA weights stay unmerged.
"""

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trainer import step
from trainer.chat_tokens import IGNORED_LABEL
from trainer.model_import import FINETUNE_CONFIG, MODEL_INFO
from trainer.preprocess import DATA_INFO
from trainer.step import StepError
from trainer.tracking import Tracker
from trainer.training import Settings, find_checkpoint, sixteen_bits, training_arguments

if TYPE_CHECKING:
    import torch
    from peft import LoraModel, PeftModel
    from torch.utils.data import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

TRAINING_INFO = "training_info.json"
ADAPTER = "adapter"

TokenRow = dict[str, list[int]]


def main() -> None:
    started = time.monotonic()
    settings = step.parse_arguments(Settings, __doc__)
    step.forbid_downloads()
    check_settings(settings)
    model_info = read_json(settings.model_selector_output / MODEL_INFO)
    data_info = read_json(settings.preprocess_output / DATA_INFO)
    model, tokenizer = load_model(settings)
    tracker = Tracker()
    facts = run_facts(model_info, data_info, model)
    tracker.log_params(facts | training_params(settings))
    tracker.set_tags(facts)
    print(
        f"training {model_info['name']} on {facts['device']}, ready after {time.monotonic() - started:.1f} s",
        flush=True,
    )

    trainer = build_trainer(settings, model, tokenizer, data_info, tracker)
    trainer.train(resume_from_checkpoint=find_checkpoint(settings))
    saved = save_model(settings, trainer, tokenizer)
    losses = measure_losses(trainer, saved)
    tracker.log_metrics(losses, trainer.state.global_step)
    tracker.flush()
    write_info(settings, model_info | losses | {"steps": trainer.state.global_step})
    print(f"{json.dumps(losses)} after {time.monotonic() - started:.1f} s", flush=True)


def read_json(path: Path) -> dict[str, object]:
    if not path.exists():
        raise StepError(f"{str(path)!r} is missing. Run the model import and the data preprocessing first.")
    return json.loads(path.read_text())


def check_settings(settings: Settings) -> None:
    """Raises: StepError for what the validation step cannot know."""
    import torch

    step.require_folder(settings.model_selector_output, "model_selector_output", "the model import")
    step.require_folder(settings.preprocess_output, "preprocess_output", "the data preprocessing")
    if settings.metric_for_best_model != "loss":
        raise StepError(
            f"metric_for_best_model is {settings.metric_for_best_model!r}, "
            "which chat training does not compute. Set it to 'loss'."
        )
    if settings.apply_early_stopping and settings.evaluation_strategy == "disable":
        raise StepError("apply_early_stopping needs evaluations. Set evaluation_strategy to 'epoch' or 'steps'.")
    if not torch.cuda.is_available() and (settings.precision == "16" or settings.apply_deepspeed):
        raise StepError(
            "torch sees no CUDA device. Set precision '32' and apply_deepspeed 'false', or train on a GPU size."
        )
    if settings.apply_ort:
        print("apply_ort is set to 'false': ONNX Runtime training is not supported", flush=True)


def load_model(settings: Settings) -> tuple["PreTrainedModel | PeftModel", "PreTrainedTokenizerBase"]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    set_seed(settings.seed)
    on_gpu = torch.cuda.is_available()
    # All weights train in 32 bits, under autocast; frozen ones below an adapter can have 16.
    frozen_16 = settings.precision == "16" and settings.apply_lora
    model = AutoModelForCausalLM.from_pretrained(
        settings.model_selector_output,
        dtype=sixteen_bits() if frozen_16 else torch.float32,
        ignore_mismatched_sizes=settings.ignore_mismatched_sizes,
        # On CPUs plain attention beats sdpa for the small heads of models that fit there.
        attn_implementation=None if on_gpu else "eager",
    )
    tokenizer = AutoTokenizer.from_pretrained(settings.model_selector_output)
    return (add_lora(model, settings) if settings.apply_lora else model), tokenizer


def add_lora(model: "PreTrainedModel", settings: Settings) -> "PeftModel":
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def run_facts(model_info: dict, data_info: dict, model: "PreTrainedModel | PeftModel") -> dict[str, object]:
    """What lineage needs, under the names that parameters and tags share."""
    train = data_info["splits"]["train"]
    return {
        "base_model_name": model_info["name"],
        "base_model_parameters": model_info["parameters"],
        "base_model_sha256": model_info["sha256"],
        "trainable_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "training_rows": train["rows"],
        "training_tokens": train["tokens"],
        "training_assistant_tokens": train["assistant_tokens"],
        "device": device_name(),
    }


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def training_params(settings: Settings) -> dict[str, object]:
    folders = ("model_selector_output", "preprocess_output", "pytorch_model_folder", "deepspeed")
    return {name: value for name, value in asdict(settings).items() if name not in folders}


def build_trainer(
    settings: Settings,
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    data_info: dict,
    tracker: Tracker,
) -> "Trainer":
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer

    from trainer.progress import ProgressCallback

    rows = {split: read_rows(settings.preprocess_output / f"{split}.parquet") for split in ("train", "validation")}
    pad_length = data_info["max_seq_length"] if data_info["pad_to_max_length"] else None
    callbacks: list[TrainerCallback] = [ProgressCallback(tracker)]
    if settings.apply_early_stopping:
        callbacks.append(EarlyStoppingCallback(settings.early_stopping_patience, settings.early_stopping_threshold))
    pad_token = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
    trainer = Trainer(
        model=model,
        args=training_arguments(settings, len(rows["train"])),
        # A list has what Trainer asks of a dataset: a length and rows by number.
        train_dataset=cast("Dataset[TokenRow]", rows["train"]),
        eval_dataset=cast("Dataset[TokenRow]", rows["validation"]),
        data_collator=lambda batch: pad_rows(batch, pad_token, pad_length),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def read_rows(path: Path) -> list[TokenRow]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


def pad_rows(batch: list[TokenRow], pad_token: int, length: int | None) -> dict[str, "torch.Tensor"]:
    import torch

    width = length or max(len(row["input_ids"]) for row in batch)

    def pad(name: str, filler: int) -> "torch.Tensor":
        return torch.tensor([row[name] + [filler] * (width - len(row[name])) for row in batch])

    lengths = torch.tensor([len(row["input_ids"]) for row in batch])
    return {
        "input_ids": pad("input_ids", pad_token),
        "labels": pad("labels", IGNORED_LABEL),
        "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
    }


def save_model(
    settings: Settings, trainer: "Trainer", tokenizer: "PreTrainedTokenizerBase"
) -> "PreTrainedModel | PeftModel":
    """Writes the best model and returns it as it was written."""
    out, model = settings.pytorch_model_folder, cast("PreTrainedModel | PeftModel", trainer.model)
    if settings.apply_lora and settings.merge_lora_weights:
        model = cast("PreTrainedModel", cast("LoraModel", model).merge_and_unload())
        model.save_pretrained(str(out))
    elif settings.apply_lora:
        model.save_pretrained(str(out / ADAPTER))
        for path in settings.model_selector_output.glob("*.safetensors*"):
            shutil.copyfile(path, out / path.name)
        shutil.copyfile(settings.model_selector_output / "config.json", out / "config.json")
    else:
        model.save_pretrained(str(out))
    tokenizer.save_pretrained(out)
    for name in ("LICENSE", FINETUNE_CONFIG):
        if (settings.model_selector_output / name).exists():
            shutil.copyfile(settings.model_selector_output / name, out / name)
    return model


def measure_losses(trainer: "Trainer", saved: "PreTrainedModel | PeftModel") -> dict[str, float]:
    """Validation loss of the base model, by the log of its first evaluation, and of the saved one, measured now."""
    first = next((entry for entry in trainer.state.log_history if "eval_loss" in entry), None)
    if first is None:
        return {}
    trainer.model = trainer.model_wrapped = saved
    batches = trainer.get_eval_dataloader()
    metrics = trainer.evaluation_loop(batches, "after training", prediction_loss_only=True).metrics or {}
    return {"eval_loss_before": first["eval_loss"], "eval_loss_after": metrics["eval_loss"]}


def write_info(settings: Settings, info: dict[str, object]) -> None:
    (settings.pytorch_model_folder / TRAINING_INFO).write_text(json.dumps(info, indent=2) + "\n")


if __name__ == "__main__":
    step.run(main)
