"""Stand-ins for the objects that training scripts leave beside weights, of which nothing is imported or run."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final


class Inert:
    """Stands for an object beside the weights: takes whatever would make it up, and does nothing with it."""

    def __new__(cls, *_: Any) -> "Inert":
        """The stand-in, whatever it is called with."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


class InertMap:
    """Stands for a kind of dictionary: becomes a plain one, so that weights inside are found."""

    def __new__(cls, *_: Any) -> "OrderedDict[Any, Any]":  # type: ignore[misc]
        """An empty dictionary, to be filled with what the file says."""
        return OrderedDict()


class InertList:
    """Stands for a kind of list: becomes a plain one, for torch's older readers fill no other."""

    def __new__(cls, *_: Any) -> "list[Any]":  # type: ignore[misc]
        """An empty list, to be filled with what the file says."""
        return []


_MAPS: Final = (
    "collections.defaultdict",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)

_PATHS: Final = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"

_BESIDE: Final[Mapping[str, str]] = {
    "builtins": "bool bytes dict float frozenset int list object range slice str tuple",
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "typing": "Any",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID",
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "numpy": "ndarray dtype bool_ bool str_ bytes_ longlong ulonglong longdouble int8 int16 int32 int64 "
    "uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "numpy.random._pickle": "__randomstate_ctor __bit_generator_ctor __generator_ctor",
    "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._pcg64": "PCG64",
    "torch.torch_version": "TorchVersion",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.base": "ContainerMetadata Metadata",
    "omegaconf.nodes": "AnyNode BooleanNode FloatNode IntegerNode StringNode",
    "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping": "EarlyStopping",
    "lightning.pytorch.callbacks.model_checkpoint": "ModelCheckpoint",
    "lightning.pytorch.callbacks.early_stopping": "EarlyStopping",
}
"""Names by module, with blanks between them."""

HARMLESS: Final[tuple[tuple[Any, str], ...]] = (
    *((InertMap, name) for name in _MAPS),
    (InertList, "collections.deque"),
    *((Inert, f"{module}.{name}") for module, names in _BESIDE.items() for name in names.split()),
)
"""The names that may stand in a checkpoint beside tensors and plain data, each with what stands for it.

In the form of `torch.serialization.safe_globals`. None of these names is ever looked up: what numpy, pathlib or a
configuration library would make of a file's bytes does not happen.
"""
