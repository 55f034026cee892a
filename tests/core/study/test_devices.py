"""Devices that are not there are refused in one sentence, before anything is done."""

from typing import Any

import pytest
import torch
from torch import distributed, nn

from avrobust_core.errors import RunError
from avrobust_core.ranks import Ranks
from avrobust_core.spec.model import EngineSection
from avrobust_core.study import devices as module
from avrobust_core.study.devices import fabric_of


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that there are so many CUDA devices."""

    def there(count: int) -> None:
        monkeypatch.setattr(module.CUDAAccelerator, "is_available", staticmethod(lambda: count > 0))
        monkeypatch.setattr(module.CUDAAccelerator, "auto_device_count", staticmethod(lambda: count))
        monkeypatch.setattr(module.MPSAccelerator, "is_available", staticmethod(lambda: False))

    return there


@pytest.mark.parametrize(
    ("count", "engine", "message"),
    [
        (0, {"accelerator": "cuda"}, "engine.accelerator is cuda, but torch finds no such device here"),
        (0, {"accelerator": "mps"}, "engine.accelerator is mps, but torch finds no such device here"),
        (0, {"devices": [0]}, "engine.devices lists devices [0], but models run on the CPU"),
        (2, {"accelerator": "cpu", "devices": [1]}, "engine.devices lists devices [1], but models run on the CPU"),
        (2, {"devices": 3}, "engine.devices asks for 3, but there are 2 (cuda)"),
        (2, {"accelerator": "cuda", "devices": [0, 2]}, "engine.devices asks for number 2, but there are 2 (cuda)"),
    ],
)
def test_a_device_that_is_not_there_is_refused(count: int, engine: Any, message: str, gpus: Any) -> None:
    gpus(count)
    with pytest.raises(RunError) as raised:
        fabric_of(EngineSection.model_validate(engine))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(("devices", "world"), [("auto", 1), (1, 1), (2, 2)])
def test_on_the_cpu_a_number_of_devices_is_one_of_processes(devices: Any, world: int, gpus: Any) -> None:
    gpus(0)
    assert fabric_of(EngineSection(devices=devices)).world_size == world


def test_what_fabric_itself_refuses_is_told_in_one_sentence(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ValueError("no such precision")

    gpus(0)
    monkeypatch.setattr(module, "Fabric", refuse)
    with pytest.raises(RunError, match="cannot use accelerator cpu, devices 1 and precision 32-true together: no such"):
        fabric_of(EngineSection())


@pytest.mark.parametrize(
    ("count", "engine", "launcher", "device"),
    [
        (0, {}, "torchrun", "cpu"),
        (0, {"accelerator": "cpu", "devices": 3}, "torchrun", "cpu"),
        (4, {}, "torchrun", "cuda:2"),
        (4, {"devices": [3, 1, 0]}, "torchrun", "cuda:0"),
        (1, {}, "srun", "cuda:0"),  # each task is shown its own GPU
    ],
)
def test_a_process_that_a_launcher_started_takes_its_own_device(
    count: int, engine: Any, launcher: str, device: str, gpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(count)
    taken: list[Any] = []
    monkeypatch.setattr(module, "Fabric", lambda **told: taken.append(told["strategy"]))
    ranks = Ranks(rank=4, world=7, local=2, local_world=3, node=1, address="node1", port=1, launcher=launcher)
    fabric_of(EngineSection.model_validate(engine), ranks)
    (strategy,) = taken
    assert str(strategy.root_device) == device
    assert (strategy.global_rank, strategy.world_size) == (4, 7), "also where machines hold different numbers of them"


@pytest.mark.parametrize(
    ("count", "engine", "message"),
    [
        (
            0,
            {"devices": 2},
            "engine.devices asks for 2 on each machine, but torchrun has started 3 processes on this one",
        ),
        (4, {"devices": [0, 1]}, "engine.devices asks for 2 on each machine, but torchrun has started 3"),
        (2, {}, "torchrun has started 3 processes on this machine, but there are 2 (cuda)"),
        (1, {}, "torchrun has started 3 processes on this machine, but there are 1 (cuda)"),
    ],
)
def test_more_or_fewer_processes_than_devices_are_refused(count: int, engine: Any, message: str, gpus: Any) -> None:
    gpus(count)
    ranks = Ranks(rank=4, world=7, local=2, local_world=3, node=1, address="node1", port=1, launcher="torchrun")
    with pytest.raises(RunError) as raised:
        fabric_of(EngineSection.model_validate(engine), ranks)
    assert str(raised.value).startswith(message)


class _Partly(nn.Module):
    """As a fusion of tokens: it leaves what would pool them unused."""

    def __init__(self, *, all_of_it: bool) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(2, 1), nn.Identity() if all_of_it else nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


@pytest.mark.parametrize("all_of_it", [False, True])
def test_several_processes_train_models_that_leave_parameters_unused(all_of_it: bool, gpus: Any, capfd: Any) -> None:
    gpus(0)
    ranks = Ranks(rank=0, world=2, local=0, local_world=2, address="127.0.0.1", port=1, launcher="torchrun")
    strategy: Any = fabric_of(EngineSection(), ranks).strategy
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        module = _Partly(all_of_it=all_of_it)
        joint = strategy.setup_module(module)
        for _ in range(3):
            joint(torch.ones(4, 2)).sum().backward()
    finally:
        distributed.destroy_process_group()
    assert module.used.bias.grad.item() == 12
    assert "find_unused_parameters" not in capfd.readouterr().err, "no word of torch in each process"
