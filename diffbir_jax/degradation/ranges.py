"""The ranges that a recipe is made of: plain frozen data, checked. All draws are uniform within them (drawing.py).

Raises:
    InputError: from any of these classes, a field out of its bounds, by name.
"""

from dataclasses import dataclass
from math import pi

from diffbir_jax.degradation.checks import Checked, Number, Range, between, check_count, number, one_of, share, shares
from diffbir_jax.degradation.operations import INTERPOLATIONS
from diffbir_jax.errors import InputError

KINDS = ("iso", "aniso", "generalised_iso", "generalised_aniso", "plateau_iso", "plateau_aniso")
NOISES = ("colour", "grey", "correlated")


@dataclass(frozen=True)
class BlurRanges(Checked):
    """Args:
    sigma: in pixels; the axes of an anisotropic kernel are drawn apart, its rotation from a full turn.
    size: of the kernel, odd numbers.
    kinds: drawn with `probabilities`.
    generalised_beta, plateau_beta: the shape of these kinds; the parts of the range below and above 1 are equally likely.
    sinc: the probability of a sinc filter instead.
    small_cutoff, cutoff: of the sinc filter, in radians per pixel, for sizes below 13 and from 13 on.
    """

    sigma: Range = between((0.2, 3.0), 1e-3, 100)
    size: Range = between((7, 21), 1, 101, odd=True)
    kinds: tuple[str, ...] = one_of(KINDS, KINDS)
    probabilities: tuple[Number, ...] = shares((0.45, 0.25, 0.12, 0.03, 0.12, 0.03))
    generalised_beta: Range = between((0.5, 4.0), 0.05, 20)
    plateau_beta: Range = between((1.0, 2.0), 0.05, 20)
    sinc: Number = share(0.1)
    small_cutoff: Range = between((pi / 3, pi), 0.05, pi)
    cutoff: Range = between((pi / 5, pi), 0.05, pi)

    def __post_init__(self):
        super().__post_init__()
        check_count("probabilities", self.probabilities, "kinds", len(self.kinds))


@dataclass(frozen=True)
class ResizeRanges(Checked):
    """Args:
    directions: probabilities of larger, smaller, the same.
    factor: by which the sides are multiplied; larger draws from its part above 1, smaller from that below.
    interpolations: equally likely.
    """

    directions: tuple[Number, ...] = shares((0.2, 0.7, 0.1))
    factor: Range = between((0.15, 1.5), 0.01, 10)
    interpolations: tuple[str, ...] = one_of(tuple(INTERPOLATIONS), tuple(INTERPOLATIONS))

    def __post_init__(self):
        super().__post_init__()
        check_count("directions", self.directions, "larger, smaller, the same", 3)
        larger, smaller, _ = self.directions
        if larger and self.factor[1] < 1 or smaller and self.factor[0] > 1:
            raise InputError(f"factor is {self.factor}; give min <= 1 <= max, or 0 to the direction out of its reach")


@dataclass(frozen=True)
class NoiseRanges(Checked):
    """Args:
    gaussian: the probability of Gaussian noise; else it is Poisson noise.
    sigma: of Gaussian noise, of 255.
    scale: of Poisson noise.
    grey: the probability that all channels get the same noise.
    """

    gaussian: Number = share(0.5)
    sigma: Range = between((1.0, 30.0), 0, 255)
    scale: Range = between((0.05, 3.0), 0, 100)
    grey: Number = share(0.4)


@dataclass(frozen=True)
class Pass(Checked):
    """One pass of the second-order recipe: blur (with probability `blurred`), resize, noise, and JPEG of a `quality`."""

    blurred: Number = share(1.0)
    blur: BlurRanges = BlurRanges()
    resize: ResizeRanges = ResizeRanges()
    noise: NoiseRanges = NoiseRanges()
    quality: Range = between((30, 95), 1, 100, whole=True)


@dataclass(frozen=True)
class SecondOrder(Checked):
    """The Real-ESRGAN kind: two passes, the second about 1/`scale` of the size (Real-ESRGAN, section 3; DiffBIR v1, section 3.1).

    Args:
        sharpened: probability of the final sinc filter, its size drawn from `final_size` and its cut-off from `final_cutoff`.
        jpeg_last: probability that the second JPEG comes after the final resize and sinc, not before.
        scale: the first size over the final one, which is then enlarged to the first size again, bicubic.
    """

    first: Pass = Pass()
    second: Pass = Pass(
        blurred=0.8,
        blur=BlurRanges(sigma=(0.2, 1.5)),
        resize=ResizeRanges(directions=(0.3, 0.4, 0.3), factor=(0.3, 1.2)),
        noise=NoiseRanges(sigma=(1.0, 25.0), scale=(0.05, 2.5)),
    )
    sharpened: Number = share(0.8)
    final_size: Range = between((7, 21), 1, 101, odd=True)
    final_cutoff: Range = between((pi / 3, pi), 0.05, pi)
    jpeg_last: Number = share(0.5)
    scale: Number = number(4, 1, 32)


WIDE = BlurRanges(sigma=(0.1, 12.0), size=(41, 41), kinds=("iso", "aniso"), probabilities=(0.5, 0.5), sinc=0.0)


@dataclass(frozen=True)
class SinglePass(Checked):
    """The CodeFormer kind: blur, downsample, noise, JPEG, back to the first size (DiffBIR v1, section 3.1), resampling bilinearly.

    Args:
        downsample: the factor by which height and width are divided.
        noise: standard deviation of the Gaussian noise, of 255.
        quality: of the JPEG.
    """

    blur: BlurRanges = WIDE
    downsample: Range = between((1.0, 12.0), 0.1, 100)
    noise: Range = between((0.0, 15.0), 0, 255)
    quality: Range = between((30, 100), 1, 100, whole=True)


@dataclass(frozen=True)
class Shuffle(Checked):
    """The BSRGAN kind: two blurs, two resamplings, noise, JPEG and camera noise in random order, then JPEG (BSRGAN, section 3).

    Args:
        downsampled: probability of the first resampling, which divides the sides by `downsample`; the second reaches 1/`scale`.
        noise: standard deviation of the Gaussian noise, of 255.
        noise_kinds: per channel, the same in all, correlated between them; drawn with `noise_probabilities`.
        jpeg: probability of the JPEG in the shuffle; one comes last always, both of a `quality`.
        camera: probability of camera noise, of `shot` and `read` variance, drawn by their logarithm, and white balance `gain`s.
        scale: the first size over the final one, which is then enlarged to the first size again, bicubic.
    """

    blur: BlurRanges = BlurRanges(sigma=(0.1, 2.8), size=(7, 21), kinds=("iso", "aniso"), probabilities=(0.5, 0.5), sinc=0.0)
    downsampled: Number = share(0.75)
    downsample: Range = between((1.0, 8.0), 0.1, 100)
    interpolations: tuple[str, ...] = one_of(tuple(INTERPOLATIONS), tuple(INTERPOLATIONS))
    noise: Range = between((2.0, 25.0), 0, 255)
    noise_kinds: tuple[str, ...] = one_of(NOISES, NOISES)
    noise_probabilities: tuple[Number, ...] = shares((0.4, 0.4, 0.2))
    jpeg: Number = share(0.9)
    quality: Range = between((30, 95), 1, 100, whole=True)
    camera: Number = share(0.25)
    shot: Range = between((1e-4, 1.2e-2), 1e-6, 1)
    read: Range = between((1e-6, 5e-4), 1e-8, 1)
    gain: Range = between((1.2, 2.4), 1, 8)
    scale: Number = number(4, 1, 32)

    def __post_init__(self):
        super().__post_init__()
        check_count("noise_probabilities", self.noise_probabilities, "noise_kinds", len(self.noise_kinds))


@dataclass(frozen=True)
class Mixture:
    """One of several named recipes, equally likely, for each image."""

    recipes: tuple[tuple[str, "SinglePass | SecondOrder | Shuffle"], ...]


Recipe = SinglePass | SecondOrder | Shuffle | Mixture
