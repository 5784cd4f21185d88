"""Contrastive losses as drop-in modules: `InfoNCELoss` (MoCo), `NTXentLoss`, `SupConLoss`; `ClipLoss` is beside.

All are `tmor_fast.ops.cluster_infonce` with fitting row ids and clusters: no logits matrix is kept, memory grows with
the vectors alone. Half-precision inputs are computed and summed in float32, under autocast too; the loss is float32.

Under `torch.distributed`, a loss that gathers returns the mean over the own rows. The average over ranks of these
losses is that of one process with the whole batch, and the average of the gradients, which DistributedDataParallel
takes, is that process's gradient. `ClipLoss` has open_clip's switches instead. All ranks bring batches of one size.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tmor_fast.distributed import gather_rows, world_size
from tmor_fast.nn.projection import l2_normalize
from tmor_fast.ops.cluster_infonce import cluster_infonce


def instance_loss(
    query: Tensor,
    keys: Tensor,
    positive: Tensor,
    query_id: Tensor,
    key_id: Tensor,
    temperature: float | Tensor,
    backend: str,
) -> Tensor:
    """(B,) cross entropy of the own positive against all keys of another id."""
    return cluster_infonce(
        query,
        keys,
        positive,
        query_id=query_id,
        key_id=key_id,
        query_cluster=torch.full_like(query_id, -1),
        key_cluster=torch.full_like(key_id, -1),
        temperature=temperature,
        positives="instance",
        backend=backend,
    )


def check_rows(owner: str, **named: Tensor) -> None:
    """Raise unless all are floating-point (B, d) of one shape with at least one row and column."""
    first = next(iter(named.values()))
    for name, value in named.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            given = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{owner}: {name} must be a floating-point tensor, got {given}")
        if value.ndim != 2 or 0 in value.shape:
            raise ValueError(
                f"{owner}: {name} must be (B, d) with at least one row and column, got {tuple(value.shape)}"
            )
        if value.shape != first.shape:
            raise ValueError(f"{owner}: shapes differ: {', '.join(f'{n} {tuple(v.shape)}' for n, v in named.items())}")


def _check_integers(owner: str, name: str, value: Tensor, count: int) -> Tensor:
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        given = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{owner}: {name} must be a tensor of integers, got {given}")
    if value.shape != (count,):
        raise ValueError(f"{owner}: {name} must be ({count},), one for each row, got {tuple(value.shape)}")
    return value.long()


class _TemperatureLoss(nn.Module):
    """A temperature, a number or a parameter `log_temperature`, and the backend of the op."""

    def __init__(self, temperature: float, learn_temperature: bool, gather_distributed: bool, backend: str) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"{type(self).__name__}: temperature must be above 0 and finite, got {temperature}")
        self._temperature, self.gather_distributed, self.backend = float(temperature), gather_distributed, backend
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if learn_temperature else None

    @property
    def temperature(self) -> Tensor | float:
        """The softmax temperature: a tensor with gradient if it is learned, else a number."""
        return self._temperature if self.log_temperature is None else self.log_temperature.exp()

    def _gather(self, rows: Tensor, grad: bool = True) -> tuple[Tensor, slice]:
        if not self.gather_distributed:
            return rows, slice(0, len(rows))
        return gather_rows(rows, grad=grad, even=True)

    def extra_repr(self) -> str:
        learned = "" if self.log_temperature is None else ", learned"
        return f"temperature={float(self.temperature):.4g}{learned}, gather_distributed={self.gather_distributed}"


class InfoNCELoss(_TemperatureLoss):
    """InfoNCE of MoCo: the own key against a queue, or against the other keys of the batch.

    With `negatives`, equal to the loss of facebookresearch/moco (`CrossEntropyLoss` over the logits of
    `moco.builder.MoCo`): the mean of -log( e^{<q,k+>/T} / (e^{<q,k+>/T} + sum over the queue e^{<q,k>/T}) ). Without,
    equal to that of MoCo v3 for one direction, up to its factor 2T: the negatives are the other positives of the batch.

    Args:
        temperature: T; MoCo has 0.07.
        normalize: l2-normalise queries and positives first, as MoCo's builder does; its queue holds unit rows already.
        learn_temperature: make it a parameter, in log space.
        gather_distributed: without `negatives`, use the positives of all ranks.
        backend: of `cluster_infonce`.

    Raises:
        ValueError: the temperature is not above 0.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        normalize: bool = True,
        learn_temperature: bool = False,
        gather_distributed: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(temperature, learn_temperature, gather_distributed, backend)
        self.normalize = normalize

    def forward(
        self,
        query: Tensor,
        positive: Tensor,
        negatives: Tensor | None = None,
        query_id: Tensor | None = None,
        negative_id: Tensor | None = None,
    ) -> Tensor:
        """Mean loss of a batch.

        Args:
            query: (B, d).
            positive: (B, d), the own key of each query; gets a gradient unless it is detached.
            negatives: (N, d), for example the rows of a `FIFOQueue`, of any floating dtype, taken as they are; with
                N = 0 the loss is 0. None: the other positives; the loss of a single row is then 0.
            query_id, negative_id: (B,), (N,) integers, both or neither: negatives with the query's id are left out,
                such as older keys of the same sample. MoCo has no ids.

        Returns:
            A number, float32, or float64 if an input is.

        Raises:
            ValueError: shapes do not fit together, or a value is not finite.
            TypeError: a tensor of the wrong dtype.
        """
        check_rows("InfoNCELoss", query=query, positive=positive)
        if (query_id is None) != (negative_id is None) or (negatives is None and query_id is not None):
            raise ValueError("InfoNCELoss: give negatives, query_id and negative_id together, or no ids")
        if self.normalize:
            query, positive = l2_normalize(query), l2_normalize(positive)
        if negatives is None:
            keys, mine = self._gather(positive)
            key_id = torch.arange(len(keys), device=query.device)
            own_id = key_id[mine]
        else:
            keys = negatives
            own_id = torch.zeros(len(query), dtype=torch.int64, device=query.device)
            key_id = torch.ones(len(keys), dtype=torch.int64, device=query.device)
            if query_id is not None and negative_id is not None:
                own_id = _check_integers("InfoNCELoss", "query_id", query_id, len(query))
                key_id = _check_integers("InfoNCELoss", "negative_id", negative_id, len(keys))
        return instance_loss(query, keys, positive, own_id, key_id, self.temperature, self.backend).mean()


class NTXentLoss(_TemperatureLoss):
    """NT-Xent of SimCLR: two views of each sample, all other views of the batch are negatives.

    Equal to `lightly.loss.NTXentLoss` with `memory_bank_size=0`: rows are l2-normalised, each of the 2B views is
    compared with its partner and the 2B - 2 others. For lightly's memory bank use `InfoNCELoss` with a `FIFOQueue`.
    Equal to `pytorch_metric_learning.losses.NTXentLoss` where every label occurs twice.

    Args:
        temperature: of the softmax.
        gather_distributed: take the negatives from all ranks.
        learn_temperature: make it a parameter, in log space.
        backend: of `cluster_infonce`.

    Raises:
        ValueError: the temperature is not above 0.
    """

    def __init__(
        self,
        temperature: float = 0.5,
        *,
        gather_distributed: bool = False,
        learn_temperature: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(temperature, learn_temperature, gather_distributed, backend)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Mean loss over the 2B views.

        Args:
            out0, out1: (B, d), the first and the second view of the same samples. With one sample there is no negative:
                the loss is 0.

        Returns:
            A number, float32, or float64 if an input is.

        Raises:
            ValueError: shapes do not fit together, or a value is not finite.
            TypeError: not floating point.
        """
        check_rows("NTXentLoss", out0=out0, out1=out1)
        out0, out1 = l2_normalize(out0), l2_normalize(out1)
        all0, mine = self._gather(out0)
        all1, _ = self._gather(out1)
        # Both views of a sample share an id, so that a view meets neither itself nor, twice, its partner.
        sample = torch.arange(len(all0), device=out0.device)
        return instance_loss(
            torch.cat((out0, out1)),
            torch.cat((all0, all1)),
            torch.cat((out1, out0)),
            sample[mine].repeat(2),
            sample.repeat(2),
            self.temperature,
            self.backend,
        ).mean()


class SupConLoss(_TemperatureLoss):
    """Supervised contrastive loss: rows of one label attract each other, the mean over positives outside the log.

    Equal to `pytorch_metric_learning.losses.SupConLoss`: rows are l2-normalised; an anchor's loss is the mean over its
    positives p of log( sum over all others e^{s/T} ) - s_p / T; the mean is over anchors whose loss is above 0, and a
    batch of one label alone, or without any pair of one label, has loss 0. Miners (`indices_tuple`) are not supported.
    Also equal to SupContrast's `SupConLoss` (contrast_mode "all") on features (n, views, d), two views or more and two
    labels or more, for its `base_temperature` equal to T; for another, multiply by T / base_temperature.

    Args:
        temperature: T; pytorch-metric-learning has 0.1, SupContrast 0.07.
        learn_temperature: make it a parameter, in log space.
        gather_distributed: compare with the rows of all ranks.
        backend: of `cluster_infonce`.

    Raises:
        ValueError: the temperature is not above 0.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        learn_temperature: bool = False,
        gather_distributed: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(temperature, learn_temperature, gather_distributed, backend)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Mean loss over the anchors that have one.

        Args:
            embeddings: (n, d), or (n, views, d) with views of the same sample, which share its label.
            labels: (n,) integers. None only for (n, views, d): every sample is a class of its own (SimCLR).
            ref_emb, ref_labels: (N, d), (N,), both or neither: compare with these rows, a memory bank for example, and
                not with each other. No row is left out, so take the batch's own rows out of the bank. Every rank uses
                its own; they are not gathered.

        Returns:
            A number, float32, or float64 if an input is.

        Raises:
            ValueError: shapes do not fit together, or a value is not finite.
            TypeError: a tensor of the wrong dtype.
        """
        query, labels = self._flat(embeddings, labels)
        if (ref_emb is None) != (ref_labels is None):
            raise ValueError("SupConLoss: give both ref_emb and ref_labels, or neither")
        if ref_emb is None or ref_labels is None:
            keys, mine = self._gather(query)
            key_label, _ = self._gather(labels, grad=False)
            key_id = torch.arange(len(keys), device=query.device)
            query_id = key_id[mine]
            every = key_label
        else:
            keys, key_label = (
                l2_normalize(ref_emb),
                _check_integers("SupConLoss", "ref_labels", ref_labels, len(ref_emb)),
            )
            query_id, key_id = torch.zeros_like(labels), torch.ones_like(key_label)
            every = torch.cat((labels, key_label))
        # A negative cluster is noise to the op, a negative label is a label.
        low, high = every.min(), every.max()
        loss = cluster_infonce(
            query,
            keys,
            query_id=query_id,
            key_id=key_id,
            query_cluster=labels - low,
            key_cluster=key_label - low,
            temperature=self.temperature,
            positives="supcon",
            backend=self.backend,
        )
        counted = (loss > 0) & (low < high)
        number = counted.sum().to(loss.dtype)
        if self.gather_distributed and world_size() > 1:
            # The mean is over the anchors of all ranks that count, and the ranks' losses are averaged.
            dist.all_reduce(number)
            number = number / world_size()
            return torch.where(counted, loss, 0).sum() / torch.where(number > 0, number, 1)
        return torch.where(counted, loss, 0).sum() / number.clamp(min=1)

    def _flat(self, embeddings: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Unit rows (n, d) and their labels."""
        views = 1
        if isinstance(embeddings, Tensor) and embeddings.ndim == 3:
            views = embeddings.shape[1]
            if labels is None:
                labels = torch.arange(len(embeddings), device=embeddings.device)
                if self.gather_distributed:
                    labels = labels + gather_rows(labels)[1].start
            embeddings = embeddings.flatten(0, 1)
        check_rows("SupConLoss", embeddings=embeddings)
        if labels is None:
            raise ValueError("SupConLoss: (n, d) embeddings need labels; only (n, views, d) may come without")
        labels = _check_integers("SupConLoss", "labels", labels, len(embeddings) // views)
        return l2_normalize(embeddings), labels.repeat_interleave(views)
