"""Stage 2 of version 2 (ECCV 2024): captions, half of them dropped, 80 000 steps of 256 images, the rate a tenth from 30 000 on.

python -m diffbir_jax.train --config configs/stage2_v2.py --workdir RUN --config.data.source=PHOTOS

PHOTOS: 512-pixel images with captions, a list or shards; the original's are 15 M of filtered LAION. A caption's context is made
by the frozen text tower before the step.
Hardware: 8 A100 of 80 GB. Expected: about 26 hours at 40 % MFU (an estimate; not run here). The original's result is `v2.pth`.
"""

from diffbir_jax.training.config import paper_stage2


def get_config(size="full"):
    return paper_stage2(
        size,
        data__batch=256,
        data__crop_mode="none",
        steps=80_000,
        captions_dropped=0.5,
        optimizer__schedule="step",
        optimizer__drops=((30_000, 0.1),),
    )
