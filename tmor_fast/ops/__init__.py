"""The ops of T-MOR, each with a plain PyTorch reference and compiled kernels behind `backend=`."""

from tmor_fast.ops.batch_norm_relu import batch_norm_relu
from tmor_fast.ops.cluster_infonce import cluster_infonce
from tmor_fast.ops.dbscan import dbscan
from tmor_fast.ops.dependency_attention import dependency_attention, dependency_attention_statistics
from tmor_fast.ops.temporal_convolution import temporal_convolution

__all__ = [
    "batch_norm_relu",
    "cluster_infonce",
    "dbscan",
    "dependency_attention",
    "dependency_attention_statistics",
    "temporal_convolution",
]
