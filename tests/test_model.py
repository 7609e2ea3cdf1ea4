"""Loading models: tasks, precision, text; the flow around each kind of stage 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import write_model

from diffbir_jax import InputError, RestoreOptions, load_model, restore_images
from diffbir_jax.models.bsrnet import RRDBNet
from diffbir_jax.models.scunet import SCUNet
from diffbir_jax.pipeline import Job
from diffbir_jax.weights.folder import load_network, read_card, save_network, write_card


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """Text, and the BSRNet kind of stage 1."""
    return write_model(tmp_path_factory.mktemp("text"), RRDBNet(features=4, blocks=1, growth=2), context_dim=16)


@pytest.fixture(scope="session")
def text_model(text_folder):
    return load_model(text_folder)


def photo(height=24, width=20):
    return np.random.default_rng(0).random((height, width, 3), np.float32)


def restore(model, **options):
    return restore_images(model, [photo()], RestoreOptions(steps=2, **options))[0]


def job_of(model, **options):
    return Job(model, photo(), RestoreOptions(**options).completed(model.defaults))


def test_text_steers_where_the_model_takes_text(text_model):
    plain = restore(text_model)
    assert np.array_equal(plain, restore(text_model, prompt="", cfg=1))
    cat = restore(text_model, prompt="a cat")
    assert not np.array_equal(plain, cat)
    assert not np.array_equal(cat, restore(text_model, prompt="a cat", cfg=4))
    assert not np.array_equal(
        restore(text_model, prompt="a cat", cfg=4), restore(text_model, prompt="a cat", cfg=4, negative_prompt="fog")
    )


def test_cfg_between_equal_prompts_is_none(text_model):
    np.testing.assert_allclose(
        restore(text_model, cfg=7, prompt="a cat", negative_prompt="a cat"), restore(text_model, prompt="a cat"), atol=1e-5
    )


def test_a_text_for_a_model_without_is_refused(small_model):
    for options in ({"prompt": "a cat"}, {"cfg": 2}, {"rescale_cfg": True}):
        with pytest.raises(InputError, match="takes no text"):
            restore(small_model, **options)


def test_the_models_own_choices_fill_what_is_left_open(text_folder, tmp_path):
    for path in text_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    card = read_card(text_folder) | {"defaults": {"steps": 3, "cfg": 2.0, "prompt": "a cat"}}
    (tmp_path / "model.json").unlink()
    write_card(tmp_path, card)
    model = load_model(tmp_path)
    explicit = restore_images(model, [photo()], RestoreOptions(steps=3, cfg=2.0, prompt="a cat"))[0]
    assert np.array_equal(restore_images(model, [photo()])[0], explicit)


def test_bsrnet_enlarges_and_the_result_has_the_size_asked_for(text_model):
    """The network sees the photograph as it is; the diffusion works at the output's size, 32 pixels at least."""
    job = job_of(text_model, upscale=3)
    assert job.lq.shape == (32, 32, 3) and job.cropped(np.zeros((128, 128, 3), np.float32)).shape == (72, 60, 3)
    assert job_of(text_model).reg_size == (38, 32)
    assert job_of(text_model, padding="least").lq.shape == (24, 20, 3)
    assert restore(text_model, upscale=3).shape == (72, 60, 3)


def test_scunet_works_at_the_output_size(tmp_path):
    model = load_model(write_model(tmp_path, SCUNet(config=(1,) * 7, dim=64)))
    job = job_of(model, upscale=2)
    assert job.lq.shape == (48, 48, 3) and job.cropped(job.lq).shape == (48, 40, 3)
    assert restore(model, upscale=2, stage1_only=True).shape == (48, 40, 3)


def test_the_task_picks_stage1(small_model_folder, tmp_path):
    for path in small_model_folder.glob("*.safetensors"):
        (tmp_path / path.name).symlink_to(path)
    write_card(tmp_path, read_card(small_model_folder))
    net, params = load_network(tmp_path, "stage1")
    save_network(tmp_path, "stage1_face", net, jax.tree.map(lambda x: x * 0.5, params))
    general, face = (load_model(tmp_path, task) for task in ("general", "face"))
    assert not np.array_equal(restore(general, stage1_only=True), restore(face, stage1_only=True))
    with pytest.raises(InputError, match="'denoise'; it has face, general"):
        load_model(tmp_path, "denoise")


def test_a_card_can_say_which_stage1_serves_a_task(small_model_folder, tmp_path):
    for path in small_model_folder.glob("*.safetensors"):
        (tmp_path / path.name).symlink_to(path)
    write_card(tmp_path, read_card(small_model_folder) | {"tasks": {"denoise": "stage1", "face": "stage1_face"}})
    assert load_model(tmp_path, "denoise").params.keys() == load_model(tmp_path).params.keys()
    with pytest.raises(InputError, match="'face'; it has denoise, general"):
        load_model(tmp_path, "face")


def test_a_context_has_the_shape_that_is_compiled_for(text_model):
    assert text_model.context("a cat").shape == (1, *text_model.context_shape)


def test_bf16_halves_the_weights_and_changes_little(small_model_folder, small_model):
    half = load_model(small_model_folder, precision="bf16")
    assert {x.dtype for x in jax.tree.leaves(half.params)} == {jnp.dtype(jnp.bfloat16)}
    assert half.casts and not small_model.casts
    options = {"guidance_scale": 100.0, "guidance_space": "rgb"}
    whole, other = restore(small_model, **options), restore(half, **options)
    assert 0 < np.sqrt(np.mean((whole - other) ** 2)) < 0.03


def test_wrong_names_are_refused(small_model_folder):
    with pytest.raises(InputError, match="'v3' is neither embedded .tiny., nor a preset .v1-general, v1-face, v2, v2.1., nor"):
        load_model("v3")
    with pytest.raises(InputError, match="task is 'video'; give general, face, denoise"):
        load_model(small_model_folder, task="video")
    with pytest.raises(InputError, match="precision is 'f8'"):
        load_model(small_model_folder, precision="f8")
