"""Photos in ArrayRecord shards: a record is one line of JSON (name, prompt), then an image file. Bare image files are read too."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import grain
import numpy as np
from jaxtyping import UInt8

from diffbir_jax.data.photos import ImageSource, Photo
from diffbir_jax.errors import InputError, reason


def encode_record(photo: Photo, quality: int | None = None) -> bytes:
    """The bytes of a record.

    Args:
        quality: of a JPEG with whole chroma, 1 to 100; None: PNG, without loss.
    """
    header = json.dumps({"name": photo.name, "prompt": photo.prompt}).encode()
    return header + b"\n" + encode_image(photo.image, quality)


def encode_image(image: UInt8[np.ndarray, "H W 3"], quality: int | None = None) -> bytes:
    """The bytes of a JPEG of this quality, or of a PNG."""
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".png", bgr) if quality is None else cv2.imencode(".jpg", bgr, jpeg)
    return encoded.tobytes()


def decode_record(record: bytes, name: str) -> Photo:
    """The photo in a record.

    Args:
        name: stands in for the record's own, in the photo and in messages.

    Raises:
        InputError: no image in the record.
    """
    words = {"name": name, "prompt": ""}
    if record.startswith(b"{"):
        header, _, record = record.partition(b"\n")
        try:
            words |= json.loads(header)
        except ValueError:
            raise InputError(f"{name} is damaged: its header cannot be read") from None
    bgr = cv2.imdecode(np.frombuffer(record, np.uint8), cv2.IMREAD_COLOR) if record else None
    if bgr is None:
        raise InputError(f"{words['name']} is damaged or no image; give shards that diffbir_jax.data.pack wrote, or of image files")
    return Photo(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), str(words["prompt"]), str(words["name"]))


class PackedPhotos(ImageSource):
    """The photos of ArrayRecord shards, in the order given.

    Raises:
        InputError: a file that is no ArrayRecord, or no record in any.
    """

    def __init__(self, shards: Sequence[Path], title: str):
        super().__init__()
        self.title = title
        try:
            self._records = grain.sources.ArrayRecordDataSource([str(path) for path in shards])
        except Exception as error:  # the reader's own kinds
            raise InputError(f"{title} cannot be read as ArrayRecord: {reason(error)}") from None
        if not len(self):
            raise InputError(f"no record in {title}; give shards that diffbir_jax.data.pack wrote")

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int) -> Photo:
        name = f"record {index} of {self.title}"
        try:
            record = self._records[index]
        except Exception as error:
            raise InputError(f"{name} cannot be read: {reason(error)}") from None
        return decode_record(record, name)
