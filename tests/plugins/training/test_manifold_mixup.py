"""Manifold mix-up and its noisy kin: what encoders return is mixed, at a layer drawn per batch."""

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest, norm

from avrobust_core import Encoded


def encodings(clips=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "audio": Encoded(torch.randn(clips, 5, 3, generator=generator), torch.randn(clips, 4, generator=generator)),
        "video": Encoded(torch.randn(clips, 2, 6, generator=generator), torch.randn(clips, 7, generator=generator)),
    }


def matrix(augment, given, part):
    """The (B, B) matrix by which encodings were mixed, read from one-hot ones."""
    eye = torch.eye(8)
    encoded = {name: Encoded(eye.unsqueeze(1).clone(), eye.clone()) for name in ("audio", "video")}
    found, targets = augment.begin(given.batch, given.step()).encodings(encoded, given.batch.targets)
    return {name: getattr(e, part).reshape(8, 8) for name, e in found.items()}, targets


def test_tokens_embeddings_and_targets_share_ratio_and_partner(stand, make):
    given, augment = stand(), make("manifold-mixup")
    mixing, targets = matrix(augment, given, "pooled")
    assert torch.equal(mixing["audio"], mixing["video"])
    assert torch.equal(mixing["audio"], matrix(augment, given, "tokens")[0]["audio"])
    torch.testing.assert_close(targets, mixing["audio"] @ given.soft)
    assert (mixing["audio"].diag() < 1).all()
    encoded = encodings()
    found, _ = augment.begin(given.batch, given.step()).encodings(encoded, given.batch.targets)
    expected = torch.einsum("ij,jtd->itd", mixing["video"], encoded["video"].tokens)
    torch.testing.assert_close(found["video"].tokens, expected)


def test_modalities_may_be_mixed_each_by_itself(stand, make):
    given = stand()
    mixing, targets = matrix(make("manifold-mixup", together=False), given, "pooled")
    assert not torch.equal(mixing["audio"], mixing["video"])
    tokens = matrix(make("manifold-mixup", together=False), given, "tokens")[0]
    assert all(torch.equal(tokens[name], mixing[name]) for name in mixing)
    torch.testing.assert_close(targets, (mixing["audio"] + mixing["video"]) / 2 @ given.soft)


def test_gradients_flow_through_to_both_clips(stand, make):
    given, encoded = stand(), encodings()
    encoded["audio"].pooled.requires_grad_()
    found, _ = make("manifold-mixup").begin(given.batch, given.step()).encodings(encoded, given.batch.targets)
    found["audio"].pooled[0].sum().backward()
    assert (encoded["audio"].pooled.grad != 0).any(dim=1).sum() == 2


@pytest.mark.parametrize("name", ["manifold-mixup", "noisy-feature-mixup"])
def test_a_batch_is_mixed_at_exactly_one_layer_whatever_its_order(stand, make, name):
    given, augment = stand(), make(name, layers=["input", "encoded"])
    levels = []
    for epoch in range(40):
        step = given.step(epoch)
        begun = augment.begin(given.batch, step)
        encoded = encodings()
        between, targets = begun.encodings(encoded, begun.batch.targets)
        at_input = not torch.equal(begun.batch.inputs["audio"], given.batch.inputs["audio"])
        at_encoded = not torch.equal(between["audio"].pooled, encoded["audio"].pooled)
        assert at_input != at_encoded
        assert targets.shape == (8, 4)
        turned = augment.begin(given.batch.select(torch.arange(8).flip(0)), step).batch
        assert at_input != torch.equal(turned.inputs["audio"].flip(0), given.batch.inputs["audio"])
        levels.append(at_input)
    assert 10 < sum(levels) < 30


def test_noise_is_as_strong_as_it_is_asked_to_be(stand, make):
    given = stand()
    x = torch.randn(8, 4000, generator=torch.Generator().manual_seed(1)) * 3
    encoded = {"audio": Encoded(x.unsqueeze(1), x)}
    added = []
    for epoch in range(60):
        augment = make("noisy-feature-mixup", share=0, additive=0.4, multiplicative=0, layers=["encoded"])
        found, _ = augment.begin(given.batch, given.step(epoch)).encodings(encoded, given.batch.targets)
        noise = found["audio"].pooled - x
        added.append(noise.std(dim=1) / x.std(dim=1, correction=0))
        assert kstest((noise[0] / noise[0].std()).numpy(), norm.cdf).pvalue > 1e-4
    levels = torch.cat(added) / 0.4
    assert abs(levels.mean() - 2 / 7) < 0.03  # Beta(2, 5)
    assert levels.max() < 1
    augment = make("noisy-feature-mixup", share=0, additive=0, multiplicative=0.2, layers=["encoded"])
    found, _ = augment.begin(given.batch, given.step()).encodings(encoded, given.batch.targets)
    factor = found["audio"].pooled / x
    assert (factor - 1).abs().max() < 0.2
    assert ((factor - 1).abs().amax(dim=1) > 0.005).all()
    tokens = found["audio"].tokens.squeeze(1)
    assert not torch.allclose(tokens, found["audio"].pooled)


def test_without_noise_it_is_manifold_mixup_within_bounds(stand, make):
    given = stand()
    augment = make("noisy-feature-mixup", additive=0, multiplicative=0, layers=["input"], alpha=1)
    found = augment.begin(given.batch, given.step()).batch
    for i in range(8):
        for name, x in given.batch.inputs.items():
            residuals = [
                torch.linalg.lstsq(
                    torch.stack([x[i].flatten(), x[j].flatten()], 1), found.inputs[name][i].reshape(-1, 1)
                )
                .residuals.sum()
                .item()
                for j in range(8)
                if j != i
            ]
            assert min(residuals) < 1e-6
    loud = make("noisy-feature-mixup", additive=50, layers=["input"]).begin(given.batch, given.step()).batch.inputs
    assert (loud["audio"].min(), loud["audio"].max()) == (-1, 1)
    assert (loud["video"].min(), loud["video"].max()) == (0, 1)


def test_a_model_that_reads_one_modality_is_mixed_too(stand, make):
    given = stand()
    begun = make("manifold-mixup").begin(given.batch, given.step())
    found, targets = begun.encodings({"audio": encodings()["audio"]}, given.batch.targets)
    assert list(found) == ["audio"]
    assert targets.shape == (8, 4)


def test_configuration(make):
    for wrong in ({"layers": []}, {"layers": ["fused"]}, {"alpha": 0}, {"share": 2}):
        with pytest.raises(ValidationError):
            make("manifold-mixup", **wrong)
