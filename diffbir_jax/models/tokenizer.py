"""Text to tokens: CLIP's byte pair encoding (Sennrich et al. 2016; CLIP, section 2.4), the tokens exactly as OpenCLIP's."""

import gzip
import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import ftfy
import numpy as np
import regex
from jaxtyping import Int32

_MERGES = Path(__file__).parent.parent / "assets" / "bpe_simple_vocab_16e6.txt.gz"
_MERGE_COUNT = 48894  # lines of the file that CLIP uses, after its first
_SPECIAL = ("<start_of_text>", "<end_of_text>")
_WORDS = regex.compile("|".join(_SPECIAL) + r"|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


@lru_cache
def byte_symbols() -> list[str]:
    """A printable character for each of the 256 bytes: itself where Latin-1 prints it, the rest from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in set(printable)]
    symbols = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [symbols[b] for b in range(256)]


@lru_cache
def vocabulary() -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Symbol -> token, and pair of symbols -> rank of their merge, most frequent first."""
    lines = gzip.decompress(_MERGES.read_bytes()).decode().split("\n")[1 : 1 + _MERGE_COUNT]
    merges = [tuple(line.split()) for line in lines]
    single = sorted(byte_symbols())
    symbols = [*single, *(s + "</w>" for s in single), *map("".join, merges), *_SPECIAL]
    return {s: i for i, s in enumerate(symbols)}, {pair: i for i, pair in enumerate(merges)}


@lru_cache(maxsize=65536)
def _word_tokens(word: str) -> tuple[int, ...]:
    """The tokens of one word: its bytes, neighbours merged for as long as a merge applies, the one of lowest rank first."""
    tokens, ranks = vocabulary()
    if word in _SPECIAL:
        return (tokens[word],)
    parts = [byte_symbols()[b] for b in word.encode()]
    parts[-1] += "</w>"
    while pairs := [pair for pair in pairwise(parts) if pair in ranks]:
        parts = _merge(parts, min(pairs, key=ranks.__getitem__))
    return tuple(tokens[p] for p in parts)


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with every occurrence of the pair joined, from the left."""
    merged, i = [], 0
    while i < len(parts):
        step = 2 if tuple(parts[i : i + 2]) == pair else 1
        merged.append("".join(parts[i : i + step]))
        i += step
    return merged


def clean(text: str) -> str:
    """Broken encodings and HTML entities mended, runs of white space one space, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@dataclass(frozen=True)
class Tokenizer:
    """Texts to rows of tokens: start, the text's, end, then zeros.

    Attributes:
        context_length: tokens of a row, at least 2. A longer text is cut, its end token kept.
    """

    context_length: int = 77

    def __call__(self, texts: str | Sequence[str]) -> Int32[np.ndarray, "B T"]:
        """The rows of one text or several."""
        texts = [texts] if isinstance(texts, str) else texts
        rows = np.zeros((len(texts), self.context_length), np.int32)
        for row, text in zip(rows, texts, strict=True):
            tokens = self.encode(text)[: self.context_length - 2]
            start, end = (vocabulary()[0][s] for s in _SPECIAL)
            row[: len(tokens) + 2] = [start, *tokens, end]
        return rows

    def encode(self, text: str) -> list[int]:
        """The text's own tokens, however many."""
        return [token for word in _WORDS.findall(clean(text)) for token in _word_tokens(word)]
