"""Ablation: stage 2 without fine-tuning the copied encoder.

python -m diffbir_jax.train --config configs/ablation_no_finetuning.py --workdir RUN --config.data.source=PHOTOS

The copied encoder and middle stay as the prior has them; the 1x1 convolutions train, and the first convolution, through which alone
the condition enters. Otherwise stage2_general_v1, in hardware and time too. Not run here.
"""

from diffbir_jax.training.config import paper_stage2


def get_config(size="full"):
    return paper_stage2(size, trained="added")
