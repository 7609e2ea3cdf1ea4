import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from diffbir_jax.models.text_encoder import TextEncoder

pytestmark = pytest.mark.witness
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

OURS = {"weight": {1: "scale", 2: "kernel"}, "bias": {1: "bias"}}


def named_as_ours(state):
    """transformers' PyTorch parameters under its Flax names."""
    flat = {}
    for key, tensor in state.items():
        *path, leaf = key.split(".")
        embedding = path[-1].endswith("embedding")
        flat[(*path, "embedding" if embedding else OURS[leaf][tensor.ndim])] = tensor.numpy() if embedding else tensor.numpy().T
    return unflatten_dict(flat)


def test_the_text_encoder_agrees_with_transformers():
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, vocab_size=100,
        max_position_embeddings=20, hidden_act="gelu", bos_token_id=98, eos_token_id=99,
    )  # fmt: skip
    theirs = transformers.CLIPTextModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.3)
    tokens = np.random.default_rng(0).integers(0, 99, (2, 20))
    tokens[:, -1] = 99
    with torch.no_grad():
        states = theirs(torch.from_numpy(tokens), output_hidden_states=True).hidden_states
        tower = getattr(theirs, "text_model", theirs)
        want = tower.final_layer_norm(states[-2]).numpy()
    state = {"text_model." + k.removeprefix("text_model."): v for k, v in theirs.state_dict().items() if "position_ids" not in k}
    net = TextEncoder(width=32, layers=3, heads=4, vocab_size=100, context_length=20)
    params = named_as_ours(state)
    shapes = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda s: s.shape, shapes)
    got = jax.jit(lambda p, t: net.apply({"params": p}, t))(params, jnp.asarray(tokens, jnp.int32))
    assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)
