"""Step 1, ft_nlp_common_validation: refuses what cannot train before anything is loaded.

Reports every problem at once. Reads the data files but not the model's weights, and asks torch for a GPU only
when a parameter needs one.

    python -m trainer.validation --train_file_path train.jsonl --validation_info out
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer import chat_files, step
from trainer.step import StepError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Settings:
    validation_info: Path
    task_name: str = "chat-completion"
    user_column_names: str = "messages"
    compute_model_import: str | None = None
    compute_data_preprocess: str | None = None
    compute_finetune: str | None = None
    num_nodes_finetune: int = 1
    number_of_gpu_to_use_finetuning: int = 1
    mlflow_model_path: Path | None = None
    train_file_path: Path | None = None
    validation_file_path: Path | None = None
    test_file_path: Path | None = None
    train_mltable_path: Path | None = None
    validation_mltable_path: Path | None = None
    test_mltable_path: Path | None = None
    apply_lora: bool = False
    num_train_epochs: int = 1
    max_steps: int = -1
    max_seq_length: int = -1
    per_device_train_batch_size: int = 1
    per_device_eval_batch_size: int = 1
    auto_find_batch_size: bool = False
    learning_rate: float = 2e-5
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    precision: Literal["32", "16"] = "32"
    ignore_mismatched_sizes: bool = False
    apply_deepspeed: bool = False
    deepspeed_stage: Literal["2", "3"] = "2"
    apply_ort: bool = False


def main() -> None:
    settings = step.parse_arguments(Settings, __doc__)
    row_counts, data_problems = check_data(settings)
    problems = [*check_numbers(settings), *check_combinations(settings), *data_problems]
    if problems:
        raise StepError("\n  ".join([f"{len(problems)} problem(s) found:", *problems]))
    settings.validation_info.mkdir(parents=True, exist_ok=True)
    report = {"task_name": settings.task_name, "rows": row_counts}
    (settings.validation_info / "validation.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"validation completed: {json.dumps(row_counts)} rows", flush=True)


def check_numbers(settings: Settings) -> list[str]:
    at_least_one = [
        "num_nodes_finetune",
        "number_of_gpu_to_use_finetuning",
        "num_train_epochs",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
    ]
    problems = [
        f"{name} is {getattr(settings, name)}. Set it to 1 or more."
        for name in at_least_one
        if getattr(settings, name) < 1
    ]
    if not settings.learning_rate > 0:
        problems.append(f"learning_rate is {settings.learning_rate}. Set it above 0, as 2e-5.")
    if settings.max_steps == 0 or settings.max_steps < -1:
        problems.append(f"max_steps is {settings.max_steps}. Set it above 0, or to -1 to train by num_train_epochs.")
    if settings.max_seq_length == 0 or settings.max_seq_length < -1:
        problems.append(
            f"max_seq_length is {settings.max_seq_length}. Set it above 0, or to -1 for the model's own length."
        )
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= getattr(settings, name) < 1:
            problems.append(f"{name} is {getattr(settings, name)}. Set it to 0 or more and below 1.")
    if not settings.adam_epsilon > 0:
        problems.append(f"adam_epsilon is {settings.adam_epsilon}. Set it above 0, as 1e-8.")
    return problems


def check_combinations(settings: Settings) -> list[str]:
    problems = []
    if settings.task_name != "chat-completion":
        problems.append(f"task_name is {settings.task_name!r}. This pipeline trains 'chat-completion' only.")
    if settings.auto_find_batch_size and settings.apply_deepspeed:
        problems.append("auto_find_batch_size and apply_deepspeed are both 'true'. Set one of them to 'false'.")
    wants_gpu = [
        fix
        for wanted, fix in (
            (settings.precision == "16", "precision '32' instead of '16'"),
            (settings.apply_deepspeed, "apply_deepspeed 'false' instead of 'true'"),
        )
        if wanted
    ]
    if wants_gpu and not has_cuda():
        problems.append(
            f"torch sees no CUDA device on this compute. Set {' and '.join(wants_gpu)}, or train on a GPU size."
        )
    return problems


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def check_data(settings: Settings) -> tuple[dict[str, int], list[str]]:
    """The number of rows by split, and the problems of the files."""
    row_counts, problems = {}, []
    for split in SPLITS:
        file, table = getattr(settings, f"{split}_file_path"), getattr(settings, f"{split}_mltable_path")
        if file and table:
            problems.append(f"{split}_file_path and {split}_mltable_path are both given. Leave one out.")
        elif file or table:
            try:
                row_counts[split] = len(chat_files.read_rows(chat_files.find_file(file or table)))
            except StepError as error:
                problems.append(str(error))
        elif split == "train":
            problems.append("train_file_path or train_mltable_path needs to be passed.")
    if settings.user_column_names != chat_files.REQUIRED_COLUMN:
        problems.append(f"user_column_names is {settings.user_column_names!r}. Chat data has its turns in 'messages'.")
    return row_counts, problems


if __name__ == "__main__":
    step.run(main)
