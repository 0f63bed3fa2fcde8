"""Linear heads on planted features: recovery, calibration, files, and the metrics that judge them."""

from __future__ import annotations

import numpy as np
import pytest

from valign.errors import DataError, ModelError
from valign.rewards import head_metrics as m
from valign.rewards import linear_head


def planted(n: int = 300, noise: float = 0.3, seed: int = 0):
    """Features whose first two columns decide two labels, in clusters of three rows."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1.0, 0.0, 1.0], size=(n, 2), p=[0.25, 0.5, 0.25])
    features = rng.normal(size=(n, 2, 4))
    features[:, 0, :2] = labels + noise * rng.normal(size=(n, 2))
    return features.astype(np.float32), labels, [f"c{i // 3}" for i in range(n)]


@pytest.fixture(scope="module")
def fitted():
    return linear_head.fit(*planted(), ["a", "b"], model="m", layers=[1, 2])


def test_a_planted_signal_is_found(fitted):
    """New rows are read far above the majority, and no better on the held-out rows than on new ones by chance
    alone.
    """
    features, labels, _ = planted(seed=1)
    called = fitted.head.classes(fitted.head(features))
    new = m.mean_over(m.macro_f1, labels, called)
    held = m.mean_over(m.macro_f1, planted()[1], fitted.head.classes(fitted.held_out))
    assert new > 0.8 and abs(new - held) < 0.08
    assert m.mean_over(m.macro_f1, labels, np.zeros_like(labels)) < 0.3


def test_outputs_are_expectations(fitted):
    """Clipped to [-1, 1], and the mean over rows is near the mean label: profiles are not biased by doubt."""
    features, labels, _ = planted(3000, noise=2.0, seed=2)
    head = linear_head.fit(*planted(600, noise=2.0), ["a", "b"], model="m", layers=[1, 2]).head
    values = head(features)
    assert np.abs(values).max() <= 1
    assert np.allclose(values.mean(0), labels.mean(0), atol=0.06)
    for k in range(2):
        slope = np.polyfit(values[:, k], labels[:, k], 1)[0]
        assert 0.8 < slope < 1.2


def test_shuffled_labels_teach_nothing():
    """The negative: with labels that have nothing to do with the features, F1 is that of guessing."""
    features, labels, clusters = planted()
    shuffled = np.random.default_rng(3).permutation(labels)
    head = linear_head.fit(features, shuffled, clusters, ["a", "b"], model="m", layers=[1, 2]).head
    test_features, test_labels, _ = planted(seed=1)
    assert m.mean_over(m.macro_f1, test_labels, head.classes(head(test_features))) < 0.45


def test_clusters_never_stand_on_both_sides():
    clusters = planted()[2]
    fold = linear_head.folds(clusters)
    assert all(len({f for f, c in zip(fold, clusters) if c == name}) == 1 for name in set(clusters))
    assert len(set(fold)) == 5


def test_what_marks_a_situation_is_no_knowledge():
    """Features that only name the situation predict nothing on held-out rows, though they would within it."""
    rng = np.random.default_rng(4)
    names = np.repeat(np.arange(60), 4)
    features = rng.normal(size=(60, 1, 80))[names].astype(np.float32)
    labels = rng.choice([-1.0, 0.0, 1.0], size=(60, 1))[names]
    held = linear_head.fit(features, labels, [str(i) for i in names], ["a"], model="m", layers=[1]).held_out
    assert np.corrcoef(held[:, 0], labels[:, 0])[0, 1] < 0.3


def test_unknown_rows_stay_unknown(fitted):
    features = planted()[0][:3].copy()
    features[1] = np.nan
    values = fitted.head(features)
    assert np.isnan(values[1]).all() and np.isfinite(values[[0, 2]]).all()
    assert np.isnan(fitted.head.classes(values)[1]).all()


def test_files_bring_the_head_back(fitted, tmp_path):
    path = tmp_path / "head.safetensors"
    linear_head.save(fitted.head, path)
    again = linear_head.load(path)
    features = planted()[0]
    assert np.allclose(again(features), fitted.head(features), atol=2e-3)  # the weight is kept in half precision
    assert (again.names, again.layers, again.model) == (("a", "b"), (1, 2), "m")
    assert linear_head.load(path).fingerprint() == again.fingerprint()


def test_bad_files_and_shapes(fitted, tmp_path):
    with pytest.raises(ModelError, match="no such head"):
        linear_head.load(tmp_path / "absent.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not a head")
    with pytest.raises(ModelError, match="not a head"):
        linear_head.load(tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match="8 features, not 4"):
        fitted.head(np.zeros((1, 4), np.float32))
    features, labels, _ = planted(9)
    with pytest.raises(DataError, match="too few"):
        linear_head.fit(features, labels, ["a", "b", "c"] * 3, ["a", "b"], model="m", layers=[1, 2])
    features, labels, clusters = planted()
    features[0] = np.nan
    with pytest.raises(DataError, match="finite"):
        linear_head.fit(features, labels, clusters, ["a", "b"], model="m", layers=[1, 2])


def test_macro_f1_golden(golden):
    """Enumerated by hand, not by this code."""
    case = golden("classifier.macro_f1")
    gold, found = (np.array(case["inputs"][k], float) for k in ("gold", "pred"))
    want = case["expected"]
    assert list(m.class_f1(gold, found).values()) == pytest.approx(want["f1"])
    assert m.macro_f1(gold, found) == pytest.approx(want["macro_f1"])
    assert m.macro_f1(gold, np.zeros_like(gold)) == pytest.approx(want["majority_macro_f1"])
    assert m.nonzero_f1(gold, found) == pytest.approx(2 / 3)


def test_small_metrics():
    gold, values = np.array([1.0, -1, 0, 1]), np.array([0.2, 0.1, -0.9, -0.3])
    assert m.sign_accuracy(gold, values) == pytest.approx(1 / 3)
    assert m.majority(np.array([[1.0, 0], [1, -1], [0, 0]])).tolist() == [1, 0]
    assert m.auc(np.array([2.0, 1]), np.array([1.0, 0])) == pytest.approx(3.5 / 4)
    assert np.isnan(m.auc(np.array([]), np.array([1.0]))) and np.isnan(m.sign_accuracy(0 * gold, values))
    assert np.isnan(m.macro_f1(np.array([]), np.array([]))) and np.isnan(m.nonzero_f1(0 * gold, 0 * gold))


def test_bootstrap_resamples_clusters():
    """Rows of one cluster move together: ten copies of each row give the interval of the single rows."""
    x = np.random.default_rng(0).normal(size=40)
    single = m.bootstrap(lambda i: x[i].mean(), [str(i) for i in range(40)])
    copied = np.repeat(x, 10)
    many = m.bootstrap(lambda i: copied[i].mean(), [str(i // 10) for i in range(400)])
    assert many == pytest.approx(single)
    assert single[1] - single[0] == pytest.approx(2 * 1.96 * x.std() / np.sqrt(40), rel=0.1)
