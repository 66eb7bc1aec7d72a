"""Whether two conversations have nearly the same words.

The words of a text are its runs of letters, digits and underscores, in one case. Texts are compared as columns: arrays
of the code points of their characters, then of digests of their words.
"""

import numpy as np

from chatdata.turns import CONTENT

COMPARED_WORDS = 50
SIMILARITY = 0.9
SHINGLE_WORDS = 3
SPACE = ord(" ")
# Each code point in one case, a space for one that is in no word. The others: not known yet, and more than one.
UNKNOWN, SEVERAL = 0, 1
FOLDED = np.zeros(0x110000, np.uint32)
# Odd and irregular, so that words and runs of words differ in their digests as they do; the second undoes the first.
MULTIPLIER = 0x9E3779B97F4A7C15
INVERSE = pow(MULTIPLIER, -1, 1 << 64)
RUN_MULTIPLIER = np.uint64(0xC2B2AE3D27D4EB4F)


def alike(one: list[dict[str, object]], other: list[dict[str, object]]) -> bool:
    """Whether two conversations have the same words, or, from 50 words on, a Jaccard similarity of at least 0.9 over
    the runs of three words."""
    first, second = (folded(" ".join(["", *map(CONTENT, messages), ""])) for messages in (one, other))
    # Most differ here already.
    few, many = sorted((count_words(first), count_words(second)))
    if few < SIMILARITY * many:
        return False
    first, second = digests_of_words(first), digests_of_words(second)
    if np.array_equal(first, second):
        return True
    if few < COMPARED_WORDS:
        return False
    runs, others = shingles(first), shingles(second)
    common, here, there = np.intersect1d(runs[0], others[0], assume_unique=True, return_indices=True)
    shared = int(np.minimum(runs[1][here], others[1][there]).sum()) if len(common) else 0
    return shared >= SIMILARITY * (runs[1].sum() + others[1].sum() - shared)


def folded(text: str) -> np.ndarray:
    """The code points of a text in one case, with spaces for what is in no word; (characters,) of uint32."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    letters = FOLDED.take(codes)
    if letters.min() == UNKNOWN:
        learn(np.unique(codes[letters == UNKNOWN]))
        letters = FOLDED.take(codes)
    # After this no character stands for several.
    return folded(text.casefold()) if letters.min() == SEVERAL else letters


def learn(codes: np.ndarray) -> None:
    """Enter code points into the table."""
    for code in codes.tolist():
        case = chr(code).casefold()
        is_word = case.isalnum() or case == "_"
        FOLDED[code] = SEVERAL if len(case) > 1 else ord(case) if is_word else SPACE


def count_words(letters: np.ndarray) -> int:
    """The words of a text that begins with a space."""
    in_word = letters != SPACE
    return np.count_nonzero(in_word[1:] > in_word[:-1])


def digests_of_words(letters: np.ndarray) -> np.ndarray:
    """A digest of each word of a text that begins and ends with a space; (words,) of uint64."""
    in_word = letters != SPACE
    # Where a word begins, and where the space after it is.
    edges = np.flatnonzero(in_word[1:] != in_word[:-1]) + 1
    powers = np.cumprod(np.full(len(letters), MULTIPLIER, np.uint64))
    sums = np.cumsum(letters * powers)
    begins, ends = edges[::2], edges[1::2]
    # A word's letters times the powers from 1 on, wherever it stands.
    back = np.cumprod(np.full(len(letters), INVERSE, np.uint64))
    return (sums[ends - 1] - sums[begins - 1]) * back[begins]


def shingles(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Digests of the runs of words, sorted, and how often each occurs."""
    runs = np.zeros(len(words) - SHINGLE_WORDS + 1, np.uint64)
    for start in range(SHINGLE_WORDS):
        runs = runs * RUN_MULTIPLIER + words[start : start + len(runs)]
    return np.unique(runs, return_counts=True)
