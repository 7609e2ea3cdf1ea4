"""Gathers the photographs that the embedded model is trained on, out of four Debian packages, into one folder.

apt-get download gcompris-qt-data enlightenment-data mate-backgrounds plasma-workspace-wallpapers
for package in *.deb; do dpkg-deb -x "$package" unpacked; done
python launch/collect_photos.py unpacked PHOTOS

With --held-out, those that it is judged on: of gcompris-qt-data, palapeli-data, lxqt-themes and plasma-workspace-data.
"""

import argparse
import contextlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

JPEG = b"\xff\xd8\xff"
RESOURCES = ("erase", "explore_farm_animals", "explore_monuments", "explore_world_animals", "explore_world_music")
TESTED = {"crab", "red_panda", "citedeCarcassonne", "petra", "pontduGard", "chameleon", "hedgehog", "moose"}  # in tests/data/photos
SOFT = ("Foggy-Trees", "Sea-of-Lanterns", "Yellow-Flower", "Red-Maple", "Peaks", "Bamboo", "Snow-Trees", "White-Flower",
        "Lichen-Branches", "Dunes", "Spruce-Needles", "Green-Maple", "Sunset-Hills", "Mountain")  # fmt: skip
WALLPAPERS = ("Autumn", "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey", "Kite",
              "OneStandsOut", "Path", "summer_1am")  # fmt: skip

THEMES = ("after-the-rain.jpg", "appleflower.png", "butterfly.png", "cloud.png", "drop.png", "flowers.png", "fog.jpg",
          "this-is-not-windows.jpg", "Valendas.png")  # fmt: skip


def resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in a Qt resource file."""
    packed = path.read_bytes()
    version, tree, data, names = struct.unpack(">4I", packed[4:20])
    size = 22 if version >= 2 else 14

    def walk(index: int) -> Iterator[tuple[str, bytes]]:
        at = tree + index * size
        name_at, flags, count, first = struct.unpack(">IHII", packed[at : at + 14])
        if flags & 2:
            for child in range(count):
                yield from walk(first + child)
            return
        at = names + name_at
        name = packed[at + 6 : at + 6 + 2 * struct.unpack(">H", packed[at : at + 2])[0]].decode("utf-16-be")
        at = data + first
        yield name, packed[at + 4 : at + 4 + struct.unpack(">I", packed[at : at + 4])[0]]

    yield from walk(0)


def largest_jpeg(packed: bytes) -> Image.Image:
    """The largest JPEG inside a file."""
    found, at = [], packed.find(JPEG)
    while at >= 0:
        with contextlib.suppress(OSError):
            image = Image.open(io.BytesIO(packed[at:]))
            image.load()
            found.append(image)
        at = packed.find(JPEG, at + 1)
    return max(found, key=lambda image: image.width * image.height)


def of_gcompris(root: Path, tested: bool) -> Iterator[tuple[str, Image.Image]]:
    """The photographs of gcompris-qt-data that are tested with, or the others."""
    for path in sorted(root.rglob("*.rcc")):
        for name, content in resources(path) if path.stem in RESOURCES else ():
            stem = name.partition(".")[0]
            if content[8:12] == b"WEBP" and (stem in TESTED) == tested:
                image = Image.open(io.BytesIO(content))
                if min(image.size) >= 500:
                    yield f"{path.stem}_{stem}", image


def held_out(root: Path) -> Iterator[tuple[str, Image.Image]]:
    """Name and image of every photograph that is kept from training."""
    yield from of_gcompris(root, tested=True)
    for pattern in ("palapeli/collection/*.jpg", "plasma/avatars/photos/*.png", *(f"lxqt/wallpapers/{name}" for name in THEMES)):
        for path in sorted(root.rglob(pattern)):
            yield f"{path.parts[path.parts.index('share') + 1]}_{path.stem}".replace(" ", "_"), Image.open(path)


def photographs(root: Path) -> Iterator[tuple[str, Image.Image]]:
    """Name and image of every photograph to train on; the soft ones are halved."""
    yield from of_gcompris(root, tested=False)
    for path in sorted(root.rglob("*.edj")):
        if path.stem in SOFT:
            yield f"enlightenment_{path.stem}", largest_jpeg(path.read_bytes()).reduce(2)
    for path in sorted(root.rglob("backgrounds/mate/nature/*.jpg")):
        yield f"mate_{path.stem}", Image.open(path)
    for name in WALLPAPERS:
        found = [p for p in root.rglob(f"wallpapers/{name}/contents/images/*") if p.suffix in (".jpg", ".png")]
        if found:
            yield f"plasma_{name}", Image.open(max(found, key=lambda p: p.stat().st_size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="where the packages were unpacked")
    parser.add_argument("folder", type=Path, help="to write")
    parser.add_argument("--held-out", action="store_true", help="those that the model is judged on")
    args = parser.parse_args()
    folder = args.folder
    folder.mkdir(parents=True, exist_ok=True)
    pixels = count = 0
    for name, image in (held_out if args.held_out else photographs)(args.root):
        image.convert("RGB").save(folder / f"{name}.png", compress_level=1)
        pixels, count = pixels + image.width * image.height, count + 1
    print(f"{count} photographs, {pixels / 1e6:.0f} megapixels in {folder}")


if __name__ == "__main__":
    main()
