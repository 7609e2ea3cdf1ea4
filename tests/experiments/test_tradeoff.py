import csv
import json

import numpy as np
import pytest

from diffbir_jax import RestoreOptions, load_model, restore_images
from diffbir_jax.experiments import tradeoff
from diffbir_jax.imaging.reading import read_image


@pytest.fixture(scope="module")
def ran(quick_folder, photographs, sized, tmp_path_factory):
    output = tmp_path_factory.mktemp("tradeoff")
    flags = ["--model", str(quick_folder), "--scales", "300,0", "--samplers", "heun", "--step-counts", "4,2"]
    flags += ["--speeds", "exact", "--reuses", "2", "--many-steps", "3"]
    assert tradeoff.main([str(photographs), "--output", str(output), *sized, *flags]) == 0
    return output


def test_every_setting_is_measured_on_every_crop(ran):
    settings = ["scale_0", "scale_300", "heun_2", "heun_4", "many_3", "speed_exact", "reuse_2"]
    with (ran / "tradeoff.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["setting"], row["image"]) for row in rows] == [(s, i) for s in settings for i in ("chelsea_01", "petra_01")]
    found = json.loads((ran / "tradeoff.json").read_text())
    assert [each["setting"] for each in found["settings"]] == settings
    assert [each["evaluations"] for each in found["settings"]] == [3, 3, 3, 7, 3, 3, 3]  # Heun's last step takes one
    assert all(each["seconds"] > 0 and each["images"] == 2 for each in found["settings"])
    assert found["options"]["seed"] == 0 and found["options"]["recipe"] == "codeformer+realesrgan"
    mean = np.mean([float(row["psnr"]) for row in rows if row["setting"] == "scale_300"])
    assert found["settings"][1]["metrics"]["psnr"]["mean"] == pytest.approx(mean)


def test_what_is_faster_has_its_distance_and_its_cost(ran):
    """The model's own steps are the many here: exact is no distance from them, reuse some, at fewer FLOPs."""
    many, exact, reuse = json.loads((ran / "tradeoff.json").read_text())["settings"][-3:]
    assert many["distance"] == exact["distance"] == 0 < reuse["distance"] < 10
    assert reuse["gflops"] < 0.8 * exact["gflops"] == 0.8 * many["gflops"]


def test_the_results_are_those_of_restore(ran, quick_folder):
    images = [read_image(ran / "inputs" / f"{name}.png") for name in ("chelsea_01", "petra_01")]
    _, want = restore_images(load_model(quick_folder), images, RestoreOptions(guidance_scale=300, seed=0))
    assert np.abs(read_image(ran / "results" / "scale_300" / "petra_01.png") - want).max() <= 0.5 / 255 + 1e-5


def test_plots_and_sheet_are_pictures(ran):
    sheet, plots = read_image(ran / "sheet.png"), read_image(ran / "tradeoff.png")
    assert sheet.shape == (2 * 192 + 24, 4 * 192, 3)  # input, two scales, original; cells enlarged threefold under titles
    original = read_image(ran / "originals" / "chelsea_01.png")
    assert np.allclose(sheet[24 : 24 + 192 : 3, -192::3], original, atol=1e-6)
    assert min(plots.shape[:2]) > 300 and len(np.unique(plots.reshape(-1, 3), axis=0)) > 50


def curve(**values):
    scales = (0, 100, 1000)
    return [
        {"guidance_scale": scale, "metrics": {name: {"mean": v[i], "median": v[i]} for name, v in values.items()}}
        for i, scale in enumerate(scales)
    ]


def test_what_is_not_monotone_is_said_with_its_place():
    said = tradeoff.monotone(curve(psnr=(20.0, 21.0, 22.0), niqe=(5.0, 7.0, 6.0), sharpness=(0.5, 0.4, 0.4)))
    assert said.keys() == {"psnr", "niqe", "sharpness"}  # SSIM was not measured
    assert said["psnr"]["monotone"] and said["psnr"]["words"] == "rises with the guidance scale"
    assert not said["niqe"]["monotone"] and said["niqe"]["words"] == "does not only rise with the guidance scale: 100 to 1000"
    assert said["sharpness"]["monotone"] and said["sharpness"]["words"] == "falls with the guidance scale"
