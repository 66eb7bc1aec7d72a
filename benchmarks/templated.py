"""How well repetitions are told from a shared template: recall and precision on a planted set.

    python -m benchmarks.templated [ROWS]

A 240-word instruction, an 8-word message, one of 12 labels; some rows are written again in other case and punctuation.
"""

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

WORDS = """
account order refund delivery parcel invoice address payment card email password login price policy name charger
opening member green kitchen hammer travel room date broken interest screen coupon red screw size blue window nail
early missing balance time garden park door late wrong twice box label shop phone line help lamp table chair cable
"""
MESSAGE_WORDS = WORDS.split()
LABELS = (
    *("billing", "delivery", "technical", "account", "refund", "sales", "press", "legal", "jobs", "praise"),
    *("complaint", "other"),
)
INSTRUCTION_WORDS = 240


class Planted(NamedTuple):
    """Rows, and the positions of those that repeat an earlier one."""

    rows: list[dict[str, object]]
    repetitions: set[int]


def plant(count: int, *, repeated: int, place: str = "end", seed: int = 0) -> Planted:
    """Templated rows in random order, so many of which repeat another; the message is at the `place` of the prompt."""
    draw = random.Random(seed)
    instruction = " ".join(draw.choices(MESSAGE_WORDS, k=INSTRUCTION_WORDS))
    half = len(instruction) // 2
    before, after = {
        "end": (f"{instruction}\nMessage: ", ""),
        "start": ("", f"\n{instruction}"),
        "middle": (f"{instruction[:half]}\nMessage: ", f"\n{instruction[half:]}"),
    }[place]
    messages: set[str] = set()
    while len(messages) < count - repeated:
        messages.add(" ".join(draw.choices(MESSAGE_WORDS, k=8)))
    pairs = [(message, draw.choice(LABELS)) for message in sorted(messages)]
    again = [(f"{message.upper()}!", label) for message, label in draw.sample(pairs, repeated)]
    everything = pairs + again
    draw.shuffle(everything)
    seen: set[str] = set()
    repetitions = set()
    for position, (message, _) in enumerate(everything):
        plain = message.lower().rstrip("!")
        if plain in seen:
            repetitions.add(position)
        seen.add(plain)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{before}{message}{after}"},
                {"role": "assistant", "content": label},
            ]
        }
        for message, label in everything
    ]
    return Planted(rows, repetitions)


def main() -> None:
    from chatdata.prepare import prepare
    from chatdata.sources import pin
    from retune.request import Data, Workspace

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 6000
    print("| message at the | rows | planted | found | recall | precision | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for place in ("end", "middle", "start"):
        planted = plant(count, repeated=count // 20, place=place)
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "source", Path(folder) / "out"
            source.mkdir()
            out.mkdir()
            names = ("train", "validation", "test")
            for name in names:
                rows = planted.rows if name == "train" else plant(20, repeated=0, place=place, seed=len(name)).rows
                text = "".join(json.dumps(row) + "\n" for row in rows)
                (source / f"{name}.jsonl").write_text(text, encoding="utf-8")
            began = time.perf_counter()
            split = prepare(pin(Data(source=str(source), near_duplicates="drop"), Workspace()), out).splits["train"]
            seconds = time.perf_counter() - began
            kept = (out / "train.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        texts = {json.dumps(row): position for position, row in enumerate(planted.rows)}
        left = {texts[json.dumps(json.loads(line))] for line in kept}
        found = set(range(count)) - left
        right = len(found & planted.repetitions)
        recall, precision = right / len(planted.repetitions), right / max(1, len(found))
        assert len(found) == split.selected - split.rows
        print(
            f"| {place} | {count} | {len(planted.repetitions)} | {len(found)} | {recall:.3f} | {precision:.3f} "
            f"| {seconds:.1f} |"
        )


if __name__ == "__main__":
    main()
