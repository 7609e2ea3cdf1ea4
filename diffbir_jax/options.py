"""What a user may ask of a restoration."""

import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any

from diffbir_jax.errors import InputError

SAMPLERS = (  # diffusion.samplers holds them; named here, where JAX is not loaded
    "ddpm", "ddim", "dpm++_2m", "edm_dpm++_2m", "dpm++_2m_sde", "dpm++_3m_sde", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a",
    "lms", "dpm++_2s_a", "dpm++_sde", "unipc",
)  # fmt: skip
SPACES = ("latent", "rgb")
STARTS = ("noise", "condition")
WEIGHTS = ("plain", "region")
TILES = ("auto", "on", "off")
PADDING = ("bucket", "least")
TASKS = ("general", "face", "denoise")
PRECISIONS = {"f32": "float32", "bf16": "bfloat16"}
STAGE1 = ("own", "realesrgan", "none")
OPEN = {  # the paper's, where a model says nothing
    "steps": 50, "sampler": "ddpm", "start": "noise", "strength": 1.0, "noise_aug": 0, "prompt": "", "negative_prompt": "",
    "cfg": 1.0, "guidance_scale": 0.0, "guidance_weights": "plain", "reuse": 1, "reuse_depth": 1,
}  # fmt: skip
SPEEDS = {  # what they mean for what is left open; fewer steps, and their sampler, where the model's own are more
    "exact": {},
    "balanced": {"steps": 20, "sampler": "unipc", "reuse": 2, "reuse_depth": 2},
    "fast": {"steps": 10, "sampler": "unipc", "reuse": 2, "reuse_depth": 1},
}


def _option(default, help: str, **metadata):
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class RestoreOptions:
    """How to restore; the defaults are the paper's. What is None is the model's own choice, see `completed`.

    Raises:
        InputError: a value out of its range, upscale beside long_side, or an overlap of more than half a tile.
    """

    upscale: int | float = _option(1.0, "output size over input size, 1 to 8", least=1, most=8)
    long_side: int | None = _option(None, "the output's longer side in pixels, instead of --upscale", least=16)
    resize_back: bool = _option(False, "bring the result back to the input's size")
    speed: str = _option("exact", "balanced and fast: fewer steps, more reuse, where these are left open", choices=tuple(SPEEDS))
    steps: int | None = _option(None, "denoising steps, 1 to 1000; None: as the model prefers", least=1, most=1000)
    sampler: str | None = _option(None, "how the steps are taken; None: as the model prefers", choices=SAMPLERS)
    reuse: int | None = _option(
        None, "control and what lies deep in the UNet are computed at every so many evaluations, 1: at all", least=1, most=1000
    )
    reuse_depth: int | None = _option(None, "stages of the UNet, the finest first, that --reuse computes at all", least=1)
    eta: int | float = _option(0.0, "noise that ddim adds: 0 none, 1 as much as ddpm", least=0, most=1)
    start: str | None = _option(None, "noise, or stage 1's latent as far diffused; None: as the model prefers", choices=STARTS)
    strength: int | float | None = _option(
        None,
        "share of the steps taken, the last ones; 1 if --start noise; None: as the model prefers",
        least=0.01,
        most=1,
    )
    noise_aug: int | None = _option(
        None, "diffuse the control branch's condition to this step, 0: not; None: as the model prefers", least=0, most=999
    )
    prompt: str | None = _option(None, "what the photograph shows; None: as the model prefers")
    negative_prompt: str | None = _option(None, "what the result should not be like; None: as the model prefers")
    cfg: int | float | None = _option(None, "classifier-free guidance, 1: none; None: as the model prefers", least=0, most=100)
    cfg_start: int = _option(1001, "cfg acts, and costs, at steps t with t + 1 below this", least=-1, most=1001)
    cfg_stop: int = _option(-1, "cfg acts, and costs, at steps t with t + 1 above this", least=-1, most=1001)
    rescale_cfg: bool = _option(False, "let cfg grow along the way")
    guidance_scale: int | float | None = _option(
        None, "0: most realistic; larger: closer to stage 1; None: as the model prefers", least=0
    )
    guidance_space: str = _option("latent", "where guidance measures the distance to stage 1", choices=SPACES)
    guidance_weights: str | None = _option(
        None,
        "region: hold flat areas, leave texture free; None: plain, or with no scale given as the model prefers",
        choices=WEIGHTS,
    )
    guidance_repeats: int = _option(5, "gradient moves a step, 1 to 20", least=1, most=20)
    guidance_start: int = _option(1001, "guidance acts at steps t with t + 1 below this", least=-1, most=1001)
    guidance_stop: int = _option(-1, "guidance acts at steps t with t + 1 above this", least=-1, most=1001)
    control_strength: int | float = _option(1.0, "factor on the control branch's outputs, 0 to 2", least=0, most=2)
    tiles: str = _option("auto", "work in tiles; auto: what would not fit the memory budget", choices=TILES)
    memory_budget: str | None = _option(None, "such as 8GB; None: what the device has")
    stage1_tile: int = _option(512, "side of stage 1's tiles in pixels", least=64)
    stage1_overlap: int = _option(256, "pixels that they share, at most half a tile", least=0)
    vae_tile: int = _option(256, "side of the autoencoder's tiles in pixels; they need no overlap", least=64)
    diffusion_tile: int = _option(512, "side of the diffusion's tiles in pixels", least=64)
    diffusion_overlap: int = _option(256, "pixels that they share, at most half a tile", least=0)
    padding: str = _option("bucket", "to one of few sizes, so that little is compiled, or the least", choices=PADDING)
    stage1_only: bool = _option(False, "stop after stage 1: remove the degradation, add no detail")
    seed: int = _option(231, "random seed; the same seed gives the same bytes", least=0, most=2**32 - 1)

    def __post_init__(self):
        _check_fields(self)
        if self.long_side and self.upscale != 1:
            raise InputError(f"upscale is {self.upscale} and long-side is {self.long_side}; give one of them")
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)
        for of in ("stage1", "diffusion"):
            tile, overlap = getattr(self, f"{of}_tile"), getattr(self, f"{of}_overlap")
            if 2 * overlap > tile:
                raise InputError(f"{of}-overlap is {overlap}; give at most half of {of}-tile, {tile // 2}")

    def completed(self, defaults: Mapping[str, Any]) -> "RestoreOptions":
        """With what the speed means, then a model's choices (by field name), then the paper's, where this says None.

        Raises:
            InputError: a strength below 1 from noise; what would do nothing: an eta without ddim, a negative prompt or an interval
                at cfg 1, a reuse_depth at reuse 1; or an interval that holds no step.
        """
        chosen, faster = {**OPEN, **defaults}, SPEEDS[self.speed]
        enough = chosen["steps"] <= faster.get("steps", chosen["steps"])
        chosen |= {name: value for name, value in faster.items() if not (enough and name in ("steps", "sampler"))}
        left = {name: chosen[name] for name in OPEN if getattr(self, name) is None}
        if self.start == "noise":
            left["strength"] = self.strength or 1.0
        if self.guidance_scale is not None and self.guidance_weights is None:
            left["guidance_weights"] = OPEN["guidance_weights"]
        if (self.reuse or left["reuse"]) == 1:
            left.pop("reuse_depth", None)
        options = replace(self, **left)
        if options.start == "noise" and options.strength < 1:
            raise InputError(f"strength is {options.strength}, which needs --start condition: noise alone takes all the steps")
        if options.eta and options.sampler != "ddim":
            raise InputError(f"eta is {options.eta} and sampler is {options.sampler}; only --sampler ddim takes an eta")
        if self.negative_prompt and options.cfg == 1 and not options.rescale_cfg:
            raise InputError("negative-prompt has no effect at cfg 1; give --cfg 4, say, and a model that takes text")
        interval = self.cfg_start < 1001 or self.cfg_stop > -1
        if interval and options.cfg == 1 and not options.rescale_cfg:
            raise InputError("cfg-start and cfg-stop have no effect at cfg 1; give --cfg 4, say, and a model that takes text")
        if self.cfg_start - self.cfg_stop < 2:
            raise InputError(f"cfg-start is {self.cfg_start} and cfg-stop is {self.cfg_stop}; no step lies between, give --cfg 1")
        if self.reuse_depth and options.reuse == 1:
            raise InputError(f"reuse-depth is {self.reuse_depth}, which has no effect at reuse 1; give --reuse 2, say")
        return options


@dataclass(frozen=True)
class FileOptions:
    """How photographs are read and results written.

    Raises:
        InputError: a value out of its range, or 16 bits for a format that has 8.
    """

    format: str = _option("png", "of the results", choices=("png", "jpg", "webp"))
    bits: int = _option(8, "a channel; 16 for png alone", choices=(8, 16))
    keep_metadata: bool = _option(False, "copy the photograph's EXIF data, turned upright")
    sidecar: bool = _option(False, "write NAME.json beside each result: model, options, seed, version, prompt")
    n_samples: int = _option(1, "results for each photograph, of seeds SEED, SEED + 1, …", least=1, most=1000)
    skip_existing: bool = _option(False, "leave out photographs whose results are there")
    max_megapixels: int | float = _option(200.0, "larger inputs and outputs are refused", least=0.001)
    batch_size: int = _option(1, "photographs on a device at a time, where their sizes allow", least=1)
    captions: str | None = _option(None, "CSV file of a prompt a photograph: file,prompt")
    captioner: str | None = _option(None, "module:function, called with float32 [H, W, 3] in [0, 1], that returns a prompt")

    def __post_init__(self):
        _check_fields(self)
        if self.bits == 16 and self.format != "png":
            raise InputError(f"bits is 16 and format is {self.format}; only png has 16 bits")
        if self.captions and self.captioner:
            raise InputError("captions and captioner are given; give one of them")


def _check_fields(options: Any) -> None:
    """Refuses what a field's type or metadata does not allow."""
    hints = typing.get_type_hints(type(options))
    for f in fields(options):
        value, name = getattr(options, f.name), f.name.replace("_", "-")
        choices, least, most = (f.metadata.get(k) for k in ("choices", "least", "most"))
        if value is None and f.default is None:
            continue
        kinds = set(typing.get_args(hints[f.name]) or [hints[f.name]]) - {types.NoneType}
        if not isinstance(value, tuple({int: Integral, float: Real}.get(kind, kind) for kind in kinds)):
            raise InputError(f"{name} is {value!r}; give {' or '.join(sorted(kind.__name__ for kind in kinds))}")
        if choices and value not in choices:
            raise InputError(f"{name} is {value!r}; give {' or '.join(map(str, choices))}")
        if least is not None and not least <= value <= (sys.float_info.max if most is None else most):
            raise InputError(f"{name} is {value}; give {least} to {most if most is not None else 'any larger number'}")


def parse_bytes(text: str) -> int:
    """Bytes of "8GB", "512MiB" or a plain number; GB is 10^9, GiB 2^30.

    Raises:
        InputError: it is none of these, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(?:([kmgt]?)(i?)b)?\s*", text, re.IGNORECASE)
    number = found and float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index((found[2] or " ").lower())
    if not number:
        raise InputError(f"memory-budget is {text!r}; give a size, for example 8GB")
    return int(number)
