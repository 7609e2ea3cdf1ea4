"""What `launch/` holds: the commands that its scripts start, and its notebooks, cell by cell in a process of their own.

As a command, `python tests/test_launch.py NOTEBOOK VALUES`, it runs a notebook with its "parameters" cell's values replaced, and
prints the sizes of the images that are displayed.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
NOTEBOOKS = sorted((LAUNCH / "colab").glob("*.ipynb"))


def execute(notebook: Path, values: dict) -> list[tuple[int, int]]:
    """Runs the code cells, but the one tagged install; IPython's magic is a syntax error here. Sizes of the images displayed."""
    shown = []
    names = {"display": lambda image: shown.append(image.size)}
    for cell in json.loads(notebook.read_text())["cells"]:
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and "install" not in tags:
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
        if "parameters" in tags:
            assert values.keys() <= names.keys()
            names.update(values)
    return shown


if __name__ == "__main__":
    sizes = execute(Path(sys.argv[1]), json.loads(sys.argv[2]))
    print(json.dumps(sizes))
    sys.exit(0)

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from released_files import HEAD_DIM, released_state  # noqa: E402

from diffbir_jax.weights.folder import read_card  # noqa: E402
from diffbir_jax.weights.torch_files import write_state  # noqa: E402

RECIPE = ROOT / "configs" / "tiny_stage1.py"
STUB = '#!/bin/bash\necho "$(basename "$0") $*" >> "$CALLS"\n'


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Puts commands of no effect on the PATH, each called with a body; returns what reads their calls, split as a shell does."""
    (tmp_path / "bin").mkdir()
    calls = tmp_path / "calls"
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(calls))

    def put(**bodies):
        for name, body in bodies.items():
            (tmp_path / "bin" / name).write_text(STUB + body)
            (tmp_path / "bin" / name).chmod(0o755)
        return lambda: calls.read_text().splitlines() if calls.exists() else []

    return put


def launch(script, *arguments, **environment):
    command = [str(LAUNCH / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment)


SLURM = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "12"}
TRAIN = "python -m diffbir_jax.train --config configs/tiny_stage1.py:smoke --workdir run --config.steps=3"
GIVEN = ("configs/tiny_stage1.py:smoke", "run", "--config.steps=3")


def test_slurm_starts_a_process_a_gpu_with_overlap(commands):
    calls = commands(srun='echo "$XLA_FLAGS" >> "$CALLS"\n')
    done = launch("slurm.sh", *GIVEN, **SLURM, XLA_FLAGS="--xla_cpu_enable_fast_math=false")
    assert done.returncode == 0, done.stderr
    flags = "--xla_cpu_enable_fast_math=false --xla_gpu_enable_latency_hiding_scheduler=true"
    assert calls() == [f"srun --kill-on-bad-exit=1 --cpus-per-task=12 {TRAIN}", flags]
    header = [line.split()[1] for line in (LAUNCH / "slurm.sh").read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--ntasks-per-node=8", "--gpus-per-node=8", "--signal=B:USR1@300", "--requeue"} <= set(header)


def test_xla_knows_the_flags():
    """XLA ends a process whose flags it does not know."""
    flags = "--xla_gpu_enable_latency_hiding_scheduler=true"
    assert flags in (LAUNCH / "slurm.sh").read_text()
    code = "import jax; jax.devices()"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"XLA_FLAGS": flags}).returncode == 0


@pytest.mark.parametrize(("saved", "code"), [(0, 0), (3, 3)])
def test_slurm_queues_a_saved_run_again_at_the_limit(commands, tmp_path, saved, code):
    here = shlex.quote(str(tmp_path / "pid"))
    stop = f"trap 'exit {saved}' TERM\necho $$ > {here}\nwhile true; do sleep 0.05; done\n"
    calls = commands(srun=stop, scancel=f"kill -TERM $(cat {here})\n", scontrol="")
    job = subprocess.Popen([LAUNCH / "slurm.sh", *GIVEN], cwd=ROOT, env=os.environ | SLURM)
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == code
    assert calls()[1:] == ["scancel --signal=TERM 7"] + ["scontrol requeue 7"] * (saved == 0)


def test_slurm_gives_back_the_exit_code_of_a_failed_run(commands):
    calls = commands(srun="exit 3\n", scontrol="")
    assert launch("slurm.sh", *GIVEN, **SLURM).returncode == 3
    assert len(calls()) == 1


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("slurm.sh", ["configs/tiny_stage1.py"], "1 arguments given; give CONFIG WORKDIR"),
        ("slurm.sh", ["configs/none.py", "run"], "no recipe configs/none.py"),
        ("slurm.sh", [*GIVEN, "--steps=3"], "--steps=3 was not understood"),
        ("slurm.sh", GIVEN, "sbatch --nodes=1"),
        ("tpu_pod.sh", ["pod", "zone", "configs/tiny_stage1.py"], "3 arguments given"),
        ("tpu_pod.sh", ["pod", "zone", "configs/none.py", "run"], "no recipe configs/none.py"),
        ("tpu_pod.sh", ["pod", "zone", *GIVEN, "steps=3"], "steps=3 was not understood"),
        ("tpu_pod.sh", ["--create", "v5litepod-16"], "--create lacks its values"),
    ],
)
def test_a_bad_command_line_is_one_line_and_starts_nothing(commands, monkeypatch, script, arguments, message):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    calls = commands(srun="", sbatch="", gcloud="")
    done = launch(script, *arguments)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not calls()


GCLOUD = """
for argument; do
  case $argument in
    *:) [[ $4 != scp ]] || for host in 0 1; do mkdir -p "$HOSTS/$host"; cp "$5" "$HOSTS/$host"; done ;;
    --command=*) for host in 0 1; do (cd "$HOSTS/$host"; WORKER=$host bash -c "${argument#--command=}") || exit; done ;;
  esac
done
"""
CURL = """case "$*" in *endpoints) echo "$ENDPOINTS" ;; *number) echo "$WORKER" ;; esac\n"""
INSTALLED = (
    "mkdir -p .venv/bin && printf '#!/bin/bash\\necho python $* >> $CALLS' > .venv/bin/python && chmod +x .venv/bin/python\n"
)


def pod(commands, tmp_path, *arguments, endpoints):
    """The command's calls where `gcloud` runs what it is given in a folder for each of two hosts."""
    calls = commands(gcloud=GCLOUD, curl=CURL, python3=INSTALLED)
    done = launch("tpu_pod.sh", *arguments, HOSTS=str(tmp_path / "hosts"), ENDPOINTS=endpoints)
    assert done.returncode == 0, done.stderr
    return calls()


@pytest.mark.parametrize("endpoints", ["unknown:unknown:10.0.0.5,unknown:unknown:10.0.0.3", "10.0.0.5,10.0.0.3"])
def test_a_pod_trains_on_every_host_by_its_metadata(commands, tmp_path, endpoints):
    calls = pod(commands, tmp_path, "pod", "zone-a", *GIVEN, "--config.data.source=a folder", endpoints=endpoints)
    started = f"{TRAIN} --config.data.source=a folder --coordinator 10.0.0.5:8482 --process-count 2 --process-index"
    assert [call for call in calls if call.startswith("python ")] == [f"{started} 0", f"{started} 1"]
    told = [call for call in calls if call.startswith("gcloud")]
    assert [call.split()[4] for call in told] == ["scp", "ssh", "ssh"]  # nothing is created
    assert all("--worker=all" in call for call in told)
    assert (tmp_path / "hosts" / "1" / "diffbir_jax" / "configs" / "tiny_stage1.py").exists()


def test_a_pod_is_created_when_asked_and_one_host_is_alone(commands, tmp_path):
    calls = pod(commands, tmp_path, "--create", "v5litepod-8", "v2", "pod", "zone-a", *GIVEN, endpoints="10.0.0.5")
    assert calls[0] == "gcloud compute tpus tpu-vm create pod --accelerator-type=v5litepod-8 --version=v2 --zone=zone-a"
    assert [call for call in calls if call.startswith("python ")] == [TRAIN, TRAIN]


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", *sorted(LAUNCH.glob("*.sh"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_holds_no_outputs(notebook):
    held = json.loads(notebook.read_text())
    assert (held["nbformat"], held["nbformat_minor"]) == (4, 5)
    code = [cell for cell in held["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert [cell["metadata"].get("tags") for cell in code[:2]] == [["install"], ["parameters"]]
    assert len({cell["id"] for cell in held["cells"]}) == len(held["cells"])
    assert all(cell["id"] and "".join(cell["source"]).strip() for cell in held["cells"])


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8), (64, 64)))
    return str(path)


def run(notebook, folder, **values):
    """Sizes of the images that a notebook displays, (width, height), with these values in its parameters cell."""
    values |= {"OUTPUT": "restored.png"}
    command = [sys.executable, __file__, str(LAUNCH / "colab" / notebook), json.dumps(values)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (folder / "restored.png").exists()
    return json.loads(done.stdout.splitlines()[-1])


def test_restore_notebook_shows_before_after_and_the_series(tmp_path, photo):
    assert run("restore.ipynb", tmp_path, PHOTO=photo, STEPS=1, SCALES=[0.0, 20000.0]) == [[2 * 64, 64 + 24], [3 * 64, 64 + 24]]


@pytest.mark.slow
def test_own_weights_notebook_converts_and_restores(tmp_path, photo):
    files = {"v2-1_512-ema-pruned.ckpt": "prior", "v1_general.pth": "branch", "general_swinir_v1.ckpt": "first"}
    paths = {file: tmp_path / f"{name}.safetensors" for file, name in files.items()}
    for file, path in paths.items():
        write_state(path, released_state(file))
    values = {"FILES": [str(path) for path in paths.values()], "CONVERT": ["--head-dim", str(HEAD_DIM)], "MODEL": "model"}
    assert run("own_weights.ipynb", tmp_path, PHOTO=photo, STEPS=1, UPSCALE=1, PRECISION="f32", **values) == [[2 * 64, 64 + 24]]
    assert {"unet", "autoencoder", "text_encoder", "control", "stage1"} <= read_card(tmp_path / "model")["networks"].keys()


@pytest.mark.slow
def test_train_notebook_trains_plots_and_restores(tmp_path, photo):
    small = {"network.embed_dim": 8, "network.depths": (1,), "network.heads": (2,), "network.features": 8, "data.crop": 32}
    more = [f"--config.{key}={value}" for key, value in small.items()] + ["--config.log_every=1"]
    values = {"RECIPE": f"{RECIPE}:smoke", "STEPS": 2, "MORE": more, "WORKDIR": "run", "MODEL": "model"}
    assert run("train.ipynb", tmp_path, PHOTO=photo, **values) == [[640, 240], [4 * 64, 64 + 24]]
    assert read_card(tmp_path / "model")["networks"]["stage1"]["embed_dim"] == 8
    assert "2,loss," in (tmp_path / "run" / "metrics.csv").read_text()
