import json
import math

import numpy as np
import pytest

from diffbir_jax.metrics.summary import interval, summarise, to_csv, to_json


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(3, 2, 40).tolist()) for _ in range(80)]
    assert 0.86 <= np.mean([low <= 3 <= high for low, high in found]) <= 0.99
    assert np.mean([high - low for low, high in found]) == pytest.approx(2 * 1.96 * 2 / math.sqrt(40), rel=0.08)


def test_the_interval_is_the_same_each_time_and_needs_two_values():
    assert interval([1.0, 2.0, 4.0]) == interval([1.0, 2.0, 4.0])
    assert interval([1.0]) is None


def test_what_was_not_measured_is_counted_and_not_averaged():
    found = summarise([1.0, None, 3.0, math.inf])
    assert (found["mean"], found["images"], found["not_measured"], found["infinite_left_out"]) == (2, 3, 1, 1)
    assert summarise([None]) == {"images": 0, "not_measured": 1}


def test_files_tell_nothing_measured_from_zero():
    assert to_csv([{"image": "a,b", "psnr": None}, {"image": "c", "psnr": 0.0}], ["image", "psnr"]) == 'image,psnr\n"a,b",\nc,0.0\n'
    assert json.loads(to_json({"a": (math.inf, None), "b": {"c": 1}})) == {"a": ["inf", None], "b": {"c": 1}}
