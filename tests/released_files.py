"""The released files with random values: keys and shapes of tests/data/manifests, whole or shrunk by a rule."""

import json
import re
from pathlib import Path

import numpy as np

from diffbir_jax.models.swinir import SwinIR
from diffbir_jax.weights.released import schedule_buffers
from diffbir_jax.weights.tables import swinir

MANIFESTS = Path(__file__).parent / "data" / "manifests"
BUFFERS = ("relative_position_index", "attn_mask")
SHRUNK = {  # factor on every number of channels that it divides, and the keys left out
    "unet": (10, None), "controlnet": (10, None), "vae": (4, None), "clip_text": (16, r"resblocks\.([3-9]|\d\d)\."),
    "swinir": (15, r"layers\.[2-7]|blocks\.[2-5]"), "bsrnet": (8, r"RRDB_trunk\.([1-9]|\d\d)\."), "scunet": (1, None),
}  # fmt: skip
HEAD_DIM = 32  # of the shrunk attention
LAYOUTS = {  # file -> wrapper, prefix of all keys, prefix -> manifest
    "v2-1_512-ema-pruned.ckpt": ("state_dict", "", "prior"),
    "sd2.1-base-zsnr-laionaes5.ckpt": ("state_dict", "", "prior"),
    "v1_general.pth": ("", "", "controlnet"),
    "v1_face.pth": ("", "", "controlnet"),
    "v2.pth": ("", "", "controlnet"),
    "DiffBIR_v2.1.pt": ("", "", "controlnet"),
    "general_swinir_v1.ckpt": ("state_dict", "", "swinir"),
    "face_swinir_v1.ckpt": ("", "module.", "swinir"),
    "codeformer_swinir.ckpt": ("", "", "swinir"),
    "realesrgan_s4_swinir_100k.pth": ("params", "", "swinir"),
    "BSRNet.pth": ("", "", "bsrnet"),
    "scunet_color_real_psnr.pth": ("", "", "scunet"),
    "general_full_v1.ckpt": ("state_dict", "", "full"),
    "face_full_v1.ckpt": ("state_dict", "", "full"),
}
PRIOR = {"model.diffusion_model.": "unet", "first_stage_model.": "vae", "cond_stage_model.": "clip_text"}
FULL = PRIOR | {"control_model.": "controlnet", "preprocess_model.": "swinir"}


def shapes(manifest: str, small: bool = True) -> dict[str, tuple[int, ...]]:
    """Key -> shape of a network, without SwinIR's buffers."""
    whole = json.loads((MANIFESTS / f"{manifest}.json").read_text())
    found = {key: tuple(shape) for key, shape in whole.items() if not key.endswith(BUFFERS)}
    if not small:
        return found
    factor, dropped = SHRUNK[manifest]
    if manifest == "scunet":  # one block a stage
        found = {re.sub(r"(m_down\d)\.4\.", r"\1.1.", key): shape for key, shape in found.items()
                 if not re.match(r"m_(down\d|body)\.[1-3]\.|m_up\d\.[2-4]\.", key)}  # fmt: skip
    kept = {key: shape for key, shape in found.items() if not (dropped and re.search(dropped, key))}
    return {key: tuple(_shrunk(manifest, n, factor) for n in shape) for key, shape in kept.items()}


def _shrunk(manifest: str, n: int, factor: int) -> int:
    if manifest in ("unet", "controlnet", "clip_text") and n == 1024:
        return 64  # the context
    if manifest == "clip_text":
        return n if n == 49408 else n // factor if n >= 1024 else n
    return n // factor if n % factor == 0 and n > 8 and n != 225 else n


def network_state(manifest: str, rng: np.random.Generator, small: bool = True) -> dict[str, np.ndarray]:
    """A network's tensors: of unit gain, norms near one; SwinIR's buffers are what they must be."""
    state = {key: _draw(key, shape, rng) for key, shape in shapes(manifest, small).items()}
    if manifest == "swinir":
        state |= swinir.buffers(SwinIR(embed_dim=12, depths=(2, 2), heads=(6, 6)) if small else SwinIR())
    return state


def _draw(key: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal(shape, np.float32)
    if len(shape) < 2:
        return np.asarray(0.1 * x + (key.endswith("weight") or "scale" in key), np.float32)
    return np.asarray(x * np.float32(np.prod(shape[1:]) ** -0.5), np.float32)


def released_state(file: str, small: bool = True, seed: int = 0) -> dict[str, np.ndarray]:
    """All that a released file holds, below its wrapper."""
    rng = np.random.default_rng(seed)
    _, prefix, content = LAYOUTS[file]
    if content not in ("prior", "full"):
        return {prefix + key: x for key, x in network_state(content, rng, small).items()}
    parts = PRIOR if content == "prior" else FULL
    state = {p + key: x for p, manifest in parts.items() for key, x in network_state(manifest, rng, small).items()}
    state |= schedule_buffers()
    if content == "full":
        encoder = {
            key: x for key, x in state.items() if key.startswith(("first_stage_model.encoder.", "first_stage_model.quant_conv."))
        }
        return state | {key.replace("first_stage_model", "cond_encoder"): x for key, x in encoder.items()}
    return {key: x for key, x in state.items() if key != "logvar"} | {"model_ema.num_updates": np.array(7, np.int32)}


def write_released(folder: Path, file: str, small: bool = True, seed: int = 0) -> Path:
    """Writes a released file with random values; needs PyTorch."""
    import torch

    state = {key: torch.from_numpy(x) for key, x in released_state(file, small, seed).items()}
    wrapper = LAYOUTS[file][0]
    held = {wrapper: state, "epoch": 3} if wrapper == "state_dict" else {wrapper: state} if wrapper else state
    torch.save(held, folder / file)
    return folder / file


def same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> bool:
    """The same keys, types, shapes and bytes."""
    return got.keys() == want.keys() and all(
        got[k].dtype == v.dtype and got[k].shape == v.shape and got[k].tobytes() == v.tobytes() for k, v in want.items()
    )
