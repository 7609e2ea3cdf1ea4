"""Nothing is lost: stopped, killed, on fewer devices, with a full disk, a run ends as if nothing had happened."""

import gc
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from diffbir_jax.errors import InputError
from diffbir_jax.training import loop
from diffbir_jax.training.checkpoints import Checkpoints
from diffbir_jax.training.loop import train
from tests.training import runs

ROOT = Path(__file__).parents[2]


def test_stopped_by_sigterm_and_resumed_equals_never_having_stopped(recipe_of, tmp_path, capsys):
    """In every parameter, the moving average too, and in the batches seen."""
    config, straight, broken = recipe_of("straight", steps=60, checkpoint_every=25), [], []
    with pytest.MonkeyPatch.context() as patch:
        runs.watch(patch, straight)
        train(config, tmp_path / "straight")
    config = recipe_of("broken", steps=60, checkpoint_every=25)
    with pytest.MonkeyPatch.context() as patch:
        runs.watch(patch, broken, stop_after=30, signal_number=signal.SIGTERM)
        train(config, tmp_path / "broken")
        assert "stopped by SIGTERM after step 30" in capsys.readouterr().out and len(broken) == 30
        train(config, tmp_path / "broken")
    assert "continuing after step 30" in capsys.readouterr().out
    assert broken == straight and len(set(straight)) == 60
    assert runs.same(*(runs.trained(tmp_path / name / "model") for name in ("straight", "broken")))
    states = [state_of(tmp_path / name, config) for name in ("straight", "broken")]
    assert jax.tree.all(jax.tree.map(np.array_equal, *states))


def state_of(workdir, config):
    """The newest checkpoint's arrays, as they lie there."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        return manager.restore(manager.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]


def start(folder, photos, changes, *where, devices=1):
    """A run in a process of its own."""
    xla = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    flags = {"XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        str(ROOT / "tests/training/runs.py"),
        str(photos),
        str(folder),
        json.dumps(changes),
        *map(str, where),
    ]
    return subprocess.Popen(command, env=os.environ | flags, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def killed_runs(tmp_path, photos, kills):
    """Kills a run that saves at every step at random moments, saving included; returns what the last one printed."""
    rng = random.Random(0)
    changes = {"steps": 4 * kills + 8, "log_every": 1, "checkpoint_every": 1}
    for _ in range(kills):
        with start(tmp_path / "killed", photos, changes) as run:
            lines = (line for line in run.stdout if line.startswith("step "))
            for _ in range(rng.randint(1, 4)):
                next(lines)
            time.sleep(rng.uniform(0, 0.3))
            run.kill()
    last = start(tmp_path / "killed", photos, changes)
    return changes, last.communicate(timeout=300)[0], last.returncode


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_goes_on_to_the_same_end(recipe_of, photos, tmp_path, kills):
    changes, printed, code = killed_runs(tmp_path, photos, kills)
    assert code == 0 and "continuing after step" in printed, printed
    train(recipe_of("straight", **changes), tmp_path / "straight", jax.devices()[:1])
    assert runs.same(*(runs.trained(tmp_path / name / "model") for name in ("killed", "straight")))
    rows = [line.split(",") for line in (tmp_path / "killed/run/metrics.csv").read_text().splitlines()[1:]]
    assert [int(step) for step, name, _ in rows if name == "loss"] == list(range(1, changes["steps"] + 1))


def test_a_checkpoint_is_whole_before_the_model_folder_changes(recipe_of, tmp_path, monkeypatch):
    """Stage 2 begins from networks that lie there, its own results among them."""
    found, folder = [], tmp_path / "run" / "checkpoints"
    monkeypatch.setattr(loop, "export", lambda *_: found.append(sorted(path.name for path in folder.iterdir())))
    train(recipe_of("any", steps=4, checkpoint_every=2), tmp_path / "run", jax.devices()[:1])
    assert found == [["2"], ["2", "4"]]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_run_goes_on_on_fewer_devices(recipe_of, tmp_path, sharded):
    """With the same global batch, the optimizer's state shared out or not."""
    train(recipe_of("straight", optimizer__sharded=sharded), tmp_path / "straight")
    config = recipe_of("fewer", optimizer__sharded=sharded)
    with pytest.MonkeyPatch.context() as patch:
        runs.watch(patch, [], stop_after=6, signal_number=signal.SIGTERM)
        train(config, tmp_path / "fewer", jax.devices()[:2])
    train(config, tmp_path / "fewer", jax.devices()[:1])
    assert runs.same(*(runs.trained(tmp_path / name / "model") for name in ("straight", "fewer")), atol=1e-5)


@pytest.mark.slow
def test_eight_devices_then_four_then_one(recipe_of, photos, tmp_path):
    train(recipe_of("one"), tmp_path / "one", jax.devices()[:1])
    for devices in (8, 4, 1):
        with start(tmp_path / "fewer", photos, {}, devices=devices) as run:
            for line in run.stdout:
                if line.startswith(f"step {4 if devices == 8 else 8}/") and devices > 1:
                    run.terminate()
                    assert "stopped by SIGTERM" in run.stdout.read()
        assert run.returncode == 0
    assert runs.same(*(runs.trained(tmp_path / name / "model") for name in ("one", "fewer")), atol=1e-5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own, of the save that failed
def test_a_full_disk_is_a_warning_and_the_older_checkpoint_stays(recipe_of, tmp_path, capsys):
    """Files may not grow beyond 2 kB while the second checkpoint is saved."""
    from diffbir_jax.training.state import init_state, make_optimizer

    config = recipe_of("any")
    rng = np.random.default_rng(0)
    params = {"w": jax.numpy.asarray(rng.standard_normal(50_000, np.float32))}
    state = init_state(params, make_optimizer(config.optimizer, 10))
    checkpoints = Checkpoints(tmp_path, {"seed": 0}, keep=3)
    checkpoints.save(state, {"next": 1}, 1)
    checkpoints.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        checkpoints.save(state, {"next": 2}, 2)
        checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    warning = capsys.readouterr().err
    assert "warning: a checkpoint could not be saved" in warning and str(tmp_path / "checkpoints/1") in warning
    checkpoints.save(state, {"next": 3}, 3)
    checkpoints.close()
    again = Checkpoints(tmp_path, {"seed": 0})
    restored, position = again.restore(state)
    assert position == {"next": 3} and again.manager.all_steps() == [1, 3]
    again.close()
    gc.collect()  # what that save left, while its warnings are let pass


def test_checkpoints_at_multiples_of_keep_every_stay(recipe_of, tmp_path):
    train(recipe_of("any", keep=1, keep_every=4), tmp_path)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [4, 8, 12]


def test_updates_skipped_in_a_row_end_the_run_with_the_last_good_checkpoint_named(recipe_of, tmp_path):
    """A learning rate beyond all bounds."""
    config = recipe_of("any", optimizer__learning_rate=1e38, guard__patience=4, steps=20)
    with pytest.raises(InputError, match=r"updates in a row were skipped until step .*last good checkpoint is .*checkpoints/\d+"):
        train(config, tmp_path)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state_of(tmp_path, config)["params"]))


def test_what_does_not_change_the_training_may_change(recipe_of, tmp_path, capsys):
    train(recipe_of("any", steps=2), tmp_path)
    train(recipe_of("any", steps=2, log_every=1, keep=5, data__prefetch=1), tmp_path)
    assert "continuing after step 2" in capsys.readouterr().out
    with pytest.raises(InputError, match="optimizer.b1 was 0.9, is 0.8"):
        train(recipe_of("any", steps=2, optimizer__b1=0.8), tmp_path)
