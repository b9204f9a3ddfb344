"""Stitched models of every language model: packed samples are trained as the class computes each alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.support.tiny import stitched_fields

from vlmforge.config.schema import Config, ModelConfig, ParallelismConfig
from vlmforge.models import FAMILIES
from vlmforge.models.build import auto_class, build_on_meta
from vlmforge.models.head import LossModel
from vlmforge.models.image_types import ImageTensors
from vlmforge.models.shape import build_hf_config
from vlmforge.models.sharding import check_sharding
from vlmforge.models.stitched import LANGUAGE_MODELS

NAMES = [name for name, family in FAMILIES.items() if family.model_type in LANGUAGE_MODELS]
IMAGE = 264


@pytest.mark.parametrize("name", NAMES)
def test_packed_samples_are_trained_as_each_alone(name: str) -> None:
    fields = stitched_fields("clip", name)
    shape = build_hf_config(ModelConfig(family="stitched", config=fields))
    torch.manual_seed(0)
    plain = auto_class(shape).from_config(shape, attn_implementation="eager").eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    # Longer than the windows, the second without a picture.
    samples = [torch.tensor([[5, *[IMAGE] * 4, *range(10, 30)]]), torch.arange(40, 60)[None]]
    pixels = torch.randn(1, 3, 32, 32)
    losses = []
    for ids, seen in zip(samples, (pixels, None), strict=True):
        labels = torch.where(ids == IMAGE, -100, ids)[0, 1:]
        logits = plain(input_ids=ids, pixel_values=seen).logits[0, :-1]
        losses.append(F.cross_entropy(logits.float(), labels, reduction="sum"))
    expected = torch.stack(losses).sum()
    expected.backward()
    grads = {key: parameter.grad for key, parameter in plain.named_parameters()}

    model = build_on_meta(Config(model=ModelConfig(family="stitched", config=fields, init="random")))
    model = model.to_empty(device="cpu")
    model.load_state_dict(plain.state_dict())
    model.tie_weights()
    for key, buffer in plain.named_buffers():
        model.get_buffer(key).data = buffer.data
    lengths = [ids.shape[1] for ids in samples]
    packed = torch.cat(samples, dim=1)
    # The shift by one is the collation's: the label of a position is the token after it.
    labels = torch.cat([F.pad(torch.where(ids == IMAGE, -100, ids)[:, 1:], (0, 1), value=-100) for ids in samples], 1)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    ends = torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32)
    root = LossModel(model).train()
    loss = root(packed, positions, labels, ends, max(lengths), ImageTensors(pixels))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        torch.testing.assert_close(parameter.grad, grads[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_has_a_row_in_the_table_of_tensor_parallelism(name: str) -> None:
    config = Config(
        model=ModelConfig(family="stitched", config=stitched_fields("clip", name), init="random"),
        parallelism=ParallelismConfig(tp=2),
    )
    assert check_sharding(build_on_meta(config), tp=2) == []
