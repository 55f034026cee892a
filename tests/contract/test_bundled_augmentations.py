"""Every augmentation that this distribution offers passes every check of the conformance kit."""

import re
from pathlib import Path
from typing import Any

from avrobust_core import Registry
from avrobust_core.testing import AugmentationSubject, parametrize_with_checks

COMPONENTS = {
    offer.component.name: offer.component
    for offer in Registry.discover().entries("augmentation")
    if offer.distribution == "avrobust"
}
OTHERS = {
    "mixup": ({"alpha": 1, "share": 0.5, "together": False},),
    "manifold-mixup": ({"together": False},),
    "noisy-feature-mixup": ({"together": False, "layers": ["encoded"]},),
    "cutmix": ({"axis": "space"}, {"axis": "time-frequency"}),
    "noise": ({"scale": {"video": 0.5}, "distribution": "uniform"},),
    "modality-dropout": ({"probability": {"audio": 0.5, "video": 0.5}, "fill": "clip"},),
    "free-at": ({"threat": {"audio": {"eps": 0.002}}, "memory": True, "replays": 1},),
    "vertex-mixup": (
        {"threat": {"audio": {"eps": 0.002}, "video": {"norm": "l2", "eps": 0.5}}, "together": False, "bits": 2},
        {"threats": [{"audio": {"eps": 0.002}}, {"video": {"eps": "4/255"}}], "steps": 1, "warmup": 1},
    ),
    "guided-weights": ({"guide": ["balance"], "warmup": 1}, {"score": "log-knn", "warmup": 1, "control": "permuted"}),
    "specaugment": ({"fill": "mean", "together": False, "modalities": ["audio"]},),
}
"""Other configurations than the examples."""
SUBJECTS = [
    *(AugmentationSubject.of_component(component) for component in COMPONENTS.values()),
    *(
        AugmentationSubject.of_component(COMPONENTS[name], given, f"{name}-{i}")
        for name, more in OTHERS.items()
        for i, given in enumerate(more)
    ),
]


def _documented() -> AugmentationSubject:
    """The augmentation that docs/training.md shows."""
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "documented"}
    exec(source, names)
    return AugmentationSubject("documented", names["Fade"])


SUBJECTS.append(_documented())


@parametrize_with_checks(SUBJECTS)
def test_bundled_augmentations_conform(subject, check):
    check(subject)
