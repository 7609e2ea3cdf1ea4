import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from diffbir_jax.models.tokenizer import Tokenizer, clean, vocabulary

DATA = Path(__file__).parent.parent / "data"
START, END = 49406, 49407


def test_the_tokens_are_the_originals():
    with safe_open(DATA / "clip_text.safetensors", "numpy") as file:
        texts, want = json.loads(file.metadata()["config"])["texts"], file.get_tensor("in.tokens")
    got = Tokenizer()(texts)
    assert got.dtype == np.int32
    assert np.array_equal(got, want)


def test_the_vocabulary_has_a_place_for_every_token():
    tokens, ranks = vocabulary()
    assert sorted(tokens.values()) == list(range(49408))
    assert len(ranks) == 48894


# Tokens as open_clip_torch 3.3.0 gives them.
@pytest.mark.parametrize(("text", "want"), [
    ("it's I'LL  we've", [585, 568, 328, 1342, 649, 1200]),
    ("don\N{RIGHT SINGLE QUOTATION MARK}t x\N{SUPERSCRIPT TWO} 1234", [847, 713, 343, 41175, 272, 273, 274, 275]),
    ("a &amp;amp; b &lt;3", [320, 261, 321, 283, 274]),
    ("l\u00e3\u00a9t\u00e3\u00a9", [75, 127, 352, 5811, 83, 127, 352, 5811]),
    ("<end_of_text> <START_OF_TEXT>", [49407, 49406]),
    ("\U0001f600\U0001f46a \ud55c\uad6d\u200dn\u0303", [12832, 964, 359, 15197, 250, 31871, 511, 728, 491, 127, 365]),
    ("snake_case... hello---world \x07\t\n\x1f!", [8798, 318, 2068, 678, 3306, 11079, 1002, 256]),
    ("mississippi antidisestablishmentarianism zzzzzzzzzz", [12232, 3120, 4262, 7726, 12658, 1585, 44351, 35742, 35742, 4943]),
])  # fmt: skip
def test_corners_of_the_encoding(text, want):
    assert Tokenizer().encode(text) == want


def test_a_long_text_is_cut_and_keeps_its_end():
    tokens = Tokenizer()("photo " * 100)
    assert tokens.shape == (1, 77)
    assert tokens[0, 0] == START and tokens[0, -1] == END
    assert np.unique(tokens[0, 1:-1]).size == 1


@pytest.mark.parametrize("words", [74, 75, 76])
def test_a_text_that_just_fits_is_whole(words):
    tokens = Tokenizer()(["photo " * words])[0]
    assert (tokens == Tokenizer().encode("photo")[0]).sum() == min(words, 75)
    assert tokens[min(words, 75) + 1] == END


def test_spacing_and_case_say_nothing():
    assert np.array_equal(*Tokenizer()(["  A\tPhoto \n of  it ", "a photo of it"])[:, None])
    assert clean("A  B&amp;C") == "a b&c"


def test_rows_do_not_depend_on_their_batch():
    texts = ["", "a cat", "two dogs"]
    assert np.array_equal(Tokenizer()(texts), np.concatenate([Tokenizer()(t) for t in texts]))
    assert Tokenizer()([]).shape == (0, 77)
