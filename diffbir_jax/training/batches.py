"""Batches on the devices: this process's share of each, made and copied ahead while a step runs."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from diffbir_jax.data.pipeline import training_batches
from diffbir_jax.data.sources import open_source
from diffbir_jax.degradation.recipes import find_recipe
from diffbir_jax.training.text import Contexts

DeviceBatch = dict[str, jax.Array]


def data_stream(config: ConfigDict) -> Any:
    """This process's share of every batch, a Grain iterator."""
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    return _stream(config, _source(config), config.data.batch // jax.process_count(), config.seed, **share)


def fixed_set(config: ConfigDict) -> dict[str, np.ndarray]:
    """The validation images: the same in every process and run of a recipe."""
    stream = _stream(config, open_source(config.validation.source), config.validation.images, config.seed + 1, workers=0)
    return next(stream)


def sample_images(config: ConfigDict, batches: int) -> jax.Array:
    """The clean images of the first batches, all of them in every process."""
    stream = _stream(config, _source(config), config.data.batch, config.seed, workers=0)
    return jnp.concatenate([next(stream)["hq"] for _ in range(batches)])


def _source(config: ConfigDict) -> Any:
    return open_source(config.data.source or f"folder:{config.data.folder}", config.data.cache)


def _stream(config: ConfigDict, source: Any, size: int, seed: int, workers: int | None = None, **share: int) -> Any:
    data = config.data
    recipe = find_recipe(data.recipe, data.recipe_overrides.to_dict()) if data.recipe else None
    options = {"crop_size": data.crop, "crop_mode": data.crop_mode, "crops_scale": tuple(data.scale) or None, "recipe": recipe}
    ahead = {"num_workers": data.workers if workers is None else workers, "prefetch": data.prefetch}
    return iter(training_batches(source, batch_size=size, seed=seed, **options, **ahead, **share))


class Batches:
    """Endless batches on the devices, the next one copied while the step works on this one.

    Args:
        stream: of this process's share, with get_state and set_state.
        split: how a batch lies on the devices.
        contexts: of captions; None: captions are left out.
    """

    def __init__(self, stream: Any, split: NamedSharding, contexts: Contexts | None = None):
        self.stream, self.split, self.contexts = stream, split, contexts
        self.waited = 0.0  # seconds, since it was last set to 0
        self.ready: DeviceBatch | None = None

    def next(self) -> DeviceBatch:
        """The next batch: "hq", "lq", "context" as there are, and "index", every image's place in the whole batch."""
        batch, self.ready = self.ready or self._copy(), None
        return batch

    def position(self) -> dict[str, Any]:
        """The place in the stream after the batches that `next` gave; to be asked for before `prefetch`."""
        assert self.ready is None, "a batch is ready that was not taken"
        return self.stream.get_state()

    def seek(self, position: dict[str, Any]) -> None:
        """Goes on from a `position`, of any process."""
        self.stream.set_state(position)

    def prefetch(self) -> None:
        """Fetches the next batch and starts its copy to the devices."""
        self.ready = self._copy()

    def _copy(self) -> DeviceBatch:
        begun = time.perf_counter()
        batch = next(self.stream)
        arrays = {name: batch[name] for name in ("hq", "lq") if name in batch}
        if self.contexts is not None:
            arrays["context"] = self.contexts(batch["prompt"].tolist())
        # A process takes every so-manieth example of the stream (see data.pipeline).
        arrays["index"] = np.arange(len(batch["hq"]), dtype=np.int32) * jax.process_count() + jax.process_index()
        placed = {name: jax.make_array_from_process_local_data(self.split, array) for name, array in arrays.items()}
        self.waited += time.perf_counter() - begun
        return placed


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays that every process holds whole, on the devices."""
    place: Callable = lambda x: jax.make_array_from_callback(np.shape(x), sharding, lambda index: np.asarray(x)[index])  # noqa: E731
    return jax.tree.map(place, tree)
