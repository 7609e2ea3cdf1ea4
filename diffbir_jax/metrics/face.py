"""Whether a face is still the same person's: a 128-dimensional descriptor, and the small detector that finds the face.

Both networks are those of face-api: dlib's face recognition ResNet (below about 0.25 the same person, above about 0.45 another),
and a tiny YOLOv2 of separable convolutions.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffbir_jax.errors import InputError
from diffbir_jax.metrics.layers import Maps, average_pool, conv, max_pool
from diffbir_jax.metrics.stored import tfjs_weights
from diffbir_jax.packages import Archives

SIDE, DETECTION_SIDE, CERTAIN = 150, 416, 0.5
SCALES = (416, 320, 224)  # the detector overlooks a face at one size and is certain of it at another
MEAN = np.array([[[[122.782, 117.001, 104.298]]]], np.float32)
DETECTION_MEAN = np.array([[[[117.001, 114.697, 97.404]]]], np.float32)
ANCHORS = np.array([(1.603231, 2.094468), (6.041143, 7.080126), (2.882459, 3.518061), (4.266906, 5.178857), (9.041765, 10.66308)])
BLOCKS = {"conv32": "123", "conv64": "d123", "conv128": "d12", "conv256": "d12"}  # d: halves the size
Photo = Float[np.ndarray, "H W 3"]
Weights = Mapping[str, Array]


class Box(NamedTuple):
    """A face by its corners in pixels; they may lie outside the image."""

    left: float
    top: float
    right: float
    bottom: float


def load_face_distance(archives: Archives) -> Callable[[Photo, Photo], float]:
    """The distance between the descriptors of the largest face of a reference, and of the same place in an image.

    The function raises InputError where the reference shows no face.

    Raises:
        Unavailable: the package is not there.
    """
    weights, detector = (read(archives, name) for name in ("face_recognition_model", "tiny_face_detector_model"))
    detect, describe = jax.jit(detect_maps), jax.jit(descriptor)

    def distance(image: Photo, reference: Photo) -> float:
        views = ((side, np.asarray(detect(detector, canvas(reference, side)))[0]) for side in SCALES)
        box = largest([box for side, maps in views for box in boxes(maps, max(reference.shape[:2]) / side)])
        first, second = (describe(weights, chip(each, box))[0] for each in (image, reference))
        return float(jnp.linalg.norm(first - second))

    return distance


def read(archives: Archives, name: str) -> dict[str, Array]:
    """A network's weights by its name."""
    held = tfjs_weights(archives.read(f"{name}-weights_manifest.json"), archives.read(f"{name}.bin"))
    return {key: jnp.asarray(value) for key, value in held.items()}


def canvas(image: Photo, side: int = DETECTION_SIDE) -> Float[Array, "1 416 416 3"]:
    """The image in the upper left corner of the detector's black square, its longer side `side` pixels, in [0, 255]."""
    height, width = (max(1, round(length * side / max(image.shape[:2]))) for length in image.shape[:2])
    small = cv2.resize(255 * image, (width, height), interpolation=cv2.INTER_AREA)
    return jnp.asarray(np.pad(small, [(0, DETECTION_SIDE - height), (0, DETECTION_SIDE - width), (0, 0)]))[None]


def detect_maps(weights: Weights, image: Float[Array, "B 416 416 3"]) -> Float[Array, "B 13 13 5 5"]:
    """The detector's raw output: five anchors a cell; x, y, width, height and score."""
    x = conv((image - DETECTION_MEAN) / 255, weights["conv0/filters"], padding="VALID") + _row(weights["conv0/bias"])
    x = max_pool(_leaky(x), 2, 2, "SAME")
    for number in range(1, 6):
        name, channels = f"conv{number}", x.shape[-1]
        depthwise = weights[f"{name}/depthwise_filter"].reshape(3, 3, 1, channels)
        x = conv(conv(x, depthwise, groups=channels), weights[f"{name}/pointwise_filter"]) + _row(weights[f"{name}/bias"])
        x = max_pool(_leaky(x), 2, 2 if number < 5 else 1, "SAME")
    return (conv(x, weights["conv8/filters"]) + _row(weights["conv8/bias"])).reshape(*x.shape[:3], len(ANCHORS), 5)


def boxes(maps: Float[np.ndarray, "n n 5 5"], zoom: float = 1.0) -> list[Box]:
    """Everywhere a face is found with certainty, in pixels of an image that is `zoom` times as large as what the detector saw."""
    rows, columns, anchors = np.nonzero(_sigmoid(maps[..., 4]) > CERTAIN)
    x, y, w, h, _ = maps[rows, columns, anchors].astype(np.float64).T
    centre = np.stack([columns + _sigmoid(x), rows + _sigmoid(y)], axis=-1)
    half = np.exp(np.stack([w, h], axis=-1)) * ANCHORS[anchors] / 2
    corners = np.concatenate([centre - half, centre + half], axis=-1) * zoom * DETECTION_SIDE / len(maps)
    return [Box(*map(float, row)) for row in corners]


def largest(found: list[Box]) -> Box:
    """The largest box.

    Raises:
        InputError: there is none.
    """
    if not found:
        raise InputError("no face is found in the reference")
    return max(found, key=lambda box: (box.right - box.left) * (box.bottom - box.top))


def chip(image: Photo, box: Box) -> Float[Array, "1 150 150 3"]:
    """A box of an image, in the middle of a black square of the descriptor's size, in [0, 255]."""
    left, top = (max(0, round(edge)) for edge in box[:2])
    face = 255 * image[top : max(top + 1, round(box.bottom)), left : max(left + 1, round(box.right))]
    side = max(face.shape[:2])
    margins = [((side - length) // 2, side - length - (side - length) // 2) for length in face.shape[:2]]
    square = np.pad(face, [*margins, (0, 0)])
    return jnp.asarray(cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA if side > SIDE else cv2.INTER_LINEAR))[None]


def descriptor(weights: Weights, image: Float[Array, "B 150 150 3"]) -> Float[Array, "B 128"]:
    """dlib's face descriptor of RGB in [0, 255]."""
    x = jax.nn.relu(_scaled((image - MEAN) / 255, weights, "conv32_down", 2, "VALID"))
    x = max_pool(x, 3, 2)
    for stage, kinds in BLOCKS.items():
        for kind in kinds:
            x = _down(x, weights, f"{stage}_down") if kind == "d" else _residual(x, weights, f"{stage}_{kind}")
    return _down(x, weights, "conv256_down_out").mean((1, 2)) @ weights["fc"]


def _residual(x: Maps, weights: Weights, name: str) -> Maps:
    h = jax.nn.relu(_scaled(x, weights, f"{name}/conv1"))
    return jax.nn.relu(x + _scaled(h, weights, f"{name}/conv2"))


def _down(x: Maps, weights: Weights, name: str) -> Maps:
    """As `_residual` at half the size; the input is averaged, and both are filled with zeros to the same shape."""
    h = jax.nn.relu(_scaled(x, weights, f"{name}/conv1", 2, "VALID"))
    h, x = _scaled(h, weights, f"{name}/conv2"), average_pool(x, 2)
    shape = [max(pair) for pair in zip(h.shape, x.shape, strict=True)]
    return jax.nn.relu(_filled(h, shape) + _filled(x, shape))


def _filled(x: Maps, shape: list[int]) -> Maps:
    return jnp.pad(x, [(0, wanted - has) for wanted, has in zip(shape, x.shape, strict=True)])


def _scaled(x: Maps, weights: Weights, name: str, stride: int = 1, padding: str = "SAME") -> Maps:
    h = conv(x, weights[f"{name}/conv/filters"], stride, padding) + _row(weights[f"{name}/conv/bias"])
    return h * _row(weights[f"{name}/scale/weights"]) + _row(weights[f"{name}/scale/biases"])


def _row(x: Float[Array, "C"]) -> Float[Array, "1 1 1 C"]:
    return x.reshape(1, 1, 1, -1)


def _leaky(x: Maps) -> Maps:
    return jnp.maximum(x, 0.1 * x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
