"""Where curves and pictures go besides `metrics.csv`: TensorBoard, and W&B or MLflow if asked for.

The one rule: a tracker is a thin shell around its library, imported only when it is used; one that
was asked for and is not installed is a sentence with the command that installs it.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import warnings
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import torch

from vathos.errors import ConfigError
from vathos.trainer.checkpoint import write_atomic
from vathos.trainer.event_files import BY_EPOCH, cut_back, without_tensorflow
from vathos.utils.config import flatten

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from vathos.utils.schema import Config

__all__ = ["TRACKERS_FILE", "MLflow", "TensorBoard", "Tracker", "WandB", "open_trackers"]

log = logging.getLogger(__name__)

TRACKERS_FILE = "trackers.json"


class Tracker(Protocol):
    """A place for curves and pictures; `at` counts epochs for a tag of an epoch, else steps."""

    def scalars(self, values: Mapping[str, float], at: int) -> None:
        """Points by tag."""

    def image(self, tag: str, pixels: NDArray[np.uint8], at: int) -> None:
        """An (H, W, 3) picture."""

    def flush(self) -> None:
        """Put on the disk what is there so far."""

    def close(self) -> None:
        """Write out what is left."""


class TensorBoard:
    """Event files in `folder`. `epoch` and `step` say where the run goes on."""

    def __init__(self, folder: Path, epoch: int, step: int) -> None:
        with without_tensorflow():
            from torch.utils.tensorboard import SummaryWriter

        # TensorBoard would make it too, but its errors are no OSError.
        folder.mkdir(parents=True, exist_ok=True)
        cut_back(folder, epoch, step)
        self._writer: Any = SummaryWriter(str(folder))

    def scalars(self, values: Mapping[str, float], at: int) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, at)

    def image(self, tag: str, pixels: NDArray[np.uint8], at: int) -> None:
        self._writer.add_image(tag, pixels, at, dataformats="HWC")

    def graph(self, model: nn.Module, height: int, width: int) -> None:
        """The model's graph, of a copy of it, so that nothing of the run is touched.

        A model that cannot be traced is a warning.
        """
        model = copy.deepcopy(model).cpu().eval()
        pictures = torch.zeros(1, 6, height, width)
        try:
            # Tracing warns of what is no concern of a picture, and prints its errors.
            with (
                torch.random.fork_rng(devices=[]),
                warnings.catch_warnings(),
                redirect_stdout(io.StringIO()),
            ):
                warnings.simplefilter("ignore")
                self._writer.add_graph(model, pictures)
        except Exception as error:  # any model, traced by a library that promises nothing
            log.warning("TensorBoard shows no graph of this model (%s)", type(error).__name__)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases; `WANDB_MODE=offline` keeps it on this machine."""

    def __init__(self, config: Config, run_id: str | None) -> None:
        wandb: Any = import_module("wandb")
        config.log_folder.mkdir(parents=True, exist_ok=True)
        self._picture = wandb.Image
        self._run = wandb.init(
            project="vathos",
            name=config.name,
            id=run_id,
            resume="allow",
            dir=config.log_folder,
            config=config.model_dump(mode="json"),
        )
        self.run_id: str = self._run.id
        self._run.define_metric("*", step_metric="step")
        for beginning in BY_EPOCH:
            self._run.define_metric(f"{beginning}*", step_metric="epoch")

    def scalars(self, values: Mapping[str, float], at: int) -> None:
        axis = "epoch" if all(tag.startswith(BY_EPOCH) for tag in values) else "step"
        self._run.log({**values, axis: at})

    def image(self, tag: str, pixels: NDArray[np.uint8], at: int) -> None:
        self._run.log({tag: self._picture(pixels), "epoch": at})

    def flush(self) -> None:
        """W&B writes in a process of its own, which outlives this one."""

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, on `MLFLOW_TRACKING_URI` or in a file beside the TensorBoard record."""

    def __init__(self, config: Config, run_id: str | None) -> None:
        mlflow: Any = import_module("mlflow")
        config.log_folder.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{config.log_folder / 'mlflow.db'}"
        self._client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", uri))
        if run_id is None or not self._goes_on(run_id):
            run_id = self._begin(config)
        self.run_id = run_id

    def _goes_on(self, run_id: str) -> bool:
        """Open that run again; False where it is not known, as after `log_dir` was changed."""
        refused: Any = import_module("mlflow.exceptions").MlflowException
        try:
            self._client.update_run(run_id, status="RUNNING")
        except refused as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _begin(self, config: Config) -> str:
        found = self._client.get_experiment_by_name("vathos")
        experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(
                "vathos", artifact_location=(config.log_folder / "mlflow").as_uri()
            )
        )
        run_id: str = self._client.create_run(experiment, run_name=config.name).info.run_id
        for key, value in flatten(config).items():
            self._client.log_param(run_id, key, value)
        return run_id

    def scalars(self, values: Mapping[str, float], at: int) -> None:
        for tag, value in values.items():
            self._client.log_metric(self.run_id, tag, value, step=at)

    def image(self, tag: str, pixels: NDArray[np.uint8], at: int) -> None:
        self._client.log_image(self.run_id, pixels, f"{tag}_{at:04d}.png")

    def flush(self) -> None:
        """MLflow writes at once."""

    def close(self) -> None:
        self._client.set_terminated(self.run_id)


def open_trackers(config: Config) -> list[Tracker]:
    """Those of `config.trackers`; they go on with the runs that the run folder remembers.

    Raises `ConfigError` for one that is not installed or does not start.
    """
    for name in config.trackers:
        if find_spec(name) is None:
            raise ConfigError(
                f"trackers: {name} is not installed; type `pip install {name}`, or leave it out"
            )
    path = config.run_folder / TRACKERS_FILE
    runs = _read_runs(path)
    kinds: dict[str, type[WandB] | type[MLflow]] = {"wandb": WandB, "mlflow": MLflow}
    opened: dict[str, WandB | MLflow] = {}
    for name in config.trackers:
        try:
            opened[name] = kinds[name](config, runs.get(name))
        except OSError:
            raise
        except Exception as error:  # no account, no server: each library has errors of its own
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"trackers: {name} does not start ({reason}); mend that, or leave it out"
            ) from error
    if opened:
        runs |= {name: tracker.run_id for name, tracker in opened.items()}
        write_atomic(path, lambda file: file.write(json.dumps(runs).encode()))
    return list(opened.values())


def _read_runs(path: Path) -> dict[str, str]:
    """The run of each tracker that this run began."""
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} does not say which runs the trackers began; move it away, and they begin new "
            "ones"
        ) from error
