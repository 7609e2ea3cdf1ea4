"""Stage 2 for general images (DiffBIR v1, section 4.1): LAControlNet on ImageNet, the empty prompt.

python -m diffbir_jax.train --config configs/stage2_general_v1.py --workdir RUN --config.data.source=PHOTOS

The prior, and stage 1, are read from the model folder workdir/prior, which convert.py writes of released files.
Hardware: 8 A100 of 80 GB. Expected: about 6 hours at 40 % MFU, from 8.7e14 FLOPs a step (an estimate; not run here).
The paper's: batch 192, 25 000 steps of AdamW at 1e-4, the prior frozen. Its result is `v1_general.pth`. The gradient is clipped
at 1 here, which the original does not; remat as in the original.
"""

from diffbir_jax.training.config import paper_stage2


def get_config(size="full"):
    return paper_stage2(size)
