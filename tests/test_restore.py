"""The restore command, as a user types it."""

import json
import os
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from diffbir_jax import RestoreOptions, pipeline, restore, restore_batch
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


def test_the_memory_budget_is_for_a_batch(folder, small_model_folder, small_model, tmp_path, monkeypatch):
    asked, decide = [], pipeline.what_to_tile
    monkeypatch.setattr(pipeline, "what_to_tile", lambda *arguments: asked.append(arguments[-1]) or decide(*arguments))
    shared = command(small_model_folder, folder / "good.JPG", output=tmp_path / "out")
    assert restore.main([*shared, "--stage1-only", "--batch-size", "2"]) == 0
    restore_batch(small_model, [np.zeros((40, 48, 3), np.float32)], RestoreOptions(stage1_only=True), batch_size=3)
    assert asked == [2, 3]


def test_recorded_noise_replays_a_restoration(folder, small_model_folder, tmp_path):
    """The dump has every state; the noise of a seed, given as a file, gives the seed's pixels."""
    keys, rows = jax.random.key(9)[None], spaced(2)
    like = jnp.zeros((1, 24, 24, 4))
    draws = [streams(keys)(t, like) for t in (1000, *rows.t)]
    chw = [np.ascontiguousarray(np.moveaxis(x, -1, 1)) for x in draws]
    save_file({"x_T": chw[0], "noise": np.stack(chw[1:])}, tmp_path / "noise.safetensors")
    dump = ["--dump", str(tmp_path / "dump")]
    shared = command(small_model_folder, folder / "good.JPG", output=tmp_path / "out")
    assert restore.main([*shared, "--seed", "9"]) == 0
    seeded = cv2.imread(str(tmp_path / "out" / "good.png"))
    assert restore.main([*shared, "--noise", str(tmp_path / "noise.safetensors"), *dump]) == 0
    assert np.array_equal(cv2.imread(str(tmp_path / "out" / "good.png")), seeded)
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
        (["FOLDER", "--eta", "0.5"], "only --sampler ddim takes an eta"),
        (["FOLDER", "--guidance-scale", "-1"], "guidance-scale is -1.0"),
        (["FOLDER", "--guidance-scale", "inf"], "guidance-scale is inf"),
        (["FOLDER", "--output", "FOLDER/good.JPG"], "good.JPG"),
        (["EMPTY"], "without images"),
        (["FOLDER", "--noise", "FOLDER/text.jpg"], "x_T"),
        (["FOLDER", "--task", "face"], "task 'face'"),
        (["FOLDER", "--guidance-scale", "0,high"], "--guidance-scale"),
        (["FOLDER", "--memory-budget", "lots"], "memory-budget is 'lots'"),
        (["FOLDER", "--bits", "16", "--format", "jpg"], "only png has 16 bits"),
        (["FOLDER", "--captions", "nowhere.csv"], "nowhere.csv"),
        (["FOLDER", "--captioner", "nowhere:f"], "give module:function"),
        (["FOLDER", "--diffusion-tile", "64", "--diffusion-overlap", "64"], "diffusion-overlap is 64; give at most half"),
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


def test_a_sweep_writes_the_series_and_a_strip_and_compiles_once(folder, small_model_folder, tmp_path, capsys):
    """Whatever the photograph is called."""
    shared = command(small_model_folder, (folder / "good.JPG").rename(folder / "a_s0_1.JPG"), output=tmp_path / "out")
    assert restore.main([*shared, "--guidance-scale", "0,100,5000"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a_s0_1_s0.png", "a_s0_1_s100.png", "a_s0_1_s5000.png", "a_s0_1_strip.png",
    ]  # fmt: skip
    series = [cv2.imread(str(tmp_path / "out" / f"a_s0_1_s{scale}.png")) for scale in (0, 100, 5000)]
    strip = cv2.imread(str(tmp_path / "out" / "a_s0_1_strip.png"))
    assert np.array_equal(strip[-40:], np.concatenate(series, axis=1)) and not np.array_equal(series[0], series[1])
    assert restore.main([*shared, "--guidance-scale", "100", "--n-samples", "2"]) == 0
    assert np.array_equal(cv2.imread(str(tmp_path / "out" / "a_s0_1_1.png")), series[1])
    first, second = [int(line.split(";")[1].split()[0]) for line in capsys.readouterr().out.splitlines() if "programs" in line]
    assert first == second


def test_what_is_not_finite_is_a_line_and_not_black(folder, small_model_folder, tmp_path, capsys):
    shared = command(small_model_folder, folder / "good.JPG", output=tmp_path / "out")
    assert restore.main([*shared, "--guidance-scale", "1e30", "--guidance-space", "rgb"]) == 2
    assert "good.JPG: the result is not finite" in capsys.readouterr().err and not list((tmp_path / "out").iterdir())


def test_samples_have_seeds_of_their_own(folder, small_model_folder, tmp_path):
    shared = command(small_model_folder, folder / "good.JPG", output=tmp_path / "out")
    assert restore.main([*shared, "--n-samples", "2", "--seed", "7", "--sidecar"]) == 0
    assert restore.main([*shared, "--seed", "8"]) == 0
    images = [(tmp_path / "out" / name).read_bytes() for name in ("good_1.png", "good_2.png")]
    record = json.loads((tmp_path / "out" / "good_2.json").read_text())
    assert images[0] != images[1] and record["seed"] == 8 and record["options"]["steps"] == 2
    assert np.array_equal(*(cv2.imread(str(tmp_path / "out" / name)) for name in ("good_2.png", "good.png")))
    assert json.loads(Image.open(tmp_path / "out" / "good_2.png").text["diffbir_jax"]).items() <= record.items()


def test_folders_are_mirrored_and_what_is_there_is_skipped(folder, small_model_folder, tmp_path, capsys):
    (folder / "below").mkdir()
    (folder / "below" / "good.png").write_bytes(cv2.imencode(".png", np.full((20, 30, 3), 99, np.uint8))[1].tobytes())
    arguments = [*command(small_model_folder, folder, output=tmp_path / "out"), "--skip-existing", "--json-log"]
    arguments += ["--dump", str(tmp_path / "dump")]
    assert restore.main(arguments) == 1
    made = sorted((tmp_path / "out").rglob("*.png"))
    dumped = sorted(str(p.relative_to(tmp_path / "dump")) for p in (tmp_path / "dump").rglob("*.*"))
    assert dumped == ["below/good.safetensors", "good.safetensors"]
    assert [str(p.relative_to(tmp_path / "out")) for p in made] == ["below/good.png", "good.png"]
    first = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(e["event"] for e in first) == ["failed", "failed", "finished", "restored", "restored"]
    times = [p.stat().st_mtime_ns for p in made]
    made[0].unlink()
    assert restore.main(arguments) == 1
    second = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(e["event"] for e in second) == ["failed", "failed", "finished", "restored", "skipped"]
    assert made[1].stat().st_mtime_ns == times[1] and made[0].exists()
    assert second[-1]["skipped"] == 1 and second[-1]["programs"] > 0


def test_transparency_depth_and_metadata_survive(small_model_folder, tmp_path):
    rng, exif = np.random.default_rng(0), Image.Exif()
    exif[0x010F] = "a camera"
    Image.fromarray(rng.integers(0, 256, (40, 48, 4), np.uint8)).save(tmp_path / "a.png", exif=exif)
    shared = command(small_model_folder, tmp_path / "a.png", output=tmp_path / "out")
    assert restore.main([*shared, "--upscale", "2", "--bits", "16", "--keep-metadata"]) == 0
    restored = cv2.imread(str(tmp_path / "out" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert restored.shape == (80, 96, 4) and restored.dtype == np.uint16
    with Image.open(tmp_path / "out" / "a.png") as written:
        assert written.getexif()[0x010F] == "a camera"


@pytest.mark.parametrize("upscale", ["--upscale 8 --max-megapixels 0.1", "--long-side 1000000"])
def test_what_would_be_too_large_is_never_made(folder, small_model_folder, tmp_path, capsys, monkeypatch, upscale):
    monkeypatch.setattr(pipeline, "enlarge", lambda *_: pytest.fail("it was enlarged"))
    shared = command(small_model_folder, folder / "good.JPG", output=tmp_path / "out")
    assert restore.main([*shared, *upscale.split()]) == 2
    assert "good.JPG: the output would be" in capsys.readouterr().err


def test_near_scales_have_names_of_their_own_and_a_missing_strip_is_made(folder, small_model_folder, tmp_path):
    shared = command(small_model_folder, folder / "good.JPG", output=tmp_path / "out")
    shared += ["--guidance-scale", "0,0.1234567,0.1234568", "--skip-existing"]
    assert restore.main(shared) == 0
    names = [f"good_{of}.png" for of in ("s0.1234567", "s0.1234568", "s0", "strip")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    (tmp_path / "out" / names[-1]).unlink()
    assert restore.main(shared) == 0 and (tmp_path / "out" / names[-1]).exists()


def test_names_may_be_no_text_and_as_long_as_may_be(folder, small_model_folder, tmp_path):
    given = [(folder / "good.JPG").rename(folder / "n\udcff.jpg"), folder / f"{'x' * 250}.jpg"]
    given[1].write_bytes(given[0].read_bytes())
    arguments = [*command(small_model_folder, *given, output=tmp_path / "out"), "--stage1-only", "--sidecar"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-m", "diffbir_jax.restore", *arguments], capture_output=True, env=environment)
    assert done.returncode == 0 and b"n\\udcff.jpg" in done.stdout, done.stderr
    assert json.loads((tmp_path / "out" / "n\udcff.json").read_text())["input"] == str(given[0])
    assert (tmp_path / "out" / f"{'x' * 250}.png").exists()


def test_help_loads_no_jax():
    check = (
        "import sys; from diffbir_jax import restore\ntry: restore.main(['--help'])\nexcept SystemExit: print('jax' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert printed.strip().endswith("False") and "--guidance-space" in printed
