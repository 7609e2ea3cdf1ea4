"""The recipes in configs/: each is possible as it stands, and its smoke runs."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from diffbir_jax import train
from diffbir_jax.training import checks
from diffbir_jax.training.cost import cost_of
from diffbir_jax.training.networks import abstract_setup
from diffbir_jax.weights.folder import load_network, read_card

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py"))
PAPER = [name for name in NAMES if not name.startswith("tiny")]


def read(name, *overrides):
    return train.read_config(str(CONFIGS / f"{name}.py"), [f"--config.{override}" for override in overrides])


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_possible(name):
    config = read(name, "data.source=synthetic")
    checks.check(config)
    checks.check_devices(config, 1 if name.startswith("tiny") else 8)
    text = (CONFIGS / f"{name}.py").read_text()
    assert f"--config configs/{name}.py" in text.split('"""')[1]


def test_the_papers_numbers():
    stage1, v1, v2, v21 = (read(n) for n in ("stage1_imagenet", "stage2_general_v1", "stage2_v2", "stage2_v21"))
    assert (stage1.data.batch, stage1.steps, stage1.optimizer.learning_rate) == (96, 150_000, 1e-4)
    assert (v1.data.batch, v1.steps, v1.captions_dropped) == (192, 25_000, 1.0)
    assert (v2.data.batch, v2.steps, v2.captions_dropped) == (256, 80_000, 0.5)
    from diffbir_jax.training.state import learning_rate

    rate = learning_rate(v2.optimizer, v2.steps)
    np.testing.assert_allclose([rate(0), rate(29_999), rate(30_001)], [1e-4, 1e-4, 1e-5], rtol=1e-5)
    assert v21.sampling.to_dict() == {"parameterisation": "v", "zero_snr": True} and v21.noise_augmentation == 200


def test_ablations_train_what_they_say(small_model_folder):
    folder = f"model_folder={small_model_folder}"
    full, added, plain = (
        abstract_setup(read(name, folder, "data.crop=32"))
        for name in ("stage2_general_v1", "ablation_no_finetuning", "ablation_controlnet")
    )
    without = abstract_setup(read("ablation_no_restoration", folder, "data.crop=32"))
    assert set(added.params["control"]) < set(full.params["control"])
    assert all(key == "conv_in" or key.startswith("controlnet_") for key in added.params["control"])
    assert added.params["control"].keys() | added.frozen["control"].keys() == full.params["control"].keys()
    assert "controlnet_cond_embedding" in plain.params["control"] and "stage1" in full.frozen
    assert "stage1" not in without.frozen and "stage1" not in without.nets


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "stage1_imagenet" else pytest.mark.slow) for n in PAPER])
def test_a_smoke_goes_from_nothing_to_a_network(tmp_path, capsys, name):
    arguments = ["--config", f"{CONFIGS / name}.py:smoke", "--workdir", str(tmp_path / "run")]
    assert train.main([*arguments, f"--config.output_folder={tmp_path / 'model'}"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "step 4/4" in printed and "validation after step 4" in printed
    stage1 = name.startswith("stage1")
    _, params = load_network(tmp_path / "model", "stage1" if stage1 else "control")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    if not stage1:
        assert list((tmp_path / "run" / "samples").glob("*4.png"))
        assert read_card(tmp_path / "model")["restoration"] == (name != "ablation_no_restoration")
    if name == "stage2_v21":
        sampling = read_card(tmp_path / "model")["sampling"]
        assert sampling["parameterisation"] == "v" and sampling["zero_snr"]


def test_a_dry_run_prints_the_recipe_and_its_cost(small_model_folder, capsys):
    arguments = ["--dry-run", f"--config.model_folder={small_model_folder}", "--config.data.crop=32", "--config.data.batch=8"]
    assert train.main(["--config", f"{CONFIGS / 'stage2_general_v1.py'}", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "learning_rate: 0.0001" in printed and "FLOPs a step" in printed and "frozen" in printed


def test_costs_count_what_is_stored(small_model_folder):
    config = read("stage2_general_v1", f"model_folder={small_model_folder}", "data.crop=32", "data.batch=8", "optimizer.ema=0.9")
    whole = cost_of(config, 2)
    counts = {name: sum(x.size for x in jax.tree.leaves(load_network(small_model_folder, name)[1])) for name in
              ("unet", "autoencoder", "stage1", "control")}  # fmt: skip
    assert whole.trained == counts.pop("control") and whole.frozen == sum(counts.values())
    assert whole.weights == 8 * whole.trained and whole.frozen_weights == 2 * whole.frozen
    config.optimizer.sharded = True
    config.optimizer.accumulate = 2
    shared = cost_of(config, 2)
    assert 2 * shared.optimizer == pytest.approx(whole.optimizer, abs=8) and 2 * shared.activations == whole.activations
    assert shared.flops == whole.flops > 1e6
    assert json.dumps(str(whole)).count("GiB") == 6
