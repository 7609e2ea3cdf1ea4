"""Stage 2 for aligned faces (DiffBIR v1, section 4.1): LAControlNet on FFHQ, the empty prompt.

python -m diffbir_jax.train --config configs/stage2_face_v1.py --workdir RUN --config.data.source=PHOTOS

As stage2_general_v1, with FFHQ resized to 512 pixels, the face degradation, and the face stage 1 in the model folder.
Hardware: 8 A100 of 80 GB. Expected: about 6 hours at 40 % MFU (an estimate; not run here). The original's result is `v1_face.pth`.
"""

from diffbir_jax.training.config import paper_stage2


def get_config(size="full"):
    return paper_stage2(size, data__recipe="face", data__crop_mode="none")
