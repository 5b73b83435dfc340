"""Centroids against what they are defined by."""

import numpy as np

from recsys.retrieval.clusters import learn_centroids, nearest_centroids, nearest_lists


def planted(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors along five axes that are far apart, and the axis of each."""
    rng = np.random.default_rng(0)
    axis = rng.integers(0, 5, rows)
    return (np.eye(8)[axis] * rng.uniform(1, 2, (rows, 1)) + 0.05 * rng.normal(size=(rows, 8))).astype(np.float32), axis


def test_clusters_that_are_far_apart_are_found_and_their_centroids_are_directions():
    vectors, axis = planted(400)
    for seed in range(5):  # with more centroids than axes no start misses one
        centroids = learn_centroids(vectors, 20, seed)
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)
        own = nearest_centroids(vectors, centroids)
        assert all(len(np.unique(axis[own == one])) == 1 for one in np.unique(own))


def test_the_nearest_centroids_are_those_with_the_largest_products():
    vectors, _ = planted(50)
    centroids = learn_centroids(vectors, 12, 0)
    products = vectors @ centroids.T
    np.testing.assert_array_equal(nearest_centroids(vectors, centroids), products.argmax(1))
    own, values = nearest_lists(vectors, centroids, 4)
    np.testing.assert_array_equal(own, np.argsort(-products, axis=1)[:, :4])
    np.testing.assert_allclose(values, -np.sort(-products, axis=1)[:, :4], rtol=1e-5)


def test_equal_vectors_leave_no_centroid_that_is_no_number():
    assert np.isfinite(learn_centroids(np.ones((30, 4), dtype=np.float32), 6, 0)).all()


def test_the_same_seed_gives_the_same_centroids():
    vectors, _ = planted(200)
    np.testing.assert_array_equal(learn_centroids(vectors, 9, 3), learn_centroids(vectors, 9, 3))
    assert (learn_centroids(vectors, 9, 3) != learn_centroids(vectors, 9, 4)).any()
