"""The Trainer's callback: one readable line a log, and the same numbers to MLflow."""

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.tracking import Tracker

SHOWN = {
    "epoch": "epoch {:.2f}",
    "loss": "loss {:.4f}",
    "eval_loss": "validation loss {:.4f}",
    "learning_rate": "lr {:.2e}",
    "train_loss": "mean loss {:.4f}",
    "train_runtime": "in {:.1f} s",
}


class ProgressCallback(TrainerCallback):
    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        **_: object,
    ) -> None:
        self.tracker.log_metrics(logs, state.global_step)
        shown = [form.format(logs[name]) for name, form in SHOWN.items() if name in logs]
        print(f"step {state.global_step}/{state.max_steps}", *shown, flush=True)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        # A checkpoint follows: metrics that are not sent by then are lost to a run that resumes from it.
        self.tracker.flush()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self.tracker.flush()
