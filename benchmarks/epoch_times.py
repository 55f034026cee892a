"""What an epoch of several regimes costs, side by side: their fits take turns step by step, in one process.

A shared machine's speed changes by a third within a minute, so that fits timed one after the other cannot be compared
within 10 %. Here every step of one is timed beside the same step of the others.
"""

import ctypes
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from avrobust_core.data.dataset import Dataset
from avrobust_core.data.loader import Loader
from avrobust_core.statistics.intervals import Estimate, bootstrap
from avrobust_core.study.building import Builder
from avrobust_core.training.fit import Fit

Seconds = NDArray[np.float64]

M_ARENA_MAX = -8
"""Parameter of glibc's `mallopt`."""


def share_one_heap() -> None:
    """Keep glibc from giving each thread a heap of its own, on which one and the same fit was 4 % faster or slower.

    To be called before there are threads. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


class Ring:
    """Threads of which one runs at a time, each handing on to the next.

    Args:
        size: of threads, numbered from 0. Number 0 runs first.
    """

    def __init__(self, size: int) -> None:
        self._turns = [threading.Semaphore(0) for _ in range(size)]
        self._turns[0].release()
        self.errors: list[BaseException] = []

    def wait(self, number: int) -> None:
        """Until it is its turn.

        Raises:
            RuntimeError: if another has failed, which would never hand on.
        """
        self._turns[number].acquire()
        if self.errors:
            raise RuntimeError("another fit has failed")

    def hand_on(self, number: int) -> None:
        """Let the next one run."""
        self._turns[(number + 1) % len(self._turns)].release()

    def fail(self, error: BaseException) -> None:
        """Wake all, so that all end."""
        self.errors.append(error)
        for turn in self._turns:
            turn.release()


def epoch_seconds(builder: Builder, dataset: Dataset, names: Sequence[str]) -> dict[str, Seconds]:
    """Processor seconds of every epoch of each regime, with all that is done between it and the one before.

    Args:
        builder: of a study of one model.
        dataset: to train on.
        names: of regimes with equally many steps.

    Returns:
        For each regime (E,) seconds, E being its epochs.

    Raises:
        Exception: whatever a fit raised.
    """
    share_one_heap()
    ring = Ring(len(names))
    found: dict[str, Seconds] = {}

    def fit(number: int, name: str) -> None:
        try:
            ring.wait(number)
            found[name] = _fit(builder, dataset, name, ring, number)
            ring.hand_on(number)
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            ring.fail(error)

    threads = [threading.Thread(target=fit, args=pair, daemon=True) for pair in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if ring.errors:
        raise ring.errors[0]
    return found


def _fit(builder: Builder, dataset: Dataset, name: str, ring: Ring, number: int) -> Seconds:
    regime = builder.spec.training[name]
    (model,) = builder.spec.models
    seconds = np.zeros(regime.epochs)
    began = 0.0

    def after_step(done: int, total: int) -> None:
        nonlocal began
        # What is done at an epoch's end comes after its last step, and is counted with the first of the next.
        seconds[(done - 1) * regime.epochs // total] += time.process_time() - began
        ring.hand_on(number)
        ring.wait(number)
        began = time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        run = Fit(
            Fabric(accelerator="cpu", devices=1),
            builder.model(model, dataset),
            Loader(dataset, workers=builder.spec.engine.workers),
            regime,
            builder.augmentations(regime),
            seed=0,
            folder=Path(folder),
            report=after_step,
        )
        began = time.process_time()
        run.run()
    return seconds


def ratio(times: Seconds, standard: Seconds) -> Estimate:
    """All seconds over all of the other's, with an interval over epochs.

    Args:
        times: (E,) seconds of epochs.
        standard: (E,), of the same epochs.
    """
    return bootstrap(lambda weights: (weights @ times) / (weights @ standard), len(times))
