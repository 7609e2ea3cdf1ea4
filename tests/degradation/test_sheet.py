import numpy as np
import pytest

from diffbir_jax.degradation import sheet
from diffbir_jax.degradation.operations import Blur, CorrelatedNoise, GaussianNoise, Jpeg, PoissonNoise, Resize, apply
from diffbir_jax.degradation.recipes import RECIPES, draw
from diffbir_jax.degradation.sheet import contact_sheet, describe


@pytest.mark.parametrize(
    "operation, line",
    [
        (Blur(21, 1.234, 1.234), "Gaussian blur 21, sigma 1.23"),
        (Blur(9, 3.0, 0.5, np.pi / 2, "plateau", 1.5), "plateau blur 9, sigma 3.00 x 0.50 at 90°, beta 1.50"),
        (Resize(30, 40, "area"), "area to 40 x 30"),
        (GaussianNoise(10 / 255, 1, True), "Gaussian noise 10.0 grey"),
        (CorrelatedNoise(((3 / 255, 0.0, 0.0), (4 / 255, 0.0, 0.0), (0.0, 1 / 255, 2 / 255)), 1), "correlated noise 5.0 1.0 2.0"),
        (PoissonNoise(1.5, 1), "Poisson noise 1.50"),
        (Jpeg(70), "JPEG 70"),
    ],
)
def test_labels_say_what_was_drawn(operation, line):
    assert describe(operation) == line


@pytest.mark.parametrize("size", [(64, 90), (400, 700), (30, 500)])
@pytest.mark.parametrize("name", RECIPES)
def test_sheet_shows_every_image_and_its_whole_text(name, size):
    photo, rng = np.full((*size, 3), 0.5, np.float32), np.random.default_rng(0)
    draws = [draw(RECIPES[name], rng, size) for _ in range(4)]
    shown = contact_sheet(photo, [(operations, apply([Jpeg(90)], photo)) for operations in draws])
    height, width = shown.shape[0], shown.shape[1] // 3  # five cells: rows of three
    assert shown.shape[1] % 3 == 0 and width <= sheet.WIDEST + 2 * sheet.MARGIN
    np.testing.assert_allclose(shown[12, width + 12], 0.5, atol=0.01)
    dark = (shown < 0.4).any(-1)  # the text alone
    for right in range(width, 3 * width + 1, width):
        assert not dark[:, right - 3 : right].any()  # none is cut off
    assert not dark[-5:].any()
    lines = dark[size[0] if size[1] <= sheet.WIDEST else 0 : height // 2, width : 2 * width].any(1)
    assert np.count_nonzero(np.diff(lines.astype(int)) == 1) >= len(draws[0])  # one line an operation
