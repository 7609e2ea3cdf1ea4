"""Contact sheets: a photo, then degraded copies of it, what was drawn written under each."""

from collections.abc import Iterable, Sequence
from math import ceil, degrees

import cv2
import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageDraw, ImageFont

from diffbir_jax.degradation.operations import (
    Blur,
    CameraNoise,
    CorrelatedNoise,
    GaussianNoise,
    Jpeg,
    Operation,
    PoissonNoise,
    Resize,
    Sinc,
)
from diffbir_jax.degradation.pixels import Photo, to_float, to_uint8

NARROWEST, WIDEST = 320, 512  # the image of a cell, pixels; narrower ones leave room for the text
MARGIN, FONT_SIZE, LINE = 10, 15, 19


def describe(operation: Operation) -> str:
    """A line that says what was drawn; sigmas of noise are of 255."""
    match operation:
        case Blur():
            sigmas = f"{operation.sigma_x:.2f}"
            if (operation.sigma_x, operation.rotation) != (operation.sigma_y, 0):
                sigmas += f" x {operation.sigma_y:.2f} at {degrees(operation.rotation):.0f}°"
            beta = "" if operation.kind == "gaussian" else f", beta {operation.beta:.2f}"
            return f"{operation.kind.replace('gaussian', 'Gaussian')} blur {operation.size}, sigma {sigmas}{beta}"
        case Sinc():
            return f"sinc {operation.size}, cut-off {operation.cutoff:.2f}"
        case Resize():
            return f"{operation.interpolation} to {operation.width} x {operation.height}"
        case GaussianNoise():
            return f"Gaussian noise {operation.sigma * 255:.1f}{' grey' if operation.grey else ''}"
        case CorrelatedNoise():
            sigmas = np.linalg.norm(operation.mixing, axis=0) * 255
            return f"correlated noise {' '.join(f'{sigma:.1f}' for sigma in sigmas)}"
        case PoissonNoise():
            return f"Poisson noise {operation.scale:.2f}{' grey' if operation.grey else ''}"
        case CameraNoise():
            return f"camera noise, shot {operation.shot:.2g}, read {operation.read:.2g}"
        case Jpeg():
            return f"JPEG {operation.quality}"
    return "8 bits"


def contact_sheet(photo: Photo, draws: Iterable[tuple[Sequence[Operation], Photo]]) -> Float32[np.ndarray, "H W 3"]:
    """The photo and its degraded copies in rows, on white; wide photos are reduced.

    Args:
        draws: the operations and their result, one pair a cell, taken one at a time.
    """
    cells = [_cell(photo, [f"the photo, {photo.shape[1]} x {photo.shape[0]}"])]
    cells += [_cell(image, [describe(operation) for operation in operations]) for operations, image in draws]
    columns = min(4, ceil(len(cells) ** 0.5))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return to_float(np.concatenate([_row(row, columns) for row in rows]))


def _cell(image: Photo, lines: list[str]) -> np.ndarray:
    """The image with lines of text under it."""
    scale, width = min(1, WIDEST / image.shape[1]), min(max(image.shape[1], NARROWEST), WIDEST)
    size = (round(image.shape[1] * scale), max(1, round(image.shape[0] * scale)))
    shown = Image.fromarray(to_uint8(cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image))
    cell = Image.new("RGB", (width + 2 * MARGIN, size[1] + 2 * MARGIN + LINE * (len(lines) + 1)), "white")
    cell.paste(shown, (MARGIN, MARGIN))
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(FONT_SIZE)
    for i, line in enumerate(lines):
        draw.text((MARGIN, size[1] + MARGIN + LINE // 2 + i * LINE), line, "black", font)
    return np.asarray(cell)


def _row(cells: list[np.ndarray], columns: int) -> np.ndarray:
    """The cells side by side, filled up with white below and to the right."""
    height = max(len(cell) for cell in cells)
    row = np.full((height, columns * cells[0].shape[1], 3), 255, np.uint8)
    for i, cell in enumerate(cells):
        row[: len(cell), i * cell.shape[1] : (i + 1) * cell.shape[1]] = cell
    return row
