"""Array types that recur. Images are NHWC float32 in [0, 1]; latents are already multiplied by the scaling factor."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

Image = Float[Array, "B H W 3"]
Latent = Float[Array, "B h w c"]
Context = Float[Array, "B T D"]
Params = Mapping[str, Any]
