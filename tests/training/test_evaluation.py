"""Validation: SSIM, the fixed set and its sheet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.metrics import fidelity
from diffbir_jax.training.evaluation import ssim
from diffbir_jax.training.report import Csv, means, peak_flops
from diffbir_jax.training.steps import Mean


def test_ssim_of_constant_images_has_a_closed_form():
    a, b = jnp.full((1, 16, 16, 3), 0.25), jnp.full((1, 16, 16, 3), 0.75)
    c1 = 0.01**2
    assert ssim(a, b)[0] == pytest.approx((2 * 0.25 * 0.75 + c1) / (0.25**2 + 0.75**2 + c1), rel=1e-4)


def test_ssim_is_one_for_equal_images_and_falls_with_noise():
    image = jax.random.uniform(jax.random.key(0), (2, 24, 32, 3))
    noise = jax.random.normal(jax.random.key(1), image.shape)
    values = [ssim(image, image + scale * noise).mean() for scale in (0.0, 0.1, 0.5)]
    assert values[0] == pytest.approx(1, abs=1e-5) and values[0] > values[1] > values[2]


def test_ssim_is_that_of_the_metrics():
    images = np.random.default_rng(0).random((2, 3, 24, 32, 3), np.float32)
    np.testing.assert_allclose(ssim(*jnp.asarray(images)), [fidelity.ssim(*pair) for pair in images.swapaxes(0, 1)], atol=1e-5)


def test_means_weigh_by_their_counts_and_leave_out_what_never_was():
    number = lambda total, count=1.0: Mean(np.float32(total), np.float32(count))  # noqa: E731
    shared = {"skipped": number(1), "skipped_in_a_row": number(2)}
    first = {"loss": number(6, 2), "bucket": number(0, 0), "rare": number(4, 1), **shared}
    second = {"loss": number(1, 1), "bucket": number(0, 0), "rare": number(0, 0), **shared}
    scalars = means([first, second])
    assert scalars == {"loss": pytest.approx(7 / 3), "rare": 4, "skipped": 2, "skipped_in_a_row": 2}


def test_a_table_goes_on_where_the_run_does(tmp_path):
    for start, steps in ((0, (1, 2, 3)), (2, (3,))):
        table = Csv(tmp_path / "metrics.csv", start)
        for step in steps:
            table.write_scalars(step, {"loss": 10.0 * start + step})
        table.close()
        with (tmp_path / "metrics.csv").open("a") as file:
            file.write("" if start else "4,lo")
    assert (tmp_path / "metrics.csv").read_text() == "step,name,value\n1,loss,1\n2,loss,2\n3,loss,23\n"


def test_a_device_that_is_not_in_the_table_has_no_peak():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and peak_flops("cpu") is None
