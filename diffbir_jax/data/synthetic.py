"""Pictures from no data: dead leaves, whose edges and sizes follow the statistics of photographs (Lee, Mumford & Huang 2001);
each leaf has a colour of the picture's palette and a share of one of three textures, over all lies uneven light."""

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from diffbir_jax.data.photos import ImageSource, Photo

Texture = Float32[np.ndarray, "S S"]
SUBPIXEL = 4  # bits behind the point of a corner's coordinates
CORNERS = (3, 4, 4, 5, 6, 40, 40, 40, 40, 40)  # of a leaf: half of them round
COVER = 4.0  # the areas of the leaves sum to so many pictures


class DeadLeaves(ImageSource):
    """Square pictures, each drawn from (seed, index) alone.

    Args:
        count: how many there are.
        size: their side, in pixels.
    """

    def __init__(self, count: int = 100_000, size: int = 512, seed: int = 0):
        super().__init__()
        self.count, self.size, self.seed = count, size, seed
        self.title = f"synthetic:{seed}"

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Photo:
        return Photo(draw_picture(np.random.default_rng((self.seed, index)), self.size), "", f"{self.title} {index}")


def draw_picture(rng: np.random.Generator, size: int) -> UInt8[np.ndarray, "S S 3"]:
    """One picture: leaves fall on each other, smoothed at their edges."""
    palette = draw_palette(rng)
    colours, shares = np.zeros((2, size, size, 3), np.uint8)  # a share of 255 is the whole texture
    colours[:], shares[:] = palette[0], (128, 0, 0)
    for leaf, colour, share in draw_leaves(rng, size, palette):
        cv2.fillConvexPoly(colours, leaf, colour, cv2.LINE_AA, SUBPIXEL)
        cv2.fillConvexPoly(shares, leaf, share, cv2.LINE_AA, SUBPIXEL)
    textures = cv2.merge(draw_textures(rng, size))
    relief = cv2.transform(cv2.multiply(shares, textures, dtype=cv2.CV_32F), np.full((1, 3), 1 / 255))[..., None]
    light = 1 + 0.2 * fractal_noise(rng, size, 2.2)[..., None]
    return np.clip(colours * (light * (1 + 0.6 * relief)) + 20 * relief, 0, 255).astype(np.uint8)


def draw_leaves(
    rng: np.random.Generator, size: int, palette: UInt8[np.ndarray, "P 3"]
) -> list[tuple[Int32[np.ndarray, "K 2"], list[float], list[float]]]:
    """Corners (in 1/16 of a pixel), colour and shares of the textures, the undermost leaf first."""
    radii = draw_radii(rng, size)
    count = len(radii)
    colours = np.clip(rng.choice(palette, count) + rng.normal(0, 12, (count, 3)), 0, 255)
    shares = 255 * rng.beta(1, 2, (count, 1)) * np.eye(3)[rng.choice(3, count, p=(0.5, 0.2, 0.3))]
    stretch, turn = rng.uniform(-0.35, 0.35, count), np.exp(2j * np.pi * rng.uniform(size=count))
    centres = rng.uniform(0, size, count) + 1j * rng.uniform(0, size, count)
    outlines = [np.exp(2j * np.pi * np.arange(corners) / corners) for corners in CORNERS]
    leaves = []
    for i, kind in enumerate(rng.integers(len(CORNERS), size=count)):
        outline = outlines[kind].real * np.exp(stretch[i]) + 1j * outlines[kind].imag * np.exp(-stretch[i])
        points = (centres[i] + radii[i] * turn[i] * outline) * 2**SUBPIXEL
        leaves.append((points.view(np.float64).reshape(-1, 2).astype(np.int32), colours[i].tolist(), shares[i].tolist()))
    return leaves


def draw_radii(rng: np.random.Generator, size: int) -> Float64[np.ndarray, "N"]:
    """Radii in pixels, of density r^-3 (what makes a picture alike at every scale) down to a least one."""
    least, most = size * np.exp(rng.uniform(np.log(0.007), np.log(0.03))), size / 3
    area = 2 * np.pi * np.log(most / least) / (least**-2 - most**-2)  # the mean
    uniform = rng.uniform(size=int(COVER * size**2 / area))
    return (least**-2 - uniform * (least**-2 - most**-2)) ** -0.5


def draw_palette(rng: np.random.Generator, count: int = 8) -> UInt8[np.ndarray, "{count} 3"]:
    """Colours of all kinds of brightness, muted ones more often."""
    hue = rng.uniform(0, 180) + rng.normal(0, 35, count)  # of 180: around one hue
    hsv = np.stack([hue % 180, 255 * rng.beta(1.2, 2.8, count), 255 * rng.beta(1.3, 1.1, count)], 1)
    return cv2.cvtColor(hsv.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0]


def draw_textures(rng: np.random.Generator, size: int) -> tuple[Texture, Texture, Texture]:
    """Grain, stripes and ridges, each of about deviation 0.35."""
    grain = 0.35 * fractal_noise(rng, size, rng.uniform(0.7, 1.3))
    ridges = 0.5 - 0.6 * np.abs(fractal_noise(rng, size, rng.uniform(1.0, 1.5)))
    turn, period = np.exp(1j * rng.uniform(0, np.pi)), np.exp(rng.uniform(np.log(4), np.log(30)))
    along = np.arange(size, dtype=np.float32) * np.float32(2 * np.pi / period)
    phase = np.add.outer(along * np.float32(turn.imag), along * np.float32(turn.real))
    stripes = 0.5 * np.sin(phase + np.float32(rng.uniform(0, 3)) * fractal_noise(rng, size, 1.6))
    return grain, stripes, ridges


def fractal_noise(rng: np.random.Generator, size: int, exponent: float) -> Texture:
    """Gaussian noise of mean 0 and deviation 1 whose amplitude falls as 1 / frequency^exponent; it tiles."""
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), np.float32))
    squared = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.rfftfreq(size)[None] ** 2
    squared[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum * (squared ** (-exponent / 2)).astype(np.float32), (size, size))
    return noise / noise.std()
