"""How sure figures are, against textbook answers and simulated images."""

import tracemalloc

import numpy as np
import pytest

from l2sae_jax.metrics.resampling import Ratio, difference, estimate, weights

GENERATOR = np.random.default_rng(0)


def test_resamples_draw_as_many_images_as_there_are_and_each_as_often_as_any():
    drawn = weights(50, resamples=2000)
    assert drawn.shape == (2000, 50)
    np.testing.assert_array_equal(drawn.sum(axis=1), 50)
    # Of 2000 draws of Binomial(50, 1/50) the mean has a deviation of 0.022, the variance of 0.04.
    np.testing.assert_allclose(drawn.mean(axis=0), 1.0, atol=0.1)
    np.testing.assert_allclose(drawn.var(), 49 / 50, atol=0.02)


def test_the_same_seed_draws_the_same_and_another_does_not():
    first = weights(20, 10, 3).copy()
    other = weights(20, 10, 4).copy()
    np.testing.assert_array_equal(weights(20, 10, 3), first)
    assert (first != other).any()


def test_a_mean_has_the_standard_error_of_the_textbook():
    scores = GENERATOR.normal(3.0, 2.0, 400)
    mean = estimate(Ratio(scores), resamples=4000)
    textbook = scores.std(ddof=1) / 20.0
    assert mean.value == pytest.approx(scores.mean(), rel=1e-12)
    assert mean.standard_error == pytest.approx(textbook, rel=0.05)
    assert mean.low == pytest.approx(scores.mean() - 1.96 * textbook, abs=0.15 * textbook)
    assert mean.high == pytest.approx(scores.mean() + 1.96 * textbook, abs=0.15 * textbook)
    assert mean.count == 400


def test_a_ratio_has_the_standard_error_of_the_delta_method():
    sizes = GENERATOR.uniform(1.0, 5.0, 500)
    hits = sizes * GENERATOR.beta(4.0, 2.0, 500)
    share = hits.sum() / sizes.sum()
    delta = (hits - share * sizes).std(ddof=1) / np.sqrt(500) / sizes.mean()
    found = estimate(Ratio(hits, sizes), resamples=4000)
    assert found.value == pytest.approx(share, rel=1e-12)
    assert found.standard_error == pytest.approx(delta, rel=0.05)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    held = []
    for _ in range(300):
        ratio = Ratio(GENERATOR.normal(5.0, 1.0, 60))
        found = estimate(ratio, resamples=300)
        held.append(found.low <= 5.0 <= found.high)
    assert 0.90 <= np.mean(held) <= 0.985  # 0.94 expected of 60 images, deviation 0.014


def test_a_ratio_that_is_the_same_in_every_image_is_certain():
    sizes = GENERATOR.uniform(1.0, 5.0, 30)
    found = estimate(Ratio(0.25 * sizes, sizes))
    np.testing.assert_allclose(found[:4], [0.25, 0.0, 0.25, 0.25], atol=1e-15)


def test_images_without_a_figure_do_not_count():
    found = estimate(Ratio(np.array([1.0, np.nan, 3.0, np.nan])))
    alone = np.array([1.0, 3.0])
    assert (found.value, found.count) == (2.0, 2)
    assert found.low == alone.min() and found.high == alone.max()
    empty = estimate(Ratio(np.array([2.0, 0.0, 4.0]), np.array([4.0, 0.0, 4.0])))
    assert (empty.value, empty.count) == (0.75, 2)


def test_of_fewer_than_two_images_there_is_no_error():
    one = estimate(Ratio(np.array([2.0, np.nan])))
    assert (one.value, one.count) == (2.0, 1)
    assert np.isnan(one[1:4]).all()
    none = estimate(Ratio(np.array([np.nan, np.nan])))
    assert np.isnan(none[:4]).all() and none.count == 0


def test_resamples_without_the_region_are_left_out():
    sizes = np.zeros(20)
    sizes[:2] = 10.0  # an eighth of all resamples draws neither
    found = estimate(Ratio(0.5 * sizes, sizes))
    np.testing.assert_allclose(found[:4], [0.5, 0.0, 0.5, 0.5], atol=1e-15)


def test_several_figures_at_once_are_what_each_is_alone():
    hits, sizes = GENERATOR.uniform(0.0, 1.0, (2, 40, 3, 2))
    hits[:5, 1, 0] = np.nan
    together = estimate(Ratio(hits, sizes), resamples=200)
    for place in np.ndindex(3, 2):
        alone = estimate(Ratio(hits[:, *place], sizes[:, *place]), resamples=200)
        for many, one in zip(together, alone, strict=True):
            assert many[place] == pytest.approx(one, rel=1e-12)


@pytest.mark.parametrize("shape", [(), (40,), (40, 3), (40, 1, 2), (40, 3, 2)])
def test_a_denominator_may_serve_several_figures(shape):
    hits = GENERATOR.uniform(0.0, 1.0, (40, 3, 2))
    sizes = GENERATOR.uniform(1.0, 2.0, shape)
    found = estimate(Ratio(hits, sizes), resamples=2).value
    each = np.broadcast_to(sizes.reshape(shape + (1,) * (3 - len(shape))), hits.shape)
    np.testing.assert_allclose(found, hits.sum(axis=0) / each.sum(axis=0))


def test_the_mean_over_regions_has_its_own_interval():
    intersection = GENERATOR.uniform(0.0, 1.0, (300, 3)) * [1.0, 0.8, 0.6]
    intersection[:40, 1] = np.nan
    union = np.ones((300, 3))
    each = estimate(Ratio(intersection, union), resamples=2000)
    mean = estimate(Ratio(intersection, union), mean_over=-1, resamples=2000)
    assert mean.value == pytest.approx(each.value.mean(), rel=1e-12)
    assert mean.count == 300
    # Regions are independent here: the mean of three is surer than any of them.
    expected = np.sqrt(np.sum(each.standard_error**2)) / 3
    assert mean.standard_error == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("lacking", [np.nan, 0.0])
def test_there_is_no_mean_over_regions_that_lacks_any(lacking):
    hits, sizes = np.ones((2, 20, 2, 3))
    hits[:, 1, 2], sizes[:, 1, 2] = lacking, 0.0
    found = estimate(Ratio(hits, sizes), mean_over=-1, resamples=10)
    np.testing.assert_array_equal(found[:4], [[1.0, np.nan], [0.0, np.nan]] + [[1.0, np.nan]] * 2)
    np.testing.assert_array_equal(found.count, [20, 0])


def test_a_resample_without_a_region_has_the_mean_of_the_others():
    sizes = np.ones((20, 2))
    sizes[1:, 1] = 0.0  # a third of all resamples does not draw the one image that has it
    found = estimate(Ratio(sizes * [2.0, 4.0], sizes), mean_over=0)
    assert (found.value, found.low, found.high, found.count) == (3.0, 2.0, 3.0, 20)


def test_the_mean_over_one_axis_leaves_the_others():
    hits = GENERATOR.uniform(0.0, 1.0, (40, 3, 2))
    found = estimate(Ratio(hits), mean_over=0, resamples=10)
    np.testing.assert_allclose(found.value, hits.mean(axis=(0, 1)))
    np.testing.assert_array_equal(found.count, [40, 40])


def test_a_paired_difference_is_surer_than_the_figures():
    difficulty = GENERATOR.normal(0.0, 1.0, 300)
    a = Ratio(difficulty + GENERATOR.normal(0.10, 0.05, 300))
    b = Ratio(difficulty + GENERATOR.normal(0.00, 0.05, 300))
    paired = difference(a, b)
    unpaired = np.hypot(estimate(a).standard_error, estimate(b).standard_error)
    assert paired.standard_error < 0.1 * unpaired
    assert paired.value == pytest.approx(np.mean(a.numerator - b.numerator), rel=1e-12)
    assert paired.low > 0.0
    assert paired.count == 300


def test_a_figure_does_not_differ_from_itself():
    ratio = Ratio(GENERATOR.uniform(0.0, 1.0, (30, 2)), GENERATOR.uniform(1.0, 2.0, (30, 2)))
    for figures in difference(ratio, ratio, resamples=50)[:4]:
        np.testing.assert_array_equal(figures, 0.0)


def test_a_difference_is_of_the_images_that_both_have():
    a = Ratio(np.array([1.0, 2.0, np.nan, 5.0]))
    b = Ratio(np.array([0.0, np.nan, 30.0, 2.0]))
    found = difference(a, b)
    assert (found.value, found.count) == (2.0, 2)  # (1 + 5) / 2 less (0 + 2) / 2
    assert (found.low, found.high) == (1.0, 3.0)


@pytest.mark.parametrize("lacks", ["numerator", "denominator"])
@pytest.mark.parametrize("mean_over", [None, -1])
def test_some_of_the_same_pictures_do_not_differ_from_all(lacks, mean_over):
    values = dict(zip(Ratio._fields, GENERATOR.uniform(1.0, 2.0, (2, 30, 2)), strict=True))
    every = Ratio(**values)
    values[lacks] = values[lacks].copy()
    values[lacks][::3, 0] = values[lacks][:11, 1] = np.nan
    some = Ratio(**values)
    assert (estimate(some, resamples=2).value != estimate(every, resamples=2).value).all()
    for pair in ((every, some), (some, every)):
        found = difference(*pair, mean_over=mean_over, resamples=50)
        for figures in found[:4]:
            np.testing.assert_array_equal(figures, 0.0)
        np.testing.assert_array_equal(found.count, [20, 19] if mean_over is None else 26)


def test_pictures_of_one_region_alone_do_not_differ_in_the_mean():
    every = Ratio(GENERATOR.uniform(0.0, 1.0, (30, 2)) * [1.0, 9.0])
    hair = Ratio(every.numerator * [1.0, np.nan])
    assert difference(every, hair, resamples=50).value[0] == 0.0
    mean = difference(every, hair, mean_over=0, resamples=50)
    assert np.isnan(mean[:4]).all() and mean.count == 0


def test_what_only_one_system_finds_where_nothing_is_counts_against_it():
    careful = Ratio(np.array([4.0, 0.0, 4.0]), np.array([8.0, 0.0, 8.0]))
    rash = Ratio(np.array([4.0, 0.0, 4.0]), np.array([8.0, 4.0, 8.0]))
    assert difference(rash, careful).value == pytest.approx(0.4 - 0.5)


def test_many_images_take_little_memory():
    weights.cache_clear()
    scores = GENERATOR.normal(size=(30_000, 5))
    tracemalloc.start()
    try:
        found = estimate(Ratio(scores), resamples=500)
        assert tracemalloc.get_traced_memory()[1] < 60e6  # 135 MB if all were float64 at once
    finally:
        tracemalloc.stop()
        weights.cache_clear()
    np.testing.assert_allclose(
        found.standard_error, scores.std(axis=0) / np.sqrt(30_000), rtol=0.15
    )


def test_what_cannot_be_resampled_is_refused_in_one_line():
    with pytest.raises(ValueError, match="^0 images and 1000 resamples: expected 1 and 2 or more$"):
        estimate(Ratio(np.zeros(0)))
    with pytest.raises(ValueError, match="^3 images and 1 resamples: expected 1 and 2 or more$"):
        estimate(Ratio(np.zeros(3)), resamples=1)
    message = r"^images and figures \(3,\) against \(4,\): a paired difference needs the same ones$"
    with pytest.raises(ValueError, match=message):
        difference(Ratio(np.zeros(3)), Ratio(np.zeros(4)))
    with pytest.raises(ValueError, match=r"^images and figures \(3, 2\) against \(3, 1\):"):
        difference(Ratio(np.zeros((3, 2))), Ratio(np.zeros((3, 1))))
    with pytest.raises(ValueError, match="broadcast"):
        estimate(Ratio(np.zeros(3), np.ones(4)))
