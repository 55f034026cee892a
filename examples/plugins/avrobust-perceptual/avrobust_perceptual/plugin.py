"""The components that the plugin offers; free of torch."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_perceptual.configs import ImperceptibleConfig, PerceptualSizeConfig

REFERENCES = (
    "https://arxiv.org/abs/1808.05665",  # Schönherr et al. 2019, masking
    "https://arxiv.org/abs/1903.10346",  # Qin et al. 2019, the threshold that is computed here
    "https://doi.org/10.1109/TIP.2003.819861",  # Wang et al. 2004, SSIM
)


@hookimpl
def avrobust_attacks() -> Iterator[Component]:
    """Offer `imperceptible`."""
    yield Component(
        name="imperceptible",
        summary="Any attack, kept below what is heard and seen: a masking threshold, SSIM, flicker.",
        config=ImperceptibleConfig,
        build="avrobust_perceptual.attack:imperceptible",
        references=REFERENCES,
        example={
            "attack": {"use": "pgd", "with": {"steps": 10}},
            # A modality that the clips of `check-plugin` do not have: its strength checks take the threat's budget for
            # the only limit. What limits do is for this plugin's own tests.
            "limits": {"speech": {"excess_db": 0}},
        },
    )


@hookimpl
def avrobust_metrics() -> Iterator[Component]:
    """Offer `perceptual-size`."""
    yield Component(
        name="perceptual-size",
        summary="How audible and how visible an attack is: sound above the masking threshold, SSIM, flicker.",
        config=PerceptualSizeConfig,
        build="avrobust_perceptual.metric:PerceptualSize",
        references=REFERENCES,
        example={
            "attack": "fgsm",
            "threat": {"audio": {"norm": "linf", "eps": 0.3}},
            "rate": 16000,
        },
    )
