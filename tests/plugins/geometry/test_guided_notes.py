"""What guided mix-up notes of clips, and what it counts."""

import pickle

import numpy as np
import pytest
import torch
from avrobust_geometry.guided import notes as module
from avrobust_geometry.guided.notes import Notes, Projection
from avrobust_geometry.guided.tally import BINS, Tally, bin_of

from avrobust_core import AvrobustError


def test_notes_scale_each_modality_alike_and_keep_the_last_row_of_a_clip() -> None:
    notes = Notes()
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(20, 3, generator=generator), torch.randn(20, 5, generator=generator) * 40 + 7
    ids = [f"{i:02d}" for i in range(20)]
    targets = torch.arange(20) % 4
    notes.add(ids, {"video": second, "audio": torch.zeros_like(first)}, targets)
    notes.add(ids, {"video": second, "audio": first}, targets)
    points = notes.embeddings()
    assert points.shape == (20, 8)
    for part in (points[:, :3], points[:, 3:]):
        assert np.abs(part.mean(axis=0)).max() < 1e-3
        assert np.square(part).sum(axis=1).mean() == pytest.approx(1, rel=1e-3)


def test_notes_of_several_processes_are_the_same_in_any_order() -> None:
    def noted(ids: list[str]) -> Notes:
        notes = Notes()
        rows = torch.tensor([[float(i)] for i in map(int, ids)])
        notes.add(ids, {"audio": rows}, torch.tensor([int(i) % 2 for i in ids]))
        return notes

    one, two = noted(["3", "1"]), noted(["0", "2"])
    one.merge([noted(["3", "1"]), two])
    two.merge([noted(["3", "1"]), noted(["0", "2"])])
    assert one.ids() == two.ids() == ("0", "1", "2", "3")
    np.testing.assert_array_equal(one.embeddings(), two.embeddings())
    np.testing.assert_array_equal(one.labels(), [0, 1, 0, 1])


def test_notes_in_small_batches_are_those_of_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = [f"{i % 37:02d}" for i in range(60)]  # 23 clips come twice
    rows, targets = torch.randn(60, 4, generator=generator), torch.arange(60)
    at_once, apart = Notes(), Notes()
    at_once.add(ids, {"audio": rows}, targets)
    monkeypatch.setattr(module, "AT_ONCE", 8)
    for i in range(0, 60, 5):
        apart.add(ids[i : i + 5], {"audio": rows[i : i + 5]}, targets[i : i + 5])
    assert len(at_once) == len(apart) == 37
    assert torch.equal(at_once.rows(), apart.rows())
    last = {clip_id: i for i, clip_id in enumerate(ids)}
    assert apart.labels().tolist() == [last[clip_id] for clip_id in apart.ids()]
    assert torch.equal(apart.rows(), rows[[last[clip_id] for clip_id in apart.ids()]].half())


def test_notes_and_counts_are_the_same_after_a_state_and_after_a_pickle() -> None:
    notes, tally = Notes(), Tally(3)
    assert len(Notes.of(notes.state_dict())) == 0
    notes.add(["b", "a"], {"video": torch.ones(2, 2), "audio": torch.zeros(2, 1)}, torch.eye(2))
    tally.add(torch.eye(3), torch.tensor([0.9, 0.2, 0.6]), torch.tensor([0, 0, 2]), torch.tensor([1, 2, 2]))
    for found in (Notes.of(notes.state_dict()), pickle.loads(pickle.dumps(notes))):
        assert found.ids() == ("a", "b")
        assert found.widths == [1, 2]
        assert torch.equal(found.rows(), notes.rows())
        np.testing.assert_array_equal(found.labels(), [[0, 1], [1, 0]])
        np.testing.assert_array_equal(found.embeddings(), notes.embeddings())
    for counted in (Tally.of(tally.state_dict()), pickle.loads(pickle.dumps(tally))):
        assert torch.equal(counted.by_class, tally.by_class)
        assert torch.equal(counted.by_ratio, tally.by_ratio)


def test_projected_distances_stay_as_they_are_in_the_mean() -> None:
    x = torch.randn(200, 3000, generator=torch.Generator().manual_seed(0))
    projected = Projection(256)("audio", x, 0)
    assert projected.shape == (200, 256)
    ratio = (torch.pdist(projected) / torch.pdist(x)).square()
    assert float(ratio.mean()) == pytest.approx(1, abs=0.01)
    assert float(ratio.std()) == pytest.approx((2 / 256) ** 0.5, rel=0.1)


def test_projections_depend_on_seed_and_modality_alone_and_leave_narrow_embeddings_alone() -> None:
    x = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    one = Projection(256)("audio", x, 0)
    assert torch.equal(one, Projection(256)("audio", x, 0))
    assert not torch.equal(one, Projection(256)("video", x, 0))
    assert not torch.equal(one, Projection(256)("audio", x, 1))
    assert Projection(300)("audio", x, 0) is x


def test_a_mixture_fails_where_neither_end_is_said() -> None:
    tally = Tally(3)
    logits = torch.eye(3)[[0, 1, 2, 2]]
    tally.add(logits, torch.tensor([0.95, 0.4, 0.95, 0.55]), torch.tensor([0, 0, 0, 0]), torch.tensor([0, 1, 0, 1]))
    np.testing.assert_array_equal(tally.by_class, [[3, 2], [1, 0], [0, 0]])
    assert tally.by_ratio[bin_of(torch.tensor([0.95]))[0]].tolist() == [2, 1]
    np.testing.assert_allclose(tally.class_budget(), [3 / 5, 1 / 3, 1 / 2])
    assert tally.ratio_budget().shape == (BINS,)


def test_with_several_labels_a_mixture_fails_where_a_shared_one_is_denied() -> None:
    tally = Tally(3)
    first = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    second = torch.tensor([[1.0, 0, 0], [1, 0, 1], [1, 0, 0]])
    tally.add(torch.tensor([[1.0, -1, -1], [-1, 1, 1], [-1, -1, -1]]), torch.tensor([0.5, 0.5, 0.5]), first, second)
    np.testing.assert_array_equal(tally.by_class, [[2, 1], [0, 0], [0, 0]])
    assert tally.by_ratio.sum(dim=0).tolist() == [2, 1]


def test_a_state_stays_as_it_was_when_counting_goes_on() -> None:
    tally = Tally(2)
    tally.add(torch.eye(2), torch.tensor([0.9, 0.9]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    state = tally.state_dict()
    tally.add(torch.eye(2), torch.tensor([0.9, 0.9]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert state["by_class"].tolist() == [[1, 0], [1, 0]]
    assert int(state["by_ratio"].sum()) == 2


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6, 1e25])
def test_embeddings_of_any_scale_and_beside_an_outlier_keep_their_distances(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    audio, video = torch.randn(60, 4, generator=generator), torch.randn(60, 5, generator=generator)
    ids, targets = [f"{i:02d}" for i in range(60)], torch.arange(60) % 3
    plain, scaled = Notes(), Notes()
    plain.add(ids, {"audio": audio, "video": video}, targets)
    scaled.add(ids, {"audio": audio * scale, "video": video}, targets)
    expected = torch.pdist(torch.from_numpy(plain.embeddings()))
    torch.testing.assert_close(torch.pdist(torch.from_numpy(scaled.embeddings())), expected, rtol=5e-2, atol=5e-2)
    audio[7] = 1e10
    wild = Notes()
    wild.add(ids, {"audio": audio * scale, "video": video}, targets)
    points = torch.from_numpy(wild.embeddings())
    assert bool(torch.isfinite(points).all())
    others = [i for i in range(60) if i != 7]
    near = torch.cdist(points[others], points[others]).topk(6, largest=False).indices
    before = torch.from_numpy(plain.embeddings())[others]
    expected = torch.cdist(before, before).topk(6, largest=False).indices
    assert sum(len(set(a) & set(b)) for a, b in zip(near.tolist(), expected.tolist(), strict=True)) > 0.9 * near.numel()
    for found in (Notes.of(wild.state_dict()), pickle.loads(pickle.dumps(wild))):
        np.testing.assert_array_equal(found.embeddings(), wild.embeddings())


def test_what_float16_holds_does_not_depend_on_the_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    rows[20] = 1e9
    at_once, apart = Notes(), Notes()
    ids = [f"{i:02d}" for i in range(30)]
    at_once.add(ids, {"audio": rows}, torch.arange(30))
    monkeypatch.setattr(module, "AT_ONCE", 1)
    for i in range(0, 30, 5):
        apart.add(ids[i : i + 5], {"audio": rows[i : i + 5]}, torch.arange(i, i + 5))
    assert torch.equal(at_once.rows(), apart.rows())
    assert at_once.rows()[20].tolist() == [1e9] * 4


def test_embeddings_that_are_not_finite_are_refused_by_their_clip() -> None:
    notes = Notes()
    notes.add(["a", "b"], {"audio": torch.tensor([[1.0, 2.0], [float("nan"), 0.0]])}, torch.tensor([0, 1]))
    with pytest.raises(AvrobustError, match="1 of 2 clips, the first of which is 'b'"):
        notes.embeddings()


def test_processes_that_go_on_from_one_state_count_it_once() -> None:
    def more(tally: Tally, target: int) -> None:
        tally.add(torch.eye(2)[[0]], torch.tensor([0.9]), torch.tensor([target]), torch.tensor([target]))

    alone = Tally(2)
    more(alone, 0)
    state = alone.state_dict()
    more(alone, 1)
    more(alone, 0)
    both = [Tally.of(state), Tally.of(state)]
    more(both[0], 1)
    more(both[1], 0)
    both[0].merge([pickle.loads(pickle.dumps(tally)) for tally in both])
    assert torch.equal(both[0].by_class, alone.by_class)
    assert torch.equal(both[0].by_ratio, alone.by_ratio)
