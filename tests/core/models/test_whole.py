"""Any module from a dict of modalities to logits is a model like any other: attacked, measured, loaded."""

from collections.abc import Mapping

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from avrobust_core import (
    AVModel,
    Batch,
    EncodedDims,
    MediaSpec,
    ModelError,
    Raw,
    Registry,
    ThreatModel,
    Victim,
    WeightsError,
    WholeModel,
)
from avrobust_core.errors import ComponentError
from avrobust_core.models.weights import load_model, read_checkpoint
from avrobust_core.registry.choices import configure

MEDIA = {
    "audio": MediaSpec(kind="audio", shape=(1, 40), bounds=(-1, 1), time_axis=1),
    "video": MediaSpec(kind="video", shape=(3, 4, 5, 5), bounds=(0, 1), time_axis=1),
}
CLASSES = 3


class Net(nn.Module):
    """What somebody wrote who does not know avrobust."""

    def __init__(self) -> None:
        super().__init__()
        self.hear = nn.Conv1d(1, 4, 8)
        self.watch = nn.Conv3d(3, 4, 3)
        self.top = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, CLASSES))

    def forward(self, clips: Mapping[str, Tensor]) -> Tensor:
        assert clips["audio"].dim() == 3
        assert clips["video"].dim() == 5
        heard = self.hear(clips["audio"]).relu().mean(dim=2)
        seen = self.watch(clips["video"]).relu().mean(dim=(2, 3, 4))
        return self.top(torch.cat([heard, seen], dim=1))


def make_net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def make_model(net: nn.Module, classes: int = CLASSES, head: str | None = None) -> AVModel:
    encoders = {name: Raw(spec) for name, spec in MEDIA.items()}
    inputs = {name: encoder.dims for name, encoder in encoders.items()}
    return AVModel(encoders, WholeModel(net, inputs, classes=CLASSES, head=head), classes).eval()


def clips(n: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = {name: torch.rand(n, *spec.shape, generator=generator) for name, spec in MEDIA.items()}
    return Batch(inputs, make_net()(inputs).argmax(dim=1), tuple(map(str, range(n))))


@pytest.mark.parametrize("head", [None, "top.2"])
def test_the_model_says_what_the_module_says_and_passes_its_gradients(head: str | None) -> None:
    batch, net, model = clips(), make_net(), make_model(make_net(), head=head)
    found = []
    for module in (net, model):
        inputs = {name: x.clone().requires_grad_() for name, x in batch.inputs.items()}
        logits = module(inputs)
        logits.square().sum().backward()
        found.append((logits, *(inputs[name].grad for name in MEDIA)))
    for theirs, ours in zip(*found, strict=True):
        assert torch.equal(theirs, ours)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in net.parameters())


def test_an_attack_finds_the_same_on_the_module_and_on_the_model() -> None:
    attack = configure(Registry.discover(), "attack", "pgd", {"steps": 5}).build()
    threat = ThreatModel.model_validate({name: {"norm": "linf", "eps": 0.2} for name in MEDIA})
    found: list[Mapping[str, Tensor]] = []
    for net in (make_net(), make_model(make_net(), head="top.2")):
        victim = Victim(net, media=MEDIA, task="single-label")
        with victim.frozen():
            found.append(attack(victim.bind(clips(), threat)).last)  # where the search ended, fooled or not
    assert all(torch.equal(found[0][name], found[1][name]) for name in MEDIA)
    assert any(not torch.equal(found[0][name], clips().inputs[name]) for name in MEDIA)


def test_with_a_head_the_embedding_is_what_goes_into_it() -> None:
    batch, net, model = clips(), make_net(), make_model(make_net(), head="top.2")
    seen: list[Tensor] = []
    net.top[2].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net(batch.inputs)
    assert torch.equal(model.embed(batch.inputs), seen[0])
    assert torch.equal(make_model(make_net()).embed(batch.inputs), net(batch.inputs))


def test_other_classes_get_a_new_head_and_without_a_head_are_refused() -> None:
    model = make_model(make_net(), classes=7, head="top.2")
    assert model(clips().inputs).shape == (5, 7)
    assert all(tuple(p.shape) != (CLASSES, 6) for p in model.parameters())
    with pytest.raises(ComponentError, match="Net gives 3 logits, and the data set has 7 classes"):
        make_model(make_net(), classes=7)


@pytest.mark.parametrize("head", [None, "top.2"])
def test_the_modules_own_checkpoint_loads_and_so_does_the_models(tmp_path, head: str | None) -> None:
    torch.manual_seed(5)
    other = Net().eval()
    save_file(other.state_dict(), tmp_path / "net.safetensors")
    model = make_model(make_net(), head=head)
    assert load_model(model, read_checkpoint(tmp_path / "net.safetensors"), "net") == "Net"
    assert torch.equal(model(clips().inputs), other(clips().inputs))

    save_file(model.state_dict(), tmp_path / "model.safetensors")  # safetensors refuses parameters that stand twice
    again = make_model(make_net(), head=head)
    assert load_model(again, read_checkpoint(tmp_path / "model.safetensors"), "model") == "its own"
    assert torch.equal(again(clips().inputs), other(clips().inputs))


@pytest.mark.parametrize("prefix", ["module.", "model._orig_mod.", "_orig_mod.module."])
def test_the_modules_own_checkpoint_loads_under_prefixes_of_wrappers(prefix: str) -> None:
    torch.manual_seed(5)
    other = Net().eval()
    model = make_model(make_net(), head="top.2")
    assert load_model(model, {f"{prefix}{key}": x for key, x in other.state_dict().items()}, "net") == "Net"
    assert torch.equal(model(clips().inputs), other(clips().inputs))


def test_a_checkpoint_that_does_not_fit_lists_its_keys() -> None:
    state = {key: x for key, x in make_net().state_dict().items() if key != "watch.bias"} | {"odd": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"1 missing: fusion\.module\.watch\.bias; 1 unexpected:.*\.odd"):
        load_model(make_model(make_net()), state, "net")


def test_what_cannot_be_a_whole_model_is_refused() -> None:
    with pytest.raises(ComponentError, match=r"Net is a whole model .* give audio, video the encoder `raw`"):
        WholeModel(make_net(), {"video": EncodedDims(3, 3), "audio": EncodedDims(3, 3)}, classes=CLASSES)
    with pytest.raises(ComponentError, match=r"has no module under the name 'fc'; its linear.*: top\.0, top\.2"):
        make_model(make_net(), head="fc")
    with pytest.raises(ComponentError, match=r"has Linear.*not an nn.Linear with 3 outputs"):
        make_model(make_net(), head="top.0")


def test_a_head_that_is_not_the_last_layer_is_told() -> None:
    net = make_net()
    net.top.append(nn.Linear(CLASSES, CLASSES))
    broken = make_model(net, head="top.2")
    with pytest.raises((ComponentError, RuntimeError)):
        broken(clips().inputs)
    wide = make_net()
    wide.top[2] = nn.Linear(6, CLASSES + 1)
    with pytest.raises(ModelError, match=r"Net returns torch.float32 of shape \(5, 4\).*wanted are logits \(5, 3\)"):
        make_model(wide)(clips().inputs)


def test_a_whole_model_is_called_by_the_name_of_its_module() -> None:
    model, net = make_model(make_net()), make_net()
    assert model.title == "Net"
    assert AVModel({"video": Raw(MEDIA["video"])}, None, 2).title == "AVModel"

    class Held(Net):
        def forward(self, clips: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {"logits": super().forward(clips)}

    held = Held()
    held.load_state_dict(net.state_dict())
    for head in (None, "top.2"):
        assert torch.equal(make_model(held, head=head)(clips().inputs), net(clips().inputs))


def test_a_module_of_one_modality_is_a_model_of_one_encoder() -> None:
    class Deaf(nn.Module):
        def forward(self, clips: Mapping[str, Tensor]) -> Tensor:
            return clips["video"].mean(dim=(2, 3, 4))

    raw, batch = Raw(MEDIA["video"]), clips()
    model = AVModel({"video": raw}, WholeModel(Deaf(), {"video": raw.dims}, classes=CLASSES), CLASSES)
    assert torch.equal(model(batch.inputs), batch.inputs["video"].mean(dim=(2, 3, 4)))
