"""Whether two conversations are nearly the same, beyond a template that many rows share.

Most data for fine-tuning in companies is a long fixed instruction, a short message, and a label or a form as the
answer. Two such rows have nearly all words in common and are no repetitions. A template is found as the sequences of
three words that many rows of a group have; a group is the rows that begin or end alike.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import orjson

from chatdata.written import WrittenRows

COMPARED_WORDS = 50
SIMILARITY = 0.9
# So many rows of a group say what its template is: what more than a share of them have, and more than a few; of a small
# group, half.
SAMPLED_ROWS = 200
TEMPLATE_SHARE, TEMPLATE_ROWS = 0.05, 4
# Rows of which much is left are found by so many words at its beginning and its end.
KEY_WORDS = 8

Sequence = tuple[str, str, str]


def words_of(messages: list[dict[str, object]]) -> list[str]:
    """The words of a conversation, its tool calls included, without case."""
    texts = [str(message["content"]) for message in messages]
    texts += [orjson.dumps(message["tool_calls"]).decode() for message in messages if "tool_calls" in message]
    return re.findall(r"\w+", " ".join(texts).casefold())


def sequences_of(words: list[str]) -> list[Sequence]:
    return list(zip(words, words[1:], words[2:], strict=False))


class Template(NamedTuple):
    """The sequences of three words that many rows of a group have."""

    sequences: frozenset[Sequence]

    def beyond(self, words: list[str]) -> list[str]:
        """The words that are in none of the template's sequences; all of them where none is left."""
        if not self.sequences:
            return words
        covered = bytearray(len(words))
        for start, sequence in enumerate(sequences_of(words)):
            if sequence in self.sequences:
                covered[start : start + 3] = b"\1\1\1"
        return [word for word, is_covered in zip(words, covered, strict=True) if not is_covered] or words

    def keys(self, words: list[str]) -> list[int]:
        """Digests that a row shares with those that it may nearly repeat."""
        left = self.beyond(words)
        keys = [hash(tuple(left))]
        if len(left) >= COMPARED_WORDS:
            keys += [hash(("begin", *left[:KEY_WORDS])), hash(("end", *left[-KEY_WORDS:]))]
        return keys


NO_TEMPLATE = Template(frozenset())


class Templates:
    """The templates of groups of rows, each found when it is first asked for."""

    def __init__(self, rows: Iterable[tuple[int, WrittenRows, int]]) -> None:
        self._samples: defaultdict[int, list[tuple[WrittenRows, int]]] = defaultdict(list)
        for group, file, number in rows:
            if len(self._samples[group]) < SAMPLED_ROWS:
                self._samples[group].append((file, number))
        self._templates: dict[int, Template] = {}

    def of(self, group: int) -> Template:
        """The template of a group."""
        if group not in self._templates:
            sample = self._samples[group]
            counts = Counter(
                sequence for file, number in sample for sequence in set(sequences_of(words_of(file.messages(number))))
            )
            most = max(min(TEMPLATE_ROWS, len(sample) / 2), TEMPLATE_SHARE * len(sample))
            self._templates[group] = Template(frozenset(item for item, count in counts.items() if count > most))
        return self._templates[group]


def is_near_duplicate(words: list[str], others: list[str], template: Template = NO_TEMPLATE) -> bool:
    """Whether two conversations have the same words beyond the template, or, where 50 words or more are left, a Jaccard
    similarity of at least 0.9 over the sequences of three, repeated ones counted as often as they occur."""
    words, others = template.beyond(words), template.beyond(others)
    if words == others:
        return True
    few, many = sorted((len(words), len(others)))
    # Texts of such different lengths cannot be that similar.
    if few < COMPARED_WORDS or few < SIMILARITY * many:
        return False
    sequences, other_sequences = Counter(sequences_of(words)), Counter(sequences_of(others))
    shared = (sequences & other_sequences).total()
    return shared >= SIMILARITY * (sequences.total() + other_sequences.total() - shared)
