"""avrobust: the adversarial robustness of multi-modal models, measured and improved.

Every public name is here, and each is imported on first use: `import avrobust_core` loads neither torch nor
pydantic, so that `avrobust plugins` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from avrobust_core._version import __version__

if TYPE_CHECKING:
    from avrobust_core.api.evaluating import Evaluation, evaluate
    from avrobust_core.attacks.attack import Attack, AttackResult, Preparation
    from avrobust_core.attacks.goals import Aim, Goal
    from avrobust_core.attacks.running import Attacked, AttackRun, attack_batch
    from avrobust_core.attacks.verification import Verdict, verify
    from avrobust_core.attacks.victim import BoundVictim, Victim
    from avrobust_core.data.batches import Batch, Clip, Encoded
    from avrobust_core.data.dataset import Dataset
    from avrobust_core.data.media import MediaSpec, Task
    from avrobust_core.errors import (
        AttackViolation,
        AvrobustError,
        AvrobustWarning,
        ClipError,
        DataError,
        ModelError,
        WeightsError,
    )
    from avrobust_core.metrics.latents import Latents, LayerKind, Wanted
    from avrobust_core.metrics.metric import Measurement, Metric, Subject
    from avrobust_core.metrics.probe import Probe
    from avrobust_core.models.answers import logits_of
    from avrobust_core.models.layouts import CheckpointLayout, State
    from avrobust_core.models.model import AVModel
    from avrobust_core.models.objectives import classification_loss, correct, margin
    from avrobust_core.models.parts import EncodedDims, Encoder, Fusion
    from avrobust_core.models.whole import Raw, RawDims, WholeModel
    from avrobust_core.randomness import clip_generator, derive_seed
    from avrobust_core.registry.components import Component, ComponentChoice, Config
    from avrobust_core.registry.hookspecs import hookimpl
    from avrobust_core.registry.registry import Registry
    from avrobust_core.statistics.intervals import Estimate, bootstrap, share
    from avrobust_core.threats.balls import Ball, per_clip
    from avrobust_core.threats.budgets import Budget, ThreatModel
    from avrobust_core.threats.regions import Region, make_ball
    from avrobust_core.training.augmentations import (
        Augmentation,
        AugmentedStep,
        Cost,
        ForwardPass,
        Gather,
        TrainingStep,
    )
    from avrobust_core.training.mixing import Mixture, hard_targets, soft_targets

_HOME = {
    "make_ball": "threats.regions",
    "AttackViolation": "errors",
    "evaluate": "api.evaluating",
    "Evaluation": "api.evaluating",
    "attack_batch": "attacks.running",
    "Attacked": "attacks.running",
    "AttackRun": "attacks.running",
    "Preparation": "attacks.attack",
    "Region": "threats.regions",
    "Goal": "attacks.goals",
    "Aim": "attacks.goals",
    "Ball": "threats.balls",
    "Batch": "data.batches",
    "Clip": "data.batches",
    "Encoded": "data.batches",
    "Budget": "threats.budgets",
    "ThreatModel": "threats.budgets",
    "Component": "registry.components",
    "ComponentChoice": "registry.components",
    "Config": "registry.components",
    "Attack": "attacks.attack",
    "AttackResult": "attacks.attack",
    "Augmentation": "training.augmentations",
    "AugmentedStep": "training.augmentations",
    "ForwardPass": "training.augmentations",
    "Mixture": "training.mixing",
    "hard_targets": "training.mixing",
    "soft_targets": "training.mixing",
    "per_clip": "threats.balls",
    "Cost": "training.augmentations",
    "Gather": "training.augmentations",
    "TrainingStep": "training.augmentations",
    "Dataset": "data.dataset",
    "EncodedDims": "models.parts",
    "Encoder": "models.parts",
    "Fusion": "models.parts",
    "Measurement": "metrics.metric",
    "Metric": "metrics.metric",
    "ModelError": "errors",
    "Subject": "metrics.metric",
    "AvrobustError": "errors",
    "AvrobustWarning": "errors",
    "ClipError": "errors",
    "DataError": "errors",
    "WeightsError": "errors",
    "hookimpl": "registry.hookspecs",
    "Latents": "metrics.latents",
    "LayerKind": "metrics.latents",
    "Probe": "metrics.probe",
    "Wanted": "metrics.latents",
    "MediaSpec": "data.media",
    "Task": "data.media",
    "AVModel": "models.model",
    "classification_loss": "models.objectives",
    "correct": "models.objectives",
    "logits_of": "models.answers",
    "margin": "models.objectives",
    "clip_generator": "randomness",
    "derive_seed": "randomness",
    "Registry": "registry.registry",
    "Estimate": "statistics.intervals",
    "bootstrap": "statistics.intervals",
    "share": "statistics.intervals",
    "Verdict": "attacks.verification",
    "verify": "attacks.verification",
    "BoundVictim": "attacks.victim",
    "Victim": "attacks.victim",
    "CheckpointLayout": "models.layouts",
    "State": "models.layouts",
    "Raw": "models.whole",
    "RawDims": "models.whole",
    "WholeModel": "models.whole",
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
    "AugmentedStep",
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
    "ForwardPass",
    "Fusion",
    "Gather",
    "Goal",
    "Latents",
    "LayerKind",
    "Measurement",
    "MediaSpec",
    "Metric",
    "Mixture",
    "ModelError",
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
    "hard_targets",
    "hookimpl",
    "logits_of",
    "make_ball",
    "margin",
    "per_clip",
    "share",
    "soft_targets",
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
