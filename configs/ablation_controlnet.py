"""Ablation: stage 2 with a plain ControlNet, whose condition encoder is trained from scratch on the restored image.

python -m diffbir_jax.train --config configs/ablation_controlnet.py --workdir RUN --config.data.source=PHOTOS

Otherwise stage2_general_v1, in hardware and time too. The paper reports colour shifts for it. Not run here.
"""

from diffbir_jax.training.config import paper_stage2


def get_config(size="full"):
    return paper_stage2(size, branch="ControlNet")
