"""The base class of attacks, which plugins subclass; what an attack returns, and what it must see before."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from avrobust_core.attacks.bound import Access, BoundVictim
from avrobust_core.attacks.passes import NO_PASSES, Occasion, Passes
from avrobust_core.errors import AvrobustError


@dataclass(frozen=True, slots=True)
class AttackResult:
    """The result of an attack; the core measures norms, success and queries itself.

    Attributes:
        inputs: the attacked modalities only, each (B, ...), inside its ball; the clean clip where it failed.
        success: (B,) bool: the attack believes that the clip is where its goal wants it.
        trace: (steps, B) loss per step, NaN where a clip was already done; None if it keeps none.
        last: the attacked modalities where the search stood when it ended, inside the region: from there a search
            under a larger budget begins (`BoundVictim.start`); None to begin from `inputs`.
    """

    inputs: Mapping[str, Tensor]
    success: Tensor
    trace: Tensor | None = None
    last: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Preparation:
    """The clips that an attack must see before it attacks: of one split, in batches of a size that is the attack's own.

    Attributes:
        split: a split of the data set; None for the one that is attacked.
        batch_size: clips per batch; the results may depend on it, so that it is the attack's and not the engine's.
        passes: of each of these clips through the model.
    """

    split: str | None = None
    batch_size: int = 32
    passes: Passes = NO_PASSES


class Attack(ABC):
    """From a bound victim to perturbed inputs.

    Attributes:
        norms: the norms that it can attack in; a spec that asks for another is refused before anything runs.
        minimal: whether it looks for the smallest perturbation that reaches the goal, in the sense of
            `victim.region.size`, and takes the region only as the limit of the search; one run gives the whole curve.
        bounded: False for a corruption (a modality that is removed, say) that takes no notice of the radius: the core
            then reports how far it went, instead of refusing it. Media bounds hold all the same.
        access: what it is told of the points that it asks about: "logits", and gradients if it takes them, or "labels"
            alone, as from a model behind an interface. The core then hands it a victim that answers nothing else.
        preparation: what it must see before it attacks; None for nothing.
        members: the attacks that it is made of, each with its name: clip by clip it must be at least as strong as each.
    """

    norms: ClassVar[frozenset[str]]
    minimal: bool = False
    bounded: bool = True
    access: Access = "logits"
    preparation: Preparation | None = None
    members: "Sequence[tuple[str, Attack]]" = ()

    def prepare(self, victims: Callable[[], Iterator[BoundVictim]]) -> "Attack":
        """The attack, ready to be called; only called where there is a `preparation`.

        Args:
            victims: gives all clips asked for, bound batch by batch; may be called again for another pass.
        """
        raise AvrobustError(
            f"{type(self).__name__} has a preparation, but does not override `prepare`: a plugin's fault"
        )

    def passes(self, occasion: Occasion) -> Passes | None:
        """The passes that one call takes of each clip, the core's own looks before and after it not among them.

        Calls of the victim, and of its `confirm`, count as forwards. The conformance checks compare them with what is
        counted. None, as here, where it cannot be told beforehand: `avrobust plan --cost` then leaves the attack out.

        Args:
            occasion: what it depends on, beside the attack's own configuration.
        """
        return None

    @abstractmethod
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`, each by itself: the result for a clip does not depend on its batch mates.

        Random numbers come from `victim.draws(purpose)`. Nothing of the model, of the clean clips or of the
        global random state may be changed.
        """
