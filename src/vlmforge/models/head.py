"""The model as training sees it: a micro-batch in, the sum of its token losses out.

The output head runs over labelled positions only, a slice of them at a time, so that neither the logits of
unlabelled tokens nor a full `[tokens, vocab]` tensor in fp32 ever exist.
"""

# Shapes: T tokens, L labelled tokens, D hidden, V vocabulary, C tokens of one slice.

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmforge.config.schema import IGNORE_INDEX
from vlmforge.models.attention import VARLEN
from vlmforge.models.fusion import embed, index_images
from vlmforge.models.halves import MIDDLE, Arrangement, arrange
from vlmforge.models.image_types import ImageTensors
from vlmforge.models.shape import find_family
from vlmforge.parallel.context import SequenceSplit
from vlmforge.parallel.tensor import TensorRanks, local_tensor

# Logits that exist at once, in the type of the weights: 128 MiB in bf16. Slices this large keep the products fast.
SLICE_ELEMENTS = 2**26
# Rows of one product: on a CPU one of 1,152 took 210 ms with a vocabulary of 49,152, in parts of 512 it took 166.
PRODUCT_ROWS = 512
# Of those, the ones that are in fp32 at once: 4 MiB, so that the passes of a softmax find them in a CPU's cache.
SOFTMAX_ELEMENTS = 2**20

# Tokens, and labelled tokens, of a micro-batch are rounded up to multiples of this. On a CPU a product of a new shape
# compiles a kernel, which is then kept, and without rounding nearly every micro-batch brings new shapes.
SHAPE_STEP = 64


class LossModel(nn.Module):
    """A causal language model whose forward is the training loss; the root of the sharded module tree.

    transformers' own `forward(labels=...)` makes all logits in fp32. Being a module of its own, and not a function,
    lets the embedding, the final norm and the head belong to one sharding unit whose hooks run around this forward.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        split: SequenceSplit | None = None,
        ranks: TensorRanks | None = None,
        kept_in_eval: Sequence[nn.Module] = (),
        arranges_halves: bool = False,
    ) -> None:
        """Wrap `model`; its parameters stay its own, under the prefix `model.`.

        Args:
            model: with `vlmforge_varlen` attention if there is a split.
            split: the ranks that share each micro-batch's tokens; None: this rank sees them alone.
            ranks: that share the vocabulary; None: this rank has all of it.
            kept_in_eval: modules of it that stay in evaluation mode while the rest trains.
            arranges_halves: whether samples are put in an order whose halves two threads can compute (`halves.py`).
        """
        super().__init__()
        # Not modules of its own: they are inside the model.
        self._kept_in_eval = tuple(kept_in_eval)
        self.model = model
        self.split = split
        self.ranks = ranks
        self.arranges_halves = arranges_halves

    def train(self, mode: bool = True) -> LossModel:
        """As of every module, but for what stays in evaluation mode."""
        super().train(mode)
        for module in self._kept_in_eval:
            module.eval()
        return self

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        labels: Tensor,
        cu_seq_lens: Tensor,
        max_seq_len: int,
        images: ImageTensors | None = None,
        loss_weights: Tensor | None = None,
    ) -> Tensor:
        """Sum of the losses of the labelled tokens, fp32, not divided by anything; with a split, of its slice's.

        Args:
            input_ids: `[1, T]`, samples end to end.
            position_ids: `[1, T]`, restarting at every sample; `[4, 1, T]` where they have parts.
            labels: `[1, T]`, already shifted: the token after each position, or IGNORE_INDEX.
            cu_seq_lens: `[N + 1]` int32, where samples begin and end.
            max_seq_len: longest sample in tokens.
            images: the pictures of the whole micro-batch; None: there are none.
            loss_weights: `[1, T]` fp32, what each label's loss is multiplied by; None: by one.
        """
        num_slices = 1 if self.split is None else self.split.size
        order = arrange(cu_seq_lens, SHAPE_STEP // 2) if self.arranges_halves and torch.is_grad_enabled() else None
        # Halves are filled up themselves, each to half a step.
        padding = -input_ids.shape[1] % (SHAPE_STEP * num_slices) if order is None else 0
        if padding:
            # One more sample, that nobody sees and that has no label.
            ends = cu_seq_lens[-1:] + padding
            cu_seq_lens, max_seq_len = torch.cat([cu_seq_lens, ends]), max(max_seq_len, padding)
            positions = torch.arange(padding, device=position_ids.device)
            position_ids = torch.cat([position_ids, positions.expand(*position_ids.shape[:-1], -1)], dim=-1)
            input_ids, labels = F.pad(input_ids, (0, padding)), F.pad(labels, (0, padding), value=IGNORE_INDEX)
            loss_weights = None if loss_weights is None else F.pad(loss_weights, (0, padding))
        hidden_states = self.hidden_states(input_ids, position_ids, cu_seq_lens, max_seq_len, images, order)
        if self.split is not None:
            labels = self.split.take(labels)
            loss_weights = None if loss_weights is None else self.split.take(loss_weights)
        is_label = labels != IGNORE_INDEX
        head = self.model.get_output_embeddings()
        assert isinstance(head, nn.Linear), "an output head is one matrix"
        assert head.bias is None, "a bias of the head would be left out"
        weight = local_tensor(head.weight)
        # A frozen base or a batch without labels still has to take part in every collective of the backward pass.
        if not is_label.any():
            return (hidden_states.float() * 0.0).sum() + (weight[:1] * 0.0).float().sum()
        # Of Gemma; other families' configs have no such field.
        softcap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        weighed = None if loss_weights is None else loss_weights[is_label]
        return linear_cross_entropy_sum(hidden_states[is_label], weight, labels[is_label], softcap, self.ranks, weighed)

    def hidden_states(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        cu_seq_lens: Tensor,
        max_seq_len: int,
        images: ImageTensors | None = None,
        order: Arrangement | None = None,
    ) -> Tensor:
        """`[1, T, D]`: what the final norm gives, samples isolated from each other; with a split, of its slice.

        Args:
            input_ids: `[1, T]`, of the whole micro-batch, as all else.
            position_ids: `[1, T]`, or `[4, 1, T]`.
            cu_seq_lens: `[N + 1]` int32.
            max_seq_len: longest sample.
            images: its pictures.
            order: in which the layers see its samples; None: as they are.
        """
        borders: dict[str, Any] = {}
        if order is not None:
            cu_seq_lens, max_seq_len, borders = order.cu_seq_lens, order.max_seq_len, {MIDDLE: order.middle}
        if self.model.config._attn_implementation == VARLEN:
            borders |= {
                "cu_seq_lens_q": cu_seq_lens,
                "cu_seq_lens_k": cu_seq_lens,
                "max_length_q": max_seq_len,
                "max_length_k": max_seq_len,
            }
            if self.split is not None:
                borders["sequence_split"] = self.split
        # With use_cache, transformers takes restarting positions for a cache and lets packed samples see each other.
        # Not `base_model` or `get_decoder`: for Llama 4's text model both are the model itself, with its logits.
        family = find_family(self.model.config)
        decoder = self.model.get_submodule(family.decoder)
        image_index = index_images(self.model, input_ids, images) if family.vision is not None else None
        if order is not None:
            input_ids, position_ids = input_ids[:, order.taken], position_ids[..., order.taken]
            image_index = None if image_index is None else image_index[:, order.taken]
        if self.split is not None:
            input_ids, position_ids = self.split.take(input_ids), self.split.take(position_ids, dim=-1)
            image_index = None if image_index is None else self.split.take(image_index)
        if image_index is None:
            output = decoder(input_ids=input_ids, position_ids=position_ids, use_cache=False, **borders)
        else:
            with self._tower_draws(input_ids.device):
                embeds, more = embed(self.model, input_ids, image_index, images)
            output = decoder(inputs_embeds=embeds, position_ids=position_ids, use_cache=False, **borders, **more)
        if order is not None:
            return output.last_hidden_state.index_select(1, order.places)
        return output.last_hidden_state

    def _tower_draws(self, device: torch.device) -> AbstractContextManager[None]:
        """What a tower draws, random crops or dropout, is the same on ranks that share out a picture's tokens."""
        return nullcontext() if self.split is None or not self.training else self.split.same_draws(device)


class _LinearCrossEntropySum(torch.autograd.Function):
    """Loss and gradients of one slice at a time; the gradients are made in forward, where the logits are.

    `hidden` may have more rows than there are labels; those count for nothing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        softcap: float | None,
        ranks: TensorRanks | None,
        loss_weights: Tensor | None,
    ) -> Tensor:
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight: Tensor | None = None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        size = max(1, SLICE_ELEMENTS // weight.shape[0])
        if not needs_weight:
            # Nothing is summed over slices.
            size = min(size, PRODUCT_ROWS)
        room = hidden.new_empty((min(size, len(hidden)), weight.shape[0]))
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            logits, picked = _multiply(hidden[part], weight, room), labels[part]
            weights = None if loss_weights is None else loss_weights[part]
            total += _softmax_in_place(
                logits[: len(picked)], picked, weights, softcap, needs_hidden or needs_weight, ranks
            )
            logits[len(picked) :] = 0.0
            if grad_hidden is not None:
                torch.mm(logits, weight, out=grad_hidden[part])
            if needs_weight:
                # Several slices are summed in fp32.
                grad = logits.T @ hidden[part]
                grad_weight = grad if grad_weight is None else grad_weight.float().add_(grad)
        if ranks is not None:
            total = ranks.sum(total)
        # Not for autograd to keep: the backward pass, which runs once, scales them in place.
        ctx.grads = grad_hidden, grad_weight
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        (grad_output,) = grad_outputs
        (grad_hidden, grad_weight), ctx.grads = ctx.grads, None
        # A number, not a tensor: a GPU would round one that lies on it to bf16 before it multiplies, and
        # 1 / num_label_tokens in bf16 scales every gradient by up to 0.4%.
        scale = grad_output.item()
        return (
            None if grad_hidden is None else grad_hidden.mul_(scale),
            None if grad_weight is None else grad_weight.mul_(scale).to(ctx.weight_dtype),
            None,
            None,
            None,
            None,
        )


def _multiply(hidden: Tensor, weight: Tensor, room: Tensor) -> Tensor:
    """`hidden @ weight.T`, in the first rows of `room`."""
    logits = room[: len(hidden)]
    for rows, target in zip(hidden.split(PRODUCT_ROWS), logits.split(PRODUCT_ROWS), strict=True):
        torch.mm(rows, weight.T, out=target)
    return logits


def _softmax_in_place(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    softcap: float | None,
    needs_gradient: bool,
    ranks: TensorRanks | None,
) -> Tensor:
    """Sum of the token losses times their weights, fp32; `logits` `[L, V]` become their own gradients if needed.

    With `ranks`, the logits are of this rank's tokens, and so are the losses summed here.
    """
    first = 0 if ranks is None else ranks.rank * logits.shape[1]
    is_mine = (labels >= first) & (labels < first + logits.shape[1])
    labels, counts = (labels - first).masked_fill(~is_mine, 0).unsqueeze(1), is_mine.float().unsqueeze(1)
    factors = torch.ones_like(counts) if weights is None else weights.unsqueeze(1)
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    size = max(1, SOFTMAX_ELEMENTS // logits.shape[1]) if logits.device.type == "cpu" else len(labels)
    room = torch.empty((min(size, len(labels)), logits.shape[1]), dtype=torch.float32, device=logits.device)
    slices = (part.split(size) for part in (logits, labels, counts, factors))
    for rows, picked, count, factor in zip(*slices, strict=True):
        # All of it in place: torch's own log_softmax takes four times as long on a CPU.
        part, slope = room[: len(rows)].copy_(rows), None
        if softcap is not None:
            part.div_(softcap).tanh_()
            slope = 1.0 - part.square()
            part.mul_(softcap)
        largest = part.amax(dim=-1, keepdim=True)
        part.sub_(largest if ranks is None else ranks.largest(largest))
        scores = part.gather(1, picked)
        sums = part.exp_().sum(dim=-1, keepdim=True)
        sums = sums if ranks is None else ranks.sum(sums)
        total += ((sums.log() - scores) * count * factor).sum()
        if not needs_gradient:
            continue
        part.div_(sums).scatter_add_(1, picked, -count)
        if weights is not None:
            part.mul_(factor)
        rows.copy_(part if slope is None else part.mul_(slope))
    return total


def linear_cross_entropy_sum(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    softcap: float | None = None,
    ranks: TensorRanks | None = None,
    loss_weights: Tensor | None = None,
) -> Tensor:
    """Sum of the cross entropies of `hidden @ weight.T` against `labels`, in fp32.

    torch's own `linear_cross_entropy` rounds the losses to the type of its inputs: 10.94 for 10.909 in bf16.

    Args:
        hidden: `[L, D]`.
        weight: `[V, D]`.
        labels: `[L]`, every one a real label.
        softcap: the logits become `softcap * tanh(logits / softcap)`; None: they stay.
        ranks: that share the vocabulary: `weight` is this rank's `[V / R, D]`, and full logits exist on none.
        loss_weights: `[L]` fp32, what each loss is multiplied by; None: by one.
    """
    shared = hidden if ranks is None else ranks.share(hidden)
    padded = F.pad(shared, (0, 0, 0, -len(labels) % SHAPE_STEP))
    return _LinearCrossEntropySum.apply(padded, weight, labels, softcap, ranks, loss_weights)
