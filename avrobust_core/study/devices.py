"""The devices that a run computes on: those that a spec asks for, or an error that says what there is."""

import warnings
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators.cuda import CUDAAccelerator
from lightning_fabric.accelerators.mps import MPSAccelerator
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from avrobust_core.errors import RunError
from avrobust_core.ranks import Ranks
from avrobust_core.spec.model import EngineSection


def count_of(engine: EngineSection) -> int:
    """The number of processes that a spec asks for on this machine, one for each device.

    Raises:
        RunError: if there are fewer such devices than asked for.
    """
    accelerator, devices = _resolved(engine)
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, int):
        return devices
    return CUDAAccelerator.auto_device_count() if accelerator == "cuda" else 1


def fabric_of(engine: EngineSection, ranks: Ranks | None = None) -> Fabric:
    """Lightning Fabric for what a spec asks for, not yet launched.

    Args:
        engine: the spec's.
        ranks: of this process among several; None where it is alone.

    Raises:
        RunError: if there are fewer such devices than asked for, or they cannot compute in the precision asked for; or
            a launcher has started another number of processes on this machine.
    """
    accelerator, devices = _resolved(engine)
    strategy: str | DDPStrategy = "auto"
    if ranks is not None and ranks.world > 1:
        strategy = _joint(ranks, _places(engine, accelerator, devices, ranks))
        devices = 1  # those of the strategy count
    try:
        with warnings.catch_warnings():
            # Where jobs are sent from, srun is there, and not what one process needs.
            warnings.filterwarnings("ignore", message="The `srun` command is available", category=UserWarning)
            return Fabric(accelerator=accelerator, devices=devices, precision=engine.precision, strategy=strategy)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise RunError(
            f"engine: Lightning Fabric cannot use accelerator {accelerator}, devices {devices} and precision "
            f"{engine.precision} together: {error}"
        ) from error


def _resolved(engine: EngineSection) -> tuple[str, int | str | list[int]]:
    """The kind of device, and how many or which; refused where they are not there."""
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
    return accelerator, devices


class _Told(ClusterEnvironment):
    """What Fabric asks of a launcher, answered from the ranks that were read once; machines may hold different numbers.

    Args:
        ranks: of this process.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.ranks.address

    @property
    def main_port(self) -> int:
        return self.ranks.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.ranks.world

    def set_world_size(self, size: int) -> None:
        """Fabric takes all machines to hold as many; they need not."""

    def global_rank(self) -> int:
        return self.ranks.rank

    def set_global_rank(self, rank: int) -> None:
        """See `set_world_size`."""

    def local_rank(self) -> int:
        return self.ranks.local

    def node_rank(self) -> int:
        return self.ranks.node


class _Spared(nn.Module):
    """A module beside a parameter that nothing uses.

    A fusion may leave parameters of its encoders unused, which torch must be told to look for. Then it warns where it
    finds none, in each process: here there always is one.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.spare = nn.Parameter(torch.zeros(1, device=next(module.parameters()).device))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class _Joint(DDPStrategy):
    def setup_module(self, module: nn.Module) -> DistributedDataParallel:
        return super().setup_module(_Spared(module))


def _joint(ranks: Ranks, places: list[torch.device]) -> DDPStrategy:
    return _Joint(parallel_devices=places, cluster_environment=_Told(ranks), find_unused_parameters=True)


def _places(
    engine: EngineSection, accelerator: str, devices: int | str | list[int], ranks: Ranks
) -> list[torch.device]:
    """The device of each process on this machine."""
    here = ranks.local_world
    if accelerator == "mps":
        raise RunError(
            f"engine.accelerator is mps, which one process alone can use, and not {ranks.world}: set it to cpu"
        )
    asked = len(devices) if isinstance(devices, list) else devices
    if engine.devices != "auto" and asked != here:
        raise RunError(
            f"engine.devices asks for {asked} on each machine, but {ranks.launcher} has started {here} processes on "
            "this one: leave engine.devices out, or start as many"
        )
    if accelerator == "cpu":
        return [torch.device("cpu")] * here
    if isinstance(devices, list):
        return [torch.device(accelerator, index) for index in devices]
    there = CUDAAccelerator.auto_device_count()
    if there == 1 and ranks.launcher == "srun":  # it shows each task its own GPU alone, as with --gpus-per-task=1
        return [torch.device(accelerator, 0)] * here
    if there < here:
        raise RunError(
            f"{ranks.launcher} has started {here} processes on this machine, but there are {there} ({accelerator}): "
            "start fewer, or set engine.accelerator to cpu"
        )
    return [torch.device(accelerator, index) for index in range(here)]


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
