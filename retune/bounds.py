"""What a training parameter must be by its meaning, where the component's own contract leaves it open.

A value beyond these would be accepted, and the job would fail on a GPU, or train nothing. The names are the inputs of
`chat_completion_pipeline`, most of which are those of `transformers.TrainingArguments`.
"""

from collections.abc import Callable
from typing import NamedTuple


class Bound(NamedTuple):
    """A rule for a number, and the same in words."""

    words: str
    holds: Callable[[float], bool]


ABOVE_ZERO = Bound("above 0", lambda value: value > 0)
NOT_NEGATIVE = Bound("0 or more", lambda value: value >= 0)
COUNT = Bound("1 or more", lambda value: value >= 1)
COUNT_OR_UNSET = Bound("1 or more, or -1 to leave it open", lambda value: value >= 1 or value == -1)
# As a decay: at 1 nothing would ever change.
DECAY = Bound("0 or more and below 1", lambda value: 0 <= value < 1)
SHARE = Bound("between 0 and 1", lambda value: 0 <= value <= 1)

BOUNDS: dict[str, Bound] = {
    # Zero or less trains nothing, or away from the data.
    "learning_rate": ABOVE_ZERO,
    # Sizes and numbers of steps: none of them is no training.
    **dict.fromkeys(
        (
            *("num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size"),
            *("gradient_accumulation_steps", "logging_steps", "eval_steps", "early_stopping_patience"),
            *("lora_r", "lora_alpha"),
        ),
        COUNT,
    ),
    **dict.fromkeys(("max_steps", "save_total_limit", "max_seq_length", "eval_accumulation_steps"), COUNT_OR_UNSET),
    # Divided by, so it is not zero.
    "adam_epsilon": ABOVE_ZERO,
    **dict.fromkeys(("adam_beta1", "adam_beta2", "lora_dropout"), DECAY),
    **dict.fromkeys(
        ("warmup_steps", "weight_decay", "max_grad_norm", "seed", "early_stopping_threshold", "dataloader_num_workers"),
        NOT_NEGATIVE,
    ),
    "evaluation_steps_interval": SHARE,
}
