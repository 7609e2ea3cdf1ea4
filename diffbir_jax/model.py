"""A model in memory: its networks, their parameters on the device, and the texts it was asked for."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from diffbir_jax.errors import InputError
from diffbir_jax.models.attention import best_implementation
from diffbir_jax.models.conv import prepared
from diffbir_jax.models.layers import Untouched
from diffbir_jax.models.tokenizer import Tokenizer
from diffbir_jax.models.unet import UNetEncoder
from diffbir_jax.options import PRECISIONS, STAGE1, TASKS
from diffbir_jax.weights.folder import load_network, read_card
from diffbir_jax.weights.registry import PRESETS
from diffbir_jax.weights.tensor_files import forget

ASSETS = Path(__file__).parent / "assets"
LEAST_PARAMETERS = (
    10_000_000  # of a network: with fewer, convolutions that are faster on a CPU take longer to compile than they save
)


@dataclass(frozen=True, eq=False)
class Model:
    """Networks, their parameters on the device, and how the model was trained to be sampled.

    Attributes:
        nets: "stage1", "autoencoder", "unet" and "control" -> linen module.
        params: the same names -> parameters; on a CPU the 3x3 kernels of a large "unet" and "control" are stored transformed, see
            `models.conv.prepared`.
        sampling: parameterisation "eps" or "v", zero_snr, short_edge (pixels; smaller images are enlarged), multiple (sizes are
            padded to it), padding "edge" or "zero"; where guidance is to act on each pixel alike whatever the size, guidance_side
            (pixels): the side of the square frame whose guidance scales are meant.
        defaults: what options left open mean for this model, by field name.
        folder: where the text tower is read when a prompt is first used.
    """

    nets: dict[str, nn.Module]
    params: dict[str, Any]
    sampling: dict[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    _contexts: dict[str, Any] = field(default_factory=dict)
    _replicas: dict[Mesh, dict[str, Any]] = field(default_factory=dict)

    @functools.cached_property
    def architecture(self) -> Any:
        """Equal for models that compiled programs can be shared by: all but the parameters' values, hashable."""
        leaves, tree = jax.tree.flatten(self.params)
        nets, sampling = (tuple(sorted(x.items())) for x in (self.nets, self.sampling))
        return nets, sampling, self.takes_text and self.context_shape, tree, tuple((x.shape, x.dtype) for x in leaves)

    def params_on(self, mesh: Mesh) -> dict[str, Any]:
        """The parameters on every device of the mesh; those of the mesh last asked for are kept."""
        if mesh.size == 1:
            return self.params
        if mesh not in self._replicas:
            self._replicas.clear()
            self._replicas[mesh] = jax.device_put(self.params, NamedSharding(mesh, PartitionSpec()))
        return self._replicas[mesh]

    @property
    def takes_text(self) -> bool:
        return self.nets["unet"].context_dim is not None

    @property
    def casts(self) -> bool:
        """Whether weights are stored in another type than they are used in: bf16 on a CPU."""
        return any(x.dtype != self.nets["unet"].dtype for x in jax.tree.leaves(self.params["unet"]))

    @property
    def context_shape(self) -> tuple[int, int]:
        """Tokens and width of a text's context."""
        tower = read_card(self.folder)["networks"].get("text_encoder", {}) if self.folder else {}
        return tower.get("context_length", 77), self.nets["unet"].context_dim

    def context(self, *texts: str) -> Float[Array, "B T D"] | None:
        """The cross-attention's context for the texts; None where the model takes none.

        The text tower is in memory only while texts that were not asked for before are encoded.

        Raises:
            InputError: the model takes no text and one is given, or it has no text tower.
        """
        if not self.takes_text:
            if any(texts):
                raise InputError("this model takes no text; leave out --prompt, --negative-prompt and --captions")
            return None
        if new := [text for text in dict.fromkeys(texts) if text not in self._contexts]:
            net, params = load_network(self.folder, "text_encoder", np.float32, jax.device_put)
            self._contexts.update({text: np.asarray(_encode(net, params, Tokenizer()([text])))[0] for text in new})
        return jnp.stack([self._contexts[text] for text in texts])


@functools.partial(jax.jit, static_argnums=0)
def _encode(net: nn.Module, params: Any, tokens: Any) -> Array:
    return net.apply({"params": params}, tokens)


def load_model(name: str | Path = "tiny", task: str = "general", precision: str = "f32", stage1: str = "own") -> Model:
    """A model: "tiny", embedded in the package, a preset, or a model folder.

    Args:
        name: of the model, or its folder. The presets "v1-general", "v1-face", "v2" and "v2.1" are downloaded and converted on
            first use, see `diffbir_jax.weights.hub`.
        task: whose stage 1 is used: "general", "face" or "denoise".
        precision: how parameters are stored: "f32", or "bf16" at half the memory. On a CPU arithmetic stays in float32 either way,
            elsewhere "bf16" computes in bfloat16 too.
        stage1: "own" (of a model trained without one: none), "realesrgan": Real-ESRGAN x4plus, see `weights.realesrgan`, or
            "none": the diffusion is steered by the degraded image itself.

    Raises:
        InputError: no such model, task, precision or stage 1, or a file of it is missing or damaged, or cannot be downloaded.
    """
    for what, value, choices in (("task", task, TASKS), ("precision", precision, PRECISIONS), ("stage1", stage1, STAGE1)):
        if value not in choices:
            raise InputError(f"{what} is {value!r}; give {', '.join(choices)}")
    folder = find_model(name, task)
    card = read_card(folder)
    if missing := {"parameterisation", "zero_snr", "short_edge", "multiple", "padding"} - card.get("sampling", {}).keys():
        raise InputError(f"{folder / 'model.json'} does not say how to sample: {', '.join(sorted(missing))} missing")
    dtype = jnp.dtype(PRECISIONS[precision])
    load = functools.partial(_load, folder, dtype)
    first = _stage1(stage1, dtype) if card.get("restoration", True) or stage1 != "own" else _stage1("none")
    loaded = {"stage1": first or load(_stage1_name(card, task, folder))} | {n: load(n) for n in ("autoencoder", "unet", "control")}
    nets, params = ({n: pair[i] for n, pair in loaded.items()} for i in (0, 1))
    return Model(nets, params, card["sampling"], card.get("defaults", {}), folder)


def find_model(name: str | Path, task: str = "general") -> Path:
    """The folder of a model: embedded, given, or of a preset.

    Raises:
        InputError: there is none, or the preset's files cannot be had.
    """
    if str(name) in embedded():
        return ASSETS / name
    if Path(name).is_dir():
        return Path(name)
    if str(name) not in PRESETS:
        known = f"embedded ({', '.join(embedded())}), nor a preset ({', '.join(PRESETS)})"
        raise InputError(f"model {str(name)!r} is neither {known}, nor a model folder")
    from diffbir_jax.weights.hub import preset_folder

    return preset_folder(str(name), task)


def embedded() -> list[str]:
    """Names of the models in the package."""
    return sorted(p.parent.name for p in ASSETS.glob("*/model.json"))


def _stage1_name(card: Mapping[str, Any], task: str, folder: Path) -> str:
    """What the card's "tasks" say, else: "stage1" serves the general task, "stage1_face" and "stage1_denoise" the others."""
    held = {"general" if n == "stage1" else n.removeprefix("stage1_"): n for n in card["networks"] if n.startswith("stage1")}
    held |= {of: name for of, name in card.get("tasks", {}).items() if name in card["networks"]}
    if task not in held and held:
        raise InputError(f"{folder.name} has no stage 1 for the task {task!r}; it has {', '.join(sorted(held))}")
    return held.get(task, "stage1")


def _stage1(which: str, dtype: Any = None) -> tuple[nn.Module, dict[str, Any]] | None:
    """A stage 1 that belongs to no model; None: the model's own is asked for."""
    if which == "none":
        return Untouched(), {}
    if which == "own":
        return None
    from diffbir_jax.weights.realesrgan import load_realesrgan

    return _computed(*load_realesrgan(dtype, jax.device_put), dtype)


def _load(folder: Path, dtype: Any, name: str) -> tuple[nn.Module, dict[str, Any]]:
    on_cpu = jax.devices()[0].platform == "cpu"
    return _computed(*load_network(folder, name, dtype, np.asarray if on_cpu else jax.device_put), dtype)


def _computed(net: nn.Module, params: dict[str, Any], dtype: Any) -> tuple[nn.Module, dict[str, Any]]:
    """The network and its parameters as this device computes them best."""
    device = jax.devices()[0]
    net = net.clone(dtype=jnp.float32 if device.platform == "cpu" else dtype)
    if isinstance(net, UNetEncoder):
        net = net.clone(attention_implementation=best_implementation(device, net.dtype))
    if device.platform == "cpu" and sum(x.size for x in jax.tree.leaves(params)) >= LEAST_PARAMETERS:
        net = net.clone(**{name: "cpu" for name in ("attention_implementation", "conv_implementation") if hasattr(net, name)})
        if np.dtype(dtype) == np.float32 and isinstance(net, UNetEncoder):
            mapped, params = params, prepared(net, params)
            forget(jax.tree.leaves(mapped)[0])
    return net, jax.tree.map(jax.device_put, params)
