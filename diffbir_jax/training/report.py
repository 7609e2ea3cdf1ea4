"""Metrics to the console, TensorBoard and a CSV file."""

import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from diffbir_jax.atomic import write_whole
from diffbir_jax.training.chips import peak_flops
from diffbir_jax.training.steps import Metrics


class TensorBoard:
    """Event files in a folder; what an interrupted run wrote after step `start` is hidden."""

    def __init__(self, folder: Path, start: int):
        self.writer = SummaryWriter(str(folder), purge_step=start + 1)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def write_image(self, step: int, name: str, image: Float[np.ndarray, "H W 3"]) -> None:
        self.writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class Csv:
    """A row a step and metric: step, name, value. Rows after step `start` of an interrupted run, or torn ones, are dropped."""

    def __init__(self, path: Path, start: int):
        rows = [line.split(",") for line in path.read_text().splitlines()] if path.exists() else []
        kept = [row for row in rows[1:] if len(row) == 3 and row[0].isdecimal() and int(row[0]) <= start]
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(",".join(row) + "\n" for row in [["step", "name", "value"], *kept])
        write_whole(path, lambda place: place.write_text(text))
        self.file = path.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self.file.writelines(f"{step},{name},{value:.8g}\n" for name, value in scalars.items())
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class Report:
    """Means of the metrics since the last line, with rates and the time left.

    Args:
        config: the recipe.
        workdir: of the run; nothing is written in processes other than the first.
        start: the step that was done before.
        flops: of a step, over all devices; None: not known, and the devices' use is not reported.
    """

    def __init__(self, config: ConfigDict, workdir: Path, start: int, flops: float | None = None):
        self.config, self.last, self.flops = config, start, flops
        self.writers: list[TensorBoard | Csv] = []
        if jax.process_index() == 0:
            self.writers = [TensorBoard(workdir / "tensorboard", start), Csv(workdir / "metrics.csv", start)]
        self.pending: list[Metrics] = []
        self.begun = time.perf_counter()

    def due(self, number: int) -> bool:
        """Whether a line is due after step `number`."""
        return number % self.config.log_every == 0 or number == self.config.steps

    def add(self, metrics: Metrics) -> None:
        """Keeps a step's metrics on the device; waits until no more than two steps are under way."""
        self.pending.append(metrics)
        if len(self.pending) > 2:
            jax.block_until_ready(self.pending[-3])

    def line(self, number: int, waited: float) -> dict[str, float]:
        """Fetches the metrics, writes them, and returns them.

        Args:
            number: of the last step.
            waited: seconds for data since the last line.
        """
        fetched = jax.device_get(self.pending)
        self.pending.clear()
        scalars = means(fetched)
        seconds = time.perf_counter() - self.begun
        steps, self.last, self.begun = number - self.last, number, time.perf_counter()
        scalars |= self._rates(seconds, steps, waited)
        self.write(number, scalars)
        if jax.process_index() == 0:
            left = time.strftime("%H:%M:%S", time.gmtime(seconds / steps * (self.config.steps - number)))
            print(f"step {number}/{self.config.steps}  {_text(scalars)}  {left} left", flush=True)
        return scalars

    def write(self, number: int, scalars: Mapping[str, float]) -> None:
        """To TensorBoard and the CSV file."""
        for writer in self.writers:
            writer.write_scalars(number, scalars)

    def image(self, number: int, name: str, image: Float[np.ndarray, "H W 3"]) -> None:
        """An image to TensorBoard."""
        for writer in self.writers[:1]:
            writer.write_image(number, name, image)

    def pause(self, seconds: float) -> None:
        """Leaves time spent on something else than training out of the rates."""
        self.begun += seconds

    def close(self) -> None:
        for writer in self.writers:
            writer.close()

    def _rates(self, seconds: float, steps: int, waited: float) -> dict[str, float]:
        rates = {
            "images_per_second": self.config.data.batch * steps / seconds,
            "step_seconds": seconds / steps,
            "data_wait": min(waited / seconds, 1.0),
        }
        device = jax.local_devices()[0]
        if memory := device.memory_stats():
            rates["device_gib"] = memory["peak_bytes_in_use"] / 2**30
        if (peak := peak_flops(device.device_kind)) and self.flops:
            rates["mfu"] = self.flops * steps / seconds / (peak * jax.device_count())
        return rates


def means(metrics: list[Metrics]) -> dict[str, float]:
    """Means over the steps, weighted by their counts; what never occurred is left out, of skips in a row the most."""
    scalars = {}
    for name in metrics[0]:
        total, count = (sum(float(m[name][i]) for m in metrics) for i in (0, 1))
        if count:
            scalars[name] = total / count
    scalars["skipped_in_a_row"] = max(float(m["skipped_in_a_row"].total) for m in metrics)
    scalars["skipped"] = sum(float(m["skipped"].total) for m in metrics)
    return scalars


def _text(scalars: Mapping[str, float]) -> str:
    quiet = {"skipped", "skipped_in_a_row"} if not scalars["skipped"] else set()
    parts = [f"{name} {value:.4g}" for name, value in scalars.items() if name not in {"images_per_second", *quiet}]
    return "  ".join([*parts, f"{scalars['images_per_second']:.1f} images/s"])
