"""Blind image restoration in JAX/Flax: DiffBIR (arXiv 2308.15070).

from diffbir_jax import RestoreOptions, load_model, restore_images
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "InputError": "errors",
    "RestoreOptions": "options",
    "load_model": "model",
    "restore_batch": "pipeline",
    "restore_images": "pipeline",
}
__all__ = ["InputError", "RestoreOptions", "load_model", "restore_batch", "restore_images"]


def __getattr__(name: str):
    if name in _PUBLIC:  # imported when first used: JAX takes a second to load
        return getattr(importlib.import_module(f"diffbir_jax.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
