import cv2
import numpy as np
import pytest
from golden import vectors
from metrics.conftest import NAMES, photo, worn

from diffbir_jax import packages as packed
from diffbir_jax.errors import InputError
from diffbir_jax.metrics import brisque, niqe
from diffbir_jax.metrics.naturalness import moments, mscn, ratio

UNIFORM = ("carcassonne_01", "red_panda_01")  # no flat areas


@pytest.mark.parametrize("name", UNIFORM)
def test_niqe_is_basicsr_s_under_any_model(name):
    known = vectors("metrics")
    ours = niqe.niqe(photo(name), known["made/mean"], known["made/cov"])
    assert ours == pytest.approx(known[f"niqe_made/{name}"].item(), abs=1e-3)


@pytest.mark.parametrize("name", UNIFORM)
def test_brisque_is_the_package_s_under_any_regression(name):
    known = vectors("metrics")
    made = [known[f"made/{part}"] for part in ("low", "high", "sv", "coef")]
    ours = brisque.brisque(photo(name), brisque.Regression(*made, rho=-31.5, gamma=0.05))
    assert ours == pytest.approx(known[f"brisque_made/{name}"].item(), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_niqe_is_that_of_the_release(name, packages):
    known, measure = vectors("metrics"), niqe.load_niqe(packages(packed.BASICSR))
    assert measure(photo(name)) == pytest.approx(known[f"niqe/{name}"].item(), abs=3e-3)
    assert measure(worn(photo(name))) == pytest.approx(known[f"niqe_worn/{name}"].item(), abs=3e-3)
    if name in UNIFORM:
        assert measure(photo(name)) == pytest.approx(known[f"niqe_unchanged/{name}"].item(), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_brisque_is_the_package_s(name, packages):
    known, measure = vectors("metrics"), brisque.load_brisque(packages(packed.BRISQUE))
    assert measure(photo(name)) == pytest.approx(known[f"brisque/{name}"].item(), abs=1e-4)
    assert measure(worn(photo(name))) == pytest.approx(known[f"brisque_worn/{name}"].item(), abs=1e-4)
    if name in UNIFORM:
        assert measure(photo(name)) == pytest.approx(known[f"brisque_unchanged/{name}"].item(), abs=1e-4)


def test_moment_matching_finds_the_distributions_that_were_drawn():
    rng = np.random.default_rng(0)
    assert ratio(2.0) == pytest.approx(2 / np.pi)  # normal: E|x|^2 / E x^2
    assert ratio(1.0) == pytest.approx(1 / 2)  # Laplace
    normal = moments(3 * rng.standard_normal(200_000))
    assert normal == pytest.approx((2 / np.pi, 3, 3), rel=0.01)
    laplace = rng.exponential(size=200_000) * np.where(rng.random(200_000) < 2 / 3, 2, -1)  # twice as wide above zero
    wanted, left, right = moments(laplace)
    assert (wanted, left, right) == pytest.approx((1 / 2, np.sqrt(2), 2 * np.sqrt(2)), rel=0.02)


@pytest.mark.parametrize("border", [cv2.BORDER_REPLICATE, cv2.BORDER_CONSTANT])
def test_flat_areas_are_exactly_zero(border):
    grey = np.full((40, 40), 201.0)
    grey[:, 25:] = 77.0
    assert (mscn(grey, border)[5:-5, 5:20] == 0).all()


def test_half_size_keeps_what_is_linear():
    ramp = np.add.outer(np.arange(24.0), 3 * np.arange(32.0))
    inside = niqe.halve(ramp)[3:-3, 3:-3]
    np.testing.assert_allclose(inside, np.add.outer(0.5 + 2 * np.arange(3, 9), 3 * (0.5 + 2 * np.arange(3, 13))), atol=1e-9)
    assert niqe.halve(np.full((8, 10), 7.0)) == pytest.approx(np.full((4, 5), 7.0))


def test_what_is_too_small_or_flat_is_told():
    known, image = vectors("metrics"), photo("chelsea_01")
    with pytest.raises(InputError, match="NIQE needs two blocks of 96x96 that are not flat; this has 191x191 pixels"):
        niqe.niqe(image[:191, :191], known["made/mean"], known["made/cov"])
    with pytest.raises(InputError, match="NIQE needs two blocks"):
        niqe.niqe(np.zeros((90, 90, 3), np.float32), known["made/mean"], known["made/cov"])
    regression = brisque.Regression(*(known[f"made/{part}"] for part in ("low", "high", "sv", "coef")), rho=0.0, gamma=0.05)
    for bad in (image[:31], np.zeros((64, 64, 3), np.float32)):
        with pytest.raises(InputError, match="BRISQUE needs 32x32 pixels that are not flat"):
            brisque.brisque(bad, regression)


def test_a_regression_is_read_as_libsvm_writes_it():
    text = "svm_type epsilon_svr\ngamma 0.05\nrho -1.5\nSV\n-3.5 1:0.25 36:-1 \n2 2:1e-3 \n"
    vectors_read, weights, rho, gamma = brisque.read_svm(text)
    assert weights.tolist() == [-3.5, 2] and (rho, gamma) == (-1.5, 0.05)
    assert vectors_read[0, 0] == 0.25 and vectors_read[0, 35] == -1 and vectors_read[1, 1] == 1e-3
    assert np.count_nonzero(vectors_read) == 3
