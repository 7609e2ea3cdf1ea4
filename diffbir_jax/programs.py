"""The compiled programs of a restoration: stage 1, encoding, sampling, decoding; each for one shape, mapped over a mesh."""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int, Key, Num

from diffbir_jax import executables
from diffbir_jax.diffusion import guidance, noise
from diffbir_jax.diffusion.reuse import clock, reusing
from diffbir_jax.diffusion.samplers import SAMPLERS
from diffbir_jax.diffusion.schedule import SCALED_LINEAR, ZERO_SNR, Schedule, below
from diffbir_jax.diffusion.tiling import tiled, tiled_decode
from diffbir_jax.errors import InputError
from diffbir_jax.imaging.colour import wavelet_colour_fix
from diffbir_jax.imaging.resizing import Size
from diffbir_jax.model import Model
from diffbir_jax.models.control import ControlNet
from diffbir_jax.models.layers import pixel_shuffle, pixel_unshuffle
from diffbir_jax.options import RestoreOptions
from diffbir_jax.types import Image, Latent

# With it, and barriers around the networks, a weight that is stored in another type is cast when it is used, not all at once, and
# a kernel transformed. Stage 1, which needs little, is a fifth faster without.
MEMORY_FIRST = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
TILES_AT_ONCE = 4
MOST_PROGRAMS = 64  # kept: those last used
SPLIT = P("data")


class Draws(NamedTuple):
    """Noise drawn elsewhere, to replay restorations: NHWC, of the padded latents' size. All is standard normal, `start` too."""

    start: Float32[np.ndarray | Array, "B h w c"]
    steps: Float32[np.ndarray | Array, "B N h w c"]


class Plan(NamedTuple):
    """What a sampling program is made for; everything else about a restoration is an argument of it."""

    sampler: str
    rows: int
    start: str
    space: str
    region: bool
    repeats: int
    text: str  # "": one network call a step; "cfg" or "rescaled": one with and one without the prompt
    interval: bool  # the call without is made at some steps only
    depth: int  # of the UNet's part that every evaluation computes, while the rest is reused; 0: nothing is
    tile: int  # latent pixels; 0: the whole latent at once
    overlap: int
    sees_image: bool  # the control branch is a ControlNet, whose condition is the frame, not its latent
    replay: bool
    keep: bool

    @property
    def sees_frames(self) -> bool:
        """Whether guidance or the control branch looks at pixels."""
        return self.space == "rgb" or self.region or self.sees_image


class Shared(NamedTuple):
    """What a batch's images share and what may change without a new compilation."""

    rows: Any
    guidance_scale: Float[np.ndarray | Array, ""]
    window: Int[np.ndarray | Array, "2"]
    control_strength: Float[np.ndarray | Array, ""]
    cfg: Float[np.ndarray | Array, ""]
    noise_aug: Int[np.ndarray | Array, ""]
    cfg_window: Int[np.ndarray | Array, "2"] | None
    reuse: Int[np.ndarray | Array, ""] | None


class Each(NamedTuple):
    """What every image has for itself: its size in the frame, its key, its texts, its draws."""

    size: Int[np.ndarray | Array, "B 2"]
    keys: Key[Array, "B"]
    context: Float[Array, "B T D"] | None
    uncond: Float[Array, "B T D"] | None
    draws: Draws | None


def schedule_of(model: Model) -> Schedule:
    """The noise schedule that the model was trained with."""
    return ZERO_SNR if model.sampling["zero_snr"] else SCALED_LINEAR


def rows_of(model: Model, options: RestoreOptions) -> Any:
    """The sampler's rows, of completed options: the last `strength` of them (SDEdit, Meng et al. 2022), at least one."""
    schedule = schedule_of(model)
    rows = SAMPLERS[options.sampler].rows(options.steps, schedule, options.eta)
    return below(rows, max(round(options.strength * (len(schedule.betas) - 1)), int(rows.t[-1])))


def plan_of(model: Model, options: RestoreOptions, tile: bool, replay: bool, keep: bool) -> Plan:
    """The plan of completed options.

    Raises:
        InputError: noise is to be added to a condition that is no latent, or the UNet has fewer stages than `reuse_depth`.
    """
    if options.reuse > 1 and options.reuse_depth > (most := model.nets["unet"].connections):
        raise InputError(f"reuse-depth is {options.reuse_depth}; this model's UNet has {most} stages, give 1 to {most}")
    sees_image = isinstance(model.nets["control"], ControlNet)
    if sees_image and options.noise_aug:
        raise InputError("noise-aug diffuses a latent, and this model's ControlNet is given the image; leave it out")
    factor = model.nets["autoencoder"].downsampling_factor
    return Plan(
        options.sampler, len(rows_of(model, options).t), options.start, options.guidance_space,
        options.guidance_weights == "region", options.guidance_repeats,
        "rescaled" if options.rescale_cfg else "cfg" if options.cfg != 1 else "",
        (options.cfg_stop, options.cfg_start) != guidance.ALWAYS, options.reuse_depth if options.reuse > 1 else 0,
        tile * options.diffusion_tile // factor, tile * options.diffusion_overlap // factor, sees_image, replay, keep,
    )  # fmt: skip


def shared_of(model: Model, options: RestoreOptions, frame: Size) -> Shared:
    """The numbers of completed options.

    Guidance's distance is a mean over the frame, so one scale moves each pixel of a larger frame less. Where the model says at
    which size its scales are meant, the scale grows with the frame's area.
    """
    side = model.sampling.get("guidance_side")
    scale = options.guidance_scale * (frame[0] * frame[1] / side**2 if side else 1)
    scales = (np.float32(x) for x in (scale, options.control_strength, options.cfg))
    guidance_scale, control_strength, cfg = map(np.asarray, scales)
    window = np.array([options.guidance_stop, options.guidance_start], np.int32)
    rows, noise_aug = rows_of(model, options), np.array(options.noise_aug, np.int32)
    cfg_window = (options.cfg_stop, options.cfg_start)
    cfg_window = np.array(cfg_window, np.int32) if cfg_window != guidance.ALWAYS else None
    reuse = np.array(options.reuse, np.int32) if options.reuse > 1 else None
    return Shared(rows, guidance_scale, window, control_strength, cfg, noise_aug, cfg_window, reuse)


def latent_shape(model: Model, frame: Size, batch: int = 1) -> tuple[int, int, int, int]:
    """Of the latents of frames."""
    net = model.nets["autoencoder"]
    return (batch, *(n // net.downsampling_factor for n in frame), net.latent_channels)


compiled = executables.compiled
_programs: dict[Any, Callable] = {}  # the last used one last


def program(
    model: Model, mesh: Mesh, names: Sequence[str], key: Any, run: Callable, specs: tuple[P, ...], *examples: Any
) -> Callable:
    """`run(params, …)` with the parameters of the networks `names` bound: compiled once for what `key` says, whatever their values.

    Args:
        key: with the model's architecture and the mesh, all that the program depends on.
        specs: of the arguments after the parameters: split over the devices, or the same for all. Results are split.
        examples: arguments like those of a call.
    """
    params = {name: model.params_on(mesh)[name] for name in names}
    key = (model.architecture, mesh, tuple(names), bool(_listeners), key)
    make = functools.partial(_compile, model, mesh, names, run, (P(), *specs), (params, *examples))
    executable = _programs.pop(key, None)
    if executable is None:
        executable = executables.Program(None if _listeners else key, mesh, make)
    _programs[key] = executable
    if len(_programs) > MOST_PROGRAMS:
        del _programs[next(iter(_programs))]
    placements = [NamedSharding(mesh, spec) for spec in specs]

    def call(*arguments: Any) -> Any:
        return executable(make, params, *(jax.device_put(x, where) for x, where in zip(arguments, placements, strict=True)))

    return call


def _compile(
    model: Model, mesh: Mesh, names: Sequence[str], run: Callable, specs: tuple[P, ...], examples: tuple
) -> jax.stages.Compiled:
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    made = lowered(mesh, run, specs, examples).compile(compiler_options=cpu_options(names, model.casts) if on_cpu else None)
    trim()
    return made


def trim() -> None:
    """Gives the memory that compiling no longer needs back to the system, where the C library is one that can."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if give_back:
        give_back(0)


def cpu_options(names: Sequence[str], casts: bool = False) -> dict[str, str] | None:
    """The compiler's options on a CPU for a program of the networks `names`, see `MEMORY_FIRST`."""
    return None if list(names) == ["stage1"] and not casts else MEMORY_FIRST


def lowered(mesh: Mesh, run: Callable, specs: tuple[P, ...], examples: tuple) -> jax.stages.Lowered:
    """`run` mapped over the mesh."""
    mapped = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=SPLIT, check_vma=False)

    def placed(spec: P, tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)), tree)

    return jax.jit(mapped).lower(*map(placed, specs, examples))


def _images(batch: int, shape: Size) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, *shape, 3), jnp.float32)


def _call(model: Model, params: dict[str, Any], name: str, *inputs: Any, method: str | None = None, **how: Any) -> Any:
    held, inputs = jax.lax.optimization_barrier((params[name], inputs)) if model.casts else (params[name], inputs)
    return model.nets[name].apply({"params": held}, *inputs, method=method, **how)


def stage1_program(model: Model, mesh: Mesh, batch: int, shape: Size) -> Callable[[Image], Image]:
    """Stage 1, for inputs of one shape."""
    images = _images(batch, shape)
    return program(model, mesh, ["stage1"], images, lambda params, x: _call(model, params, "stage1", x), (SPLIT,), images)


def encode_program(model: Model, mesh: Mesh, batch: int, shape: Size) -> Callable[[Image], Latent]:
    """Frames to latents."""
    images = _images(batch, shape)

    def run(params: dict[str, Any], x: Image) -> Latent:
        return _call(model, params, "autoencoder", x, method="encode")

    return program(model, mesh, ["autoencoder"], ("encode", images), run, (SPLIT,), images)


def decode_program(model: Model, mesh: Mesh, batch: int, shape: Size) -> Callable[..., tuple[Image, Image]]:
    """(latents, frames, sizes) -> images, as decoded and with the frames' colours (wavelet fix)."""

    def run(params: dict[str, Any], z0: Latent, frames: Image, sizes: Int[Array, "b 2"]) -> tuple[Image, Image]:
        decoded = _call(model, params, "autoencoder", z0, method="decode")
        return decoded, jax.vmap(lambda a, b, size: wavelet_colour_fix(a[None], b[None], tuple(size))[0])(decoded, frames, sizes)

    images = _images(batch, shape)
    latents = jax.ShapeDtypeStruct(latent_shape(model, shape, batch), jnp.float32)
    sizes = jax.ShapeDtypeStruct((batch, 2), jnp.int32)
    return program(model, mesh, ["autoencoder"], ("decode", images), run, 3 * (SPLIT,), latents, images, sizes)


def sample_program(model: Model, mesh: Mesh, batch: int, shape: Size, plan: Plan) -> Callable[..., tuple[Latent, dict[str, Array]]]:
    """(cond_latents, frames, each, shared) -> (clean latents, what was kept). Frames are None unless the plan sees them."""
    names, run, specs, examples = sampling(model, batch, shape, plan)
    return program(model, mesh, names, (plan, examples[0]), run, specs, *examples)


def sampling(model: Model, batch: int, shape: Size, plan: Plan) -> tuple[list[str], Callable, tuple[P, ...], tuple]:
    """What `program` takes of the sampler: the networks' names, the function, its arguments' specs, and examples of them."""
    frames = _images(batch, shape) if plan.sees_frames else None
    latents = jax.ShapeDtypeStruct(latent_shape(model, shape, batch), jnp.float32)
    names = ["unet", "control", *["autoencoder"] * (plan.space == "rgb")]
    run, specs = functools.partial(_sample, model, plan), (SPLIT, SPLIT, SPLIT, P())
    return names, run, specs, (latents, frames, _example_each(model, batch, shape, plan), _example_shared(model, plan))


def _example_each(model: Model, batch: int, shape: Size, plan: Plan) -> Each:
    latent, like = latent_shape(model, shape, batch), functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    context = like((batch, *model.context_shape)) if model.takes_text else None
    takes = SAMPLERS[plan.sampler].draws * plan.rows
    draws = Draws(like(latent), like((batch, takes, *latent[1:]))) if plan.replay else None
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    return Each(jax.ShapeDtypeStruct((batch, 2), jnp.int32), keys, context, context if plan.text else None, draws)


def _example_shared(model: Model, plan: Plan) -> Shared:
    row = SAMPLERS[plan.sampler].rows(1, schedule_of(model), 0.0)
    rows = type(row)(*(jax.ShapeDtypeStruct((plan.rows, *column.shape[1:]), column.dtype) for column in row))
    zero = np.zeros((), np.float32)
    number, window = np.zeros((), np.int32), np.zeros(2, np.int32)
    more = (window if plan.interval else None, number if plan.depth else None)
    return Shared(rows, zero, window, zero, zero, number, *more)


def _sample(model: Model, plan: Plan, params: Any, clean: Latent, frames: Image | None, each: Each, shared: Shared) -> tuple:
    call, schedule, sampler = functools.partial(_call, model, params), schedule_of(model), SAMPLERS[plan.sampler]
    draws = noise.recorded(shared.rows, jnp.moveaxis(each.draws.steps, 1, 0)) if plan.replay else noise.streams(each.keys)
    start = each.draws.start if plan.replay else noise.streams(each.keys)(len(schedule.betas), clean)
    more = noise.diffuse(schedule, clean, shared.noise_aug, noise.streams(each.keys)(len(schedule.betas) + 1, clean))
    cond_latent = jnp.where(shared.noise_aug > 0, more, clean)
    factor = model.nets["autoencoder"].downsampling_factor
    cond = pixel_unshuffle(frames, factor) if plan.sees_image else cond_latent  # of the latent's size, so that tiles fit both

    def network(z_t: Latent, t: Num[Array, "B"], given: tuple[Any, Array]) -> Any:
        context, cond = given
        if plan.sees_image:
            cond = pixel_shuffle(cond, factor)
        control = call("control", z_t, t, context, cond)
        control = tuple(shared.control_strength * c for c in control)
        if not plan.depth:
            return call("unet", z_t, t, context, control)
        prediction, deep = call("unet", z_t, t, context, control, depth=plan.depth)
        return prediction, (deep, control[: plan.depth])

    def shallow(z_t: Latent, t: Num[Array, "B"], given: tuple[Any, Array], kept: tuple[Array, tuple[Array, ...]]) -> Latent:
        deep, control = kept
        return call("unet", z_t, t, given[0], control, depth=plan.depth, deep=deep)

    covered = tuple(-(-each.size.max(0) // factor))  # the rest of every frame is padding
    networks = (network, shallow) if plan.depth else (network,)
    if plan.tile:
        keeps = (bool(plan.depth), False)
        networks = [tiled(f, plan.tile, plan.overlap, TILES_AT_ONCE, covered, k) for f, k in zip(networks, keeps, strict=False)]
    with_text, without = (each.context, cond), (each.uncond, cond)
    ways = []
    if plan.text:
        ways.append([guidance.cfg(f, with_text, without, shared.cfg, plan.text == "rescaled") for f in networks])
    if not plan.text or plan.interval:
        ways.append([lambda z_t, t, *kept, f=f: f(z_t, t, with_text, *kept) for f in networks])
    ticks = clock() if plan.depth else None
    predicts = [reusing(*way, shared.reuse, ticks, clean) if plan.depth else way[0] for way in ways]
    predict = guidance.within(tuple(shared.cfg_window), *predicts) if plan.interval else predicts[0]

    def reporting(z_t: Latent, t: Num[Array, "B"]) -> Latent:
        if _listeners:
            jax.debug.callback(_tick, jax.lax.axis_index("data"))
        return predict(z_t, t)

    denoise = sampler.denoiser(reporting, schedule, model.sampling["parameterisation"])
    if plan.start == "condition":
        start = noise.diffuse(schedule, clean, shared.rows.t[0], start)
    start = sampler.start(start, shared.rows)
    z0, trace = sampler.sample(denoise, start, shared.rows, draws, _guide(model, plan, call, clean, frames, shared, covered))
    return z0, {"z": jnp.moveaxis(trace.z, 0, 1)} if plan.keep else {}


def _guide(
    model: Model, plan: Plan, call: Callable, clean: Latent, frames: Image | None, shared: Shared, covered: tuple[Array, Array]
) -> guidance.Guide:
    """The shift of the clean estimate toward stage 1."""
    factor = model.nets["autoencoder"].downsampling_factor
    how = (shared.guidance_scale, plan.repeats, tuple(shared.window))
    weights = guidance.region_weights(frames) if plan.region else None
    if plan.space == "latent":
        return guidance.latent_guidance(clean, *how, weights=weights)
    decode = functools.partial(call, "autoencoder", method="decode")
    if plan.tile:
        decode = tiled_decode(decode, factor, plan.tile, plan.overlap, covered)
    return guidance.rgb_guidance(decode, frames, *how, weights=weights)


_listeners: list[Callable[[], Any]] = []


def _tick(device: Any) -> None:
    for listener in _listeners if device == 0 else ():
        listener()


@contextlib.contextmanager
def on_step(listener: Callable[[], Any]) -> Iterator[None]:
    """Calls `listener` whenever the networks are evaluated in the programs that run inside.

    Programs made inside are not kept on disk, as they call back.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        jax.effects_barrier()
        _listeners.remove(listener)
