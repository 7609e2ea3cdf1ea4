import pickle

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.data.sources import ImageFolder
from diffbir_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for value, name in ((10, "a.png"), (20, "b.PNG"), (30, "sub/c.bmp")):
        Image.fromarray(np.full((40, 50, 3), value, np.uint8)).save(tmp_path / name)
    return tmp_path


def values(source):
    return [int(source[i].mean()) for i in range(len(source))]


@pytest.mark.parametrize("cache", [False, True])
def test_every_photo_of_the_tree_in_order(folder, cache):
    source = ImageFolder(folder, cache=cache)
    assert values(source) == [10, 20, 30]
    assert source[0].dtype == np.uint8 and source[0].shape == (40, 50, 3)


def test_cache_decodes_once_and_does_not_travel(folder):
    source = ImageFolder(folder, cache=True)
    assert source[1] is source[1]
    assert len(pickle.dumps(source)) < 3000
    assert values(pickle.loads(pickle.dumps(source))) == [10, 20, 30]


def test_broken_and_small_photos_are_named_once_and_skipped(folder, caplog):
    (folder / "b.PNG").write_text("no photo")
    Image.fromarray(np.zeros((8, 50, 3), np.uint8)).save(folder / "small.png")
    source = ImageFolder(folder)
    assert values(source) == values(source) == [10, 30, 30, 30]
    assert [record.getMessage().split(" is ")[0].split("/")[-1] for record in caplog.records] == ["b.PNG", "small.png"]


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(InputError, match="no image in"):
        ImageFolder(tmp_path)
    (tmp_path / "a.png").write_text("no photo")
    with pytest.raises(InputError, match="can be used"):
        ImageFolder(tmp_path)[0]
