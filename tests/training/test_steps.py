"""The training step: devices, collectives, accumulation, the moving average, the guard."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from diffbir_jax.training.state import ALIGNMENT, from_vector, init_guard, init_state, to_vector
from diffbir_jax.training.steps import Mean, image_keys, judge, make_step


def quadratic(params, frozen, batch, keys):
    loss = jnp.mean((batch["hq"].mean((1, 2, 3)) - params["w"]) ** 2)
    return loss, {}


def noisy(params, frozen, batch, keys):
    """The loss of images moved by noise of their own."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    errors = batch["hq"].mean((1, 2)) + noise - params["w"][None]
    return jnp.mean(errors**2), {"first": Mean.of(errors[:, 0])}


def batch_of(values):
    values = jnp.asarray(values, jnp.float32)
    images = values[:, None, None, None] * jnp.ones((len(values), 2, 2, 3))
    return {"hq": images, "index": jnp.arange(len(values))}


def mesh(devices):
    return Mesh(jax.devices()[:devices], ("data",))


def run(objective, params, devices=1, steps=3, optimizer=None, ema=0.0, values=(0, 1, 2, 3), **options):
    """The state after some steps on the same batch, and the last metrics."""
    optimizer = optimizer or optax.adamw(0.1)
    params = jax.tree.map(jnp.copy, params)  # the step takes its state
    state, step = init_state(params, optimizer, ema=ema > 0), make_step(objective, optimizer, mesh(devices), ema=ema, **options)
    for _ in range(steps):
        state, metrics = step(state, {}, batch_of(values), jax.random.key(0))
    return state, {name: float(mean.total / mean.count) for name, mean in metrics.items() if mean.count}


@pytest.mark.parametrize("devices", [1, 2])
def test_a_step_is_the_gradient_of_the_whole_batch_on_any_number_of_devices(devices):
    state, metrics = run(quadratic, {"w": jnp.zeros(())}, devices, steps=1, optimizer=optax.sgd(0.5), ema=0.9, clip=100.0)
    assert state.params["w"] == pytest.approx(1.5)  # one step of sgd with rate 1/2 on a parabola lands on the mean
    assert metrics["loss"] == pytest.approx(3.5) and metrics["gradient_norm"] == pytest.approx(3.0)
    assert state.ema["w"] == pytest.approx(0.9 * 1.5) and state.step == 1


def test_the_gradient_is_clipped_by_its_global_norm():
    state, metrics = run(quadratic, {"w": jnp.zeros(())}, 2, steps=1, optimizer=optax.sgd(0.5), clip=0.6)
    assert state.params["w"] == pytest.approx(0.3) and metrics["gradient_norm"] == pytest.approx(3.0)


PARAMS = {"w": jnp.arange(3.0), "unused": jnp.ones((5, 7))}


@pytest.fixture(scope="module")
def alone():
    return run(noisy, PARAMS, clip=0.5, ema=0.9)


@pytest.mark.parametrize(
    "options", [{"devices": 2}, {"devices": 2, "sharded": True}, {"accumulate": 4}], ids=["devices", "shares", "parts"]
)
def test_devices_shares_and_parts_draw_the_same_noise_and_take_the_same_steps(alone, options):
    expected, numbers = alone
    state, metrics = run(noisy, PARAMS, clip=0.5, ema=0.9, **options)
    for a, b in zip(jax.tree.leaves((expected.params, expected.ema)), jax.tree.leaves((state.params, state.ema)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert metrics == pytest.approx(numbers, rel=1e-5)
    assert not np.allclose(expected.params["w"], PARAMS["w"], atol=0.05)


def collectives(sharded):
    params = {f"layer{i}": jnp.ones((3, i + 1)) for i in range(6)}
    optimizer = optax.adamw(0.1)

    def objective(params, frozen, batch, keys):
        loss = sum(jnp.sum(x**2) for x in jax.tree.leaves(params)) * batch["hq"].mean()
        return loss, {"one": Mean.of(loss), "two": Mean.of(2 * loss)}

    step = make_step(objective, optimizer, mesh(2), sharded=sharded)
    text = step.lower(init_state(params, optimizer, ema=False), {}, batch_of(range(4)), jax.random.key(0)).compile().as_text()
    return {kind: sum(f" {kind}(" in line for line in text.splitlines()) for kind in ("all-reduce", "reduce-scatter", "all-gather")}


def test_gradients_and_metrics_are_averaged_by_one_all_reduce():
    assert collectives(sharded=False) == {"all-reduce": 1, "reduce-scatter": 0, "all-gather": 0}


def test_a_shared_out_optimizer_scatters_the_gradient_and_gathers_the_parameters():
    counted = collectives(sharded=True)
    assert counted["reduce-scatter"] == counted["all-gather"] == 1


def test_each_device_holds_its_share_of_the_moments_alone():
    state, _ = run(noisy, {"w": jnp.arange(3.0)}, devices=2, sharded=True, steps=1)
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert len(moments) == 2
    assert all(shard.data.shape == (ALIGNMENT // 2,) for x in moments for shard in x.addressable_shards)
    assert state.params["w"].sharding.is_fully_replicated


def test_an_images_key_is_of_the_step_and_its_place():
    keys = image_keys(jax.random.key(0), jnp.array(3), jnp.arange(4))
    shuffled = image_keys(jax.random.key(0), jnp.array(3), jnp.array([2, 0]))
    assert (jax.random.key_data(keys)[jnp.array([2, 0])] == jax.random.key_data(shuffled)).all()
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 4
    assert (jax.random.key_data(keys) != jax.random.key_data(image_keys(jax.random.key(0), jnp.array(4), jnp.arange(4)))).any()


def test_a_vector_of_parameters_goes_back():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": {"c": jnp.array(7.0)}}
    vector = to_vector(tree)
    assert len(vector) == ALIGNMENT and vector[:7].sum() == 22 and not vector[7:].any()
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), from_vector(vector, tree), tree))


def run_guarded(losses, **options):
    """The states after every step of an objective that has these losses, and gradient 1."""
    optimizer = optax.sgd(1.0)
    state = init_state({"w": jnp.zeros(())}, optimizer)
    objective = lambda p, frozen, batch, keys: (batch["hq"].mean() + p["w"] - jax.lax.stop_gradient(p["w"]), {})  # noqa: E731
    step, states = make_step(objective, optimizer, mesh(2), ema=0.5, **options), []
    for loss in losses:
        state, metrics = step(state, {}, batch_of([loss, loss]), jax.random.key(0))
        states.append((float(state.params["w"]), float(state.ema["w"]), int(state.guard.in_a_row), int(state.guard.skipped)))
    return states, metrics


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_changes_nothing_and_is_counted(bad):
    states, metrics = run_guarded([1, bad, bad, 1])
    assert [w for w, *_ in states] == [-1, -1, -1, -2] and states[0][1] == states[2][1]
    assert [row[2:] for row in states] == [(0, 0), (1, 1), (2, 2), (0, 2)]
    assert float(metrics["skipped"].total) == 0 and float(metrics["loss"].total) == 2  # over two devices


@partial(jax.jit, static_argnums=1)
def watch(losses, sigma=10.0):
    """Whether each of some losses is accepted, and the guard after all."""

    def one(guard, loss):
        good, guard = judge(guard, loss, jnp.ones(()), sigma)
        return guard, good

    return jax.lax.scan(one, init_guard(), losses)


def test_a_spike_is_skipped_and_a_slow_rise_is_not():
    rng = np.random.default_rng(0)
    losses = np.append(1 + 0.1 * rng.standard_normal(198), [3.0, 1.0]).astype(np.float32)
    guard, good = watch(losses)
    assert list(good[-3:]) == [True, False, True] and good[:-3].all() and guard.skipped == 1
    assert watch(losses, 0.0)[1].all() and not watch(np.full_like(losses, np.nan), 0.0)[1].any()
    rising = (np.linspace(1, 3, 200) + 0.1 * rng.standard_normal(200)).astype(np.float32)
    assert watch(rising)[1].all()
    losses[1] = 50
    assert watch(losses)[1][:60].all()  # a run's first losses may be anything


def test_the_guard_knows_mean_and_variance():
    losses = np.random.default_rng(1).normal(5, 1, 100).astype(np.float32)
    guard, _ = watch(losses)
    assert guard.mean == pytest.approx(losses.mean(), rel=1e-4) and guard.variance == pytest.approx(losses.var(), rel=1e-3)
