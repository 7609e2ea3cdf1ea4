import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import relative

from diffbir_jax import InputError, RestoreOptions, load_model, pipeline, programs, restore_images
from diffbir_jax.diffusion.samplers import SAMPLERS
from diffbir_jax.experiments import ablation
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.models.control import ControlNet
from diffbir_jax.models.unet import UNetEncoder
from diffbir_jax.weights.folder import save_network


@pytest.fixture(scope="module")
def controlnet_folder(quick_folder, tmp_path_factory):
    """The same model with a ControlNet whose parameters are random."""
    folder = tmp_path_factory.mktemp("variant") / "controlnet"
    shutil.copytree(quick_folder, folder)
    unet, rng = load_model(quick_folder).nets["unet"], np.random.default_rng(5)
    fields = {f: getattr(unet, f) for f in UNetEncoder.__dataclass_fields__ if f not in ("parent", "name", "dtype")}
    net = ControlNet(**fields, cond_channels=(4, 8))
    shapes = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
    save_network(folder, "control", net, jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, np.float32), shapes))
    return folder


@pytest.fixture(scope="module")
def ran(quick_folder, controlnet_folder, photographs, sized, tmp_path_factory):
    output = tmp_path_factory.mktemp("ablation")
    flags = ["--model", str(quick_folder), "--variant", f"controlnet={controlnet_folder}"]
    assert ablation.main([str(photographs), "--output", str(output), *sized, *flags]) == 0
    return output, json.loads((output / "ablation.json").read_text())


def test_every_variant_has_its_row(ran):
    _, found = ran
    assert [(each["setting"], each["control"]) for each in found["settings"]] == [
        ("full", "LAControlNet"),
        ("without-restoration", "LAControlNet"),
        ("untrained-control", "LAControlNet"),
        ("controlnet", "ControlNet"),
    ]
    assert not any("ControlNet" in name for name in found["not_available"])


def result(output, setting):
    return read_image(output / "results" / setting / "petra_01.png")


def restored(folder, output, stage1="own", **options):
    """By the programs that the experiment has compiled."""
    model = load_model(folder, stage1=stage1)
    images = [read_image(output / "inputs" / f"{name}.png") for name in ("chelsea_01", "petra_01")]
    return ablation.restore(model, images, RestoreOptions(seed=0, **options).completed(model.defaults))[0][1]


def near(a, b):
    return np.abs(a - b).max() <= 0.5 / 255 + 2e-4


def test_untrained_control_is_the_prior_alone(ran, quick_folder):
    output, _ = ran
    assert near(result(output, "untrained-control"), restored(quick_folder, output, control_strength=0.0))
    assert not near(result(output, "untrained-control"), result(output, "full"))


def test_without_restoration_the_condition_is_the_input(ran, quick_folder):
    output, _ = ran
    assert near(result(output, "without-restoration"), restored(quick_folder, output, stage1="none"))
    assert not near(result(output, "without-restoration"), result(output, "full"))


def test_colour_shifts_are_of_every_channel_and_the_fix_takes_them_away(ran):
    output, found = ran
    for each in found["settings"]:
        before, after = (each["colour_shift"][f"{when}_colour_fix"] for when in ("before", "after"))
        assert len(before["stage1"]["size"]) == len(before["original"]["signed"]) == 3
        if each["setting"] != "without-restoration":  # whose colours are those of the input
            assert max(after["stage1"]["size"]) < max(before["stage1"]["size"])


def test_shifts_are_means_over_images_with_and_without_sign():
    grey = np.full((4, 4, 3), 0.5, np.float32)
    found = ablation.shift([grey + np.float32(1 / 255), grey - np.float32(3 / 255)], [grey, grey])
    assert found["signed"] == pytest.approx([-1, -1, -1], abs=1e-3) and found["size"] == pytest.approx([2, 2, 2], abs=1e-3)


def test_what_the_given_models_cannot_show_is_named(quick_folder, photographs, sized, tmp_path, capsys):
    flags = ["--model", str(quick_folder)]
    assert ablation.main([str(photographs), "--output", str(tmp_path), *sized, *flags]) == 0
    named = json.loads((tmp_path / "ablation.json").read_text())["not_available"]
    assert "configs/ablation_controlnet.py" in named["ControlNet against LAControlNet"]
    assert "configs/ablation_no_finetuning.py" in named["without fine-tuning, as in the paper"]
    assert "ControlNet against LAControlNet: not available, needs --variant NAME=FOLDER" in capsys.readouterr().out


def test_a_controlnet_is_given_the_restored_image(controlnet_folder):
    """The first of two steps from recorded noise, by hand."""
    model = load_model(controlnet_folder)
    photo = np.random.default_rng(2).random((48, 32, 3), np.float32)
    options = RestoreOptions(steps=2, sampler="ddpm").completed(model.defaults)
    noise = np.random.default_rng(3).standard_normal((3, 1, *programs.latent_shape(model, (48, 32))[1:]), np.float32)
    job = pipeline.Job(model, photo, options, programs.Draws(noise[0], noise[1:].swapaxes(0, 1)), keep=True)
    [(_, found)] = pipeline.restore_jobs([(0, job)], pipeline.local_mesh(1))
    rows, z = programs.rows_of(model, options), jnp.asarray(noise[0])

    def network(z_t, t):
        control = apply(model, "control", z_t, t, None, jnp.asarray(found.trace["reg"]))
        return apply(model, "unet", z_t, t, None, control)

    z0 = SAMPLERS["ddpm"].denoiser(network, programs.schedule_of(model), "v")(z, jnp.asarray(rows.t[0]))
    want = rows.coef_z0[0] * z0 + rows.coef_zt[0] * z + rows.std[0] * noise[1]
    assert relative("z after a step", found.trace["z"][0], want[0]) < 1e-5


def apply(model, name, *inputs):
    return jax.jit(model.nets[name].apply)({"params": model.params[name]}, *inputs)


def test_a_controlnet_works_in_tiles_and_takes_no_noise(controlnet_folder):
    model, photo = load_model(controlnet_folder), np.random.default_rng(2).random((64, 64, 3), np.float32)
    whole, tiled = (
        restore_images(
            model, [photo], RestoreOptions(steps=1, tiles=tiles, stage1_overlap=32, diffusion_tile=64, diffusion_overlap=32)
        )[0]
        for tiles in ("off", "on")
    )
    assert np.allclose(whole, tiled, atol=1e-3)
    with pytest.raises(InputError, match="noise-aug diffuses a latent, and this model's ControlNet is given the image"):
        restore_images(model, [photo], RestoreOptions(steps=1, noise_aug=5))
