"""The two stages as one function of a model, images and options."""

import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from diffbir_jax import programs
from diffbir_jax.diffusion.samplers import SAMPLERS
from diffbir_jax.errors import InputError
from diffbir_jax.imaging.colour import wavelet_colour_fix_in_strips
from diffbir_jax.imaging.reading import MIN_SIDE
from diffbir_jax.imaging.resizing import Photo, Resized, Size, bucket, enlarge, resize, short_edge, target_size
from diffbir_jax.imaging.tiling import tiled_image
from diffbir_jax.memory import what_to_tile
from diffbir_jax.model import Model
from diffbir_jax.models.layerwise import decode_layerwise, encode_layerwise
from diffbir_jax.options import RestoreOptions
from diffbir_jax.programs import Draws, Each
from diffbir_jax.types import Latent

T = TypeVar("T")
Images = Sequence[np.ndarray] | np.ndarray  # of one size, one a job or a few more


class Result(NamedTuple):
    """A restored photograph, float32 [H, W, 3] in [0, 1], and what came before it where that is kept."""

    image: Photo
    trace: dict[str, np.ndarray]


def restore_images(model: Model, images: list[np.ndarray], options: RestoreOptions | None = None) -> list[np.ndarray]:
    """Restores photographs on all local devices: stage 1, the guided diffusion, then stage 1's colours (wavelet fix).

    Args:
        model: from `load_model`.
        images: float32 [H, W, 3] in [0, 1], each at least 16 pixels a side.
        options: see RestoreOptions.

    Returns:
        float32 [round(H * upscale), round(W * upscale), 3] in [0, 1], in order; each depends on its image and the options alone.

    Raises:
        InputError: an image of another shape or type, or too small; a prompt for a model that takes no text.

    >>> import numpy as np
    >>> from diffbir_jax import RestoreOptions, load_model, restore_images
    >>> photo = np.full((48, 64, 3), 0.5, np.float32)
    >>> [restored] = restore_images(load_model("tiny"), [photo], RestoreOptions(steps=2, upscale=2))
    >>> restored.shape
    (96, 128, 3)
    """
    return restore_batch(model, images, options)


def restore_batch(
    model: Model,
    images: Sequence[np.ndarray],
    options: RestoreOptions | Sequence[RestoreOptions] | None = None,
    mesh: Mesh | None = None,
    batch_size: int = 1,
) -> list[np.ndarray]:
    """As `restore_images`: images of equal shape are batched and mapped over the devices of a mesh.

    Args:
        options: of all images, or one each (a prompt or seed of its own).
        mesh: of one axis, "data"; None: all local devices, or as many as there are images.
        batch_size: images on a device at a time.

    Raises:
        InputError: as `restore_images`, another number of options than images, or a batch_size below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; give at least 1")
    each = [options or RestoreOptions()] * len(images) if not isinstance(options, Sequence) else options
    if len(each) != len(images):
        raise InputError(f"there are {len(images)} images and {len(each)} options; give one options, or one for every image")
    jobs = (Job(model, image, of.completed(model.defaults), batch_size=batch_size) for image, of in zip(images, each, strict=True))
    done = dict(restore_jobs(enumerate(jobs), mesh or local_mesh(len(images)), batch_size))
    return [done[i].image for i in range(len(images))]


def evaluations(model: Model, options: RestoreOptions) -> int:
    """How often a restoration by completed options evaluates the networks: 0 when it stops after stage 1."""
    return 0 if options.stage1_only else SAMPLERS[options.sampler].evaluations(len(programs.rows_of(model, options).t))


def takes_long(model: Model) -> bool:
    """Whether an evaluation takes seconds: a large prior on a CPU."""
    return jax.default_backend() == "cpu" and sum(x.size for x in jax.tree.leaves(model.params["unet"])) > 100_000_000


def local_mesh(most: int) -> Mesh:
    """The local devices in a row, no more than `most`."""
    return Mesh(np.array(jax.local_devices()[: max(most, 1)]), ("data",))


def restore_jobs(
    jobs: Iterable[tuple[T, "Job"]], mesh: Mesh, batch_size: int = 1, on_step: Callable[[int], Any] | None = None
) -> Iterator[tuple[T, Result]]:
    """Results as they come, each with the name its job was given; jobs that run together are gathered until a batch is full.

    Args:
        on_step: called with the number of images at every evaluation of the networks; programs then are not kept on disk.
    """
    waiting: dict[Any, list[tuple[T, Job]]] = defaultdict(list)
    for name, job in jobs:
        held = waiting[job.group]
        held.append((name, job))
        if len(held) == mesh.size * batch_size:
            yield from _run(waiting.pop(job.group), mesh, batch_size, on_step)
    for held in waiting.values():
        yield from _run(held, mesh, batch_size, on_step)


class Job:
    """One image on its way: the sizes it takes and the data that the programs are given.

    Stage 1 of the SwinIR kind sees the enlarged image, its shorter side at least `short_edge`, padded; SCUNet the enlarged image;
    RRDBNet enlarges by itself. What leaves stage 1 is brought to the size at which the diffusion works.

    Args:
        options: completed.
        draws: used instead of noise from the seed.
        keep: whether the result has a trace, NHWC and images in [0, 1]: "lq" as stage 1 saw it, "reg", "cond_latent", "context"
            (the prompt's, then the negative prompt's), "z" after every step, "decoded", "fixed" (with stage 1's colours).
        batch_size: images at a time on a device, which have to fit the memory budget together.

    Raises:
        InputError: the image is of another shape or type, or too small, or draws of another size or number are given, or a text for
            a model that takes none.
    """

    def __init__(
        self,
        model: Model,
        image: np.ndarray,
        options: RestoreOptions,
        draws: Draws | None = None,
        keep: bool = False,
        batch_size: int = 1,
    ):
        _check(image)
        if not model.takes_text and (options.prompt or options.negative_prompt or options.cfg != 1 or options.rescale_cfg):
            raise InputError("this model takes no text; leave out prompts, captions, --cfg and --rescale-cfg")
        _check_tiles(options, model.sampling["multiple"])
        self.model, self.options, self.draws = model, options, draws
        self.least = options.padding == "least" or draws is not None
        self.input_size = image.shape[:2]
        self.target = target_size(self.input_size, options.upscale, options.long_side)
        self.kind = type(model.nets["stage1"]).__name__
        self.reg_size = short_edge(self.target, model.sampling["short_edge"])
        if self.kind != "RRDBNet":
            image = enlarge(image, self.target)
        if self.kind == "SwinIR":
            image = resize(image, self.reg_size)
        self.size = image.shape[:2]
        self.lq = image if self.least and self.kind != "SwinIR" else self.padded(image)
        self.frame = self.padded_size(self.reg_size)
        self.tiled = what_to_tile(model, self.lq.shape[:2], self.frame, options, batch_size)
        self.plan = programs.plan_of(model, options, self.tiled.diffusion, draws is not None, keep)
        self._check_draws()

    @property
    def group(self) -> Any:
        """Equal for jobs that can run together."""
        own = {"prompt": "", "negative_prompt": "", "seed": 0, "upscale": 1, "long_side": None, "resize_back": False}
        return (id(self.model), self.lq.shape, self.frame, self.tiled, self.plan, replace(self.options, **own))

    def padded_size(self, size: Size) -> Size:
        multiple = self.model.sampling["multiple"]
        return tuple(n + -n % multiple if self.least else bucket(n, multiple) for n in size)

    def padded(self, image: Resized) -> Float32[np.ndarray, "H W 3"]:
        """To the multiple that the model wants as it wants it; to a larger size by reflection."""
        least = tuple(n + -n % self.model.sampling["multiple"] for n in image.shape[:2])
        size = self.padded_size(image.shape[:2])
        by_model = "edge" if self.model.sampling["padding"] == "edge" else "constant"
        pad = [(0, to - n) for to, n in zip(size, image.shape, strict=False)]
        return np.pad(image, (*pad, (0, 0)), mode=by_model if size == least else "symmetric")

    def cropped(self, output: np.ndarray) -> Resized:
        """What stage 1 made of `lq`, at the size at which the diffusion works."""
        factor = output.shape[0] // self.lq.shape[0]
        return resize(output[: self.size[0] * factor, : self.size[1] * factor], self.reg_size)

    def finished(self, image: Resized) -> Photo:
        """At the size that was asked for."""
        image = resize(image[: self.reg_size[0], : self.reg_size[1]], self.target)
        return np.clip(resize(image, self.input_size) if self.options.resize_back else image, 0, 1)

    def _check_draws(self) -> None:
        if self.draws is None:
            return
        latent = programs.latent_shape(self.model, self.frame)
        number = self.plan.rows * SAMPLERS[self.plan.sampler].draws
        if self.draws.start.shape != latent or self.draws.steps.shape != (1, number, *latent[1:]):
            start, steps = (list(x.shape) for x in self.draws)
            steps[:2] = steps[1::-1]
            wanted = [number, *latent]
            raise InputError(f"the noise is x_T {start} and noise {steps} (NHWC); this image takes {list(latent)} and {wanted}")


def _run(
    named: list[tuple[T, Job]], mesh: Mesh, batch_size: int, on_step: Callable[[int], Any] | None
) -> Iterator[tuple[T, Result]]:
    """Runs jobs of one group; a short batch is filled up with its last."""
    names, jobs = zip(*named, strict=True)
    with programs.on_step(lambda: on_step(len(jobs))) if on_step else contextlib.nullcontext():
        results = Batch(jobs, mesh, batch_size * mesh.size).run()
    yield from zip(names, results, strict=True)


class Batch:
    """Jobs of one group on a mesh, at most `width` of them: the two stages, each whole or in tiles."""

    def __init__(self, jobs: Sequence[Job], mesh: Mesh, width: int):
        self.jobs, self.mesh, self.width = jobs, mesh, width
        self.model, self.options, self.plan = jobs[0].model, jobs[0].options, jobs[0].plan
        self.frame, self.tiled = jobs[0].frame, jobs[0].tiled

    @functools.cached_property
    def programs(self) -> dict[str, Callable]:
        """What is not computed in tiles; all of it is here before the first runs, so that it can be read in the meantime."""
        where, found = (self.model, self.mesh, self.width), {}
        if not self.tiled.stage1:
            found["stage1"] = programs.stage1_program(*where, self.jobs[0].lq.shape[:2])
        if self.options.stage1_only:
            return found
        if not self.tiled.encode:
            found["encode"] = programs.encode_program(*where, self.frame)
        found["sample"] = programs.sample_program(*where, self.frame, self.plan)
        if not self.tiled.decode:
            found["decode"] = programs.decode_program(*where, self.frame)
        return found

    def run(self) -> list[Result]:
        regs = [job.cropped(output) for job, output in zip(self.jobs, self.stage1(), strict=True)]
        traces = [{"lq": job.lq[None], "reg": reg[None]} for job, reg in zip(self.jobs, regs, strict=True)]
        images = regs
        if not self.options.stage1_only:
            frames = [job.padded(reg) for job, reg in zip(self.jobs, regs, strict=True)]
            images, kept = self.stage2(frames, self.each())
            traces = [trace | {k: v[i] for k, v in kept.items()} for i, trace in enumerate(traces)]
        return [
            Result(job.finished(image), trace if self.plan.keep else {})
            for job, image, trace in zip(self.jobs, images, traces, strict=False)
        ]

    def stage1(self) -> Iterable[np.ndarray]:
        """The jobs' inputs without their degradation."""
        inputs, options = [job.lq for job in self.jobs], self.options
        if program := self.programs.get("stage1"):
            return np.asarray(program(self.stacked(inputs)))[: len(inputs)]
        tile = tuple(min(options.stage1_tile, n) for n in inputs[0].shape[:2])
        program = programs.stage1_program(self.model, local_mesh(1), 1, tile)
        return (tiled_image(program, lq[None], tile, options.stage1_overlap)[0] for lq in inputs)

    def stage2(self, frames: list[np.ndarray], each: Each) -> tuple[Images, dict[str, np.ndarray]]:
        """The frames with believable detail, and what came before them."""
        cond_latent, sample = self.encode(frames), self.programs["sample"]
        seen = self.stacked(frames) if self.plan.sees_frames else None
        z0, kept = sample(cond_latent, seen, each, programs.shared_of(self.model, self.options, self.frame))
        decoded, fixed = self.decode(z0, frames, each.size)
        context = None if each.context is None else jnp.stack([x for x in (each.context, each.uncond) if x is not None], axis=1)
        kept = {"cond_latent": cond_latent[:, None], "context": context, **kept}
        kept |= {"decoded": np.stack(decoded)[:, None], "fixed": np.stack(fixed)[:, None]} if self.plan.keep else {}
        return fixed, {k: np.asarray(v) for k, v in kept.items() if self.plan.keep and v is not None}

    def each(self) -> Each:
        """The jobs' own arguments."""
        options = [job.options for job in self.jobs]
        prompts = self.model.context(*(of.prompt for of in options))
        negative = self.model.context(*(of.negative_prompt for of in options)) if self.plan.text else None
        draws = None
        if self.plan.replay:
            draws = Draws(*(self.stacked([x[0] for x in of]) for of in zip(*[job.draws for job in self.jobs], strict=True)))
        sizes = self.stacked([np.array(job.reg_size, np.int32) for job in self.jobs])
        keys = jax.vmap(jax.random.key)(self.stacked([np.uint32(of.seed) for of in options]))
        return Each(sizes, keys, *(x if x is None else self.stacked(list(x)) for x in (prompts, negative)), draws)

    def encode(self, frames: list[np.ndarray]) -> Latent | np.ndarray:
        if program := self.programs.get("encode"):
            return program(self.stacked(frames))
        encode = functools.partial(encode_layerwise, self.model.nets["autoencoder"], self.model.params["autoencoder"])
        return self.stacked([np.asarray(encode(frame[None], self.options.vae_tile))[0] for frame in frames])

    def decode(self, z0: Latent, frames: list[np.ndarray], sizes: np.ndarray) -> tuple[Images, Images]:
        """As decoded, and with the frames' colours."""
        if program := self.programs.get("decode"):
            decoded, fixed = program(z0, self.stacked(frames), sizes)
            return np.asarray(decoded), np.asarray(fixed)
        decode = functools.partial(decode_layerwise, self.model.nets["autoencoder"], self.model.params["autoencoder"])
        decoded = [decode(z, self.options.vae_tile) for z in np.asarray(z0)[: len(frames), None]]
        fixed = [
            wavelet_colour_fix_in_strips(content, style[None], tuple(size))[0]
            for content, style, size in zip(decoded, frames, sizes, strict=False)
        ]
        return [x[0] for x in decoded], fixed

    def stacked(self, arrays: Sequence[Any]) -> np.ndarray:
        """One an image, the last repeated until the batch is full."""
        return np.stack([*arrays, *[arrays[-1]] * (self.width - len(arrays))])


def _check(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image is a {type(image).__name__}; give a NumPy array, float32 [height, width, 3] in [0, 1]")
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.float32:
        raise InputError(f"an image is {image.dtype} {list(image.shape)}; give float32 [height, width, 3] in [0, 1]")
    if min(image.shape[:2]) < MIN_SIDE:
        raise InputError(f"the image is {image.shape[1]}x{image.shape[0]}; the least side is {MIN_SIDE} pixels")


def _check_tiles(options: RestoreOptions, multiple: int) -> None:
    for name in ("stage1_tile", "stage1_overlap", "vae_tile", "diffusion_tile", "diffusion_overlap"):
        if (value := getattr(options, name)) % multiple:
            raise InputError(f"{name.replace('_', '-')} is {value}; this model takes multiples of {multiple}")
