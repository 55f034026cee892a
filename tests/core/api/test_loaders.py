"""What a loader gives: the same clips each time it is read, and batches whose parts fit together."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from avrobust_core import AvrobustError, Batch, DataError, evaluate
from avrobust_core.data.readings import checksums, same_bits


class Clips(Dataset):
    """Single clips; `crop` rolls the sound anew each time, as a transform for training does."""

    def __init__(self, clips, *, crop=False, ids=False):
        (self.inputs, self.targets), self.crop, self.ids = clips, crop, ids

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        inputs = {name: x[i] for name, x in self.inputs.items()}
        if self.crop:
            inputs["audio"] = torch.roll(inputs["audio"], int(torch.randint(1, 12, ())), dims=-1)
        return (inputs, self.targets[i], f"clip-{i}") if self.ids else (inputs, self.targets[i])


NOTHING = {"none": {"audio": {"eps": 0}}}


@pytest.mark.parametrize("crop", [False, True])
def test_a_loader_that_gives_other_clips_each_time_is_refused_by_the_first_clip(clips, attack, crop):
    loader = DataLoader(Clips(clips, crop=crop), batch_size=8, shuffle=not crop)
    what = "audio" if crop else "audio and (targets and )?video"
    with pytest.raises(DataError, match=f"the loader gives clip [0-3] with other {what} than .*shuffle=False"):
        attack(loader=loader, threats=NOTHING)


def test_a_loader_that_shuffles_clips_with_ids_is_put_in_order(clips, attack):
    loader = DataLoader(Clips(clips, ids=True), batch_size=8, shuffle=True)
    found = attack(loader=loader, attacks=["fgsm", "noise"], threats=NOTHING | {"audio": {"audio": {"eps": 0.1}}})
    robust = found.summary["robust_accuracy"]["fgsm"]
    assert robust["none"]["value"] == found.summary["clean_accuracy"]["value"] == 0.75
    in_order = DataLoader(Clips(clips, ids=True), batch_size=8)
    assert attack(loader=in_order).summary["robust_accuracy"]["fgsm"]["audio"]["value"] == robust["audio"]["value"]
    groups = {f"clip-{i}": f"speaker {i // 4}" for i in range(40)}
    assert attack(loader=loader, groups=groups).summary["clean_accuracy"]["value"] == 0.75
    with pytest.raises(DataError, match="the loader shuffles its clips, so that a list of groups means nothing"):
        attack(loader=loader, groups=list(groups.values()))
    with pytest.raises(DataError, match=r"gives clip clip-\d+ with other audio than"):
        attack(loader=DataLoader(Clips(clips, crop=True, ids=True), batch_size=8, shuffle=True), threats=NOTHING)


class Changing:
    """A loader that gives so many of its batches at the first, second, third ... reading."""

    def __init__(self, batches, counts):
        self.batches, self.counts = batches, iter(counts)

    def __iter__(self):
        return iter(self.batches[: next(self.counts)])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((1, 5, 4), "gave 40 clips when it was first read, and now 32; the first that is missing is clip 32"),
        ((1, 4, 5), "gives clip 32, which it did not give when it was first read"),
        ((1, 5, 0), "gave 40 clips when it was first read, and now 0"),
        ((0,), "gives no batch"),
    ],
)
def test_a_loader_that_gives_more_or_fewer_clips_later_is_refused(batches, attack, counts, message):
    with pytest.raises(DataError, match=message):
        attack(loader=Changing(batches(), counts))


def test_one_bit_is_a_difference_and_one_nan_is_the_other(clips):
    inputs, targets = clips
    batch = Batch(inputs, targets, tuple(map(str, range(len(targets)))))
    other = {name: x.clone() for name, x in inputs.items()}
    other["audio"][3, 0, 5] = torch.nextafter(other["audio"][3, 0, 5], torch.tensor(2.0))
    sums, moved = checksums(batch), checksums(Batch(other, targets, batch.ids))
    assert (sums["audio"] != moved["audio"]).nonzero().flatten().tolist() == [3]
    assert torch.equal(sums["video"], moved["video"])
    nan = torch.tensor([torch.nan, 0.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(nan, torch.tensor([torch.nan, -0.0]))
    assert not same_bits(nan, nan.double())


def one_hot(y):
    return torch.nn.functional.one_hot(y, 3)


BATCHES = {
    "uint8": (lambda x, y: (x | {"audio": (x["audio"] * 127).byte()}, y), "audio is uint8 and is to be attacked"),
    "float64": (lambda x, y: (x | {"audio": x["audio"].double()}, y), r"audio is float64 .* \(x.float\(\)\)"),
    "an array": (lambda x, y: (x | {"audio": x["audio"].numpy()}, y), "batch 0 of the loader: audio is ndarray"),
    "sizes": (lambda x, y: (x | {"audio": x["audio"][:5]}, y), "audio 5, video 8, targets 8, ids 8"),
    "few targets": (lambda x, y: (x, y[:5]), "audio 8, video 8, targets 5"),
    "no modality": (lambda x, y: ({}, y), "batch 0 of the loader has no modality"),
    "single clips": (lambda x, y: ({n: t[0] for n, t in x.items()}, y[0]), "targets is a single number.*DataLoader"),
    "an int": (lambda x, y: (x, 3), "the targets are int, not a tensor"),
    "array targets": (lambda x, y: (x, y.numpy()), "the targets are ndarray"),
    "empty": (lambda x, y: ({n: t[:0] for n, t in x.items()}, y[:0]), "batch 0 of the loader is empty"),
    "few ids": (lambda x, y: (x, y, ["a"]), "targets 8, ids 1"),
    "an id": (lambda x, y: (x, y, "a"), "its ids are str, not one for each clip"),
    "ids twice": (lambda x, y: (x, y, list(range(8))), "gives the id '0' twice"),
    "no pair": (lambda x, y: (x["audio"], y), "gives a tuple of Tensor, Tensor, not a Batch"),
    "floats": (
        lambda x, y: (x, y.float()),
        r"are float32 of shape \(8,\); .* integers of shape \(8,\), from 0 to 2",
    ),
    "bools": (lambda x, y: (x, y.bool()), "targets are bool"),
    "a column": (lambda x, y: (x, y[:, None]), r"of shape \(8, 1\); .*: flatten them"),
    "one-hot": (lambda x, y: (x, one_hot(y).float()), r"say task='multi-label', or give targets.argmax\(1\)"),
    "negative": (lambda x, y: (x, torch.where(y == 1, -100, y)), r"target of clips \d+, .* is -100; .* from 0 to 2"),
    "too high": (lambda x, y: (x, torch.where(y == 1, 3, y)), r"target of clips \d+, .* is 3; .* from 0 to 2"),
}


@pytest.mark.parametrize("name", BATCHES)
def test_what_is_no_batch_is_refused_in_one_sentence(batches, attack, name):
    change, message = BATCHES[name]
    with pytest.raises(DataError, match=message) as caught:
        attack(loader=[change(*pair) for pair in batches()])
    assert "\n" not in str(caught.value)


SEVERAL = {
    "shares": (lambda y: one_hot(y) * 0.5, r"target of clips .* is 0.5; .* zeros and ones of shape \(8, 3\)"),
    "nan": (lambda y: one_hot(y) * torch.nan, "is nan; "),
    "a column too many": (
        lambda y: torch.nn.functional.one_hot(y, 4),
        r"shape \(8, 4\); .* one column for each logit",
    ),
    "class numbers": (lambda y: y, r"of shape \(8,\); with several labels"),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_targets_of_several_labels_are_zeros_and_ones(batches, attack, name):
    change, message = SEVERAL[name]
    with pytest.raises(DataError, match=message):
        attack(loader=[(x, change(y)) for x, y in batches()], task="multi-label")


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_targets_of_other_types_that_hold_the_same_numbers_are_taken(batches, attack, dtype):
    plain = attack().summary
    found = attack(loader=[(x, y.to(dtype)) for x, y in batches()]).summary
    assert found["robust_accuracy"] == plain["robust_accuracy"]
    several = attack(loader=[(x, one_hot(y).to(dtype)) for x, y in batches()], task="multi-label").summary
    assert several["clean_accuracy"] == plain["clean_accuracy"]


@pytest.mark.parametrize("names", [("audio",), ("audio", "video", "depth")])
def test_every_batch_has_the_modalities_of_the_first(batches, attack, names):
    loader = batches()
    inputs, targets = loader[2]
    loader[2] = ({name: inputs.get(name, inputs["audio"]) for name in names}, targets)
    message = f"the batch from clip 16 on has {', '.join(names)}, where the first one has audio, video"
    with pytest.raises(DataError, match=message):
        attack(loader=loader)


def test_what_is_not_attacked_is_between_loader_and_model(net, batches, attack):
    """A model may take its pictures as bytes; the attack on sound leaves them alone."""

    class Bytes(net):
        def forward(self, inputs):
            return super().forward(inputs | {"video": inputs["video"].float() / 255})

    loader = [(x | {"video": (x["video"] * 255).byte()}, y) for x, y in batches()]
    assert attack(Bytes(), loader).summary["robust_accuracy"]["fgsm"]["audio"]["value"] < 0.75


def test_clips_of_several_lengths_are_refused_only_where_they_must_be_joined(batches, attack):
    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.top = torch.nn.Linear(2, 3)

        def forward(self, inputs):
            x = inputs["audio"]
            return self.top(torch.cat([x.mean(dim=2), x.std(dim=2)], dim=1))

    loader = [({"audio": x["audio"][..., : 12 - i]}, y) for i, (x, y) in enumerate(batches())]
    options = {"bounds": {"audio": (-1, 1)}}
    assert attack(Pooled(), loader, **options).summary["clips"] == 40
    with pytest.raises(DataError, match=r"clip 8 is of another shape than clip 0: an attack that must see the clips"):
        attack(Pooled(), loader, attacks=["universal"], **options)


@pytest.mark.parametrize("loader", [5, None])
def test_what_cannot_be_read_batch_by_batch_is_said(net, loader):
    with pytest.raises(DataError, match="cannot be read batch by batch"):
        evaluate(net(), loader, attacks=[], threats={})


def test_an_iterator_is_refused_even_if_nothing_is_attacked(net, batches):
    """Its first batch would be gone from the clean accuracy."""
    with pytest.raises(AvrobustError, match="an iterator, which can be read only once"):
        evaluate(net(), (pair for pair in batches()), attacks=[], threats={})
