"""Stage 1 for aligned faces (DiffBIR v1, section 4.1): SwinIR, 22.3 M parameters, on FFHQ at 512 pixels.

python -m diffbir_jax.train --config configs/stage1_ffhq.py --workdir RUN --config.data.source=PHOTOS

Hardware: 8 A100 of 80 GB. Expected: two to three days (an estimate; not run here).
The paper's: FFHQ resized to 512 pixels, the face degradation, otherwise as stage1_imagenet. Its result is `face_swinir_v1.ckpt`.
"""

from diffbir_jax.training.config import paper_stage1


def get_config(size="full"):
    return paper_stage1(size, data__recipe="face", data__crop_mode="none")
