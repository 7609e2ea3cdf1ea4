"""The restore command, as a user types it."""

import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffbir_jax import restore
from diffbir_jax.diffusion.noise import streams
from diffbir_jax.diffusion.schedule import spaced


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "good.JPG"), rng.integers(0, 256, (40, 48, 3), np.uint8))
    whole = cv2.imencode(".jpg", rng.integers(0, 256, (64, 64, 3), np.uint8))[1].tobytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("not an image")
    return folder


def command(model, *inputs, output):
    return [*map(str, inputs), "--output", str(output), "--model", str(model), "--steps", "2"]


def test_a_folder_with_bad_files_restores_the_good_one(folder, small_model_folder, tmp_path, capsys):
    output = tmp_path / "out"
    assert restore.main(command(small_model_folder, folder, output=output)) == 1
    assert [p.name for p in output.iterdir()] == ["good.png"]
    assert cv2.imread(str(output / "good.png")).shape == (40, 48, 3)
    printed = capsys.readouterr()
    assert "restored 1 of 3" in printed.out and "48x40" in printed.out
    errors = printed.err.strip().splitlines()
    assert len(errors) == 2 and "cut.jpg" in errors[0] and "text.jpg" in errors[1]


def test_the_same_seed_writes_the_same_bytes(folder, small_model_folder, tmp_path):
    """Whatever the file is called and whatever was restored before it."""
    (folder / "again.JPG").write_bytes((folder / "good.JPG").read_bytes())
    output = tmp_path / "out"
    assert restore.main(command(small_model_folder, folder / "good.JPG", folder / "again.JPG", output=output)) == 0
    assert (output / "good.png").read_bytes() == (output / "again.png").read_bytes()


def test_recorded_noise_replays_a_restoration(folder, small_model_folder, tmp_path):
    """The dump has every state; the noise of a seed, given as a file, gives the seed's bytes."""
    keys, rows = jax.random.key(9)[None], spaced(2)
    like = jnp.zeros((1, 24, 24, 4))
    draws = [streams(keys)(t, like) for t in (1000, *rows.t)]
    chw = [np.ascontiguousarray(np.moveaxis(x, -1, 1)) for x in draws]
    save_file({"x_T": chw[0], "noise": np.stack(chw[1:])}, tmp_path / "noise.safetensors")
    dump = ["--dump", str(tmp_path / "dump")]
    shared = command(small_model_folder, folder / "good.JPG", output=tmp_path / "out")
    assert restore.main([*shared, "--seed", "9"]) == 0
    seeded = (tmp_path / "out" / "good.png").read_bytes()
    assert restore.main([*shared, "--noise", str(tmp_path / "noise.safetensors"), *dump]) == 0
    assert (tmp_path / "out" / "good.png").read_bytes() == seeded
    kept = load_file(tmp_path / "dump" / "good.safetensors")
    shapes = {k: v.shape for k, v in kept.items()}
    image, latent = (1, 3, 48, 48), (1, 4, 24, 24)
    assert shapes == {
        "lq": image, "reg": (1, 3, 40, 48), "cond_latent": latent, "z": (2, *latent[1:]), "decoded": image, "fixed": image
    }  # fmt: skip
    assert np.array_equal(
        np.rint(255 * kept["fixed"][0, :, :40].clip(0, 1)).astype(np.uint8)[::-1].transpose(1, 2, 0),
        cv2.imread(str(tmp_path / "out" / "good.png")),
    )
    assert restore.main([*shared, "--steps", "3", "--noise", str(tmp_path / "noise.safetensors")]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png"], "nowhere.png does not exist"),
        (["FOLDER", "--model", "huge"], "model 'huge'"),
        (["FOLDER", "--steps", "0"], "steps is 0; give 1 to 1000"),
        (["FOLDER", "--sampler", "fast"], "fast"),
        (["FOLDER", "--guidance-scale", "-1"], "guidance-scale is -1.0"),
        (["FOLDER", "--output", "FOLDER/good.JPG"], "good.JPG"),
        (["EMPTY"], "without images"),
        (["FOLDER", "--noise", "FOLDER/text.jpg"], "x_T"),
        (["FOLDER", "--task", "face"], "task 'face'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(folder, small_model_folder, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    arguments = [a.replace("FOLDER", str(folder)).replace("EMPTY", str(tmp_path / "empty")) for a in arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        try:
            code = restore.main([*command(small_model_folder, output=tmp_path / "out"), *arguments])
        except SystemExit as stop:  # argparse's own
            code = stop.code
    printed = capsys.readouterr().err.strip()
    assert code == 2 and message in printed and "\n" not in printed


def test_help_loads_no_jax():
    check = (
        "import sys; from diffbir_jax import restore\ntry: restore.main(['--help'])\nexcept SystemExit: print('jax' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert printed.strip().endswith("False") and "--guidance-space" in printed
