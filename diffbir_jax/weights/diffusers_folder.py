"""The folder that diffusers keeps Stable Diffusion 2 in: `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import linen as nn

from diffbir_jax.atomic import write_whole
from diffbir_jax.errors import InputError
from diffbir_jax.imaging.paths import prepare_folder
from diffbir_jax.models.autoencoder import AutoencoderKL
from diffbir_jax.models.text_encoder import TextEncoder
from diffbir_jax.models.tokenizer import vocabulary
from diffbir_jax.models.unet import UNet
from diffbir_jax.weights import released
from diffbir_jax.weights.sources import Part, Source, fingerprint
from diffbir_jax.weights.tables import diffusers
from diffbir_jax.weights.torch_files import read_checkpoint
from diffbir_jax.weights.torch_format import from_torch

FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "autoencoder": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}  # of a network, as diffusers names them


def read_diffusers(folder: Path) -> list[Source]:
    """The networks of a diffusers folder of Stable Diffusion 2: `unet/`, `vae/`, `text_encoder/`, each with its config.json.

    Raises:
        InputError: there is none of them, or a file is damaged or of another network.
    """
    found = [(role, (folder / file).parent) for role, file in FILES.items()]
    found = [(role, path) for role, path in found if (path / "config.json").is_file()]
    if not found:
        raise InputError(f"{folder} is no diffusers folder: neither unet, vae nor text_encoder with a config.json in it")
    return [_read_diffusers_network(role, path) for role, path in found]


def _read_diffusers_network(role: str, folder: Path) -> Source:
    path = _weights_of(folder)
    held = read_checkpoint(path)
    prefix = "text_model." if role == "text_encoder" and any(key.startswith("text_model.") for key in held.tensors) else ""
    state = {key.removeprefix(prefix): x for key, x in held.tensors.items()}
    style = diffusers.styles(state)
    try:
        net = NETWORKS[role](json.loads((folder / "config.json").read_text()))
        shapes = diffusers.without_last_layer(net, released.shapes_of(net))
        params, unused = from_torch(state, diffusers.rows(shapes, style), shapes)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"config.json lacks or misuses {error}" if not isinstance(error, InputError) else error
        raise InputError(f"{path}: {reason}") from None
    facts = {"layout": "diffusers", "wrapper": "", "module": "", "zero_snr": False, **fingerprint(path)}
    extras = {prefix + key: state[key] for key in unused}
    return Source(f"{folder.name}/{path.name}", facts, [Part(net, params, {"prefix": prefix, "style": style})], extras)


def _weights_of(folder: Path) -> Path:
    files = sorted(
        folder.glob("*.safetensors"), key=lambda p: (p.name.count("."), p.name)
    )  # x.safetensors before x.fp16.safetensors
    if not files:
        raise InputError(f"{folder} holds no .safetensors file; download the safetensors variant of the model")
    return files[0]


def unet_of_config(config: Mapping[str, Any]) -> UNet:
    """The UNet that diffusers' config.json describes."""
    channels, heads = config["block_out_channels"], config["attention_head_dim"]  # the number of heads, for all its name
    return UNet(
        channels=tuple(channels),
        blocks=config["layers_per_block"],
        attention=tuple(kind == "CrossAttnDownBlock2D" for kind in config["down_block_types"]),
        head_dim=channels[0] // (heads if isinstance(heads, int) else heads[0]),
        context_dim=config["cross_attention_dim"],
        in_channels=config["in_channels"],
        groups=config["norm_num_groups"],
        out_channels=config["out_channels"],
    )


def autoencoder_of_config(config: Mapping[str, Any]) -> AutoencoderKL:
    """The autoencoder that diffusers' config.json describes."""
    return AutoencoderKL(
        channels=tuple(config["block_out_channels"]),
        blocks=config["layers_per_block"],
        latent_channels=config["latent_channels"],
        groups=config["norm_num_groups"],
        scaling_factor=config.get("scaling_factor", AutoencoderKL().scaling_factor),
    )


def text_encoder_of_config(config: Mapping[str, Any]) -> TextEncoder:
    """The text tower that transformers' config.json describes: without the last layer, which the original has and does not use."""
    return TextEncoder(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"] + 1,
        heads=config["num_attention_heads"],
        vocab_size=config["vocab_size"],
        context_length=config["max_position_embeddings"],
    )


NETWORKS = {"unet": unet_of_config, "autoencoder": autoencoder_of_config, "text_encoder": text_encoder_of_config}


def facts_of(name: str) -> dict[str, Any]:
    """How a network lies in today's diffusers folder."""
    prefix = "text_model." if name == "text_encoder" else ""
    return {"layout": "diffusers", "module": "", "networks": {name: {"prefix": prefix, "style": []}}}


def configuration(net: nn.Module, style: Sequence[str] = ()) -> dict[str, Any]:
    """The config.json of a network, as diffusers and transformers read it.

    Raises:
        InputError: diffusers has no such network.
    """
    if isinstance(net, UNet) and not net.shortcut:
        kinds = ["CrossAttn" if attends else "" for attends in net.attention]
        return {
            "_class_name": "UNet2DConditionModel", "in_channels": net.in_channels, "out_channels": net.out_channels,
            "block_out_channels": net.channels, "layers_per_block": net.blocks, "norm_num_groups": net.groups,
            "attention_head_dim": [c // net.head_dim for c in net.channels], "cross_attention_dim": net.context_dim,
            "down_block_types": [f"{kind}DownBlock2D" for kind in kinds], "sample_size": 64,
            "up_block_types": [f"{kind}UpBlock2D" for kind in kinds[::-1]],
            "use_linear_projection": diffusers.CONV_PROJECTIONS not in style,
        }  # fmt: skip
    if isinstance(net, AutoencoderKL) and net.mid_attention and not net.shortcut:
        levels = len(net.channels)
        return {
            "_class_name": "AutoencoderKL", "block_out_channels": net.channels, "layers_per_block": net.blocks, "sample_size": 512,
            "latent_channels": net.latent_channels, "norm_num_groups": net.groups, "scaling_factor": net.scaling_factor,
            "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
        }  # fmt: skip
    if isinstance(net, TextEncoder):
        return {
            "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "gelu", "hidden_size": net.width,
            "intermediate_size": 4 * net.width, "num_hidden_layers": net.layers - 1, "num_attention_heads": net.heads,
            "vocab_size": net.vocab_size, "max_position_embeddings": net.context_length, "projection_dim": 512,
            "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
        }  # fmt: skip
    raise InputError(f"diffusers has no place for this {type(net).__name__}")


def write_configurations(
    folder: Path, nets: Mapping[str, nn.Module], styles: Mapping[str, Sequence[str]], sampling: Mapping[str, Any]
) -> None:
    """Everything of the folder but the weights: configurations, the tokenizer and the schedule.

    Raises:
        InputError: diffusers has no such network, or a file cannot be written.
    """
    folders = {Path(FILES[name]).parent.name: configuration(net, styles[name]) for name, net in nets.items()}
    kinds = {
        name: ["transformers", "CLIPTextModel"] if name == "text_encoder" else ["diffusers", held["_class_name"]]
        for name, held in folders.items()
    }
    kinds |= {"tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", "DDIMScheduler"]}
    kinds |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    files = {f"{name}/config.json": held for name, held in folders.items()}
    files["model_index.json"] = {"_class_name": "StableDiffusionPipeline", **kinds}
    files["scheduler/scheduler_config.json"] = {
        "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "num_train_timesteps": 1000, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
        "prediction_type": "v_prediction" if sampling.get("parameterisation") == "v" else "epsilon",
        "rescale_betas_zero_snr": sampling.get("zero_snr", False),
    }  # fmt: skip
    for name, text in ({name: json.dumps(held, indent=2) for name, held in files.items()} | tokenizer_files()).items():
        prepare_folder((folder / name).parent)
        write_whole(folder / name, lambda file, text=text: file.write_text(text, encoding="utf-8"))


def tokenizer_files() -> dict[str, str]:
    """transformers' CLIPTokenizer: the vocabulary of `Tokenizer` under its names, padded with "!", token 0."""
    tokens, ranks = vocabulary()
    start, end = "<|startoftext|>", "<|endoftext|>"
    named = dict(zip([*list(tokens)[:-2], start, end], tokens.values(), strict=True))
    merges = "\n".join(["#version: 0.2", *map(" ".join, sorted(ranks, key=ranks.__getitem__))]) + "\n"
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": "!"}
    configuration = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    return {
        "tokenizer/vocab.json": json.dumps(named, ensure_ascii=False),
        "tokenizer/merges.txt": merges,
        "tokenizer/tokenizer_config.json": json.dumps(configuration, indent=2),
        "tokenizer/special_tokens_map.json": json.dumps(special, indent=2),
    }
