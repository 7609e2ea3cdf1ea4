"""Convergence of the samplers on Gaussian data, whose exact solutions are known: the table, and the picture in docs/.

python tests/benchmarks/samplers.py [--picture docs/sampler_convergence.png]
"""

import argparse
import colorsys
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parents[1] / "diffusion"))
from gaussian import DIFFUSIONS, FLOWS, flow_error, order, variance_error  # noqa: E402

COUNTS = (8, 16, 32, 64)
SIDE, MARGIN, LEGEND = 620, 90, 230
X, Y = (8, 128), (1e-6, 1.0)


def table(samplers: dict, error) -> dict[str, list[float]]:
    """Errors by sampler, printed as they come."""
    errors = {}
    for name, (_, _, evaluations, claimed, *_) in samplers.items():
        errors[name] = [error(name, n) for n in COUNTS]
        cells = " | ".join(f"{e:.1e}" for e in errors[name])
        print(f"| {name} | {evaluations} | {cells} | {order(COUNTS[1:], errors[name][1:]):.2f} ({claimed}) |", flush=True)
    return errors


def place(x: float, y: float) -> tuple[float, float]:
    """Pixels of a point, both axes logarithmic."""
    share = [np.log(v / low) / np.log(high / low) for v, (low, high) in ((x, X), (y, Y))]
    return MARGIN + share[0] * SIDE, 50 + (1 - share[1]) * SIDE


def panel(samplers: dict, errors: dict[str, list[float]], title: str) -> Image.Image:
    """Error over network evaluations."""
    image = Image.new("RGB", (MARGIN + SIDE + LEGEND, SIDE + 120), "white")
    draw, font, legend_left = ImageDraw.Draw(image), ImageFont.load_default(18), MARGIN + SIDE + 15
    draw.text((MARGIN, 12), title, "black", ImageFont.load_default(22))
    for x in (8, 16, 32, 64, 128):
        draw.line([place(x, Y[0]), place(x, Y[1])], "#dddddd")
        draw.text((place(x, Y[0])[0], SIDE + 58), str(x), "black", font, anchor="mt")
    for power in range(-6, 1):
        draw.line([place(X[0], 10.0**power), place(X[1], 10.0**power)], "#dddddd")
        draw.text((MARGIN - 8, place(X[0], 10.0**power)[1]), f"1e{power}", "black", font, anchor="rm")
    draw.text((MARGIN + SIDE / 2, SIDE + 88), "network evaluations", "black", font, anchor="mt")
    for i, name in enumerate(samplers):
        colour = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(i / len(samplers), 0.9, 0.75))
        points = [(samplers[name][2] * n, e) for n, e in zip(COUNTS, errors[name], strict=True)]
        shown = [place(x, y) for x, y in points if Y[0] <= y <= Y[1]]
        draw.line(shown, colour, 3)
        for x, y in shown:
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], colour)
        draw.line([(legend_left, 75 + 30 * i), (legend_left + 24, 75 + 30 * i)], colour, 4)
        draw.text((legend_left + 32, 75 + 30 * i), name, "black", font, anchor="lm")
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", default="docs/sampler_convergence.png")
    args = parser.parse_args()
    print(f"| sampler | evaluations a step | {' | '.join(f'{n} steps' for n in COUNTS)} | order (claimed) |")
    print("| --- " * (len(COUNTS) + 3) + "|")
    flows, diffusions = table(FLOWS, flow_error), table(DIFFUSIONS, variance_error)
    left = panel(FLOWS, flows, "without noise: error of the result")
    right = panel(DIFFUSIONS, diffusions, "with noise: error of the variance")
    picture = Image.new("RGB", (left.width + right.width, left.height), "white")
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width, 0))
    picture.quantize(64).save(args.picture, optimize=True)


if __name__ == "__main__":
    main()
