"""The train command: recipes, refusals, resuming, and the networks trained one after another."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from toy import write_photos

from diffbir_jax import train
from diffbir_jax.weights.folder import load_network

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = {
    "tiny_autoencoder": ["--config.network.channels=(8,8)", "--config.network.latent_channels=2"],
    "tiny_prior": ["--config.network.channels=(8,8)", "--config.network.attention=(False,True)", "--config.network.head_dim=8"],
    "tiny_stage1": [
        "--config.network.embed_dim=8",
        "--config.network.depths=(2,)",
        "--config.network.heads=(2,)",
        "--config.network.unshuffle=2",
        "--config.network.features=8",
    ],
    "tiny_stage2": [],
    "tiny_adversarial": ["--config.image_loss.decoder=True"],
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), 3)


def command(name: str, photos: Path, folder: Path, *more: str, workdir: str = "run") -> list[str]:
    shared = ["--config.data.crop=32", f"--config.data.folder={photos}", f"--config.model_folder={folder / 'model'}"]
    shared += ["--config.conv_implementation=xla"]  # compiles faster
    where = ["--workdir", str(folder / workdir / name)]
    if "latent_channels" not in str(more) and name == "tiny_prior":
        more = ("--config.network.in_channels=2", "--config.network.out_channels=2", *more)
    return ["--config", f"{CONFIGS / name}.py:smoke", *where, *shared, *SMALL[name], *more]


def test_four_networks_train_into_one_model_folder(photos, tmp_path, capsys):
    priors, autoencoders = [], []
    for name in SMALL:
        assert train.main(command(name, photos, tmp_path)) == 0
        priors += [path.read_bytes() for path in (tmp_path / "model").glob("unet.safetensors")]
        autoencoders.append(load_network(tmp_path / "model", "autoencoder")[1])
    assert priors[0] == priors[1] != priors[2] != priors[3]  # the embedded model's prior learns along with its control branch
    *_, before, after = autoencoders
    differ = jax.tree.map(lambda a, b: (a != b).any(), before, after)
    moved = {name for name, tree in differ.items() if any(jax.tree.leaves(tree))}
    assert moved == {"decoder", "post_quant_conv", "decoder_shortcut"}  # the decoder learns last
    printed = capsys.readouterr().out
    assert printed.count("step 4/4") == 5 and "images/s" in printed and "left" in printed
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    assert set(card["networks"]) == {"autoencoder", "unet", "stage1", "control"}
    frame = {"short_edge": 256, "multiple": 64, "padding": "edge", "guidance_side": 256}
    assert card["sampling"] == {"parameterisation": "v", "zero_snr": False, **frame}
    assert list((tmp_path / "run" / "tiny_stage1" / "tensorboard").iterdir())
    autoencoder, params = load_network(tmp_path / "model", "autoencoder")
    assert autoencoder.channels == (8, 8) and all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_any_source_trains_and_prompts_stay_behind(photos, tmp_path):
    (tmp_path / "photos.txt").write_text("".join(f"{path}\tA photo\n" for path in sorted(photos.iterdir())))
    data = {"folder": "", "source": tmp_path / "photos.txt", "crop_mode": "centre", "workers": 1, "prefetch": 1}
    overrides = ["--config.data.recipe_overrides={'codeformer': {'quality': (50, 60)}}", "--config.steps=1"]
    more = [f"--config.data.{key}={value}" for key, value in data.items()]
    assert train.main(command("tiny_stage1", photos, tmp_path, *more, *overrides)) == 0
    assert load_network(tmp_path / "model", "stage1")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config.learning_rate=1"], "learning_rate"),
        (["--config.steps=many"], "steps"),
        (["--config.steps=0"], "steps is 0"),
        (["--config.steps=None"], "it takes a value"),
        (["--config.task=prior"], "another recipe"),
        (["--config.data={'batch': 4}"], "--config.data.KEY=VALUE"),
        (["--config.data.scale=('a', 'b')"], "data.scale"),
        (["--config.data.recipe="], "data.recipe is empty"),
        (["--config.network.embed_dim=7"], "the sizes in network"),
        (["--config.data.scale=(0.9,0.5)"], "data.scale"),
        (["--config.data.folder="], "data.folder"),
        (["--config.data.folder=nowhere"], "nowhere"),
        (["--config.data.recipe=rain"], "rain"),
        (["--config.data.recipe_overrides={'quality': (90, 10)}"], "quality"),
        (["--config.data.source=synthetic"], "give one of them"),
        (["--config.data.folder=", "--config.data.source=nowhere"], "'nowhere' is no source"),
        (["--config.data.crop_mode=left"], "crop_mode is 'left'"),
        (["--config.data.scale=(0.5,)"], "data.scale"),
        (["--config.data.workers=-1"], "data.workers is -1"),
        (["--config.data.prefetch=0"], "data.prefetch is 0"),
        (["--config.data.batch=3"], "multiple of the 2 devices"),
        (["--steps=3"], "--steps=3"),
        (["--config.optimizer.ema=1"], "optimizer.ema is 1"),
        (["--config.optimizer.accumulate=2"], "optimizer.accumulate 2"),
        (["--config.optimizer.drops=(3,)"], "optimizer.drops has 3"),
        (["--config.optimizer.schedule=linear"], "optimizer.schedule is 'linear'"),
        (["--config.precision=f16"], "precision is 'f16'"),
        (["--config.validation.images=2"], "--config.validation.source"),
        (["--config.network.unshuffle=8"], "data.crop is 32"),
        (["--process-count=2"], "--coordinator"),
    ],
)
def test_a_bad_command_line_is_one_line_and_exit_2(photos, tmp_path, capsys, more, message):
    assert train.main(command("tiny_stage1", photos, tmp_path, *more)) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed and "\n" not in printed
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("noises=2", "give noises 1"),
        ("branch=ControlNet", "branch ControlNet"),
        ("image_loss.strength=0.0", "image_loss.strength is 0.0"),
        ("validation.sampling_steps=1001", "validation.sampling_steps is 1001"),
        ("image_loss.pixel=-1.0", "image_loss.pixel is -1.0"),
        ("image_loss.perceptual=1.0", "perceptual=0.0 goes without"),
        ("image_loss.pixel=0.0 --config.image_loss.adversarial=0.0", "no loss sees an image"),
    ],
)
def test_an_impossible_image_loss_is_refused(photos, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.setenv("DIFFBIR_JAX_HOME", str(tmp_path / "home"))
    tiny = Path(train.__file__).parent / "assets" / "tiny"
    given = [f"--config.model_folder={tiny}", "--config.data.crop=64", *f"--config.{more}".split()]
    assert train.main(command("tiny_adversarial", photos, tmp_path, *given)) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed and "\n" not in printed


def test_a_checkpoint_of_another_configuration_is_refused(photos, tmp_path, capsys):
    assert train.main(command("tiny_stage1", photos, tmp_path)) == 0
    assert train.main(command("tiny_stage1", photos, tmp_path, "--config.seed=1")) == 2
    assert "seed was 0, is 1" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "run" / "tiny_stage1" / "checkpoints" / "4" / "data")
    assert train.main(command("tiny_stage1", photos, tmp_path)) == 2
    assert "checkpoints/4 is damaged or of networks of other sizes" in capsys.readouterr().err


def test_what_cannot_be_written_is_refused_before_the_first_step(photos, tmp_path, capsys):
    (tmp_path / "file").touch()
    for more in (f"--config.output_folder={tmp_path / 'file'}", f"--workdir={tmp_path / 'file' / 'run'}"):
        assert train.main(command("tiny_stage1", photos, tmp_path, more)) == 2
        printed = capsys.readouterr()
        assert f"cannot make the folder {tmp_path / 'file'}" in printed.err and "step" not in printed.out


def test_a_way_of_sampling_that_is_none_is_refused(photos, tmp_path, capsys):
    for more, message in (("={}", "sampling lacks"), (".zerosnr=True", "zerosnr"), (".parameterisation=x", "give eps or v")):
        assert train.main(command("tiny_prior", photos, tmp_path, f"--config.sampling{more}")) == 2
        assert message in capsys.readouterr().err


def test_stage2_without_the_other_networks_says_what_is_missing(photos, tmp_path, capsys):
    assert train.main(command("tiny_stage2", photos, tmp_path)) == 2
    assert "model.json" in capsys.readouterr().err
