"""Metrics of other programs: torchmetrics and pyiqa, which are asked for only here and bring or fetch their own weights."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from diffbir_jax.errors import InputError
from diffbir_jax.packages import Unavailable

T = TypeVar("T")

Photo = Float[np.ndarray, "H W 3"]


class Outside(NamedTuple):
    """Where a metric is made, `module.maker(*arguments, **options)`, and of how many images it is."""

    module: str
    maker: str
    images: int
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012  (read only)


LPIPS = Outside("torchmetrics.image.lpip", "LearnedPerceptualImagePatchSimilarity", 2, ("alex",), {"normalize": True})
DISTS = Outside("torchmetrics.image.dists", "DeepImageStructureAndTextureSimilarity", 2)
CLIP_IQA = Outside("torchmetrics.multimodal.clip_iqa", "CLIPImageQualityAssessment", 1)
INCEPTION = Outside("torchmetrics.image.fid", "FrechetInceptionDistance", 1, (2048,))
MANIQA = Outside("pyiqa", "create_metric", 1, ("maniqa-pipal",), {"device": "cpu"})
MUSIQ = Outside("pyiqa", "create_metric", 1, ("musiq",), {"device": "cpu"})


def load(what: Outside) -> Callable[..., float]:
    """A metric of one image, or of an image and its reference.

    Raises:
        Unavailable: the program or its weights are not there, in its own words.
    """
    torch, metric = make(what)

    def measure(*images: Photo) -> float:
        with torch.no_grad():
            return float(metric(*(_tensor(torch, image) for image in images)))

    return tried(measure, what)


def load_inception() -> Callable[[Photo], Float[np.ndarray, "2048"]]:
    """InceptionV3's features as the original FID takes them, of 8-bit images.

    Raises:
        Unavailable: as `load`.
    """
    torch, metric = make(INCEPTION)

    def features(image: Photo) -> Float[np.ndarray, "2048"]:
        with torch.no_grad():
            pixels = (_tensor(torch, image) * 255).round().to(torch.uint8)
            return np.asarray(metric.inception(pixels)[0], np.float32)

    return tried(features, INCEPTION)


def make(what: Outside) -> tuple[Any, Any]:
    """PyTorch and the metric, in evaluation mode; whatever goes wrong there is the reason given."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch = importlib.import_module("torch")
            metric = getattr(importlib.import_module(what.module), what.maker)(*what.arguments, **what.options)
            return torch, metric.eval()
    except ModuleNotFoundError as error:
        raise Unavailable(f"{_words(what, error)}; pip install 'diffbir_jax[metrics]'") from None
    except Exception as error:  # no weights, no network, another version
        raise Unavailable(_words(what, error)) from None


def tried(function: Callable[..., T], what: Outside) -> Callable[..., T]:
    """`function`, whose failures are InputErrors, after a try: some fetch their weights only when they are used.

    Raises:
        Unavailable: the try failed.
    """

    def told(*images: Photo) -> T:
        try:
            return function(*images)
        except Exception as error:
            raise InputError(_words(what, error)) from None

    try:
        told(*what.images * [np.full((256, 256, 3), 0.5, np.float32)])
    except InputError as error:
        raise Unavailable(str(error)) from None
    return told


def _words(what: Outside, error: Exception) -> str:
    program = what.module.partition(".")[0]
    return f"{program} fails with {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _tensor(torch: Any, image: Photo) -> Any:
    return torch.from_numpy(np.ascontiguousarray(np.clip(np.moveaxis(image, -1, 0), 0, 1), np.float32))[None]
