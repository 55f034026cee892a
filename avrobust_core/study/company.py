"""The processes of a run, brought together: those that torchrun or srun has started, or that this one starts itself."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from lightning_fabric import Fabric
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from avrobust_core.errors import RunError
from avrobust_core.plain_text import plain_text
from avrobust_core.ranks import Ranks, ranks
from avrobust_core.spec.model import EngineSection
from avrobust_core.study.devices import count_of, fabric_of
from avrobust_core.study.watch import START_SECONDS, Hub, Member, Watch, Who

FOREVER = timedelta(days=30)
"""What collectives wait at most. One process may audit or measure for hours while the others wait: it is the watch that
tells who is dead."""

_INVITATION = "watch"


@dataclass(frozen=True, slots=True)
class Company:
    """This process with all others of the run.

    Attributes:
        fabric: launched.
        watch: over all of them; None where this process is alone.
    """

    fabric: Fabric
    watch: Watch | None = None


@contextmanager
def together(engine: EngineSection) -> Iterator[Company]:
    """Bring the processes of a run together for as long as it lasts.

    Under torchrun or srun they are those of the launcher, on all machines. Otherwise this process starts the others by
    its own command, where `engine.devices` asks for several. Every process must enter. When one dies, all end; see
    `avrobust_core.study.watch`.

    Raises:
        RunError: if there are not the devices that are asked for, or the processes cannot find one another.
    """
    told, children = ranks(), {}
    if told.world == 1:
        wanted = count_of(engine)
        if wanted == 1:
            fabric = fabric_of(engine)
            fabric.launch()
            yield Company(fabric)
            return
        here = "127.0.0.1"
        server = distributed.TCPStore(here, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        told = Ranks(world=wanted, local_world=wanted, address=here, port=server.port, launcher="avrobust")
        store: Store = server
        fabric = fabric_of(engine, told)
        children = {rank: _started(replace(told, rank=rank, local=rank)) for rank in range(1, wanted)}
    else:
        fabric = fabric_of(engine, told)
        store = _store(told)
    watch = _watch(told, store, children)
    try:
        _connect(fabric, told, store)
        yield Company(fabric, watch)
    except BaseException as error:
        watch.leave(error)
        raise
    watch.leave(None)
    distributed.destroy_process_group()


def _started(told: Ranks) -> "subprocess.Popen[bytes]":
    """Another process that runs this one's command, with the variables by which torchrun tells a process its rank."""
    import __main__  # here, for it is what was started, whatever that is

    spec = getattr(__main__, "__spec__", None)
    program = [os.path.abspath(sys.argv[0])] if spec is None else ["-m", spec.name]
    own = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}
    variables = {
        "RANK": told.rank,
        "WORLD_SIZE": told.world,
        "LOCAL_RANK": told.local,
        "LOCAL_WORLD_SIZE": told.local_world,
        "MASTER_ADDR": told.address,
        "MASTER_PORT": told.port,
    }
    environment = own | {name: str(value) for name, value in variables.items()}
    return subprocess.Popen([sys.executable, *program, *sys.argv[1:]], env=environment)


def _store(told: Ranks) -> Store:
    """The store by which processes that a launcher has started find one another: torchrun's own, or one at rank 0."""
    address = f"[{told.address}]" if ":" in told.address else told.address
    within = timedelta(seconds=START_SECONDS)
    try:
        meeting = rendezvous(f"tcp://{address}:{told.port}", told.rank, told.world, timeout=within)
        store: Store = next(iter(meeting))[0]
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(
            f"process {told.rank + 1} of {told.world} does not find the others by {told.address}, port {told.port}, "
            f"within {START_SECONDS:g} s: {plain_text(error)}; look whether all of them were started"
        ) from error
    return store


def _watch(told: Ranks, store: Store, children: "Mapping[int, subprocess.Popen[bytes]]") -> Watch:
    own = PrefixStore("avrobust", store)
    if told.rank:
        try:
            own.wait([_INVITATION], timedelta(seconds=START_SECONDS))
            invitation = own.get(_INVITATION).decode()
        except RuntimeError as error:
            raise RunError(
                f"{Who.this(told)} has heard nothing of rank 0: {plain_text(error, 200)}; rank 0's own message says why"
            ) from error
        return Member(told, invitation)
    hub = Hub(told, children)
    own.set(_INVITATION, hub.invitation)
    try:
        hub.welcome()
    except BaseException as error:
        hub.leave(error)
        raise
    return hub


def _connect(fabric: Fabric, told: Ranks, store: Store) -> None:
    """Make the group of processes before Fabric does, which would wait no longer for a dead process than for a busy."""
    device = fabric.device
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=told.rank,
        world_size=told.world,
        timeout=FOREVER,
        device_id=None if device.type == "cpu" else device,
    )
    fabric.launch()
