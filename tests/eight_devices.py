"""Run by test_pipeline with 8 simulated devices: restorations equal those of one device, and no program holds a collective."""

import os
import re
import tempfile
from pathlib import Path

import jax
import numpy as np
from toy import write_model

from diffbir_jax import RestoreOptions, load_model, programs, restore_batch
from diffbir_jax.models.swinir import SwinIR
from diffbir_jax.pipeline import local_mesh

os.environ["DIFFBIR_JAX_HOME"] = tempfile.mkdtemp()  # nothing compiled before
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
COLLECTIVES = r"all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"


def main() -> None:
    assert jax.local_device_count() == 8
    stage1 = SwinIR(embed_dim=8, depths=(2,), heads=(2,), unshuffle=2, features=8, residual=True)
    model = load_model(write_model(Path(tempfile.mkdtemp()), stage1))
    rng = np.random.default_rng(0)
    images = [rng.random((40 + 24 * (i % 3 == 0), 48, 3), np.float32) for i in range(13)]
    options = RestoreOptions(steps=2, guidance_scale=100.0)
    texts = []
    original = jax.stages.Lowered.compile

    def compile(self, **options):
        program = original(self, **options)
        texts.append(program.as_text())
        return program

    jax.stages.Lowered.compile = compile
    many, one = restore_batch(model, images, options, local_mesh(8)), restore_batch(model, images, options, local_mesh(1))
    for a, b in zip(many, one, strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() < 1e-4, np.abs(a - b).max()
    assert len(texts) == len(programs.compiled) and not any(re.search(COLLECTIVES, text) for text in texts)
    print(f"{len(images)} images on 8 devices equal one device's; {len(texts)} programs without collectives")


if __name__ == "__main__":
    main()
