"""Fewer and cheaper evaluations: reuse between them, cfg in an interval, speeds."""

from collections import Counter

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from toy import write_model

from diffbir_jax import InputError, RestoreOptions, load_model, programs
from diffbir_jax.models.bsrnet import RRDBNet
from diffbir_jax.options import SPEEDS
from diffbir_jax.pipeline import Job, evaluations, local_mesh
from diffbir_jax.training import cost

SIDE = 32


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    return load_model(write_model(tmp_path_factory.mktemp("text"), RRDBNet(features=4, blocks=1, growth=2), context_dim=16))


def sampled(model, every=None, tile=0, **options):
    """The latent that the diffusion makes of a given one; `every` instead of the options' reuse."""
    options = RestoreOptions(**options).completed(model.defaults)
    plan = programs.plan_of(model, options, False, False, False)._replace(tile=tile, overlap=tile // 2)
    shared = programs.shared_of(model, options, (SIDE, SIDE))
    shared = shared if every is None else shared._replace(reuse=np.int32(every))
    clean = np.random.default_rng(1).standard_normal(programs.latent_shape(model, (SIDE, SIDE)), np.float32)
    rng = np.random.default_rng(0)
    context, uncond = (
        10 * rng.standard_normal((1, *model.context_shape), np.float32) if model.takes_text else None for _ in range(2)
    )
    size, keys = np.array([[SIDE, SIDE]], np.int32), jax.random.split(jax.random.key(0), 1)
    each = programs.Each(size, keys, context, uncond if plan.text else None, None)
    run = programs.sample_program(model, local_mesh(1), 1, (SIDE, SIDE), plan)
    return np.asarray(run(clean, None, each, shared)[0])


@pytest.fixture
def calls(monkeypatch):
    """How many images every network was run for; programs are made anew."""
    found, call = Counter(), programs._call

    def counted(model, params, name, *inputs, **how):
        jax.debug.callback(lambda: found.update({name: len(inputs[0])}))
        return call(model, params, name, *inputs, **how)

    monkeypatch.setattr(programs, "_call", counted)
    monkeypatch.setattr(programs, "_programs", {})
    with programs.on_step(lambda: None):
        yield found


def test_what_lies_deep_is_computed_at_every_nth_evaluation(small_model, calls):
    """The control branch runs with it alone; the result changes little, and not at all where nothing is reused; one program."""
    options = {"steps": 5, "sampler": "ddim"}
    assert evaluations(small_model, RestoreOptions(**options, reuse=2).completed({})) == 5
    exact = sampled(small_model, **options)
    jax.effects_barrier()
    assert calls == {"unet": 5, "control": 5}
    compiled = len(programs.compiled)
    for n in (1, 2, 3):
        calls.clear()
        reused = sampled(small_model, n, reuse=2, reuse_depth=2, **options)
        jax.effects_barrier()
        assert calls == {"unet": 5, "control": -(-5 // n)}
        change = np.linalg.norm(reused - exact) / np.linalg.norm(exact)
        assert change < 1e-6 if n == 1 else 1e-4 < change < 0.1
    assert len(programs.compiled) == compiled + 1


def test_tiles_reuse_what_they_kept(small_model):
    exact, reused = (sampled(small_model, n, 8, steps=5, sampler="ddim", reuse=2) for n in (1, 2))
    assert 1e-4 < np.linalg.norm(reused - exact) / np.linalg.norm(exact) < 0.1


def test_exact_keeps_nothing(small_model):
    """Its program is the one without any of this: no number more goes in, and no branch is taken in its loop."""
    plain, one = (RestoreOptions(**of).completed({}) for of in ({}, {"reuse": 1, "speed": "exact", "cfg_start": 1001}))
    plan, shared = programs.plan_of(small_model, one, False, False, False), programs.shared_of(small_model, one, (SIDE, SIDE))
    assert plain == one and not plan.depth and not plan.interval and shared[-2:] == (None, None)
    names, run, _, examples = programs.sampling(small_model, 1, (SIDE, SIDE), plan)
    mapped = jax.shard_map(run, mesh=local_mesh(1), in_specs=P(), out_specs=P(), check_vma=False)
    text = str(jax.make_jaxpr(mapped)({name: small_model.params[name] for name in names}, *examples))
    assert text.count(" scan[") == 2 and text.count(" cond[") == 1  # of the sampler, and of guidance


def test_cfg_costs_in_its_interval_alone(text_model, calls):
    """What is kept in it, for both texts, serves there only."""
    options = {"steps": 4, "sampler": "ddim", "cfg": 4.0}  # at 751, 501, 251 and 1
    steps = {"cfg_start": 700, "cfg_stop": 100}
    partly = sampled(text_model, **options, **steps)
    jax.effects_barrier()
    assert calls == {"unet": 6, "control": 6}
    calls.clear()
    sampled(text_model, **options, **steps, reuse=2)
    jax.effects_barrier()
    assert calls == {"unet": 6, "control": 4}  # at 751, both at 501, and at 1
    always = sampled(text_model, **options, cfg_stop=0)
    never = sampled(text_model, **options, cfg_start=800, cfg_stop=760)
    assert np.abs(partly - always).max() > 1e-4 and np.abs(partly - never).max() > 1e-4


def test_a_cheap_evaluation_costs_less(small_model):
    """The deeper the part that is computed, the more; without reuse most."""
    nets = {name: small_model.nets[name] for name in ("unet", "control")}
    latent = programs.latent_shape(small_model, (SIDE, SIDE))
    *cheap, full = (cost.evaluation_flops(nets, small_model.params, latent, depth) for depth in (1, 3, None))
    assert cheap == sorted(cheap) and cheap[0] < 0.25 * full and cheap[-1] < 0.8 * full


def test_a_speed_fills_only_what_is_left_open():
    own = {"sampler": "ddpm", "steps": 50, "strength": 0.5, "start": "condition"}
    exact, balanced, fast = (RestoreOptions(speed=speed).completed(own) for speed in SPEEDS)
    assert exact == RestoreOptions().completed(own) and exact.reuse == 1
    assert exact.steps > balanced.steps > fast.steps and balanced.reuse > 1 < fast.reuse
    assert fast.strength == 0.5 and fast.start == "condition" and fast.sampler != "ddpm"
    asked = {"sampler": "euler", "steps": 77, "reuse": 1, "strength": 0.25}
    given = RestoreOptions(speed="fast", **asked).completed(own)
    assert {name: getattr(given, name) for name in asked} == asked and given.reuse_depth is None
    few = RestoreOptions(speed="fast").completed({"sampler": "dpm++_3m_sde", "steps": 10})
    assert few.steps == 10 and few.sampler == "dpm++_3m_sde"  # a model of few steps keeps its own
    assert fast.completed(own) == fast


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reuse_depth": 2}, "reuse-depth is 2, which has no effect at reuse 1; give --reuse 2"),
        ({"cfg_start": 700}, "no effect at cfg 1"),
        ({"cfg_stop": 100}, "no effect at cfg 1"),
        ({"reuse": 2, "reuse_depth": 5}, "reuse-depth is 5; this model's UNet has 4 stages, give 1 to 4"),
        ({"speed": "faster"}, "speed is 'faster'; give exact or balanced or fast"),
    ],
)
def test_what_cannot_be_or_would_have_no_effect_is_refused(small_model, options, message):
    with pytest.raises(InputError, match=message):
        Job(small_model, np.zeros((40, 48, 3), np.float32), RestoreOptions(**options).completed({}))
