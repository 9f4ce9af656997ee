"""Curves of a run in other programs: TensorBoard, Weights & Biases, Trackio; each an extra, local, off by default.

They follow the same events as `metrics.jsonl`, which is always written and is what a resumed run is restored from.
Nothing is sent anywhere: TensorBoard and Trackio write files, Weights & Biases runs in its offline mode.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from chatwright.foundation.errors import UsageError

CurveName = Literal["tensorboard", "wandb", "trackio"]


class Curve(Protocol):
    """A program that draws numbers over steps."""

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add points at a step."""
        ...

    def go_back(self, step: int) -> None:
        """What came after this step did not happen."""
        ...

    def close(self) -> None:
        """Finish what is being written."""
        ...


def scalars_of(event: dict[str, Any]) -> dict[str, float]:
    """An event's numbers by name: `evaluation/bits_per_byte/all`. Texts, truth values and the step are no curves."""
    return dict(_numbers(str(event.get("event", "")), {k: v for k, v in event.items() if k not in ("event", "step")}))


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(f"{name}/{key}", inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def open_curves(names: Sequence[CurveName], directory: Path) -> list[Curve]:
    """The programs of these names, writing below the run's directory.

    Raises:
        UsageError: one of them is not installed.
    """
    return [_KINDS[name](directory) for name in names]


def _package(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f'`curves` names "{extra}", which is not installed',
            cause=str(error),
            hint=f"`pip install 'chatwright[{extra}]'`, or leave it out of `curves`",
        ) from error


class _TensorBoard:
    """Event files in `curves/`; `tensorboard --logdir` shows them."""

    def __init__(self, directory: Path):
        self._open = _package("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._directory = directory / "curves"
        self._writer: Any = None
        self._purge: int | None = None

    def write(self, step: int, scalars: dict[str, float]) -> None:
        if self._writer is None:
            self._writer = self._open(str(self._directory), purge_step=self._purge)
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def go_back(self, step: int) -> None:
        self.close()
        self._purge = step + 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Tracked:
    """Weights & Biases or Trackio, which share an interface; a run that goes back begins a new one there."""

    def __init__(self, directory: Path, *, name: str, **settings: Any):
        self._package = _package(name, name)
        self._directory = directory
        self._settings = settings
        self._run: Any = None

    def write(self, step: int, scalars: dict[str, float]) -> None:
        if self._run is None:
            title = f"{self._directory.parent.name}-{self._directory.name}"
            with contextlib.redirect_stdout(sys.stderr):  # what they print is no result of ours
                self._run = self._package.init(project="chatwright", name=title, **self._settings)
        self._package.log(scalars, step=step)

    def go_back(self, step: int) -> None:  # noqa: ARG002 - they keep no way to take points back
        self.close()

    def close(self) -> None:
        if self._run is not None:
            with contextlib.redirect_stdout(sys.stderr):
                self._package.finish()
            self._run = None


def _wandb(directory: Path) -> Curve:
    """Files in `wandb/`. Its reports of errors have a switch of their own beside the offline mode."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # read when it is imported and when its service starts
    quiet = {"console": "off", "disable_git": True, "save_code": False}  # our events and nothing else
    return _Tracked(directory, name="wandb", mode="offline", dir=str(directory), settings=quiet)


def _trackio(directory: Path) -> Curve:
    """Rows in Trackio's own database (`TRACKIO_DIR`), without its figures of the machine.

    Raises:
        UsageError: the environment tells Trackio to send them elsewhere, which no argument takes back.
    """
    elsewhere = [name for name in _TRACKIO_ELSEWHERE if os.environ.get(name)]
    if elsewhere:
        raise UsageError(
            f'`curves` names "trackio", and `{"`, `".join(elsewhere)}` would have it send them over the network',
            hint="unset it: curves stay on this machine; `trackio sync` sends them when you choose to",
        )
    return _Tracked(directory, name="trackio", embed=False, auto_log_gpu=False, auto_log_cpu=False)


_TRACKIO_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


_KINDS = {"tensorboard": _TensorBoard, "wandb": _wandb, "trackio": _trackio}
