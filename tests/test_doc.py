"""What the documentation shows is run."""

import doctest

from diffbir_jax import pipeline


def test_the_example_of_restore_images():
    assert doctest.testmod(pipeline) == doctest.TestResults(failed=0, attempted=5)
