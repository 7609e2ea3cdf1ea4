"""Stage 2 of version 2.1: v prediction, zero terminal SNR, and noise on the condition.

python -m diffbir_jax.train --config configs/stage2_v21.py --workdir RUN --config.data.source=PHOTOS

PHOTOS: 512-pixel images with captions. The original's configuration: batch 512, 1e-5, up to a million steps, a fifth of the
captions dropped, the condition diffused to a step below 200, the Real-ESRGAN kind of degradation. The prior in the model folder is
the one finetuned for zero terminal SNR.
Hardware: 8 A100 of 80 GB. Expected: 10 hours for every 16 000 steps at 40 % MFU (an estimate; not run here). The original's result
is `DiffBIR_v2.1.pt`.
"""

from diffbir_jax.training.config import V21, paper_stage2


def get_config(size="full"):
    return paper_stage2(size, **V21, captions_dropped=0.2, noise_augmentation=200)
