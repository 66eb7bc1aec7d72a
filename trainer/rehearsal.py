"""The model of rehearsals: an interpolated bigram model of the assistant's words, as an MLflow model folder.

It stands in for a chat model where the work around the training is rehearsed and not the training: it is made, loaded
and asked in milliseconds, with the standard library alone. It knows which word follows which, and nothing of the
question. `mlflow.pyfunc.load_model` loads the folder through `_load_pyfunc`; rehearsal_serve.py serves it.
"""

import hashlib
import json
import math
import platform
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainer.step import StepError

BASE_NAME = "rehearsal bigram"
FILE = "bigram.json"
# Both hold a space, which no word does.
START, END = "< start", "< end"

Words = list[str]
Parameters = dict[str, float | int | bool]

# Nothing in it depends on when, where or in which job it was written.
MLMODEL = """\
flavors:
  python_function:
    data: data
    loader_module: trainer.rehearsal
    python_version: {python}
  rehearsal: {{}}
metadata:
  base_model_name: {name}
  base_model_sha256: {sha256}
  base_model_task: chat-completion
"""


@dataclass
class Bigram:
    """Which word follows which, how often, and how much that, the word alone and mere chance weigh.

    `vocabulary`: the number of different words, END and one place for all unknown words included.
    """

    vocabulary: int
    following: dict[str, dict[str, int]]
    weights: tuple[float, float, float]
    seed: int

    @cached_property
    def totals(self) -> dict[str, int]:
        return {before: sum(row.values()) for before, row in self.following.items()}

    @cached_property
    def words(self) -> Counter[str]:
        """How often each word, or END, occurs."""
        occurrences: Counter[str] = Counter()
        for row in self.following.values():
            occurrences.update(row)
        return occurrences

    @cached_property
    def size(self) -> int:
        return sum(self.totals.values())

    def parts(self, before: str, word: str, left_out: int = 0) -> tuple[float, float, float]:
        """The weighted probabilities after `before`, of the word alone and by chance; their sum is the model's.

        `left_out` = 1 leaves this one occurrence out of the counts, which makes training text tell of unseen text.
        """
        alone = (self.words[word] - left_out) / max(self.size - left_out, 1)
        seen = self.totals.get(before, 0) - left_out
        after = (self.following[before].get(word, 0) - left_out) / seen if seen > 0 else alone
        heavy, middle, light = self.weights
        return heavy * after, middle * alone, light / self.vocabulary

    def loss(self, turns: Iterable[Words]) -> float:
        """Mean negative log-likelihood of a word, in nats."""
        losses = [-math.log(sum(self.parts(*pair))) for turn in turns for pair in pairs(turn)]
        return math.fsum(losses) / len(losses)

    def answer(self, conversation: list[dict[str, str]], parameters: Parameters) -> str:
        """A text of at least one word; the same for the same conversation and parameters."""
        draw = random.Random(f"{self.seed} {json.dumps(conversation, sort_keys=True)}")
        words: Words = []
        while len(words) < parameters["max_new_tokens"]:
            row = dict(self.following.get(words[-1] if words else START, {}))
            if not words:
                row.pop(END, None)
                row = row or {word: count for word, count in self.words.items() if word != END}
            word = choose(row, parameters, draw)
            if word == END:
                break
            words.append(word)
        return " ".join(words)

    def as_text(self) -> str:
        document = {name: getattr(self, name) for name in ("vocabulary", "weights", "seed", "following")}
        return json.dumps(document, ensure_ascii=False, sort_keys=True) + "\n"


class ChatBigram:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, model: Bigram) -> None:
        self.model = model

    def predict(self, model_input: dict[str, list[dict[str, str]]]) -> list[str]:
        """One text for {"messages": [...]}."""
        return [self.model.answer(model_input["messages"], {"do_sample": False, "max_new_tokens": 200})]


def pairs(turn: Words) -> Iterator[tuple[str, str]]:
    """Each word of a turn, END included, with the one before it."""
    return zip([START, *turn], [*turn, END], strict=True)


def count(turns: Iterable[Words], seed: int) -> Bigram:
    """The model that has counted the turns and knows no weights yet: it goes by chance alone."""
    rows: dict[str, Counter[str]] = {}
    for turn in turns:
        for before, word in pairs(turn):
            rows.setdefault(before, Counter())[word] += 1
    vocabulary = len({word for row in rows.values() for word in row}) + 1
    return Bigram(vocabulary, {before: dict(row) for before, row in rows.items()}, (0.0, 0.0, 1.0), seed)


def choose(row: dict[str, int], parameters: Parameters, draw: random.Random) -> str:
    """The most frequent word, or a random word by frequency as the generation parameters say."""
    ordered = sorted(row, key=lambda word: (-row[word], word))
    if not parameters.get("do_sample"):
        return ordered[0]
    ordered = ordered[: int(parameters.get("top_k", len(ordered)))]
    most, temperature = row[ordered[0]], float(parameters.get("temperature", 1.0))
    shares = [(row[word] / most) ** (1 / temperature) for word in ordered]
    wanted, kept = float(parameters.get("top_p", 1.0)) * sum(shares), 0
    while kept < len(shares) and (kept == 0 or sum(shares[:kept]) < wanted):
        kept += 1
    return draw.choices(ordered[:kept], shares[:kept])[0]


def base_sha256(model: Bigram) -> str:
    """Of what stands for the untrained model: its number of words, and nothing learned."""
    return hashlib.sha256(f"{BASE_NAME} {model.vocabulary}".encode()).hexdigest()


def save(model: Bigram, folder: Path) -> None:
    """Writes the MLflow model folder all at once. Raises: StepError when there is something already."""
    if folder.exists() and any(folder.iterdir()):
        raise StepError(f"{str(folder)!r} is not empty. Give a new folder.")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "data").mkdir(parents=True)
    (partial / "data" / FILE).write_text(model.as_text(), encoding="utf-8")
    about = {"python": platform.python_version(), "name": BASE_NAME, "sha256": base_sha256(model)}
    (partial / "MLmodel").write_text(MLMODEL.format(**about), encoding="utf-8")
    (partial / "requirements.txt").write_text("", encoding="utf-8")
    partial.replace(folder)


def load(data: Path) -> Bigram:
    """The model in the `data` folder of an MLflow model."""
    document = json.loads((data / FILE).read_text(encoding="utf-8"))
    return Bigram(**document | {"weights": tuple(document["weights"])})


def _load_pyfunc(path: str) -> ChatBigram:
    return ChatBigram(load(Path(path)))
