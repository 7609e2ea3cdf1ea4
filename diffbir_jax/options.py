"""What a user may ask of a restoration."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from diffbir_jax.errors import InputError

SAMPLERS = ("ddpm", "ddim")
SPACES = ("latent", "rgb")
STARTS = ("noise", "condition")
TASKS = ("general", "face", "denoise")
PRECISIONS = ("f32", "bf16")
OPEN = {  # the paper's, where a model says nothing
    "steps": 50, "sampler": "ddpm", "start": "noise", "strength": 1.0, "prompt": "", "negative_prompt": "", "cfg": 1.0,
}  # fmt: skip


def _option(default, help: str, **metadata):
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class RestoreOptions:
    """How to restore; the defaults are the paper's. What is None is the model's own choice, see `completed`.

    Raises:
        InputError: a value out of its range.
    """

    upscale: int | float = _option(1.0, "output size over input size, 0.1 to 16", least=0.1, most=16)
    steps: int | None = _option(None, "denoising steps, 1 to 1000; None: as the model prefers", least=1, most=1000)
    sampler: str | None = _option(None, "how the steps are taken; None: as the model prefers", choices=SAMPLERS)
    start: str | None = _option(None, "noise, or stage 1's latent as far diffused; None: as the model prefers", choices=STARTS)
    strength: int | float | None = _option(
        None,
        "share of the steps taken, the last ones; 1 if --start noise; None: as the model prefers",
        least=0.01,
        most=1,
    )
    prompt: str | None = _option(None, "what the photograph shows; None: as the model prefers")
    negative_prompt: str | None = _option(None, "what the result should not be like; None: as the model prefers")
    cfg: int | float | None = _option(None, "classifier-free guidance, 1: none; None: as the model prefers", least=0, most=100)
    rescale_cfg: bool = _option(False, "let cfg grow along the way")
    guidance_scale: int | float = _option(0.0, "0: most realistic; larger: closer to stage 1", least=0)
    guidance_space: str = _option("latent", "where guidance measures the distance to stage 1", choices=SPACES)
    guidance_repeats: int = _option(5, "gradient moves a step, 1 to 20", least=1, most=20)
    guidance_start: int = _option(1001, "guidance acts at steps t with t + 1 below this", least=-1, most=1001)
    guidance_stop: int = _option(-1, "guidance acts at steps t with t + 1 above this", least=-1, most=1001)
    control_strength: int | float = _option(1.0, "factor on the control branch's outputs, 0 to 2", least=0, most=2)
    stage1_only: bool = _option(False, "stop after stage 1: remove the degradation, add no detail")
    seed: int = _option(231, "random seed; the same seed gives the same bytes", least=0, most=2**32 - 1)

    def __post_init__(self):
        for f in fields(self):
            value, name = getattr(self, f.name), f.name.replace("_", "-")
            choices, least, most = (f.metadata.get(k) for k in ("choices", "least", "most"))
            if value is None and f.default is None:
                continue
            if choices and value not in choices:
                raise InputError(f"{name} is {value!r}; give {' or '.join(choices)}")
            if least is not None and not (least <= value and (most is None or value <= most)):
                raise InputError(f"{name} is {value}; give {least} to {most if most is not None else 'any larger number'}")

    def completed(self, defaults: Mapping[str, Any]) -> "RestoreOptions":
        """With a model's choices (by field name), then the paper's, where this says None.

        Raises:
            InputError: a strength below 1 from noise.
        """
        left = {name: defaults.get(name, value) for name, value in OPEN.items() if getattr(self, name) is None}
        if self.start == "noise":
            left["strength"] = self.strength or 1.0
        options = replace(self, **left)
        if options.start == "noise" and options.strength < 1:
            raise InputError(f"strength is {options.strength}, which needs --start condition: noise alone takes all the steps")
        return options
