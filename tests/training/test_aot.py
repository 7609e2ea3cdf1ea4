import importlib.util
import re
import subprocess
import sys
from dataclasses import replace

import jax
import pytest

from diffbir_jax.training import aot, cost
from diffbir_jax.training.chips import CHIPS
from diffbir_jax.training.config import read_config
from diffbir_jax.training.networks import abstract_setup

INSTALLED = all(map(importlib.util.find_spec, ("libtpu", "jax_plugins")))


@pytest.fixture
def config():
    return read_config("configs/stage2_general_v1.py:smoke", [])


def test_a_step_for_two_devices_is_described(config):
    found = aot.compiled(lambda: aot.lowered_step(config, jax.devices()[:2]), CHIPS["a100"], 1)
    setup = abstract_setup(config)
    assert found.fits and not replace(found, cores=10**9).fits
    assert list(found.collectives) == ["all-reduce"] and found.collectives["all-reduce"][0] == 1
    assert found.collectives["all-reduce"][1] == pytest.approx(cost.stored(setup.params), rel=0.1)  # and metrics, padding
    assert found.memory["arguments"] > 3 * cost.stored(setup.params) + cost.stored(cost.frozen_shapes(config, setup))
    assert found.memory["of them donated"] >= 3 * cost.stored(setup.params)
    assert found.flops == pytest.approx(cost.image_flops(config, setup) * config.data.batch / 2)
    assert "1 all-reduce" in str(found) and "fits in 80 GiB" in str(found)


def test_a_sampler_communicates_nothing_and_costs_its_evaluations(config):
    few, many = (aot.compiled(lambda n=n: aot.lowered_sampler(config, jax.devices()[:2], 64, n), CHIPS["a100"], 1) for n in (2, 10))
    assert not few.collectives and many.flops == 5 * few.flops > 0


def test_the_roofline_is_the_slowest_of_three():
    found = aot.Compiled(CHIPS["v5e"], 1, {"peak": 0}, 197e12, 2 * 819 * 10**9, {"all-reduce": (1, 5 * 10**9)}, 1.0)
    assert found.bounds == pytest.approx({"computing": 1, "memory": 2, "communication": 0.1})
    assert "at least 2 s, by memory" in str(found)


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("first, each", [(10, 1), (79, 0.3), (0, 1.7), (79.9, 1), (81, 1)])
def test_the_largest_batch_fits_and_is_not_far_from_the_limit(first, each, said):
    """Also where the compiler does not say what a program that does not fit would need."""

    def need(images):
        tried.append(images)
        peak = int(max(9, first + each * (images - 1)) * 2**30)
        refused = peak > 80 * 2**30 and not said
        return aot.Compiled(CHIPS["a100"], 1, {} if refused else {"peak": peak}, 1.0, 1, {}, 1.0, "no" * refused)

    tried = []
    found, most = aot.largest(need), max(0, int((80 - first) // each + 1))
    assert (most if said else 0.6 * most) <= found <= most and len(tried) < 12


@pytest.mark.parametrize(
    "more, message",
    [
        (["--topology", "v9:2x2"], "topology is 'v9:2x2'; give"),
        (["--topology", "a100"], "for example v5e:4x4 or a100:8"),
        (["--topology", "a100:8", "--config.data.batch", "7"], "was not understood"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(capsys, more, message):
    assert aot.main(["--config", "configs/stage2_general_v1.py:smoke", *more]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs the extra aot")
@pytest.mark.parametrize("topology", ["v5e:2x2", "a100:4"])
@pytest.mark.parametrize("program", ["train", "restore"])
def test_compiles_for_accelerators(topology, program):
    command = [sys.executable, "-m", "diffbir_jax.training.aot", "--topology", topology, "--program", program]
    command += ["--config", "configs/stage2_general_v1.py:smoke", "--config.data.batch=4", "--size", "64"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    collectives = "1 all-reduce" if program == "train" else "collectives: none"
    assert re.search(r"; fits in \d+ GiB", out) and collectives in out
