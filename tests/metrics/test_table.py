import numpy as np
import pytest
from metrics.conftest import photo, worn

from diffbir_jax import packages as packed
from diffbir_jax.errors import InputError
from diffbir_jax.metrics.table import METRICS, Setup, find_metrics, load_metrics


def test_metrics_are_found_by_name_once_each():
    assert [metric.name for metric in find_metrics(("ssim", "psnr", "ssim"))] == ["ssim", "psnr"]
    assert find_metrics(()) == list(METRICS.values())
    with pytest.raises(InputError, match="no metric is called 'PSNR'; give one or more of psnr,"):
        find_metrics(("PSNR",))


def test_every_metric_from_packages_ranks_a_photograph_above_a_worn_one(packages):
    pytest.importorskip("h5py", reason="needs h5py: pip install 'diffbir_jax[measure]'")
    folder = [packages(each) for each in (packed.BASICSR, packed.BRISQUE, packed.HED, packed.EFFICIENTNET, packed.FACES)][0].folder
    wanted = find_metrics(("vgg", "face", "niqe", "brisque", "effnet_frechet", "effnet_kernel"))
    loaded, missing = load_metrics(wanted, Setup(folder), reference=True)
    assert not missing
    image = photo("astronaut_01")
    soft, rough = (0.7 * image + 0.3 * worn(image)).astype(np.float32), worn(image)
    for name in ("vgg", "face"):
        assert 0 == loaded[name](image, image) < loaded[name](soft, image) < loaded[name](rough, image)
    for name in ("niqe", "brisque"):
        assert loaded[name](image, None) < loaded[name](rough, None)
    frechet, kernel = loaded["effnet_frechet"], loaded["effnet_kernel"]
    assert frechet.features is kernel.features  # computed once
    sets = [np.stack([frechet.features(each) for each in (x, x[:, ::-1])]) for x in (image, soft, rough)]
    assert frechet.distance(sets[0], sets[1]) < frechet.distance(sets[0], sets[2])
    assert kernel.distance(sets[0], sets[1]) < kernel.distance(sets[0], sets[2])
