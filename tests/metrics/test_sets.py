import numpy as np
import pytest

from diffbir_jax.metrics.sets import frechet_distance, kernel_distance


def normal(n: int, mean: float, deviations: np.ndarray, seed: int) -> np.ndarray:
    return mean + deviations * np.random.default_rng(seed).standard_normal((n, len(deviations)))


def whitened(n: int, d: int, seed: int) -> np.ndarray:
    """Samples whose mean is exactly zero and whose covariance exactly one."""
    x = np.random.default_rng(seed).standard_normal((n, d))
    return np.linalg.qr(x - x.mean(0))[0] * np.sqrt(n - 1)


@pytest.mark.parametrize("n", [9, 50])
def test_frechet_distance_of_gaussians_is_its_closed_form(n):
    a, b = whitened(n, 8, 0) * np.arange(1, 9) + 2, whitened(n, 8, 1) * 3
    assert frechet_distance(a, b) == pytest.approx(8 * 4 + np.sum((np.arange(1, 9) - 3) ** 2))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_with_fewer_images_than_features_is_the_limit_of_rank():
    """In a plane of a larger space, it is the distance in that plane."""
    a, b = whitened(12, 4, 0) * 2, whitened(12, 4, 1) + 1
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((40, 40)))[0][:4]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b)) == pytest.approx(4 + 4)


def test_kernel_distance_is_unbiased():
    """Zero on average for one distribution, even with five images a set; the biased estimate is far above."""
    deviations = np.ones(16)
    found = [kernel_distance(normal(5, 0, deviations, 2 * i), normal(5, 0, deviations, 2 * i + 1)) for i in range(600)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(600)
    assert kernel_distance(normal(50, 0, deviations, 0), normal(50, 1, deviations, 1)) > 1


def test_kernel_distance_of_two_pairs_by_hand():
    a, b = np.array([[1.0], [2.0]]), np.array([[0.0], [-1.0]])
    within = (1 * 2 + 1) ** 3 + (0 * -1 + 1) ** 3
    between = np.mean([(x * y + 1) ** 3 for x in (1, 2) for y in (0, -1)])
    assert kernel_distance(a, b) == pytest.approx(within - 2 * between)
