"""Photos of TensorFlow Datasets, read and prepared without TensorFlow."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from diffbir_jax.data.photos import ImageSource, Photo
from diffbir_jax.data.records import encode_image
from diffbir_jax.errors import InputError, reason

PROMPTS, NAMES = ("prompt", "caption", "text"), ("name", "file_name", "image/filename")  # features, the first that is there


class TfdsPhotos(ImageSource):
    """The feature "image" of a prepared data set; captions and file names where it has them. Nothing is downloaded.

    Args:
        name: as TFDS writes it ("imagenet2012", "my_faces/512:1.0.0"), or the folder of a prepared version.
        split: as TFDS writes it, for example "train[:90%]".

    Raises:
        InputError: not prepared as ArrayRecord, no such split, or no "image" in it.
    """

    def __init__(self, name: str, split: str = "train"):
        super().__init__()
        self.title = f"tfds:{name}@{split}"
        try:
            self._examples = _open(name, split)
        except Exception as error:  # TFDS raises a dozen kinds
            raise InputError(f"{self.title} cannot be opened ({reason(error)}); prepare it with file_format=array_record") from None
        if not len(self._examples):
            raise InputError(f"no photo in {self.title}; give a split that has some")

    def __len__(self) -> int:
        return len(self._examples)

    def read(self, index: int) -> Photo:
        name = f"example {index} of {self.title}"
        try:
            example = self._examples[index]
            image = _rgb(example["image"])
        except Exception as error:
            raise InputError(f"{name} cannot be read as an image: {type(error).__name__} {reason(error)}") from None
        return Photo(image, _first(example, PROMPTS), _first(example, NAMES) or name)


class TfdsImageFolder(tfds.core.GeneratorBasedBuilder):
    """A TFDS data set of the photos of any source, prompts and names included.

    `TfdsImageFolder(open_source(FOLDER), data_dir=DIR).download_and_prepare()` writes it as ArrayRecord, and `tfds:FOLDER`, of the
    version written, reads it.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, source: ImageSource | None = None, **kwargs: Any):
        self.source = source
        super().__init__(**({"file_format": "array_record"} | kwargs))

    def _info(self) -> tfds.core.DatasetInfo:
        words = {"prompt": tfds.features.Text(), "name": tfds.features.Text()}
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3))} | words)
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(len(self.source)):
            photo = self.source[index]
            yield index, {"image": io.BytesIO(encode_image(photo.image)), "prompt": photo.prompt, "name": photo.name}


def _open(name: str, split: str) -> Any:
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)  # a missing folder is told once, by the error
    try:
        if Path(name).is_dir():
            return tfds.builder_from_directory(name).as_data_source(split=split)
        return tfds.data_source(name, split=split, download=False)
    finally:
        logger.setLevel(level)


def _first(example: dict[str, Any], keys: tuple[str, ...]) -> str:
    words = next((example[key] for key in keys if key in example), "")
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)


def _rgb(image: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f"{image.dtype} of shape {image.shape}")
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image[:, :, :3]
