"""Functions that ``onnxopt export`` calls by name; needs requirements.txt and requirements-no-deps.txt."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

# timm imports torchvision, whose wheel on PyPI is built for CUDA: beside a torch for the CPU its compiled part does not
# load, and the import fails unless these operators are declared. No model here uses them.
for _name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm  # noqa: E402

SEED = 0


def made(name: str) -> nn.Module:
    """A timm model with random weights, its batch normalizations with statistics other than 0 and 1."""
    torch.manual_seed(SEED)
    module = timm.create_model(name, pretrained=False)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            part.running_mean.uniform_(-0.1, 0.1)
            part.running_var.uniform_(0.8, 1.2)
    head = module.get_classifier()
    if isinstance(head, nn.Linear):
        nn.init.normal_(head.weight, std=0.02)  # some begin with zeros, which would compare nothing
    return module


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """Any model of timm, by its name."""
    if name not in timm.list_models():
        raise AttributeError(name)
    return partial(made, name)


class Recurrent(nn.Module):
    """Two recurrent layers, both directions, and a projection of every step."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.layers = kind(16, 24, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(48, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x)[0])


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM)


def gru() -> nn.Module:
    return Recurrent(nn.GRU)


def transformer_encoder() -> nn.Module:
    torch.manual_seed(SEED)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    torch.manual_seed(SEED)
    return BertModel(BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128))
