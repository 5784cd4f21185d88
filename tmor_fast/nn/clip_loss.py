"""CLIP's image-text loss, with the arguments of open_clip's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tmor_fast.distributed import gather_rows, world_size
from tmor_fast.nn.contrastive import check_rows, instance_loss


class ClipLoss(nn.Module):
    """Symmetric image-text loss of CLIP, equal to `open_clip.ClipLoss` in value, gradients and arguments.

    Features are taken as they are; CLIP models normalise them. Under `torch.distributed` set `world_size` and `rank` as
    for open_clip. What each rank returns, and what the average of the gradients (DistributedDataParallel) is:

    | `local_loss` | `gather_with_grad` | returned                | average of the gradients of the features           |
    |--------------|--------------------|-------------------------|----------------------------------------------------|
    | False        | False              | loss of the whole batch | 1 / world_size of that of one process              |
    | False        | True               | loss of the whole batch | that of one process                                |
    | True         | False              | mean over the own rows  | lacks what reaches features as keys                |
    | True         | True               | mean over the own rows  | that of one process, at 1 / world_size of the work |

    Args:
        local_loss: compare the own rows with all, instead of all with all on every rank.
        gather_with_grad: let gradients through the gathering.
        cache_labels: accepted for open_clip's sake; there are no labels here to keep.
        rank, world_size: this process and the number of processes; 1 gathers nothing.
        backend: of `cluster_infonce`.

    Raises:
        ValueError: rank or world_size do not fit together.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        *,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if not 0 <= rank < world_size:
            raise ValueError(f"ClipLoss: rank must be from 0 to world_size - 1, got rank {rank} of {world_size}")
        self.local_loss, self.gather_with_grad, self.backend = local_loss, gather_with_grad, backend
        self.rank, self.world_size = rank, world_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Mean of image-to-text and text-to-image cross entropy.

        Args:
            image_features, text_features: (B, d), row i of one belongs to row i of the other. One row has loss 0.
            logit_scale: 1 / temperature, above 0: a number or a tensor of one element, usually `log_scale.exp()`.
            logit_bias: accepted for open_clip's sake: a constant in every logit, it cancels, and its gradient is 0.
            output_dict: return {"contrastive_loss": loss}.

        Returns:
            A number, float32, or float64 if a feature is.

        Raises:
            ValueError: shapes do not fit together, a value is not finite, the scale is not above 0, or
                `torch.distributed` does not run with `world_size` processes.
            TypeError: not floating point.
        """
        check_rows("ClipLoss", image_features=image_features, text_features=text_features)
        image, text, mine = image_features, text_features, slice(0, len(image_features))
        if self.world_size > 1:
            image, mine = self._gather(image_features)
            text, _ = self._gather(text_features)
        # Features are queries and keys at once: the parts of their gradients are summed before they are rounded.
        wide = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
        image, text = image.to(wide), text.to(wide)
        temperature = self._temperature(logit_scale, image)
        rows = torch.arange(len(image), device=image.device)
        if not self.local_loss:
            mine = slice(0, len(image))
        losses = []
        for query, keys, own in ((image, text, image_features), (text, image, text_features)):
            # A local loss takes its queries from this rank, whose gradient does not depend on the gathering.
            query = own.to(wide) if self.local_loss and self.world_size > 1 else query
            losses.append(instance_loss(query, keys, keys[mine], rows[mine], rows, temperature, self.backend).mean())
        loss = (losses[0] + losses[1]) / 2
        if isinstance(logit_bias, Tensor):
            # A parameter without any gradient would stop DistributedDataParallel.
            loss = loss + 0 * logit_bias.sum().to(loss.dtype)
        return {"contrastive_loss": loss} if output_dict else loss

    def _gather(self, rows: Tensor) -> tuple[Tensor, slice]:
        if world_size() != self.world_size:
            raise ValueError(
                f"ClipLoss: world_size={self.world_size}, but torch.distributed runs with {world_size()} "
                "process(es); call torch.distributed.init_process_group first, or leave world_size at 1"
            )
        gathered, mine = gather_rows(rows, grad=self.gather_with_grad, even=True)
        if not self.gather_with_grad and not self.local_loss:
            gathered = torch.cat((gathered[: mine.start], rows, gathered[mine.stop :]))
        return gathered, mine

    def _temperature(self, scale: Tensor | float, features: Tensor) -> Tensor | float:
        if isinstance(scale, Tensor):
            if scale.numel() != 1 or not scale.is_floating_point():
                raise ValueError(
                    f"ClipLoss: logit_scale must be one floating-point number, got {tuple(scale.shape)} {scale.dtype}"
                )
            # On a device the check would wait for it; while compiling, break the graph.
            if scale.device.type == "cpu" and not torch.compiler.is_compiling():
                self._check_scale(float(scale.detach()))
            return scale.to(features.device, features.dtype).reciprocal()
        self._check_scale(scale)
        return 1 / scale

    def _check_scale(self, scale: float) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"ClipLoss: logit_scale must be above 0 and finite, got {scale}")

    def extra_repr(self) -> str:
        return f"local_loss={self.local_loss}, gather_with_grad={self.gather_with_grad}, world_size={self.world_size}"
