"""Between 8 bits and floats, a single pass each way."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

Photo = Float32[np.ndarray, "_ _ 3"]
Pixels = UInt8[np.ndarray, "H W 3"]
LEVELS = np.arange(256, dtype=np.float32) / np.float32(255)


def to_uint8(image: Float32[np.ndarray, "H W *c"]) -> UInt8[np.ndarray, "H W *c"]:
    """Clipped to [0, 1] and rounded to 256 levels."""
    rows = image.reshape(image.shape[0], -1)
    return cv2.multiply(rows, 255.0, dtype=cv2.CV_8U).reshape(image.shape)


def to_float(image: UInt8[np.ndarray, "H W *c"]) -> Float32[np.ndarray, "H W *c"]:
    """To [0, 1]."""
    return cv2.LUT(image, LEVELS).reshape(image.shape)
