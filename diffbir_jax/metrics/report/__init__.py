"""The report: one HTML file with everything in it, made of page.html, style.css and page.js of this folder."""

import base64
import html
import json
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

LONGEST, QUALITY = 768, 82


def page(title: str, data: Mapping[str, Any]) -> str:
    """The report.

    Args:
        title: its heading.
        data: what page.js shows, as JSON has it: about, metrics, rows, not_available, notes, pictured (see `Results`).
    """
    folder = resources.files(__name__)
    parts = {name: folder.joinpath(file).read_text("utf-8") for name, file in (("style", "style.css"), ("script", "page.js"))}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")  # no text can end the script
    return Template(folder.joinpath("page.html").read_text("utf-8")).substitute(parts, title=html.escape(title), data=text)


def picture(image: Float[np.ndarray, "H W 3"]) -> str:
    """An image as a WebP data address, its longer side at most 768 pixels; small ones as they are."""
    scale = min(1.0, LONGEST / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    pixels = np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)[..., ::-1]
    _, encoded = cv2.imencode(".webp", np.ascontiguousarray(pixels), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()
