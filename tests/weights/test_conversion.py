"""Every released layout with random values: to a model folder and back it is the same keys, shapes and bytes."""

import json
import sys

import numpy as np
import pytest
from released_files import HEAD_DIM, LAYOUTS, released_state, same, write_released

from diffbir_jax.errors import InputError
from diffbir_jax.models.tokenizer import Tokenizer
from diffbir_jax.weights.conversion import to_diffusers, to_jax, to_torch
from diffbir_jax.weights.folder import read_card
from diffbir_jax.weights.registry import PRESETS
from diffbir_jax.weights.torch_files import read_state, write_state

NETWORKS = {
    "prior": ["autoencoder", "text_encoder", "unet"], "controlnet": ["control"], "swinir": ["stage1"], "bsrnet": ["stage1"],
    "scunet": ["stage1_denoise"], "full": ["autoencoder", "control", "stage1", "text_encoder", "unet"],
}  # fmt: skip


DISTINCT = {layout: file for file, layout in LAYOUTS.items()}.values()


def convert(source, output, **options):
    said = []
    to_jax(source if isinstance(source, list) else [source], output, head_dim=HEAD_DIM, report=said.append, **options)
    return "\n".join(said)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Released file -> its safetensors stand-in."""
    folder = tmp_path_factory.mktemp("released")

    def write(file, change=lambda state: state, name=None):
        path = folder / (name or file.rpartition(".")[0] + ".safetensors")
        write_state(path, change(released_state(file)))
        return path

    return write


@pytest.mark.parametrize("file", DISTINCT)
def test_every_layout_there_and_back(tmp_path, file, files):
    source = files(file)
    convert(source, tmp_path / "ours")
    networks = [
        n.removesuffix("_face") if n.startswith("stage1_f") else n for n in sorted(read_card(tmp_path / "ours")["networks"])
    ]
    assert networks == NETWORKS[LAYOUTS[file][2]]
    to_torch(tmp_path / "ours", tmp_path)
    assert [p.name for p in tmp_path.glob("*.safetensors")] == [source.name]
    assert same(read_state(tmp_path / source.name), {k.removeprefix("module."): v for k, v in released_state(file).items()})


@pytest.mark.parametrize("file", DISTINCT)
def test_every_pickle_there_and_back(tmp_path, file):
    torch = pytest.importorskip("torch")
    source = write_released(tmp_path, file)
    said = convert(source, tmp_path / "ours")
    to_torch(tmp_path / "ours", tmp_path / "theirs")
    want, got = (torch.load(folder / file, weights_only=True) for folder in (tmp_path, tmp_path / "theirs"))
    if wrapper := LAYOUTS[file][0]:
        assert list(got) == [wrapper] and (": epoch" in said) == ("epoch" in want)
        want, got = want[wrapper], got[wrapper]
    assert same({k: v.numpy() for k, v in got.items()}, {k: v.numpy() for k, v in want.items()})
    facts = read_card(tmp_path / "ours")["sources"][file]
    assert facts["bytes"] == source.stat().st_size and len(facts["sha256"]) == 64


@pytest.mark.parametrize("version", PRESETS)
def test_a_versions_files_together_are_that_preset(tmp_path, version):
    pytest.importorskip("torch")
    preset = PRESETS[version]
    said = convert([write_released(tmp_path, file) for file in preset.files()], tmp_path / "ours")
    card = read_card(tmp_path / "ours")
    assert f"sampled as {version}" in said and card["preset"] == version
    assert card["sampling"] == preset.sampling and card["defaults"] == preset.defaults
    assert {card["tasks"][task] for task in preset.stage1} <= card["networks"].keys()
    kinds = {"BSRNet.pth": "RRDBNet", "scunet_color_real_psnr.pth": "SCUNet"}
    for task, file in preset.stage1.items():
        assert card["networks"][card["tasks"][task]]["kind"] == kinds.get(file, "SwinIR")


def test_the_full_checkpoint_gets_back_what_its_strict_loading_wants(tmp_path, files):
    """The schedule's 13 buffers and the copy of the encoder, also where the file lacks them."""
    whole = released_state("general_full_v1.ckpt")
    bare = {k: v for k, v in whole.items() if "." in k and not k.startswith("cond_encoder.")}
    assert len(whole) - len(bare) > 13
    convert(files("general_full_v1.ckpt", lambda s: bare, "bare.safetensors"), tmp_path / "ours")
    to_torch(tmp_path / "ours", tmp_path)
    assert same(read_state(tmp_path / "bare.safetensors"), whole)


def test_the_condition_is_encoded_by_its_own_encoder(tmp_path, files):
    """Where version 1's copy differs from the autoencoder's encoder, restoring uses the copy and both come back."""
    key = "cond_encoder.encoder.conv_in.bias"
    source = files("general_full_v1.ckpt", lambda s: s | {key: s[key] + 1}, "tuned.safetensors")
    convert(source, tmp_path / "ours")
    ours = read_state(tmp_path / "ours" / "autoencoder.safetensors")
    assert same({key: ours["encoder/conv_in/bias"]}, {key: read_state(source)[key]})
    to_torch(tmp_path / "ours", tmp_path)
    assert same(read_state(tmp_path / "tuned.safetensors"), read_state(source))


def test_version_is_told_by_hash_kind_and_schedule_or_asked_for(tmp_path, files):
    anonymous = files("v2.pth", name="anonymous.safetensors")
    assert "give --preset" in convert(anonymous, tmp_path / "a")
    assert read_card(tmp_path / "a")["sampling"]["parameterisation"] == "eps"
    assert "sampled as v2.1" in convert(anonymous, tmp_path / "b", preset="v2.1")
    assert "sampled as v2" in convert([anonymous, files("BSRNet.pth", name="x.safetensors")], tmp_path / "c")

    def zero_snr(state):
        return state | {"alphas_cumprod": np.linspace(1, 0, 1000, dtype=np.float32)}

    assert "sampled as v2.1" in convert(files("v2-1_512-ema-pruned.ckpt", zero_snr, "y.safetensors"), tmp_path / "d")


@pytest.mark.parametrize(("file", "change", "message"), [
    ("v2-1_512-ema-pruned.ckpt", lambda s: s.pop("model.diffusion_model.out.2.bias"), "model.diffusion_model.*'out.2.bias'"),
    ("v2-1_512-ema-pruned.ckpt", lambda s: s.pop("first_stage_model.decoder.conv_in.bias"), "first_stage.*lack 'decoder.conv_in"),
    ("general_full_v1.ckpt", lambda s: s.pop("cond_encoder.encoder.conv_in.bias"), "lack 'encoder.conv_in.bias'"),
    ("BSRNet.pth", lambda s: s.update({"trunk_conv.weight": np.zeros((9, 8, 3, 3))}), "'trunk_conv.weight' has shape .9"),
    ("scunet_color_real_psnr.pth", lambda s: s.pop("m_tail.0.weight"), "lack 'm_tail.0.weight'"),
    ("v2.pth", lambda s: s.update({"input_hint_block.0.weight": np.zeros(1)}), "a plain ControlNet"),
])  # fmt: skip
def test_damage_is_named(tmp_path, files, file, change, message):
    def changed(state):
        change(state)
        return state

    path = files(file, changed, "damaged.safetensors")
    with pytest.raises(InputError, match=f"damaged.safetensors.*{message}") as error:
        convert(path, tmp_path / "ours")
    assert "\n" not in str(error.value) and not (tmp_path / "ours").exists()


@pytest.mark.parametrize(("keys", "what"), [
    (["lora_unet_down.alpha"], "a LoRA"),
    (["conditioner.embedders.0.x"], "Stable Diffusion XL"),
    (["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"], "diffusers alone"),
    (["fc.weight", "layer1.0.conv1.weight"], "its first keys are fc.weight, layer1"),
])  # fmt: skip
def test_strangers_are_told_what_they_look_like(tmp_path, keys, what):
    write_state(tmp_path / "x.safetensors", {key: np.zeros(1) for key in keys})
    with pytest.raises(InputError, match=what):
        convert(tmp_path / "x.safetensors", tmp_path / "ours")


def test_stable_diffusion_1_is_told_from_2(tmp_path, files):
    def older(state):
        state = {k: v for k, v in state.items() if not k.startswith("cond_stage_model.")}
        return _conv_projections(state) | {"cond_stage_model.transformer.text_model.embeddings.position_ids": np.zeros(77)}

    with pytest.raises(InputError, match="proj_in.weight' has shape .*it looks like Stable Diffusion 1"):
        convert(files("v2-1_512-ema-pruned.ckpt", older, "older.safetensors"), tmp_path / "ours")


def test_a_network_in_anothers_place_and_networks_of_two_models(tmp_path, files):
    control = {f"model.diffusion_model.{k}": v for k, v in released_state("v2.pth").items()}
    write_state(tmp_path / "x.safetensors", control)
    with pytest.raises(InputError, match="a LAControlNet where the unet belongs"):
        convert(tmp_path / "x.safetensors", tmp_path / "ours")
    with pytest.raises(InputError, match="unet has head_dim 32, control has head_dim 16"):
        convert(files("v2-1_512-ema-pruned.ckpt"), tmp_path / "ours")
        to_jax([files("v2.pth")], tmp_path / "ours", head_dim=16, report=lambda line: None)


def test_the_diffusers_folder_there_and_back(tmp_path, files):
    """Both names of the autoencoder's attention, both kinds of projections; the text tower there has no last layer."""
    convert(files("v2-1_512-ema-pruned.ckpt"), tmp_path / "ours")
    to_diffusers(tmp_path / "ours", tmp_path / "theirs", report=lambda line: None)
    names = [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert sorted(str(p.relative_to(tmp_path / "theirs")) for p in (tmp_path / "theirs").rglob("*.safetensors")) == names
    for name, change in (("vae", _old_attention), ("unet", _conv_projections)):
        path = tmp_path / "theirs" / name / "diffusion_pytorch_model.safetensors"
        write_state(path, change({k: np.array(v) for k, v in read_state(path).items()}))
    text = tmp_path / "theirs" / names[0]
    write_state(
        text, {k: np.array(v) for k, v in read_state(text).items()} | {"text_model.embeddings.position_ids": np.arange(77)[None]}
    )
    to_jax([tmp_path / "theirs"], tmp_path / "again", report=lambda line: None)
    to_diffusers(tmp_path / "again", tmp_path / "back", report=lambda line: None)
    for name in names:
        assert same(read_state(tmp_path / "back" / name), read_state(tmp_path / "theirs" / name))
    for name in ("unet", "autoencoder"):
        assert same(*(read_state(tmp_path / folder / f"{name}.safetensors") for folder in ("again", "ours")))
    assert json.loads((tmp_path / "back/unet/config.json").read_text())["use_linear_projection"] is False


@pytest.mark.witness
@pytest.mark.filterwarnings("default")
def test_diffusers_and_transformers_load_the_folder(tmp_path, files):
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    convert(files("v2-1_512-ema-pruned.ckpt"), tmp_path / "ours")
    to_diffusers(tmp_path / "ours", tmp_path / "theirs", report=lambda line: None)
    for cls, name in (
        (diffusers.UNet2DConditionModel, "unet"),
        (diffusers.AutoencoderKL, "vae"),
        (transformers.CLIPTextModel, "text_encoder"),
    ):
        net, told = cls.from_pretrained(tmp_path / "theirs" / name, output_loading_info=True)
        assert not any(told.values()), (name, told)
    assert net.config.num_hidden_layers == 2 and net.dtype.is_floating_point
    # no "!": it is their padding, a special token, as in the released folder
    texts = ["", "A photo of a cat's face — très naïve 4K  日本", "low quality, blurry"]
    tokens = transformers.CLIPTokenizer.from_pretrained(tmp_path / "theirs" / "tokenizer")(
        texts, padding="max_length", max_length=77
    )
    assert np.array_equal(tokens["input_ids"], Tokenizer()(texts))
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "theirs" / "scheduler")
    assert scheduler.config.prediction_type == "epsilon" and len(scheduler.betas) == 1000


def _old_attention(state):
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for new, old in names.items():
        state = {key.replace(new, old): x for key, x in state.items()}
    return state


def _conv_projections(state):
    names = ("proj_in.weight", "proj_out.weight")
    return {k: x[:, :, None, None] if k.endswith(names) and x.ndim == 2 else x for k, x in state.items()}


def test_the_prior_of_diffusers_goes_to_the_original(tmp_path, files):
    """All but the text tower's last layer, which the original has and does not use, and what has no place here."""
    want = released_state("v2-1_512-ema-pruned.ckpt")
    convert(files("v2-1_512-ema-pruned.ckpt"), tmp_path / "ours")
    to_diffusers(tmp_path / "ours", tmp_path / "theirs", report=lambda line: None)
    to_jax([tmp_path / "theirs"], tmp_path / "again", report=lambda line: None)
    to_torch(tmp_path / "again", tmp_path, "safetensors", report=lambda line: None)
    got = read_state(tmp_path / "sd.safetensors")
    assert same(got, {key: want[key] for key in got})
    left = want.keys() - got.keys()
    assert all("resblocks.2." in k or k.count(".") < 2 or k.endswith(("logit_scale", "text_projection")) for k in left)


def test_without_pytorch(tmp_path, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    convert(files("BSRNet.pth"), tmp_path / "ours")
    with pytest.raises(InputError, match=r"pip install diffbir_jax\[torch\]"):
        to_torch(tmp_path / "ours", tmp_path / "theirs", "pth")
    assert not (tmp_path / "theirs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["v2-1_512-ema-pruned.ckpt", "v2.pth"])
def test_the_released_sizes_there_and_back(tmp_path, file):
    """Needs PyTorch, 7 GB of memory and 16 GB of disk."""
    torch = pytest.importorskip("torch")
    source = write_released(tmp_path, file, small=False)
    to_jax([source], tmp_path / "ours")
    to_torch(tmp_path / "ours", tmp_path / "theirs")
    want, got = (torch.load(folder / file, weights_only=True, mmap=True) for folder in (tmp_path, tmp_path / "theirs"))
    want, got = want.get("state_dict", want), got.get("state_dict", got)
    assert got.keys() == want.keys()
    for key, x in want.items():
        assert same({key: got[key].numpy()}, {key: x.numpy()})
    for path in (source, *(tmp_path / "ours").iterdir(), *(tmp_path / "theirs").iterdir()):
        path.unlink()
