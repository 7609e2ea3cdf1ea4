import shutil
from pathlib import Path

import pytest

from diffbir_jax.weights.folder import read_card, write_card

PHOTOS = Path(__file__).parents[1] / "data" / "photos"


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Two photographs of 256x256."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("chelsea_01", "petra_01"):
        shutil.copy(PHOTOS / f"{name}.webp", folder)
    return folder


@pytest.fixture(scope="session")
def quick_folder(small_model_folder, tmp_path_factory):
    """The small model, which takes three steps if not told otherwise."""
    folder = shutil.copytree(small_model_folder, tmp_path_factory.mktemp("quick") / "model")
    write_card(folder, read_card(folder) | {"defaults": {"steps": 3}})
    return folder


@pytest.fixture(scope="session")
def sized():
    """The flags of every run: two crops of 64 pixels, no metric that needs a package."""
    pytest.importorskip("matplotlib", reason="needs matplotlib: the extra `test` or `measure`")
    return ["--size", "64", "--metrics", ""]
