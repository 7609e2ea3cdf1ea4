"""Stage 1 for general images (DiffBIR v1, section 4.1): SwinIR, 22.3 M parameters, on ImageNet at 512 pixels.

python -m diffbir_jax.train --config configs/stage1_imagenet.py --workdir RUN --config.data.source=PHOTOS

Hardware: 8 A100 of 80 GB. Expected: two to three days (an estimate; not run here).
The paper's: 512-pixel centre crops, the CodeFormer kind of degradation, batch 96, 150 000 steps of AdamW at 1e-4, L2 loss.
Its result is the release `general_swinir_v1.ckpt`, without published numbers of its own.
"""

from diffbir_jax.training.config import paper_stage1


def get_config(size="full"):
    return paper_stage1(size)
