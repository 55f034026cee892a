"""Random numbers drawn per clip from (seed, clip id, purpose), never from the batch or the global state."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from any parts, the same in every process, on every machine.

    Args:
        parts: e.g. the study's seed, a clip's id, the purpose. Order matters; ("a", "bc") and ("ab", "c") differ.
    """
    # Doubled inside a part, so that a separator in a clip's id cannot pass for one between parts.
    text = "\x1f".join([f"{type(part).__name__}:{part}".replace("\x1f", "\x1f\x1f") for part in parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def clip_generator(seed: int, clip_id: str, purpose: str) -> "torch.Generator":
    """A CPU generator of one clip's own random numbers for one purpose: to make a clip. Of a batch: see `ClipDraws`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, clip_id, purpose))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch's global random state seeded, and restore that state afterwards."""
    import torch

    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
