"""Ablation: version 2.1 with the conditioning of version 1: the empty prompt alone, and no noise on the condition.

python -m diffbir_jax.train --config configs/ablation_v1_conditioning.py --workdir RUN --config.data.source=PHOTOS

Otherwise stage2_v21, in hardware and time too: what captions and noise augmentation bring. Not run here.
"""

from diffbir_jax.training.config import V21, paper_stage2


def get_config(size="full"):
    return paper_stage2(size, **V21)
