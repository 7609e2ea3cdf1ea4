"""Distances between two sets of images by their features."""

import numpy as np
from jaxtyping import Float, Float64

Features = Float[np.ndarray, "N D"]


def frechet_distance(a: Features, b: Features) -> float:
    """The squared 2-Wasserstein distance of two Gaussians (Heusel et al. 2017): |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    The trace of the root is the nuclear norm of A B^T, where S_a = A^T A: exact with fewer images than features too. Needs two
    images a set; with few it is far above its limit.
    """
    x, y = _spread(a), _spread(b)
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    shift = a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)
    return float(np.sum(shift**2) + np.sum(x * x) + np.sum(y * y) - 2 * root)


def _spread(x: Features) -> Float64[np.ndarray, "n D"]:
    """A matrix with at most D rows whose square is the covariance."""
    centred = (x - x.mean(0, dtype=np.float64)) / np.sqrt(len(x) - 1)
    return np.linalg.qr(centred, mode="r") if len(x) > x.shape[1] else centred


def kernel_distance(a: Features, b: Features) -> float:
    """The squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, unbiased (Binkowski et al. 2018, KID).

    Its expectation is zero for sets from one distribution, whatever their size: it can be negative. Needs two images a set.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    n, m = len(a), len(b)
    aa, bb, ab = ((x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * ab.mean())
