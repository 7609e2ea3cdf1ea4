"""A training run, in the order of events."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from diffbir_jax.errors import InputError
from diffbir_jax.imaging.paths import prepare_folder
from diffbir_jax.models.autoencoder import fit_shortcut
from diffbir_jax.options import PRECISIONS
from diffbir_jax.training import cost
from diffbir_jax.training.batches import Batches, data_stream, fixed_set, put, sample_images
from diffbir_jax.training.checkpoints import Checkpoints
from diffbir_jax.training.checks import check, check_devices
from diffbir_jax.training.chips import peak_flops
from diffbir_jax.training.evaluation import make_evaluation, write_sheet
from diffbir_jax.training.export import export
from diffbir_jax.training.networks import Setup, description, load_setup, make_contexts, make_objective, training_step
from diffbir_jax.training.processes import StopRequest, end_lost
from diffbir_jax.training.report import Report
from diffbir_jax.training.state import TrainState, init_state, make_optimizer, state_specs, trained_params

SAMPLE_BATCHES = 8


def train(config: ConfigDict, workdir: Path, devices: Sequence[jax.Device] | None = None) -> None:
    """Trains one network until `config.steps`, going on from the newest checkpoint in `workdir`, and writes it to the model folder.

    `devices` are those to train on; None: all.

    SIGTERM saves and returns. Where the run has several processes and one is lost, the others end with exit code 3.

    Raises:
        InputError: an impossible configuration, missing photographs or networks, a folder that cannot be written, a checkpoint that
            does not fit, or `guard.patience` updates in a row that were not finite or spikes.
    """
    check(config)
    mesh = Mesh(devices or jax.devices(), ("data",))
    check_devices(config, mesh.size)
    everywhere, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    stream = data_stream(config)
    validation = fixed_set(config) if config.validation.images else None
    setup = load_setup(config)
    sample = sample_images(config, SAMPLE_BATCHES) if config.task == "autoencoder" else None
    if sample is not None and setup.nets["autoencoder"].shortcut and not config.start_from:
        setup = setup._replace(params=fit_shortcut(setup.nets["autoencoder"], setup.params, sample))
    captions = "empty" in setup.frozen and config.captions_dropped < 1
    batches = Batches(stream, split, make_contexts(config) if captions else None)

    objective, options = make_objective(config, setup), config.optimizer
    optimizer = make_optimizer(options, config.steps)
    step = training_step(config, objective, optimizer, mesh)
    frozen = put(jax.tree.map(lambda x: np.asarray(x, PRECISIONS[config.frozen_precision]), setup.frozen), everywhere)
    state = _first_state(setup.params, optimizer, options, mesh)
    for folder in (workdir, config.output_folder or config.model_folder):
        prepare_folder(folder)  # what cannot be written is refused now, not after days
    checkpoints = Checkpoints(workdir, description(config), config.keep, config.keep_every)
    if restored := checkpoints.restore(state):
        state, position = restored
        batches.seek(position)
        _say(f"continuing after step {int(state.step)}")
    start, device = int(state.step), mesh.devices.flat[0]
    _say(f"{config.task}: {cost.size(setup.params) / 1e6:.2f} M parameters on {mesh.size} {device.platform} device(s)")

    evaluate = _evaluation(config, setup, objective, frozen, put(validation_arrays(validation), everywhere))
    flops = cost.image_flops(config, setup) * config.data.batch if peak_flops(device.device_kind) else None
    key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=everywhere)()
    stop, report = StopRequest(), Report(config, workdir, start, flops)
    try:
        for number in range(start + 1, config.steps + 1):
            state, metrics = step(state, frozen, batches.next(), key)
            report.add(metrics)
            stopping = stop.reached(number)
            if stopping or number % config.checkpoint_every == 0 or number == config.steps:
                checkpoints.save(state, batches.position(), number)
            if stopping:
                _say(f"stopped by SIGTERM after step {number}, which is saved; start again to go on")
                break
            if number % config.checkpoint_every == 0 and number != config.steps:
                checkpoints.wait()  # a run killed before would begin anew from the networks that it changed
                _tolerate(lambda: export(config, setup, trained_params(state), sample))  # noqa: B023
            if number != config.steps:
                batches.prefetch()
            if report.due(number):
                scalars, batches.waited = report.line(number, batches.waited), 0.0
                _give_up(config, scalars, number, checkpoints)
            if validation is not None and (number % config.validation.every == 0 or number == config.steps):
                report.pause(_validate(evaluate, trained_params(state), report, workdir, number))
        else:
            checkpoints.wait()
            export(config, setup, trained_params(state), sample)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        end_lost(error, checkpoints.latest)
    finally:
        report.close()
        checkpoints.close()


def _first_state(params: Any, optimizer: Any, options: ConfigDict, mesh: Mesh) -> TrainState:
    """The state before the first step, laid out over the devices."""
    params = put(params, NamedSharding(mesh, P()))
    init = lambda params: init_state(params, optimizer, options.ema > 0)  # noqa: E731
    specs = state_specs(jax.eval_shape(init, params), options.sharded)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    return jax.jit(init, out_shardings=shardings)(params)


def validation_arrays(batch: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """What of a batch is images."""
    return {name: batch[name] for name in ("hq", "lq") if name in batch} if batch else {}


def _evaluation(config: ConfigDict, setup: Setup, objective: Any, frozen: Any, batch: Any) -> Callable:
    evaluate = make_evaluation(config, setup, objective)
    return lambda params: evaluate(params, frozen, batch)


def _validate(evaluate: Callable, params: Any, report: Report, workdir: Path, number: int) -> float:
    """Writes the validation's numbers and sheet; returns the seconds it took."""
    begun = time.perf_counter()
    numbers, sheet = jax.device_get(evaluate(params))
    scalars = {f"validation/{name}": float(value) for name, value in numbers.items()}
    report.write(number, scalars)
    _say(f"validation after step {number}: " + "  ".join(f"{name[11:]} {value:.4g}" for name, value in scalars.items()))
    if sheet is not None and jax.process_index() == 0:
        _tolerate(lambda: report.image(number, "validation/lq_reg_sample_gt", write_sheet(workdir, number, sheet)))
    return time.perf_counter() - begun


def _give_up(config: ConfigDict, scalars: dict[str, float], number: int, checkpoints: Checkpoints) -> None:
    """Ends a run whose updates are skipped one after another."""
    row = int(scalars["skipped_in_a_row"])
    if row < config.guard.patience:
        return
    checkpoints.wait()
    newest = f"the last good checkpoint is {checkpoints.latest}" if checkpoints.latest else "there is no checkpoint yet"
    raise InputError(
        f"{row} updates in a row were skipped until step {number}: the loss or gradient was not finite, or spiked; {newest}; "
        "lower optimizer.learning_rate and go on from the model folder with start_from and another --workdir"
    )


def _tolerate(work: Callable[[], None]) -> None:
    """Does what may fail without ending the run: a full disk is a warning."""
    try:
        work()
    except (InputError, OSError) as error:
        print(f"warning: {error}; training goes on", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
