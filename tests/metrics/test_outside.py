import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.errors import InputError
from diffbir_jax.metrics import outside, table
from diffbir_jax.packages import Unavailable


@pytest.fixture
def without(monkeypatch):
    """Programs as if they were not installed."""

    def hide(*names):
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return hide


def test_what_is_not_installed_is_the_reason(without):
    without("torch", "torchmetrics", "pyiqa")
    wanted = [table.METRICS[name] for name in ("lpips", "dists", "fid", "maniqa", "musiq", "clip_iqa")]
    loaded, missing = table.load_metrics(wanted, table.Setup(weights=Path()), reference=True)
    assert not loaded and len(missing) == 6
    assert all("ModuleNotFoundError" in why and "pip install 'diffbir_jax[metrics]'" in why for why in missing.values())


class Tensor:
    """As much of a tensor as is asked of it."""

    def __init__(self, array):
        self.array = array

    def __getitem__(self, key):
        return Tensor(self.array[key])


@pytest.fixture
def programs(monkeypatch):
    """Made programs: `musiq` is the mean, `maniqa-pipal` has no weights, DISTS misses them only when it is used."""

    class Metric:
        def eval(self):
            return self

        def __call__(self, image, reference=None):
            if reference is not None:
                raise OSError("no weights\nof VGG")
            assert image.array.shape[:2] == (1, 3) and image.array.dtype == np.float32
            if image.array.shape[2] < 4:
                raise ValueError("too small")
            return image.array.mean()

    def create_metric(name, device):
        if name == "maniqa-pipal":
            raise RuntimeError("URL cannot\nbe reached")
        return Metric()

    torch = types.ModuleType("torch")
    torch.from_numpy, torch.no_grad = Tensor, lambda: memoryview(b"")  # any context manager
    pyiqa, dists = types.ModuleType("pyiqa"), types.ModuleType("torchmetrics.image.dists")
    pyiqa.create_metric, dists.DeepImageStructureAndTextureSimilarity = create_metric, Metric
    for module in (torch, pyiqa, dists):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_program_that_is_there_is_asked_for_its_number(programs):
    image = np.random.default_rng(0).random((6, 5, 3), np.float32)
    loaded, missing = table.load_metrics([table.METRICS["musiq"]], table.Setup(weights=Path()), reference=False)
    assert not missing and loaded["musiq"](image, None) == pytest.approx(image.mean())
    with pytest.raises(InputError, match="^pyiqa fails with ValueError: too small$"):
        loaded["musiq"](image[:3], None)


def test_weights_that_cannot_be_had_are_the_reason_in_one_line(programs):
    with pytest.raises(Unavailable, match="^pyiqa fails with RuntimeError: URL cannot be reached$"):
        outside.load(outside.MANIQA)
    with pytest.raises(Unavailable, match="^torchmetrics fails with OSError: no weights of VGG$"):
        outside.load(outside.DISTS)


@pytest.mark.skipif(not importlib.util.find_spec("torchmetrics"), reason="needs torchmetrics")
@pytest.mark.parametrize("what", [outside.LPIPS, outside.DISTS, outside.CLIP_IQA, outside.INCEPTION])
def test_torchmetrics_has_what_is_asked_for(what):
    assert hasattr(__import__(what.module, fromlist=[what.maker]), what.maker)
