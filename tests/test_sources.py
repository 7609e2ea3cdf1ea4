"""Of diffbir_jax/data: sources.py, photos.py, records.py, tfds.py and synthetic.py."""

import io
import logging
import os
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from diffbir_jax.data.photos import Photo
from diffbir_jax.data.records import decode_record, encode_record
from diffbir_jax.data.sources import ImageFolder, ImageList, open_source
from diffbir_jax.data.synthetic import DeadLeaves, draw_radii, fractal_noise
from diffbir_jax.data.tfds import TfdsImageFolder
from diffbir_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for value, name in ((10, "a.png"), (20, "b.PNG"), (30, "sub/c.bmp")):
        Image.fromarray(np.full((40, 50, 3), value, np.uint8)).save(tmp_path / name)
    return tmp_path


def values(source):
    return [int(photo.image.mean()) for photo in source]


def words(source):
    return [(photo.name, photo.prompt) for photo in source]


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(file, "png")
    return file.getvalue()


def write_shard(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize("cache", [False, True])
def test_every_photo_of_the_tree_in_order(folder, cache):
    source = ImageFolder(folder, cache=cache)
    assert values(source) == [10, 20, 30] and len(source) == 3
    assert words(source) == [("a.png", ""), ("b.PNG", ""), ("sub/c.bmp", "")]
    assert source[-1].image.dtype == np.uint8 and source[-1].image.shape == (40, 50, 3)


def test_cache_decodes_once_and_does_not_travel(folder):
    source = ImageFolder(folder, cache=True)
    assert source[1] is source[1]
    assert len(pickle.dumps(source)) < 3000
    assert values(pickle.loads(pickle.dumps(source))) == [10, 20, 30]


def test_broken_and_small_photos_are_named_once_and_skipped(folder, caplog):
    (folder / "b.PNG").write_text("no photo")
    Image.fromarray(np.zeros((8, 50, 3), np.uint8)).save(folder / "small.png")
    source = ImageFolder(folder)
    worker = pickle.loads(pickle.dumps(source))  # what a worker process gets
    assert values(source) == values(worker) == values(source) == [10, 30, 30, 30]
    assert [record.getMessage().split(" is ")[0].split("/")[-1] for record in caplog.records] == ["b.PNG", "small.png"]
    assert source.unusable == worker.unusable == 2 and "2 so far" in caplog.text


def test_a_list_gives_paths_and_prompts(folder):
    (folder / "photos.txt").write_text("sub/c.bmp\tA cat, sitting\n\na.png\n" + str(folder / "b.PNG") + "\tBäume\n", "utf-8")
    assert words(ImageList(folder / "photos.txt")) == [("sub/c.bmp", "A cat, sitting"), ("a.png", ""), ("b.PNG", "Bäume")]
    (folder / "photos.csv").write_text('sub/c.bmp,"A cat, sitting"\nnone.png,gone\na.png\n')
    source = ImageList(folder / "photos.csv")
    assert values(source) == [30, 10, 10] and source[0].prompt == "A cat, sitting" and source.unusable == 1
    (folder / "excel.csv").write_text("a.png,A cat\u2028sits\n", "utf-8-sig")
    assert words(ImageList(folder / "excel.csv")) == [("a.png", "A cat\u2028sits")]


@pytest.mark.parametrize("quality", [None, 95])
def test_a_record_returns_the_photo(quality):
    image = np.kron(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5, np.ones((16, 16, 1), np.uint8))
    photo = decode_record(encode_record(Photo(image, "two\nlines\té", "a/b.png"), quality), "record 0")
    assert photo.prompt == "two\nlines\té" and photo.name == "a/b.png"
    assert np.abs(photo.image.astype(int) - image).max() <= (0 if quality is None else 3)


def test_shards_of_image_files_and_a_broken_record(tmp_path):
    write_shard(tmp_path / "x-0.array_record", [png(10), b"no photo", b"{no header", b""])
    write_shard(tmp_path / "x-1.array_record", [png(20)])
    source = open_source(f"arrayrecord:{tmp_path}/x-*")
    assert values(source) == [10, 20, 20, 20, 20] and source.unusable == 3
    assert source[0].name == f"record 0 of {tmp_path}/x-*"
    assert values(pickle.loads(pickle.dumps(source))) == values(open_source(tmp_path)) == values(source)


class ImagenetLike(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=9)}
        features = tfds.features.FeaturesDict(features | {"file_name": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(5), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": io.BytesIO(png(10 * i)), "label": i, "file_name": f"{i}.JPEG"}


def test_tfds_data_sets_without_tensorflow(tmp_path, folder):
    """One like ImageNet, by its name; and our own of a folder, by its folder."""
    tfds.core.add_data_dir(tmp_path / "data")
    logging.getLogger("absl").setLevel(logging.ERROR)
    ImagenetLike(file_format="array_record", data_dir=tmp_path / "data").download_and_prepare()
    source = open_source("tfds:imagenet_like@train[:80%]")
    assert len(source) == 4 and all(photo.name == f"{photo.image[0, 0, 0] // 10}.JPEG" for photo in source)
    assert len(open_source("tfds:imagenet_like@validation")) == 2
    assert values(pickle.loads(pickle.dumps(source))) == values(source)

    (folder / "photos.txt").write_text("a.png\tA cat\nsub/c.bmp\n")
    builder = TfdsImageFolder(open_source(folder / "photos.txt"), data_dir=tmp_path / "ours")
    builder.download_and_prepare()
    source = open_source(f"tfds:{builder.data_dir}")
    assert sorted(words(source)) == [("a.png", "A cat"), ("sub/c.bmp", "")] and sorted(values(source)) == [10, 30]
    for name in (f"{builder.data_dir}@test", "imagenet_like@test", "no_such_set"):
        with pytest.raises(InputError, match="^tfds:.*cannot be opened.*prepare it"):
            open_source(f"tfds:{name}")
    assert "tensorflow" not in sys.modules


def test_synthetic_pictures_depend_on_seed_and_index_alone():
    source, other = open_source("synthetic"), open_source("synthetic:1")
    assert len(source) == 100_000 and source[7].image.shape == (512, 512, 3)
    np.testing.assert_array_equal(source[7].image, DeadLeaves(count=9)[7].image)
    assert not np.array_equal(source[7].image, source[8].image) and not np.array_equal(source[7].image, other[7].image)


def slope(image):
    """Exponent of the power spectrum's fall, between 1/64 and 1/4 of the sampling rate."""
    power = np.abs(np.fft.rfft2(image * np.outer(np.hanning(len(image)), np.hanning(len(image))))) ** 2
    frequency = np.hypot(np.fft.fftfreq(len(image))[:, None], np.fft.rfftfreq(len(image))[None])
    edges = np.geomspace(1 / 64, 1 / 4, 9)
    means = [power[(frequency >= a) & (frequency < b)].mean() for a, b in zip(edges, edges[1:], strict=False)]
    return np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(means), 1)[0]


def test_synthetic_pictures_have_the_statistics_of_photographs():
    """Their power falls as 1/f^2 or so (Field 1987: 1.6 to 2.4 over natural scenes), and they fill the range of values."""
    pictures = [DeadLeaves(size=256)[i].image / 255 for i in range(6)]
    assert np.mean([slope(picture.mean(-1)) for picture in pictures]) == pytest.approx(-2, abs=0.4)
    assert np.mean([picture.std() for picture in pictures]) > 0.15
    assert slope(fractal_noise(np.random.default_rng(0), 512, 1.0)) == pytest.approx(-2, abs=0.1)


def test_radii_follow_their_law():
    """Of density r^-3 the share above r is r^-2, so 1/r^2 is uniform."""
    radii = np.concatenate([draw_radii(np.random.default_rng(i), 1024) for i in range(3)])
    for r in (draw_radii(np.random.default_rng(i), 1024) for i in range(3)):
        scaled = (r**-2.0 - (1024 / 3) ** -2.0) / (r.min() ** -2.0 - (1024 / 3) ** -2.0)
        assert np.quantile(scaled, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.06)
    assert radii.max() < 1024 / 3


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("{}/none", "is no source of photos; give .*tfds:NAME"),
        ("", "is no source of photos"),
        ("tdfs:imagenet", "'tdfs:imagenet' is no source"),
        ("folder:{}/none", "not a folder"),
        ("{}", "no image in"),
        ("list:{}/none", "cannot read the list"),
        ("{}/empty.txt", "no path in"),
        ("{}/gone.txt", "no photo of .* can be used"),
        ("{}/photo.png", "no text in UTF-8"),
        ("arrayrecord:{}/*.array_record", "no file matches"),
        ("{}/no.array_record", "cannot be read as ArrayRecord"),
        ("{}/cut.array_record", "cannot be read as ArrayRecord: \\w+"),
        ("{}/open.csv", "cannot read the list .* field larger"),
        ("synthetic:x", "synthetic:SEED"),
    ],
)
def test_a_source_of_no_use_is_refused_when_opened(tmp_path, where, message):
    if where.endswith("}"):
        where += "/empty"
        (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "gone.txt").write_text("a.png\nb.png\n")
    (tmp_path / "photo.png").write_bytes(png(3))
    (tmp_path / "open.csv").write_text('photo.png,"A cat' + "s" * 140_000)
    if "no.array" in where:
        (tmp_path / "no.array_record").write_text("no records")
    if "cut.array" in where:
        write_shard(tmp_path / "cut.array_record", [png(10)])
        os.truncate(tmp_path / "cut.array_record", 65536)
    with pytest.raises(InputError, match=message) as error:
        open_source(where.format(tmp_path))
    assert "\n" not in str(error.value)
