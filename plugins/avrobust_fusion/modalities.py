"""The modalities that a fusion joins, always in sorted order, and errors where one is missing."""

from collections.abc import Mapping

from torch import Tensor

from avrobust_core import AvrobustError, Encoded, EncodedDims


def embed_widths(inputs: Mapping[str, EncodedDims]) -> dict[str, int]:
    """Widths of the pooled embeddings, sorted by modality.

    Raises:
        AvrobustError: if there is none.
    """
    return {name: dims.embed for name, dims in _sorted(inputs)}


def token_widths(inputs: Mapping[str, EncodedDims]) -> dict[str, int]:
    """Widths of the tokens, sorted by modality.

    Raises:
        AvrobustError: if there is none.
    """
    return {name: dims.token for name, dims in _sorted(inputs)}


def _sorted(inputs: Mapping[str, EncodedDims]) -> list[tuple[str, EncodedDims]]:
    if not inputs:
        raise AvrobustError("a fusion needs the embedding of at least one modality, but the model has no encoder")
    return sorted(inputs.items())


def pooled_in_order(encoded: Mapping[str, Encoded], modalities: tuple[str, ...]) -> list[Tensor]:
    """Return the pooled embeddings (B, E) of these modalities; others are ignored.

    Raises:
        KeyError: if one is missing.
    """
    missing = [name for name in modalities if name not in encoded]
    if missing:
        raise missing_error(modalities, missing)
    return [encoded[name].pooled for name in modalities]


def positions_present(encoded: Mapping[str, Encoded], modalities: tuple[str, ...]) -> list[int]:
    """Return the ascending positions in `modalities` of those that are there.

    Raises:
        KeyError: if there is none.
    """
    found = [position for position, name in enumerate(modalities) if name in encoded]
    if not found:
        raise missing_error(modalities, modalities)
    return found


def missing_error(modalities: tuple[str, ...], missing: list[str] | tuple[str, ...], hint: str = "") -> KeyError:
    """Make the error of a fusion that cannot do without a modality.

    Args:
        modalities: that it joins.
        missing: those of them that it was not given.
        hint: what it could do without.
    """
    return KeyError(f"the fusion joins {', '.join(modalities)}; missing: {', '.join(missing)}{hint}")
