"""The settings of a training run, and the arguments of transformers' Trainer."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The inputs of the component of the same name; its YAML describes them."""

    model_selector_output: Path
    preprocess_output: Path
    pytorch_model_folder: Path
    apply_lora: bool = False
    merge_lora_weights: bool = True
    lora_alpha: int = 128
    lora_r: int = 8
    lora_dropout: float = 0.0
    num_train_epochs: int = 1
    max_steps: int = -1
    per_device_train_batch_size: int = 1
    per_device_eval_batch_size: int = 1
    auto_find_batch_size: bool = False
    optim: Literal["adamw_torch", "adafactor"] = "adamw_torch"
    learning_rate: float = 2e-5
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    gradient_accumulation_steps: int = 1
    eval_accumulation_steps: int = -1
    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"
    ] = "linear"
    precision: Literal["32", "16"] = "32"
    seed: int = 42
    enable_full_determinism: bool = False
    dataloader_num_workers: int = 0
    ignore_mismatched_sizes: bool = False
    max_grad_norm: float = 1.0
    evaluation_strategy: Literal["epoch", "steps", "disable"] = "epoch"
    evaluation_steps_interval: float = 0.0
    eval_steps: int = 500
    logging_strategy: Literal["epoch", "steps"] = "steps"
    logging_steps: int = 10
    metric_for_best_model: Literal["loss", "f1", "exact"] = "loss"
    resume_from_checkpoint: bool = False
    save_total_limit: int = -1
    apply_early_stopping: bool = False
    early_stopping_patience: int = 1
    early_stopping_threshold: float = 0.0
    apply_deepspeed: bool = False
    deepspeed: Path | None = None
    deepspeed_stage: Literal["2", "3"] = "2"
    apply_ort: bool = False


def training_arguments(settings: Settings, row_count: int) -> "TrainingArguments":
    import torch
    from transformers import TrainingArguments

    evaluation = "no" if settings.evaluation_strategy == "disable" else settings.evaluation_strategy
    eval_steps = evaluation_steps(settings, row_count)
    dtype = sixteen_bits() if settings.precision == "16" else torch.float32
    return TrainingArguments(
        output_dir=str(settings.pytorch_model_folder / CHECKPOINTS),
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        per_device_eval_batch_size=settings.per_device_eval_batch_size,
        auto_find_batch_size=settings.auto_find_batch_size,
        # Rows of like length share a batch, so that little of it is padding.
        train_sampling_strategy="group_by_length",
        optim=settings.optim,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        adam_epsilon=settings.adam_epsilon,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        eval_accumulation_steps=settings.eval_accumulation_steps if settings.eval_accumulation_steps > 0 else None,
        lr_scheduler_type=settings.lr_scheduler_type,
        max_grad_norm=settings.max_grad_norm,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        seed=settings.seed,
        full_determinism=settings.enable_full_determinism,
        dataloader_num_workers=settings.dataloader_num_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        eval_strategy=evaluation,
        eval_steps=eval_steps,
        eval_on_start=evaluation != "no" and find_checkpoint(settings) is None,
        prediction_loss_only=True,
        logging_strategy=settings.logging_strategy,
        logging_steps=settings.logging_steps,
        save_strategy=evaluation,
        save_steps=eval_steps,
        save_total_limit=settings.save_total_limit if settings.save_total_limit > 0 else None,
        load_best_model_at_end=evaluation != "no",
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        deepspeed=deepspeed_config(settings) if settings.apply_deepspeed else None,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
    )


def evaluation_steps(settings: Settings, row_count: int) -> int:
    """Steps between evaluations; evaluation_steps_interval, a fraction of an epoch, wins when positive."""
    if settings.evaluation_steps_interval <= 0:
        return settings.eval_steps
    rows_per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    return max(1, int(math.ceil(row_count / rows_per_step) * settings.evaluation_steps_interval))


def deepspeed_config(settings: Settings) -> dict[str, object]:
    if settings.deepspeed:
        return json.loads(settings.deepspeed.read_text())
    return {
        "zero_optimization": {"stage": int(settings.deepspeed_stage)},
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
    }


def sixteen_bits() -> "torch.dtype":
    import torch

    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def find_checkpoint(settings: Settings) -> str | None:
    """The newest whole checkpoint when resuming; the Trainer writes trainer_state.json last, so a torn one lacks it."""
    if not settings.resume_from_checkpoint:
        return None
    folders = (settings.pytorch_model_folder / CHECKPOINTS).glob("checkpoint-*")
    whole = [folder for folder in folders if is_json(folder / "trainer_state.json")]
    return str(max(whole, key=lambda folder: int(folder.name.split("-")[1]))) if whole else None


def is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return True
