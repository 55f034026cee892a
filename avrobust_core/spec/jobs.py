"""The part of a spec that sends cells to jobs: where, how many at one time, and what a job is given."""

from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, GetJsonSchemaHandler, model_validator

from avrobust_core.config.sections import Section

Word = Annotated[str, Field(min_length=1)]
Option = str | int | float | Literal[True]


class JobsSection(Section):
    """Where a run's cells are carried out, each in a job of its own; a bare name means {where: ...}."""

    also_takes: ClassVar[str] = "local, slurm"

    where: Literal["local", "slurm"]
    """local: processes on this machine. slurm: jobs of SLURM, which `pip install 'avrobust[slurm]'` sends; the run's
    folder must be on a file system that the nodes share."""
    at_once: int | None = Field(default=None, ge=1, le=10_000)
    """Most jobs at one time. By default, of local ones one per GPU, or per two CPU cores but at least two; of SLURM's
    all."""
    gpus: int | None = Field(default=None, ge=0, le=1024)
    """GPUs per job: SLURM is asked for so many; local jobs see so many of this machine's, in turn. By default as many
    as `devices` where that is a number, of SLURM only if `accelerator` is cuda; else local jobs see one, and SLURM is
    asked for none."""
    cpus: int | None = Field(default=None, ge=1, le=4096)
    """SLURM: CPU cores per process of a job; null for the cluster's default."""
    memory_gib: float | None = Field(default=None, gt=0, le=1e6)
    """SLURM: memory per job and node; null for the cluster's default."""
    hours: float | None = Field(default=None, gt=0, le=1e5)
    """SLURM: most hours per job; null for the partition's default. The same command goes on after a job that ran out of
    time."""
    partition: Word | None = None
    """SLURM: the partition; null for the cluster's default."""
    sbatch: dict[Word, Option] = Field(default_factory=dict)
    """SLURM: further options of sbatch by their long names, as {account: speech, constraint: a100}; true for an option
    without a value."""

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"where": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _can_be_sent(self) -> "JobsSection":
        if self.where == "slurm" and find_spec("submitit") is None:
            raise ValueError("jobs of SLURM are sent through submitit, which is missing: pip install 'avrobust[slurm]'")
        of_slurm = [name for name in ("cpus", "memory_gib", "hours", "partition", "sbatch") if getattr(self, name)]
        if self.where == "local" and of_slurm:
            raise ValueError(f"{', '.join(of_slurm)}: for SLURM; local jobs share this machine")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        whole = handler.resolve_ref_schema(handler(core_schema))
        names = {"enum": list(get_args(cls.model_fields["where"].annotation))}
        return {name: value for name, value in whole.items() if name != "type"} | {"anyOf": [{"type": "object"}, names]}
