"""What a launcher says of a process's rank, read from its variables."""

import pytest

from avrobust_core.errors import RunError
from avrobust_core.ranks import Ranks, ranks_of

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "5",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "3",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}

SRUN = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[07-09]",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
}


def test_torchrun_says_which_process_this_is() -> None:
    assert ranks_of(TORCHRUN) == Ranks(3, 5, 1, 3, 1, "node1", 29500, "torchrun")


def test_srun_says_which_process_this_is() -> None:
    assert ranks_of(SRUN) == Ranks(4, 5, 0, 1, 2, "gpu07", 15000 + 12 * 16 + 3, "srun")
    given = ranks_of(SRUN | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4000"})
    assert (given.address, given.port) == ("10.0.0.7", 4000)


def test_torchrun_within_srun_is_believed() -> None:
    assert ranks_of(SRUN | TORCHRUN).launcher == "torchrun"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a", "a"), ("a,b", "a"), ("a[3-5]", "a3"), ("a[03,07-09],b2", "a03"), ("rack1-n[12-13]-ib,c", "rack1-n12-ib")],
)
def test_rank_0_is_on_the_first_machine_of_a_step(nodes: str, first: str) -> None:
    assert ranks_of(SRUN | {"SLURM_STEP_NODELIST": nodes}).address == first


@pytest.mark.parametrize(
    "alone",
    [
        {},
        {"RANK": "1"},  # somebody else's variable
        {name: value for name, value in SRUN.items() if name != "SLURM_STEP_NUM_TASKS"},  # a batch script, not a task
        SRUN
        | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_NODEID": "0"},
        TORCHRUN | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
    ],
)
def test_whoever_is_started_alone_is_alone(alone: dict[str, str]) -> None:
    assert ranks_of(alone) == Ranks()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"RANK": "first"}, "RANK is 'first', which is no number"),
        ({"RANK": "5"}, "torchrun calls this process number 5 of 5"),
        ({"LOCAL_RANK": "3"}, "number 3 of 3 on its machine"),
    ],
)
def test_what_a_launcher_cannot_mean_is_refused(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(RunError, match=message):
        ranks_of(TORCHRUN | wrong)
