"""How close to a reference, and how natural, images are: the metrics of `diffbir_jax.evaluate`, each under its own name."""
