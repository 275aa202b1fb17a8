"""Inception against pytorch-fid's network, and the metrics against torch-fidelity's formulas, on random numbers.

Skipped without requirements-peers-fid.txt.
"""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import weights as weights_module
from ddpm_jax.evaluation.features import open_extractor
from ddpm_jax.evaluation.frechet import MomentSums, frechet_distance
from ddpm_jax.evaluation.inception import LAYERS, Inception, preprocess
from ddpm_jax.evaluation.inception_score import SPLITS, ScoreSums
from ddpm_jax.evaluation.kid import squared_mmd
from ddpm_jax.evaluation.weights import read_weights
from tests.end_to_end.commands import assert_same_bits
from tests.peers import peer

torch = peer("torch")
fid_inception = peer("pytorch_fid.inception")
fid_score = peer("pytorch_fid.fid_score")
metric_isc = peer("torch_fidelity.metric_isc")
metric_kid = peer("torch_fidelity.metric_kid")


@pytest.fixture(scope="module")
def network():
    """pytorch-fid's own network, with random weights and batch norms that are not the identity."""
    torch.manual_seed(0)
    inception = fid_inception._inception_v3(num_classes=1008, aux_logits=False, pretrained=False)
    inception.Mixed_5b = fid_inception.FIDInceptionA(192, pool_features=32)
    inception.Mixed_5c = fid_inception.FIDInceptionA(256, pool_features=64)
    inception.Mixed_5d = fid_inception.FIDInceptionA(288, pool_features=64)
    inception.Mixed_6b = fid_inception.FIDInceptionC(768, channels_7x7=128)
    inception.Mixed_6c = fid_inception.FIDInceptionC(768, channels_7x7=160)
    inception.Mixed_6d = fid_inception.FIDInceptionC(768, channels_7x7=160)
    inception.Mixed_6e = fid_inception.FIDInceptionC(768, channels_7x7=192)
    inception.Mixed_7b = fid_inception.FIDInceptionE_1(1280)
    inception.Mixed_7c = fid_inception.FIDInceptionE_2(2048)
    for module in inception.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    return inception.eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "random.safetensors"
    kept = {name: t.numpy() for name, t in network.state_dict().items() if t.is_floating_point()}
    save_file(kept, path)
    return path


@pytest.fixture(scope="module")
def theirs(network):
    """Features of 4 random images of 32x32 by layer, through pytorch-fid's own forward pass."""
    original, fid_inception.fid_inception_v3 = fid_inception.fid_inception_v3, lambda: network
    try:
        wrapped = fid_inception.InceptionV3([0, 1, 2, 3]).eval()
    finally:
        fid_inception.fid_inception_v3 = original
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        maps = wrapped(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float() / 255.0)
        features = [each.mean(dim=(2, 3)).numpy() for each in maps]
        logits = features[3] @ network.fc.weight.detach().numpy().T
    return pixels, dict(zip(LAYERS, [*features, logits], strict=True))


@pytest.mark.parametrize("layer", LAYERS)
def test_features_of_every_layer_match_pytorch_fid(theirs, weights, layer):
    pixels, expected = theirs
    params = read_weights(weights, layer)
    ours = jax.jit(lambda p, x: Inception(layer).apply({"params": p}, preprocess(x)))(params, pixels)
    size = np.abs(expected[layer]).mean()
    np.testing.assert_allclose(ours, expected[layer], rtol=1e-4, atol=1e-4 * size)


def test_logits_come_with_the_last_features(theirs, weights):
    pixels, expected = theirs
    extractor = open_extractor("inception", weights)
    features, logits = extractor.extract(np.repeat(pixels, 16, axis=0))
    np.testing.assert_allclose(features[::16], expected[2048], atol=1e-4 * np.abs(expected[2048]).max())
    np.testing.assert_allclose(logits[::16], expected["logits"], atol=1e-4 * np.abs(expected["logits"]).max())


def test_a_pickle_of_pytorch_is_converted_without_executing_it(network, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "user_cache", lambda name: tmp_path / "cache")
    torch.save(network.state_dict(), tmp_path / "random.pth")
    assert_same_bits(read_weights(tmp_path / "random.pth", 64), read_weights(weights, 64))

    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"a": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(UserError, match="holds no tensors that can be read safely"):
        read_weights(tmp_path / "harmful.pth", 64)
    assert not (tmp_path / "harm").exists()


def test_the_frechet_distance_matches_pytorch_fid(draw):
    sets = [draw.normal(size=(300, 24)) @ draw.normal(size=(24, 24)) + shift for shift in (0.0, 0.3)]
    expected = fid_score.calculate_frechet_distance(
        *(f(features) for features in sets for f in (lambda x: x.mean(axis=0), lambda x: np.cov(x, rowvar=False)))
    )
    moments = []
    for features in sets:
        sums = MomentSums()
        sums.add(features)
        moments.append(sums.moments())
    assert frechet_distance(*moments) == pytest.approx(expected, rel=1e-6)


def test_the_kernel_distance_matches_torch_fidelity(draw):
    a, b = draw.normal(size=(80, 16)), draw.normal(size=(80, 16)) + 0.2
    settings = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None}
    settings |= {"kid_kernel_poly_coef0": 1}
    expected = metric_kid.kernel_mmd(a, b, **settings)
    assert squared_mmd(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_the_inception_score_matches_torch_fidelity(draw):
    logits = draw.normal(size=(200, 30)).astype(np.float32) * 2
    expected = metric_isc.isc_features_to_metric(torch.from_numpy(logits), splits=SPLITS, shuffle=False)
    sums = ScoreSums(np.arange(200) * SPLITS // 200)
    sums.add(logits)
    values = [expected[key] for key in sorted(expected)]  # mean, std
    assert sums.score() == pytest.approx(values, rel=1e-6)
