"""The devices that a run computes on: those that a spec asks for, or an error that says what there is."""

import warnings

from lightning_fabric import Fabric
from lightning_fabric.accelerators.cuda import CUDAAccelerator
from lightning_fabric.accelerators.mps import MPSAccelerator

from avrobust_core.errors import RunError
from avrobust_core.spec.model import EngineSection


def fabric_of(engine: EngineSection) -> Fabric:
    """Lightning Fabric for what a spec asks for, not yet launched.

    Raises:
        RunError: if there are fewer such devices than asked for, or they cannot compute in the precision asked for.
    """
    accelerator, devices = engine.accelerator, engine.devices
    if accelerator == "auto":
        accelerator = "cuda" if CUDAAccelerator.is_available() else "mps" if MPSAccelerator.is_available() else "cpu"
    if accelerator == "cpu":
        if isinstance(devices, list):
            raise RunError(
                f"engine.devices lists devices {devices}, but models run on the CPU, which has none to choose from: "
                "give a number of processes, or auto"
            )
        devices = 1 if devices == "auto" else devices
    else:
        _refuse_missing(accelerator, devices)
    try:
        with warnings.catch_warnings():
            # Where jobs are sent from, srun is there, and not what one process needs.
            warnings.filterwarnings("ignore", message="The `srun` command is available", category=UserWarning)
            return Fabric(accelerator=accelerator, devices=devices, precision=engine.precision)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise RunError(
            f"engine: Lightning Fabric cannot use accelerator {accelerator}, devices {devices} and precision "
            f"{engine.precision} together: {error}"
        ) from error


def _refuse_missing(accelerator: str, devices: int | str | list[int]) -> None:
    there = CUDAAccelerator.auto_device_count() if accelerator == "cuda" else int(MPSAccelerator.is_available())
    if not there:
        raise RunError(
            f"engine.accelerator is {accelerator}, but torch finds no such device here: set it to auto or cpu"
        )
    if isinstance(devices, int) and devices > there:
        raise RunError(
            f"engine.devices asks for {devices}, but there are {there} ({accelerator}): ask for fewer, or auto"
        )
    if isinstance(devices, list) and max(devices) >= there:
        raise RunError(
            f"engine.devices asks for number {max(devices)}, but there are {there} ({accelerator}), numbered from 0"
        )
