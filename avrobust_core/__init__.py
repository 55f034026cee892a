"""avrobust: the adversarial robustness of multi-modal models, measured and improved.

Every public name is here, and each is imported on first use: `import avrobust_core` loads neither torch nor
pydantic, so that `avrobust plugins` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from avrobust_core._version import __version__

if TYPE_CHECKING:
    from avrobust_core.attacking import Attacked, AttackRun, attack_batch
    from avrobust_core.augmentations import Augmentation, Cost, Gather, Passed, TrainingStep
    from avrobust_core.balls import Ball
    from avrobust_core.batches import Batch, Clip, Encoded
    from avrobust_core.border.answers import logits_of
    from avrobust_core.budgets import Budget, ThreatModel
    from avrobust_core.components import Component, ComponentChoice, Config
    from avrobust_core.contracts import (
        Attack,
        AttackResult,
        Dataset,
        EncodedDims,
        Encoder,
        Fusion,
        Measurement,
        Metric,
        Preparation,
        Subject,
    )
    from avrobust_core.errors import (
        AttackViolation,
        AvrobustError,
        AvrobustWarning,
        ClipError,
        DataError,
        ModelError,
        WeightsError,
    )
    from avrobust_core.evaluating import Evaluation, evaluate
    from avrobust_core.goals import Aim, Goal
    from avrobust_core.hookspecs import hookimpl
    from avrobust_core.latents import Latents, LayerKind, Wanted
    from avrobust_core.media import MediaSpec, Task
    from avrobust_core.model import AVModel
    from avrobust_core.naming import first_of
    from avrobust_core.objectives import classification_loss, correct, margin
    from avrobust_core.probing import Probe
    from avrobust_core.randomness import clip_generator, derive_seed
    from avrobust_core.regions import Region, make_ball
    from avrobust_core.registry import Registry
    from avrobust_core.statistics import Estimate, bootstrap, share
    from avrobust_core.verification import Verdict, verify
    from avrobust_core.victim import BoundVictim, Victim
    from avrobust_core.weights import CheckpointLayout, State
    from avrobust_core.whole import Raw, RawDims, WholeModel

_HOME = {
    "make_ball": "regions",
    "AttackViolation": "errors",
    "evaluate": "evaluating",
    "Evaluation": "evaluating",
    "attack_batch": "attacking",
    "Attacked": "attacking",
    "AttackRun": "attacking",
    "Preparation": "contracts",
    "Region": "regions",
    "Goal": "goals",
    "Aim": "goals",
    "Ball": "balls",
    "Batch": "batches",
    "Clip": "batches",
    "Encoded": "batches",
    "Budget": "budgets",
    "ThreatModel": "budgets",
    "Component": "components",
    "ComponentChoice": "components",
    "Config": "components",
    "Attack": "contracts",
    "AttackResult": "contracts",
    "Augmentation": "augmentations",
    "Cost": "augmentations",
    "Gather": "augmentations",
    "Passed": "augmentations",
    "TrainingStep": "augmentations",
    "Dataset": "contracts",
    "EncodedDims": "contracts",
    "Encoder": "contracts",
    "Fusion": "contracts",
    "Measurement": "contracts",
    "Metric": "contracts",
    "ModelError": "errors",
    "Subject": "contracts",
    "AvrobustError": "errors",
    "AvrobustWarning": "errors",
    "ClipError": "errors",
    "DataError": "errors",
    "WeightsError": "errors",
    "hookimpl": "hookspecs",
    "Latents": "latents",
    "LayerKind": "latents",
    "Probe": "probing",
    "Wanted": "latents",
    "MediaSpec": "media",
    "Task": "media",
    "AVModel": "model",
    "first_of": "naming",
    "classification_loss": "objectives",
    "correct": "objectives",
    "logits_of": "border.answers",
    "margin": "objectives",
    "clip_generator": "randomness",
    "derive_seed": "randomness",
    "Registry": "registry",
    "Estimate": "statistics",
    "bootstrap": "statistics",
    "share": "statistics",
    "Verdict": "verification",
    "verify": "verification",
    "BoundVictim": "victim",
    "Victim": "victim",
    "CheckpointLayout": "weights",
    "State": "weights",
    "Raw": "whole",
    "RawDims": "whole",
    "WholeModel": "whole",
}

__all__ = [
    "AVModel",
    "Aim",
    "Attack",
    "AttackResult",
    "AttackRun",
    "AttackViolation",
    "Attacked",
    "Augmentation",
    "AvrobustError",
    "AvrobustWarning",
    "Ball",
    "Batch",
    "BoundVictim",
    "Budget",
    "CheckpointLayout",
    "Clip",
    "ClipError",
    "Component",
    "ComponentChoice",
    "Config",
    "Cost",
    "DataError",
    "Dataset",
    "Encoded",
    "EncodedDims",
    "Encoder",
    "Estimate",
    "Evaluation",
    "Fusion",
    "Gather",
    "Goal",
    "Latents",
    "LayerKind",
    "Measurement",
    "MediaSpec",
    "Metric",
    "ModelError",
    "Passed",
    "Preparation",
    "Probe",
    "Raw",
    "RawDims",
    "Region",
    "Registry",
    "State",
    "Subject",
    "Task",
    "ThreatModel",
    "TrainingStep",
    "Verdict",
    "Victim",
    "Wanted",
    "WeightsError",
    "WholeModel",
    "__version__",
    "attack_batch",
    "bootstrap",
    "classification_loss",
    "clip_generator",
    "correct",
    "derive_seed",
    "evaluate",
    "first_of",
    "hookimpl",
    "logits_of",
    "make_ball",
    "margin",
    "share",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'avrobust_core' has no attribute {name!r}")
    value = getattr(import_module(f"avrobust_core.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
