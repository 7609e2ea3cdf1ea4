"""Several processes on loopback: the same run as one, and what happens when one is lost."""

import socket
import time

import pytest

from diffbir_jax.errors import InputError
from diffbir_jax.training.processes import LOST, Processes, detected
from tests.training import runs
from tests.training.test_recovery import start


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_all(folder, photos, changes, count):
    where = f"127.0.0.1:{free_port()}"
    return [start(folder, photos, changes, where, count, index) for index in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_as_one_and_go_on_after_a_loss(photos, tmp_path, count):
    """Equal to one process with the same global batch. A killed process ends the others within a minute, with one line each."""
    changes = {"log_every": 1, "steps": 12}
    together = start_all(tmp_path / "several", photos, changes, count)
    for line in together[0].stdout:
        if line.startswith("step 6/"):
            break
    together[-1].kill()
    begun = time.monotonic()
    printed = [run.communicate(timeout=120)[0] for run in together[:-1]]
    together[-1].communicate()
    assert time.monotonic() - begun < 60
    assert all("lost another process" in text for text in printed), printed
    assert all(run.returncode == LOST for run in together[:-1])

    again = start_all(tmp_path / "several", photos, changes, count)
    printed = [run.communicate(timeout=300)[0] for run in again]
    assert all(run.returncode == 0 for run in again), printed
    assert "continuing after step" in printed[0] and "step 12/12" in printed[0]
    with start(tmp_path / "one", photos, changes, devices=count) as alone:
        alone.communicate()
    assert runs.same(*(runs.trained(tmp_path / name / "model") for name in ("several", "one")), atol=1e-5)


def test_flags_of_several_processes_go_together():
    with pytest.raises(InputError, match="together"):
        Processes("127.0.0.1:1", 2)
    with pytest.raises(InputError, match="--process-index is 2"):
        Processes("127.0.0.1:1", 2, 2)


def test_clusters_are_detected_by_their_variables():
    assert detected({"SLURM_NTASKS": "2", "SLURM_PROCID": "1"})
    assert detected({"TPU_WORKER_HOSTNAMES": "a,b"})
    assert not detected({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "TPU_WORKER_HOSTNAMES": "a"})
