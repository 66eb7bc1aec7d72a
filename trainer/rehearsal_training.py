"""Step 2 of chat_completion_rehearsal: trains the bigram model, reports to MLflow, saves an MLflow model.

Counts the training words, then learns by expectation maximisation, one pass an epoch, how much to trust the counts:
each word is judged with its own occurrence left out (deleted interpolation; Jelinek and Mercer, 1980). The result
depends on the rows, the epochs and the seed alone. `training_seconds` spreads the batches over at least that time.

    python -m trainer.rehearsal_training --preprocess_output data --mlflow_model_folder out

Reports the names that trainer.finetune reports, to the same two runs, over MLflow's REST API without its library.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import rehearsal, step
from trainer.preprocess import DATA_INFO
from trainer.rehearsal import Bigram, Words, pairs
from trainer.step import StepError
from trainer.tracking import FLUSH_SECONDS, MAX_METRICS, find_run_ids

if TYPE_CHECKING:
    from requests import Session

REPORT_SECONDS = 1.0
# The first request may wait for the tracking server to start.
ANSWER_SECONDS = 120
# A body of MLflow's runs/log-batch: the run, and its metrics, parameters and tags.
Batch = dict[str, str | list[dict[str, str | int | float]]]
RETRIED = (429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class Settings:
    preprocess_output: Path
    mlflow_model_folder: Path
    num_train_epochs: int = 1
    per_device_train_batch_size: int = 1
    seed: int = 42
    training_seconds: float = 0.0


@dataclass
class RunLog:
    """Collects metrics, parameters and tags for the step's run and the root run; sends them at most once a second."""

    run_ids: list[str] = field(default_factory=find_run_ids)
    metrics: list[dict[str, str | int | float]] = field(default_factory=list)
    params: dict[str, object] = field(default_factory=dict)
    tags: dict[str, object] = field(default_factory=dict)
    sent_at: float = field(default_factory=time.monotonic)

    def log(self, metrics: dict[str, float], number: int) -> None:
        now = round(time.time() * 1000)
        self.metrics += [
            {"key": name, "value": value, "timestamp": now, "step": number} for name, value in metrics.items()
        ]
        if time.monotonic() - self.sent_at > FLUSH_SECONDS:
            self.send()

    def send(self) -> None:
        """Raises: requests.RequestException when the tracking server does not take it."""
        texts: Batch = {
            kind: [{"key": name, "value": str(value)} for name, value in values.items()]
            for kind, values in (("params", self.params), ("tags", self.tags))
        }
        batches = [self.metrics[start : start + MAX_METRICS] for start in range(0, len(self.metrics), MAX_METRICS)]
        if self.run_ids:
            with open_session() as session:
                for run_id in self.run_ids:
                    for number, metrics in enumerate(batches or [[]]):
                        batch: Batch = {"run_id": run_id, "metrics": metrics}
                        post_batch(session, batch if number else batch | texts)
        self.metrics, self.params, self.tags = [], {}, {}
        self.sent_at = time.monotonic()


def open_session() -> "Session":
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    session = requests.Session()
    # A batch that arrives twice is the same as once.
    retry = Retry(total=6, backoff_factor=0.3, status_forcelist=RETRIED, allowed_methods=None, raise_on_status=False)
    session.mount("https://", HTTPAdapter(max_retries=retry))
    session.headers["Authorization"] = f"Bearer {os.environ['MLFLOW_TRACKING_TOKEN']}"
    return session


def post_batch(session: "Session", batch: Batch) -> None:
    address = f"{os.environ['MLFLOW_TRACKING_URI'].rstrip('/')}/api/2.0/mlflow/runs/log-batch"
    session.post(address, json=batch, timeout=ANSWER_SECONDS).raise_for_status()


@dataclass
class Throttle:
    """Spreads a number of batches evenly over at least so many seconds."""

    seconds: float
    batches: int
    started: float = field(default_factory=time.monotonic)

    def wait(self, done: int) -> None:
        # SIGTERM ends the process in the middle of this: nothing catches it.
        time.sleep(max(0.0, self.started + self.seconds * done / self.batches - time.monotonic()))


def main() -> None:
    started = time.monotonic()
    settings = step.parse_arguments(Settings, __doc__)
    step.require_folder(settings.preprocess_output, "preprocess_output", "the data preprocessing")
    check_settings(settings)
    train, validation = (read_split(settings.preprocess_output, split) for split in ("train", "validation"))
    model = rehearsal.count((turn for conversation in train for turn in conversation), settings.seed)
    turns = [turn for conversation in validation for turn in conversation]
    log = RunLog()
    log.tags = run_facts(settings, model)
    log.params = log.tags | training_params(settings)
    before = model.loss(turns)
    log.log({"eval_loss": before, "epoch": 0.0}, 0)
    print(f"training {rehearsal.BASE_NAME!r}, a stand-in of counted words; validation loss {before:.4f}", flush=True)

    train_loss, steps = train_model(model, train, turns, settings, log)
    rehearsal.save(model, settings.mlflow_model_folder)
    losses = {"eval_loss_before": before, "eval_loss_after": model.loss(turns)}
    log.log(losses | {"train_loss": train_loss, "train_runtime": time.monotonic() - started}, steps)
    log.send()
    print(f"{json.dumps(losses)} after {time.monotonic() - started:.1f} s", flush=True)


def check_settings(settings: Settings) -> None:
    for name, least in (("num_train_epochs", 1), ("per_device_train_batch_size", 1), ("training_seconds", 0)):
        if not least <= getattr(settings, name) < math.inf:
            raise StepError(f"{name} is {getattr(settings, name)}. Give a number of {least} or more.")


def read_split(folder: Path, split: str) -> list[list[Words]]:
    """The assistant's turns by conversation."""
    lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def run_facts(settings: Settings, model: Bigram) -> dict[str, object]:
    """What lineage needs. The base knows nothing, so it has no parameters."""
    train = json.loads((settings.preprocess_output / DATA_INFO).read_text())["splits"]["train"]
    return {
        "base_model_name": rehearsal.BASE_NAME,
        "base_model_parameters": 0,
        "base_model_sha256": rehearsal.base_sha256(model),
        "trainable_parameters": sum(map(len, model.following.values())) + len(model.weights),
        "training_rows": train["rows"],
        "training_tokens": train["tokens"],
        "training_assistant_tokens": train["assistant_tokens"],
        "device": "cpu",
    }


def training_params(settings: Settings) -> dict[str, object]:
    return {name: value for name, value in asdict(settings).items() if not isinstance(value, Path)}


def train_model(
    model: Bigram, train: list[list[Words]], validation: list[Words], settings: Settings, log: RunLog
) -> tuple[float, int]:
    """The mean loss of all training words, and the number of batches; leaves the model with its learned weights."""
    batches = list(cut_batches(train, settings.per_device_train_batch_size))
    total = settings.num_train_epochs * len(batches)
    pace = Throttle(settings.training_seconds, total)
    model.weights = (1 / 3, 1 / 3, 1 / 3)
    done, words, loss, reported = 0, 0, 0.0, time.monotonic()
    for epoch in range(1, settings.num_train_epochs + 1):
        trust = [0.0, 0.0, 0.0]
        for batch in batches:
            batch_loss, batch_words = learn(model, batch, trust)
            loss, words, done = loss + batch_loss, words + batch_words, done + 1
            pace.wait(done)
            if done % len(batches) == 0 or time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                report(log, done, total, {"loss": batch_loss / batch_words, "epoch": done / len(batches)})
        model.weights = (trust[0] / sum(trust), trust[1] / sum(trust), trust[2] / sum(trust))
        report(log, done, total, {"eval_loss": model.loss(validation), "epoch": float(epoch)})
    return loss / words, done


def cut_batches(train: list[list[Words]], size: int) -> Iterator[list[Words]]:
    """The turns of `size` conversations at a time."""
    for start in range(0, len(train), size):
        yield [turn for conversation in train[start : start + size] for turn in conversation]


def learn(model: Bigram, turns: list[Words], trust: list[float]) -> tuple[float, int]:
    """The loss of a batch and its number of words; adds to `trust` what each part of the model has explained."""
    loss, words = 0.0, 0
    for before, word in (pair for turn in turns for pair in pairs(turn)):
        parts = model.parts(before, word, left_out=1)
        whole = sum(parts)
        for index, part in enumerate(parts):
            trust[index] += part / whole
        loss, words = loss - math.log(whole), words + 1
    return loss, words


def report(log: RunLog, done: int, total: int, metrics: dict[str, float]) -> None:
    log.log(metrics, done)
    print(f"step {done}/{total}", *(f"{name} {value:.4f}" for name, value in metrics.items()), flush=True)


if __name__ == "__main__":
    step.run(main)
