"""Presets on their first use: the released files found or downloaded, converted once, kept.

Everything lies under `~/.cache/diffbir_jax`, or DIFFBIR_JAX_HOME: a model folder a preset, and the released files in `downloads`,
where files put by hand are taken as well. After the conversion only the model folders are read.
"""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from diffbir_jax.errors import InputError, reason
from diffbir_jax.home import home
from diffbir_jax.imaging.paths import prepare_folder
from diffbir_jax.weights.conversion import to_jax
from diffbir_jax.weights.folder import read_card
from diffbir_jax.weights.registry import FILES, PRESETS, File
from diffbir_jax.weights.sources import fingerprint

PRIOR = {"unet", "autoencoder", "text_encoder"}
PLAIN = ("https://",)  # what begins so is an address, else a repository


def preset_folder(name: str, task: str) -> Path:
    """The model folder of a preset, with what the task needs; made, and its files downloaded, where it is not there yet.

    Raises:
        InputError: the preset has no such task, or a file is neither there nor can be downloaded.
    """
    preset, folder = PRESETS[name], home() / name
    if task not in preset.stage1:
        raise InputError(f"{name} has no stage 1 for the task {task!r}; it has {', '.join(sorted(preset.stage1))}")
    yields = {preset.control: {"control"}, preset.prior: PRIOR, preset.stage1[task]: {preset.networks()[task]}}
    card = read_card(folder) if (folder / "model.json").exists() else {"networks": {}}
    missing = [file for file, networks in yields.items() if not networks <= card["networks"].keys()]
    if missing or card.get("preset") != name:
        paths = obtain(name, [FILES[file] for file in missing or yields])
        to_jax(paths, folder, name, report=lambda line: print(line, file=sys.stderr, flush=True))
    return folder


def obtain(what: str, files: list[File]) -> list[Path]:
    """The files, from `downloads` or downloaded to it.

    Raises:
        InputError: some can be had from none of their sources; all of them are named.
    """
    downloads = prepare_folder(home() / "downloads")
    lacking, reasons = [], []
    for file in files:
        try:
            if not (downloads / file.name).exists():
                download(file, downloads)
        except OSError as error:
            lacking.append(f"{file.name} ({' or '.join(file.sources)})")
            reasons.append(str(error))
    if lacking:
        raise InputError(
            f"{what} needs {', '.join(lacking)}, not downloaded ({reasons[0]}); put what is missing into {downloads}, run again, "
            "or give a model folder made by `python -m diffbir_jax.convert to-jax`"
        )
    return [downloads / file.name for file in files]


class Place(NamedTuple):
    """Where a file lies: its address and headers to ask with, its hash and length where they are known."""

    url: str
    headers: dict[str, str] | None
    sha256: str | None
    size: int | None


def download(file: File, folder: Path) -> None:
    """Downloads a file to a folder, from the first source that has it; goes on where an earlier try stopped.

    Raises:
        OSError: no source has it, or huggingface_hub is not installed.
    """
    try:
        import filelock
        import httpx
        import huggingface_hub
    except ImportError:
        raise OSError("downloading needs `pip install diffbir_jax[hub]`") from None
    reasons = []
    with filelock.FileLock(folder / f".{file.name}.lock"):
        for source in file.sources:
            try:
                return None if (folder / file.name).exists() else _fetch(_locate(huggingface_hub, source, file), file.name, folder)
            except (OSError, httpx.HTTPError) as error:
                reasons.append(f"{source}: {reason(error)}")
    raise OSError("; ".join(reasons))


def _locate(hub: ModuleType, source: str, file: File) -> Place:
    """Asks the source about the file; a hash in the registry goes before the hub's."""
    if source.startswith(PLAIN):
        response = hub.utils.get_session().head(source, follow_redirects=True, timeout=10)
        response.raise_for_status()
        length = response.headers.get("content-length")
        return Place(source, None, file.sha256, int(length) if length else None)
    url = hub.hf_hub_url(source, file.name, endpoint=os.environ.get("HF_ENDPOINT"))
    told = hub.get_hf_file_metadata(url)
    large = told.etag if told.etag and len(told.etag) == 64 else None  # of a large file the tag is the hash
    return Place(url, hub.utils.build_hf_headers(), file.sha256 or large, told.size)


def _fetch(place: Place, name: str, folder: Path) -> None:
    """Downloads beside the name, checks, then renames; content that fails the check is fetched anew, once."""
    from huggingface_hub.file_download import http_get

    part = folder / f".{name}.part"
    for _ in range(2):
        if part.exists() and (place.size is None or part.stat().st_size > place.size):
            part.unlink()
        with open(part, "ab") as out:
            options: dict[str, Any] = {"expected_size": place.size, "displayed_filename": name}
            http_get(place.url, out, resume_size=out.tell(), headers=place.headers, **options)
        if place.sha256 in (None, fingerprint(part)["sha256"]):
            part.replace(folder / name)
            return
        print(f"{name} from {place.url} is damaged (its SHA-256 is not {place.sha256})", file=sys.stderr, flush=True)
        part.unlink()
    raise OSError("its SHA-256 is wrong every time")
