"""The small nets on which attacks for the smallest perturbation are compared, the ones that are hard for them too."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from avrobust_core.spec.model import Spec
from benchmarks.attack_subject import Subject, make_subject

CONVOLUTIONS: Mapping[str, object] = MappingProxyType(
    {
        "audio": {"use": "cnn", "with": {"channels": [8, 16, 32], "n_mels": 16, "hop_ms": 16}},
        "video": "slowfast-tiny",
        "fusion": "concat",
    }
)
TRANSFORMER: Mapping[str, object] = MappingProxyType(
    {
        "audio": {
            "use": "audio-patches",
            "with": {"n_mels": 16, "hop_ms": 16, "patch_frames": 4, "patch_mels": 16, "width": 32},
        },
        "video": {"use": "video-patches", "with": {"patch_size": 8, "width": 32}},
        "fusion": {"use": "early", "with": {"width": 32, "layers": 2, "pool": "mean"}},
    }
)
THREAT = {"audio": {"norm": "linf", "eps": 8 / 255}, "video": {"norm": "linf", "eps": 4 / 255}}
"""Of adversarial training."""

TEST_CLIPS = 300


class Saturated(nn.Module):
    """A head whose logits are flat over most of the space, which leaves next to no gradient.

    Args:
        head: the trained one.
        after: what its logits go through.
    """

    def __init__(self, head: nn.Module, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head = head
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.after(self.head(x))


def squashed(logits: Tensor) -> Tensor:
    """Within 30 of 0, and nearly there for most clips; not so near that float32 rounds to it."""
    return 30 * (logits / 2).tanh()


def rectified(logits: Tensor) -> Tensor:
    """No class has a gradient whose logit is below 0."""
    return 40 * logits.relu()


@dataclass(frozen=True, slots=True)
class Net:
    """How to make one.

    Attributes:
        parts: encoders and fusion.
        training: fields of its regime.
        head: what the trained head is replaced by.
    """

    parts: Mapping[str, object] = field(default_factory=lambda: CONVOLUTIONS)
    training: Mapping[str, object] = field(default_factory=dict)
    head: Callable[[nn.Module], nn.Module] = lambda head: head

    def subject(self, clips: int, cache: Path) -> Subject:
        """The net, trained or from the cache, and so many clips that it classifies correctly."""
        spec: dict[str, Any] = {
            "version": 1,
            "name": "minimal-attacks",
            "data": {
                "use": "toy-av",
                "with": {
                    "classes": 6,
                    "test": TEST_CLIPS,
                    "sample_rate": 2048,
                    "seconds": 0.5,
                    "frames": 8,
                    "size": 16,
                },
            },
            "encoders": {"audio": self.parts["audio"], "video": self.parts["video"]},
            "models": {"net": {"encoders": ["audio", "video"], "fusion": self.parts["fusion"]}},
            "training": {"regime": {"epochs": 10, "learning_rate": 0.003, "select": "last", **self.training}},
        }
        return make_subject(clips, cache, Spec.model_validate(spec), self.head)


NETS: Mapping[str, Net] = MappingProxyType(
    {
        "plain": Net(),
        "relu": Net(head=partial(Saturated, after=rectified)),
        "tanh": Net(head=partial(Saturated, after=squashed)),
        "former": Net(TRANSFORMER, {"epochs": 20}),
        "adv": Net(training={"augment": [{"use": "fast-at", "with": {"threat": THREAT}}]}),
    }
)
