"""Pack photos into ArrayRecord shards: python -m diffbir_jax.data.pack FOLDER OUT, then train with --config.data.source=OUT.

Each photo is prepared as in the paper: the shorter side resized by area to SIZE, then the centre cropped to SIZE x SIZE. What
cannot be read is named and left out. OUT appears when all is written.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import grain
from array_record.python.array_record_module import ArrayRecordWriter

from diffbir_jax import cli
from diffbir_jax.data.photos import ImageSource
from diffbir_jax.data.pipeline import centre_crop, take_crop
from diffbir_jax.data.records import encode_record
from diffbir_jax.data.sources import SHARD, open_source, read_list
from diffbir_jax.errors import InputError, reason

PROG = "diffbir_jax.data.pack"


@dataclass(frozen=True)
class PackOptions:
    """How photos are packed.

    Raises:
        InputError: a number out of its range.
    """

    size: int = field(default=512, metadata={"help": "side of the squares, in pixels"})
    shards: int = field(default=8, metadata={"help": "files to write, fewer where there are fewer photos"})
    quality: int | None = field(default=None, metadata={"help": "of JPEG, 1 to 100; without it PNG, which loses nothing"})
    captions: str | None = field(default=None, metadata={"help": "a list of names in FOLDER and, after a tab, what each shows"})

    def __post_init__(self):
        for name, most in (("size", 8192), ("shards", 100_000), ("quality", 100)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise InputError(f"{name} is {value}; give 1 to {most}")


class Packed(NamedTuple):
    """How many photos were written, how many of these with a prompt, and how many were left out."""

    photos: int
    prompts: int
    skipped: int


def pack_photos(source: ImageSource, out: str | Path, options: PackOptions) -> Packed:
    """Writes the photos of `source` into a new folder.

    Raises:
        InputError: `out` is not new or empty, cannot be written, or no photo can be used; then nothing is left behind.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} is there already; give a new folder")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        packed = _write(source, part, options)
        part.replace(out)
    except (OSError, RuntimeError) as error:
        raise InputError(f"cannot write {out}: {reason(error)}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return packed


def _write(source: ImageSource, folder: Path, options: PackOptions) -> Packed:
    photos = prompts = 0
    paths = [folder / str(number) for number in range(min(options.shards, len(source)))]
    with ExitStack() as stack, cli.progress("packing", len(source)) as bar:
        writers = [stack.enter_context(closing(ArrayRecordWriter(str(path), "group_size:1"))) for path in paths]
        for record, has_prompt in _records(source, options):
            writers[photos % len(writers)].write(record)
            photos, prompts = photos + 1, prompts + has_prompt
            bar.update()
    if not photos:
        raise InputError(f"no photo of {source.title} can be used; give a source with readable ones")
    used = min(photos, len(paths))
    for number, path in enumerate(paths):
        path.rename(folder / f"photos-{number:05}-of-{used:05}{SHARD}") if number < used else path.unlink()
    return Packed(photos, prompts, len(source) - photos)


def _records(source: ImageSource, options: PackOptions) -> Iterator[tuple[bytes, bool]]:
    """Of the photos that can be used, in the source's order; made in threads."""
    captions = read_list(options.captions) if options.captions else {}

    def prepare(index: int) -> tuple[bytes, bool] | None:  # Grain leaves None out
        photo = source.usable(index)
        if photo is None:
            return None
        square = take_crop(photo.image, centre_crop(photo.image.shape[:2], options.size))
        photo = photo._replace(image=square, prompt=captions.get(photo.name, photo.prompt))
        return encode_record(photo, options.quality), bool(photo.prompt)

    threads = grain.ReadOptions(num_threads=os.cpu_count() or 1, prefetch_buffer_size=64)
    return iter(grain.MapDataset.range(len(source)).map(prepare).to_iter_dataset(threads))


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog=PROG, description=__doc__.strip())
    parser.add_argument("folder", metavar="FOLDER", help="photos: a folder with its subfolders, a list, or any source")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write, new")
    cli.add_options(parser, PackOptions)
    args = parser.parse_args(argv)

    def work() -> int:
        options = cli.options(args, PackOptions)
        packed = pack_photos(open_source(args.folder), args.out, options)
        prompts = f", {packed.prompts} with a prompt" if packed.prompts or options.captions else ""
        print(f"{packed.photos} photos of {options.size}x{options.size} in {args.out}{prompts}; {packed.skipped} skipped")
        return 0

    return cli.run(work, parser.prog)


if __name__ == "__main__":
    sys.exit(main())
