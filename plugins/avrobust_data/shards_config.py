"""The configuration of `shards`."""

from pathlib import Path
from typing import Any

from pydantic import Field

from avrobust_core import Config


class ShardsConfig(Config):
    """Clips that `avrobust data pack` has packed; splits, classes and media are those of the set packed."""

    root: Path
    """The folder that was packed into; a relative path is relative to the working directory."""
    shuffle_mib: int | None = Field(default=None, ge=64)
    """For disks on which random reads are slow: training mixes clips of this many MiB at a time (they should fit into
    memory beside the run), and reads them in blocks of 8 MiB. By default any clip may follow any other, as from
    files."""

    def identity(self) -> dict[str, Any]:
        """All but the place."""
        return self.model_dump(mode="json", exclude={"root"})
