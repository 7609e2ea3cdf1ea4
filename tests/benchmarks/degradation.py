"""Images a second on one core, at 512 x 512, of every recipe beside the straightforward way: the table of README.

python tests/benchmarks/degradation.py [--images 24] [--rounds 5]

Both do the same drawn operations, turn by turn, on one thread. The reference of realesrgan and bsrgan is that of the PyTorch
original (a dense 21 x 21 convolution, interpolate, torch's noise, a differentiable JPEG; needs torch), that of codeformer and
face OpenCV and NumPy as one would write it (a dense 41 x 41 filter, float64 noise). The time is the processor's, so that other
work on the machine counts for less. The last column is the speed of two processes over that of one, by the clock and, where
other work takes the cores, by processor time: what they cost each other.
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from diffbir_jax.degradation import kernels, operations
from diffbir_jax.degradation.operations import apply, apply_one
from diffbir_jax.degradation.recipes import RECIPES, draw
from diffbir_jax.imaging.paths import images_in
from diffbir_jax.imaging.reading import read_image

PHOTOS = Path(__file__).parents[1] / "data" / "photos"
SIZE = 512


@cache
def photos() -> list[np.ndarray]:
    """Eight images of 512 x 512, each of four photographs."""
    crops = [cv2.resize(read_image(path), (SIZE // 2, SIZE // 2)) for path in images_in(PHOTOS)]
    return [
        np.concatenate([np.concatenate(crops[i : i + 4 : 2], 1), np.concatenate(crops[i + 1 : i + 5 : 2], 1)]) for i in range(8)
    ]


def drawn(name: str, count: int) -> list[tuple]:
    """The degradations, and the images to degrade."""
    rng = np.random.default_rng(0)
    return [(draw(RECIPES[name], rng, (SIZE, SIZE)), photos()[i % 8]) for i in range(count)]


def kernel_of(operation) -> np.ndarray:
    if isinstance(operation, operations.Sinc):
        return kernels.sinc_kernel(operation.size, operation.cutoff)
    return operations.blur_kernel(operation)


def opencv_reference(operation, image: np.ndarray) -> np.ndarray:
    """One operation with OpenCV and NumPy, nothing clever."""
    match operation:
        case operations.Blur():
            return cv2.filter2D(image, -1, kernel_of(operation))
        case operations.Resize():
            return cv2.resize(image, (operation.width, operation.height), interpolation=cv2.INTER_LINEAR)
        case operations.GaussianNoise():
            return np.clip(image + np.random.randn(*image.shape) * operation.sigma, 0, 1).astype(np.float32)
        case operations.Jpeg():
            _, encoded = cv2.imencode(".jpg", np.uint8(image * 255), [cv2.IMWRITE_JPEG_QUALITY, operation.quality])
            return np.float32(cv2.imdecode(encoded, 1)) / 255
        case operations.Quantise():
            return np.float32(np.clip((image * 255).round(), 0, 255)) / 255
    return apply_one(operation, image)


def ours(degradation, image: np.ndarray) -> np.ndarray:
    return apply(degradation, image)


def by_opencv(degradation, image: np.ndarray) -> np.ndarray:
    for operation in degradation:
        image = opencv_reference(operation, image)
    return image


def torch_reference():
    """The function of (degradation, image) that works with torch; None, after a line that says so, where that is missing."""
    try:
        import torch
    except ImportError:
        print("torch is not installed: realesrgan and bsrgan have no reference to compare with (pip install torch)")
        return None
    torch.set_num_threads(1)
    from torch.nn import functional as F

    jpeg = make_torch_jpeg(torch)

    def blur(x, kernel):
        kernel = np.pad(kernel, max(0, (21 - len(kernel)) // 2))  # the original pads its kernels to stack them
        pad, weight = len(kernel) // 2, torch.from_numpy(np.float32(kernel))
        return F.conv2d(F.pad(x, (pad,) * 4, "reflect"), weight.expand(3, 1, *weight.shape), groups=3)

    def poisson(x, operation):
        grey = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        levels = (torch.clamp((grey if operation.grey else x) * 255, 0, 255)).round() / 255
        white = 2 ** np.ceil(np.log2(len(torch.unique(levels))))
        return torch.clamp(x + (torch.poisson(levels * white) / white - levels) * operation.scale, 0, 1)

    def correlated(x, operation):
        mixing = torch.tensor(operation.mixing)
        return torch.clamp(x + torch.einsum("bchw,cd->bdhw", torch.randn_like(x), mixing), 0, 1)

    def step(x, operation):
        match operation:
            case operations.Blur() | operations.Sinc():
                return blur(x, kernel_of(operation))
            case operations.Resize():
                return F.interpolate(x, (operation.height, operation.width), mode=operation.interpolation)
            case operations.GaussianNoise():
                return torch.clamp(x + torch.randn(1, 1 if operation.grey else 3, *x.shape[2:]) * operation.sigma, 0, 1)
            case operations.PoissonNoise():
                return poisson(x, operation)
            case operations.CorrelatedNoise():
                return correlated(x, operation)
            case operations.Jpeg():
                return jpeg(torch.clamp(x, 0, 1), operation.quality)
            case operations.Quantise():
                return torch.clamp((x * 255).round(), 0, 255) / 255
        return torch.from_numpy(apply_one(operation, np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())))[None].permute(0, 3, 1, 2)

    def by_torch(degradation, image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            x = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
            for operation in degradation:
                x = step(x, operation)
            return x[0].permute(1, 2, 0).numpy()

    return by_torch


LUMA = np.array(
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 18 22 37 56 68 109 103 77 "
    "24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99".split(),
    int,
).reshape(8, 8)
CHROMA = np.full((8, 8), 99)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]  # both of ITU-T T.81, annex K
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def make_torch_jpeg(torch):
    """JPEG in torch: 4:2:0, blocks by the 64 x 64 products of cosines, rounding that lets a gradient pass."""
    from torch.nn import functional as F

    angle = np.pi * np.outer(2 * np.arange(8) + 1, np.arange(8)) / 16
    cosine = np.cos(angle) * np.where(np.arange(8) == 0, 0.5**0.5, 1) / 2
    dct = torch.tensor(np.einsum("xu,yv->xyuv", cosine, cosine), dtype=torch.float32)
    to_ycc, to_rgb = (torch.tensor(m, dtype=torch.float32) for m in (TO_YCC, np.linalg.inv(TO_YCC)))

    def code(plane, table):
        height, width = plane.shape
        blocks = plane.view(height // 8, 8, width // 8, 8).permute(0, 2, 1, 3)
        scaled = torch.tensordot(blocks - 128, dct, dims=2) / table
        rounded = torch.round(scaled)
        rounded = rounded + (scaled - rounded) ** 3
        back = torch.tensordot(rounded * table, dct, dims=([2, 3], [2, 3])) + 128
        return back.permute(0, 2, 1, 3).reshape(height, width)

    def jpeg(x, quality):
        scale = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
        height, width = x.shape[2:]
        x = F.pad(x * 255, (0, -width % 16, 0, -height % 16))
        ycc = torch.tensordot(x[0].permute(1, 2, 0), to_ycc, dims=([2], [1])) + x.new_tensor([0, 128, 128])
        luma = code(ycc[..., 0].contiguous(), torch.tensor(LUMA * scale, dtype=torch.float32).clamp(min=1e-3))
        small = F.avg_pool2d(ycc[..., 1:].permute(2, 0, 1)[None], 2)[0]
        table = torch.tensor(CHROMA * scale, dtype=torch.float32).clamp(min=1e-3)
        chroma = [code(plane, table).repeat_interleave(2, 0).repeat_interleave(2, 1) for plane in small]
        rgb = torch.tensordot(torch.stack([luma, *chroma], -1) - x.new_tensor([0, 128, 128]), to_rgb, dims=([2], [1]))
        return (torch.clamp(rgb, 0, 255) / 255).permute(2, 0, 1)[None, :, :height, :width]

    return jpeg


def speeds(ways: dict, work: list[tuple], rounds: int) -> dict[str, float]:
    """Images a second of processor time: the median of the rounds, the ways taking turns at every image."""
    for way in ways.values():  # tables, first calls
        for each in work[:3]:
            way(*each)
    seconds = {name: np.zeros((rounds, len(work))) for name in ways}
    for turn in range(rounds):
        for i, each in enumerate(work):
            for name, way in ways.items():
                start = time.process_time()
                way(*each)
                seconds[name][turn, i] = time.process_time() - start
    return {name: len(work) / np.median(spent.sum(1)) for name, spent in seconds.items()}


def worker_seconds(name: str, images: int) -> np.ndarray:
    """For our way of so many images, by the clock and of processor time; called in workers."""
    work = drawn(name, images)
    ours(*work[0])
    clocks = (time.perf_counter, time.process_time)
    start = np.array([clock() for clock in clocks])
    for each in work:
        ours(*each)
    return np.array([clock() for clock in clocks]) - start


def scaling(pool: ProcessPoolExecutor, name: str, images: int, rounds: int) -> np.ndarray:
    """Images a second of two processes at once over those of one, medians, taking turns: by the clock, and of processor time."""
    seconds = np.array([[_slowest(pool, name, images, workers) for workers in (1, 2)] for _ in range(rounds)])
    one, two = np.median(seconds, 0)
    return 2 * one / two


def _slowest(pool: ProcessPoolExecutor, name: str, images: int, workers: int) -> np.ndarray:
    return np.max(list(pool.map(partial(worker_seconds, name), [images] * workers)), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    by_torch = torch_reference()
    load = os.getloadavg()[0]
    print(f"load of the machine before: {load:.1f} on {os.cpu_count()} cores\n")
    print("| recipe | images/s | reference images/s | ratio | 2 processes |\n| --- | --- | --- | --- | --- |")
    with ProcessPoolExecutor(2, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        for name in RECIPES:
            reference = by_opencv if name in ("codeformer", "face") else by_torch
            ways = {"ours": ours} | ({"reference": reference} if reference else {})
            speed = speeds(ways, drawn(name, args.images), args.rounds)
            other = speed.get("reference")
            compared = f"{other:.1f} | {speed['ours'] / other:.1f}x" if other else "- | -"
            clock, processor = scaling(pool, name, args.images, args.rounds)
            print(f"| {name} | {speed['ours']:.1f} | {compared} | {clock:.2f}x ({processor:.2f}x) |", flush=True)


if __name__ == "__main__":
    main()
