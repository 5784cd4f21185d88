"""DBSCAN behind scikit-learn's estimator interface, without scikit-learn."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tmor_fast.cluster.arrays import ArrayLike, like, to_points, to_tensor
from tmor_fast.cluster.peers import SEARCHES
from tmor_fast.ops import dbscan

BACKENDS = ("auto", "reference", "cpu", *SEARCHES)


class DBSCAN:
    """Density clustering, exact in any dimension; drop-in for `sklearn.cluster.DBSCAN` (clone, Pipeline, set_params).

    Args:
        eps: largest distance between neighbours.
        min_samples: neighbours, the point itself included, that make a core point.
        metric: "euclidean" or "cosine".
        backend: "auto", "reference", "cpu" (see `tmor_fast.ops.dbscan`), or another library where it is installed:
            "faiss" (range search, pairs near eps decided in float64: exact), "sklearn" and "cuml" (pairs whose distance
            is within their rounding of eps may be decided otherwise).

    Attributes (after `fit`), tensors if X was a tensor, else NumPy arrays:
        labels_: (n,) int64, -1 for noise.
        core_sample_indices_: (c,) int64, ascending.
        components_: (c, d) the core points.
        n_features_in_: d.
        stats_: what the compiled kernel did, as `tmor_fast.ops.dbscan` fills its `stats`: `pairs` of points, of which
            `compared`, `inside`, `rechecked`, and the instruction set and arithmetic used; empty for other backends.
    """

    labels_: Any
    core_sample_indices_: Any
    components_: Any
    n_features_in_: int
    stats_: dict[str, Any]
    _estimator_type = "clusterer"

    def __init__(
        self, eps: float = 0.5, min_samples: int = 4, metric: str = "euclidean", backend: str = "auto"
    ) -> None:
        self.eps = eps
        self.min_samples = min_samples
        self.metric = metric
        self.backend = backend

    def fit(
        self,
        X: ArrayLike,
        y: object = None,
        sample_weight: ArrayLike | None = None,
        *,
        progress: Callable[[float], object] | None = None,
    ) -> DBSCAN:
        """Cluster X.

        Args:
            X: (n, d) array, tensor or nested list of finite numbers; float16, bfloat16, float32 and float64 are taken
                as they are, without a copy.
            y: ignored, for scikit-learn's pipelines.
            sample_weight: (n,) weights in the count of neighbours; may be negative.
            progress: called by the compiled kernel, some ten times a second, with the share that is done, 0 to 1.

        Raises:
            ValueError, TypeError: as `tmor_fast.ops.dbscan`. BackendUnavailableError: the backend cannot run here.
        """
        if self.backend not in BACKENDS:
            raise ValueError(f"unknown backend {self.backend!r}; accepted: {', '.join(map(repr, BACKENDS))}")
        points = to_points(X)
        weight = None if sample_weight is None else to_tensor(sample_weight, "sample_weight").to(points.device)
        stats: dict[str, Any] = {}
        if self.backend in SEARCHES:
            labels, core = SEARCHES[self.backend](points, self.eps, self.min_samples, self.metric, weight)
        else:
            labels, core = dbscan(
                points,
                self.eps,
                self.min_samples,
                metric=self.metric,
                sample_weight=weight,
                backend=self.backend,
                progress=progress,
                stats=stats,
            )
        indices = core.nonzero().squeeze(1)
        self.labels_ = like(labels, X)
        self.core_sample_indices_ = like(indices, X)
        self.components_ = like(points[indices], X)
        self.n_features_in_ = points.shape[1]
        self.stats_ = stats
        return self

    def fit_predict(
        self,
        X: ArrayLike,
        y: object = None,
        sample_weight: ArrayLike | None = None,
        *,
        progress: Callable[[float], object] | None = None,
    ) -> Any:
        """`fit`, then `labels_`."""
        return self.fit(X, y, sample_weight, progress=progress).labels_

    @classmethod
    def _parameters(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name, as scikit-learn's `clone` and grid searches read them."""
        return {name: getattr(self, name) for name in self._parameters()}

    def set_params(self, **params: Any) -> DBSCAN:
        """Set parameters by name; ValueError for one that does not exist."""
        for name, value in params.items():
            if name not in self._parameters():
                raise ValueError(f"DBSCAN has no parameter {name!r}; it has: {', '.join(self._parameters())}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"DBSCAN({given})"

    def __sklearn_tags__(self) -> Any:
        """Called by scikit-learn alone, so its import is free."""
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type="clusterer",
            target_tags=TargetTags(required=False),
            transformer_tags=None,
            regressor_tags=None,
            classifier_tags=None,
            input_tags=InputTags(),
        )
