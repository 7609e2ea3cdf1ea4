"""What a user may ask of a restoration."""

from dataclasses import dataclass, field, fields

from diffbir_jax.errors import InputError

SAMPLERS = ("ddpm", "ddim")
SPACES = ("latent", "rgb")


def _option(default, help: str, **metadata):
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class RestoreOptions:
    """How to restore; the defaults are the paper's.

    Raises:
        InputError: a value out of its range.
    """

    upscale: int | float = _option(1.0, "output size over input size, 0.1 to 16", least=0.1, most=16)
    steps: int = _option(50, "denoising steps, 1 to 1000", least=1, most=1000)
    sampler: str = _option("ddpm", "how the steps are taken", choices=SAMPLERS)
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
            if choices and value not in choices:
                raise InputError(f"{name} is {value!r}; give {' or '.join(choices)}")
            if least is not None and not (least <= value and (most is None or value <= most)):
                raise InputError(f"{name} is {value}; give {least} to {most if most is not None else 'any larger number'}")
