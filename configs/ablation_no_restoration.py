"""Ablation: stage 2 without the restoration module; the condition is the encoded degraded image.

python -m diffbir_jax.train --config configs/ablation_no_restoration.py --workdir RUN --config.data.source=PHOTOS

Otherwise stage2_general_v1, in hardware and time too. Not run here.
"""

from diffbir_jax.training.config import paper_stage2


def get_config(size="full"):
    return paper_stage2(size, restoration=False)
