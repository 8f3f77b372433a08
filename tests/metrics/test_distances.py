import numpy as np
import pytest
import scipy.linalg

from l2sae_jax.metrics import distances
from l2sae_jax.metrics.distances import (
    Moments,
    frechet_distance,
    frechet_jackknife,
    jackknife_error,
    kernel_distance,
)


def gaussian(mean, covariance, count=50):
    """Moments whose mean and covariance are exactly these."""
    mean, covariance = np.asarray(mean, float), np.asarray(covariance, float)
    products = covariance * (count - 1) + count * np.outer(mean, mean)
    return Moments(count, count * mean, products)


def features(count, length, seed=0):
    """Correlated and not negative, like those of the network."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, length)) @ rng.standard_normal((length, length))
    return np.maximum(mixed / length**0.5 + 0.5, 0.0).astype(np.float32)


def rotation(length):
    return np.linalg.qr(np.random.default_rng(0).standard_normal((length, length)))[0]


# --------------------------------------------------------------------------------------------- FID


def test_moments_are_the_mean_and_the_unbiased_covariance():
    values = features(40, 6)
    moments = Moments.of(values)
    assert moments.count == 40
    assert moments.covariance.dtype == np.float64
    np.testing.assert_allclose(moments.mean, values.mean(axis=0, dtype=np.float64), rtol=1e-13)
    np.testing.assert_allclose(
        moments.covariance, np.cov(values.astype(float), rowvar=False), atol=1e-14
    )


def test_moments_join_in_any_order_and_part_again():
    values = features(100, 16)
    whole = Moments.of(values)
    parts = [Moments.of(part) for part in np.split(values, [1, 8, 50, 50, 97])]
    forth, back = sum(parts[1:], parts[0]), sum(parts[-2::-1], parts[-1])
    for moments in (forth, back, whole + parts[2] - parts[2]):
        assert moments.count == 100
        np.testing.assert_allclose(moments.mean, whole.mean, rtol=1e-13)
        np.testing.assert_allclose(moments.covariance, whole.covariance, atol=1e-13)


@pytest.mark.parametrize("count", [300, 20, 2])
def test_a_set_is_no_distance_from_itself_even_with_fewer_images_than_features(count):
    values = features(count, 64)
    again = Moments.of(values[::2]) + Moments.of(values[1::2])
    assert 0.0 <= frechet_distance(Moments.of(values), again) < 1e-10


def test_a_shift_counts_by_its_square():
    covariance = [[2.0, 0.5], [0.5, 1.0]]
    there = gaussian([1.0, 2.0], covariance), gaussian([4.0, -2.0], covariance)
    assert frechet_distance(*there) == pytest.approx(3.0**2 + 4.0**2, rel=1e-12)


def test_deviations_along_common_axes_count_by_the_square_of_their_difference():
    a, b = np.array([1.0, 4.0, 9.0, 0.0]), np.array([4.0, 4.0, 1.0, 25.0])
    want = np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)  # 1 + 0 + 4 + 25
    for axes in (np.eye(4), rotation(4)):
        pair = [gaussian(np.zeros(4), axes @ np.diag(variances) @ axes.T) for variances in (a, b)]
        assert frechet_distance(*pair) == pytest.approx(want, rel=1e-7)
        assert frechet_distance(*reversed(pair)) == pytest.approx(want, rel=1e-7)


def test_two_dimensions_in_closed_form():
    # Of a 2x2 matrix M, tr(M^(1/2))^2 = tr(M) + 2 det(M)^(1/2).
    a, b = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.7], [-0.7, 3.0]])
    root_trace = np.sqrt(np.trace(a @ b) + 2.0 * np.sqrt(np.linalg.det(a @ b)))
    want = 1.0 + np.trace(a + b) - 2.0 * root_trace
    distance = frechet_distance(gaussian([0.0, 0.0], a), gaussian([0.0, 1.0], b))
    assert distance == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(("counts", "tolerance"), [((90, 70), 1e-10), ((9, 50), 1e-5)])
def test_agrees_with_the_root_of_the_product(counts, tolerance):
    x, y = (features(count, 24, seed).astype(float) for seed, count in enumerate(counts))
    a, b = (np.cov(values, rowvar=False) for values in (x, y))
    root = scipy.linalg.sqrtm(a @ b).real
    shift = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    want = shift + np.trace(a) + np.trace(b) - 2.0 * np.trace(root)
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(want, rel=tolerance)


def test_pictures_that_are_all_alike():
    alike, also = Moments.of(np.full((5, 3), 2.0)), Moments.of(np.full((4, 3), 4.0))
    assert frechet_distance(alike, also) == pytest.approx(12.0)
    spread = gaussian([2.0, 2.0, 2.0], np.eye(3))
    assert frechet_distance(alike, spread) == pytest.approx(3.0)


def test_moments_that_give_no_distance():
    with pytest.raises(ValueError, match=r"covariance of 1 features; want 2 or more"):
        frechet_distance(Moments.of(features(1, 4)), Moments.of(features(9, 4)))
    with pytest.raises(ValueError, match=r"features of 4 and of 5 values"):
        frechet_distance(Moments.of(features(9, 4)), Moments.of(features(9, 5)))
    with pytest.raises(ValueError, match=r"not finite numbers"):
        Moments.of(np.array([[0.0, np.nan]]))
    with pytest.raises(ValueError, match=r"shape \(3,\); want \[N, D\]"):
        Moments.of(np.zeros(3))


def blocks_of(values, count=10):
    return [Moments.of(block) for block in np.array_split(values, count)]


def test_the_jackknife_leaves_one_block_out_at_a_time():
    x, y = features(50, 4, seed=0), features(50, 4, seed=1)
    value, left_out = frechet_jackknife(blocks_of(x, 5), blocks_of(y, 5))
    assert value == pytest.approx(frechet_distance(Moments.of(x), Moments.of(y)))
    kept = [np.delete(np.arange(50), np.arange(10 * i, 10 * i + 10)) for i in range(5)]
    want = [frechet_distance(Moments.of(x[k]), Moments.of(y[k])) for k in kept]
    np.testing.assert_allclose(left_out, want, rtol=1e-9)
    assert jackknife_error(left_out) == pytest.approx(jackknife(np.array(want)))


def test_what_happens_to_both_sets_alike_is_no_error():
    x = features(100, 4)
    value, left_out = frechet_jackknife(blocks_of(x), blocks_of(x + 1.0))
    assert value == pytest.approx(4.0, abs=1e-5)
    assert jackknife_error(left_out) < 1e-4


def test_a_paired_difference_is_surer_than_the_distances():
    x, y = features(200, 4, seed=0), features(200, 4, seed=1) + 0.5
    _, first = frechet_jackknife(blocks_of(x), blocks_of(y))
    _, second = frechet_jackknife(blocks_of(x), blocks_of(y + 0.01))
    assert jackknife_error(second - first) < 0.1 * jackknife_error(first)


def test_the_error_is_the_deviation_over_samples():
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((100, 2, 120, 3)) + np.array([0.0, 0.8])[:, None, None]
    values, left_out = zip(
        *(frechet_jackknife(blocks_of(x), blocks_of(y)) for x, y in drawn), strict=True
    )
    errors = [jackknife_error(each) for each in left_out]
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.25)


def test_blocks_that_do_not_correspond():
    with pytest.raises(ValueError, match=r"2 and 3 blocks; want as many in both, 2 or more"):
        frechet_jackknife(blocks_of(features(9, 2), 2), blocks_of(features(9, 2), 3))
    with pytest.raises(ValueError, match=r"1 and 1 blocks"):
        frechet_jackknife(blocks_of(features(9, 2), 1), blocks_of(features(9, 2), 1))


# --------------------------------------------------------------------------------------------- KID


def discrepancy(x, y, of_x, of_y):
    """The estimate by its definition, of pairs that are not of the same image."""

    def mean(z, w, of_z, of_w):
        kernels = [
            (np.dot(a, b) / len(a) + 1.0) ** 3
            for a, i in zip(z, of_z, strict=True)
            for b, j in zip(w, of_w, strict=True)
            if i != j
        ]
        return np.mean(kernels)

    return mean(x, x, of_x, of_x) + mean(y, y, of_y, of_y) - 2.0 * mean(x, y, of_x, of_y)


def left_out(x, y, of_x, of_y):
    """The estimate without each image."""
    every = np.union1d(of_x, of_y)
    kept = [(of_x != image, of_y != image) for image in every]
    return np.array([discrepancy(x[i], y[j], of_x[i], of_y[j]) for i, j in kept])


def jackknife(parts):
    return np.sqrt((len(parts) - 1) / len(parts) * np.sum((parts - np.mean(parts)) ** 2))


@pytest.mark.parametrize(
    "images",
    [
        (np.arange(6), np.arange(6)),
        (np.arange(6), np.arange(8) + 6),
        (np.arange(6), np.array([4, 4, 0, 1, 5, 1, 1, 2])),
        (np.array([9, 9, 7, 3, 3, 2]), np.array([7, 9, 1, 1, 3, 9, 7, 2])),
    ],
)
def test_kernel_distance_by_its_definition(images, monkeypatch):
    monkeypatch.setattr(distances, "_ROWS", 4)
    x, y = (features(len(of), 5, seed).astype(float) for seed, of in enumerate(images))
    value, error = kernel_distance(x, y, images=images)
    assert value == pytest.approx(discrepancy(x, y, *images), rel=1e-10)
    assert error == pytest.approx(jackknife(left_out(x, y, *images)), rel=1e-9)


def test_images_are_by_default_the_same_in_sets_of_the_same_size_alone():
    x, y = features(9, 3, seed=0), features(9, 3, seed=1)
    same = np.arange(9), np.arange(9)
    assert kernel_distance(x, y) == kernel_distance(x, y, images=same)
    apart = np.arange(9), np.arange(8) + 9
    assert kernel_distance(x, y[:8]) == kernel_distance(x, y[:8], images=apart)


def test_subsets_of_what_does_not_fit_one_are_averaged():
    x, y = features(20, 3, seed=0).astype(float), features(9, 3, seed=1).astype(float)
    of_x, of_y = np.arange(20), np.arange(9) // 2 + 5
    rng = np.random.default_rng(5)
    drawn = [[rng.choice(n, size, replace=False) for n, size in ((20, 10), (9, 9))] for _ in "1234"]
    want = np.mean([discrepancy(x[i], y[j], of_x[i], of_y[j]) for i, j in drawn])
    value, _ = kernel_distance(x, y, 4, subset_size=10, seed=5, images=(of_x, of_y))
    assert value == pytest.approx(want, rel=1e-10)


def test_an_editor_that_changes_nothing_is_at_no_distance():
    x = features(200, 4)
    of_y = np.repeat(np.arange(200), 5)
    value, error = kernel_distance(x, x[of_y], images=(np.arange(200), of_y))
    assert abs(value) < 1e-10 and error < 1e-10
    value, error = kernel_distance(x, x[of_y], subset_size=150, images=(np.arange(200), of_y))
    assert 1e-6 < abs(value) < 3.0 * error
    missing = np.sort(np.random.default_rng(0).choice(of_y, 500, replace=False))
    value, error = kernel_distance(x, x[missing], images=(np.arange(200), missing))
    assert 1e-6 < abs(value) < 3.0 * error


def shifted(shift):
    """KID of Gaussians of one dimension: three moments, with the weights of (1 + xy)^3."""
    return 3.0 * shift**2 + 3.0 * shift**4 + (shift**3 + 3.0 * shift) ** 2


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("size", [400, 2000])
def test_kernel_distance_of_shifted_gaussians(shift, size):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2000, 1)), rng.standard_normal((1500, 1)) + shift
    value, error = kernel_distance(x, y, subsets=20, subset_size=size)
    assert abs(value - shifted(shift)) < 3.0 * error
    assert error < 0.1 + 0.12 * shifted(shift)


def test_kernel_distance_of_edits_is_right_on_average():
    # Of few images many pairs are of one: with those counted it would be 1.3 rather than 3.6.
    rng = np.random.default_rng(0)
    of_y = np.repeat(np.arange(12), 3)
    found = []
    for _ in range(1000):
        x = rng.standard_normal((12, 1))
        found.append(kernel_distance(x, x[of_y] + 0.5, images=(np.arange(12), of_y))[0])
    assert np.mean(found) == pytest.approx(shifted(0.5), abs=4.0 * np.std(found) / 1000**0.5)


@pytest.mark.parametrize(("counts", "size"), [((60, 60), 1000), ((60, 45), 1000), ((90, 90), 30)])
def test_the_error_of_kernel_distance_is_the_deviation_over_samples(counts, size):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(150):
        x, y = (rng.standard_normal((n, 3)) + s for n, s in zip(counts, (0.0, 0.7), strict=True))
        found.append(kernel_distance(x, y, subsets=20, subset_size=size))
    values, errors = np.transpose(found)
    assert np.mean(errors) == pytest.approx(values.std(), rel=0.25)


def test_the_error_of_edits_is_the_deviation_over_samples():
    rng = np.random.default_rng(0)
    of_y = np.repeat(np.arange(50), 4)[10:]
    found = []
    for _ in range(150):
        x = rng.standard_normal((50, 3))
        y = 0.8 * x[of_y] + 0.3 * rng.standard_normal((len(of_y), 3)) + 0.7
        found.append(kernel_distance(x, y, images=(np.arange(50), of_y)))
    values, errors = np.transpose(found)
    assert np.mean(errors) == pytest.approx(values.std(), rel=0.25)


def test_features_that_give_no_kernel_distance():
    x = features(9, 4)
    for arguments, message in (
        ((x, features(9, 5)), r"features of 4 and of 5 values"),
        ((x, np.full_like(x, np.inf)), r"not finite numbers"),
        ((x, x[:2]), r"2 features of 2 images in a subset; want 3 or more"),
        ((x, x, 1, 2), r"2 features of 2 images in a subset; want 3 or more"),
        ((x, x, 1, 9, 0, (np.arange(9), np.arange(9) % 2)), r"9 features of 2 images in a subset"),
        ((x, x, 0), r"0 subsets; want 1 or more"),
        ((x, x, 1, 9, 0, (np.arange(9), np.arange(8))), r"numbers of 9 and 8 images; want 9 and 9"),
    ):
        with pytest.raises(ValueError, match=message):
            kernel_distance(*arguments)
