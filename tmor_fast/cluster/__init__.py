"""Density clustering: the `DBSCAN` estimator, the choice of eps, and a verifier of labellings."""

from tmor_fast.cluster.distributed import distributed_dbscan, merge_shares
from tmor_fast.cluster.estimator import DBSCAN
from tmor_fast.cluster.selection import epsilon_degree, k_distance, suggest_eps
from tmor_fast.cluster.verification import Verdict, verify

__all__ = [
    "DBSCAN",
    "Verdict",
    "distributed_dbscan",
    "epsilon_degree",
    "k_distance",
    "merge_shares",
    "suggest_eps",
    "verify",
]
