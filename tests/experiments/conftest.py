import shutil
from pathlib import Path

import pytest

PHOTOS = Path(__file__).parents[1] / "data" / "photos"


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Two photographs of 256x256."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("chelsea_01", "petra_01"):
        shutil.copy(PHOTOS / f"{name}.webp", folder)
    return folder


@pytest.fixture(scope="session")
def sized():
    """The flags of every run: two crops of 64 pixels, no metric that needs a package."""
    pytest.importorskip("matplotlib", reason="needs matplotlib: the extra `test` or `measure`")
    return ["--size", "64", "--metrics", ""]
