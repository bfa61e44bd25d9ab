"""Folders of Hugging Face models: ``config.json`` and ``*.safetensors``, opened by ``transformers`` without a network.

Exported by PyTorch's own exporters rather than by optimum-onnx, whose last release (0.1.0) pins ``transformers`` below
the version that is current; see docs/export.md.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from onnxopt.core.query import TensorSpec
from onnxopt.errors import InputError, UsageError
from onnxopt.frameworks.base import Request
from onnxopt.frameworks.drawing import BATCH
from onnxopt.frameworks.specs import FORM
from onnxopt.frameworks.torch_export import quiet
from onnxopt.frameworks.torch_model import TorchModel
from onnxopt.frameworks.torch_signature import as_original, failed_at

__all__ = ["open_folder"]

LENGTH = "length"
"""The name of the axis of tokens."""
TOKENS = 16
"""Its usual size in comparisons; 32 is the second one."""
WAVE = 16000
"""Usual samples of a sound."""
IDS = np.dtype(np.int64)
FLOATS = np.dtype(np.float32)


def open_folder(text: str, request: Request) -> TorchModel:
    """The model in a folder, of the architecture that its configuration names.

    Raises:
        InputError: The folder is damaged, is not trusted, or lacks weights of the architecture.
        UsageError: Nobody says what the inputs of such a model are.
    """
    folder = Path(text)
    config = _config(folder)
    if not any(folder.glob("*.safetensors")) and not request.trust:
        raise InputError(
            "the folder holds no .safetensors file, and reading weights of another kind can run any code (pickles)",
            where=folder.name,
            fix="save the model with safe_serialization, or give --trust if you trust where it comes from",
        )
    if "auto_map" in config and not request.trust:
        raise InputError(
            "the model is defined by code in its folder",
            where=f"{folder.name}/config.json: auto_map",
            fix="give --trust if you trust where it comes from",
        )
    module = _module(folder, config, request)
    if not request.described:
        inputs, sizes = _inputs(module, folder)
        request = replace(request, inputs=inputs, sizes={**sizes, **request.sizes})
    made = as_original(module, folder.name, request)
    return replace(made, framework="transformers", extra_versions={"transformers": version("transformers")})


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        found: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the configuration cannot be read: {error}", where=f"{folder.name}/config.json", fix="copy it again"
        ) from error
    if not isinstance(found, dict) or "model_type" not in found:
        raise InputError(
            "this is not the configuration of a transformers model: it has no model_type",
            where=f"{folder.name}/config.json",
            fix="give a folder that save_pretrained wrote",
        )
    return cast(dict[str, Any], found)


def _module(folder: Path, config: Mapping[str, Any], request: Request) -> nn.Module:
    """The module with its weights; no weight is made up."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers: Any = importlib.import_module("transformers")
    names = config.get("architectures") or ["AutoModel"]
    options = {"local_files_only": True, "trust_remote_code": True} if request.trust else {"local_files_only": True}
    options = {**options, "attn_implementation": "eager", "dtype": "float32", "output_loading_info": True}
    if not request.trust:
        options["use_safetensors"] = True
    transformers.utils.logging.disable_progress_bar()
    try:
        with quiet():
            kind: Any = getattr(transformers, names[0], None) or transformers.AutoModel
            module, loaded = kind.from_pretrained(folder, **options)
    except Exception as error:  # transformers raises whatever it met
        raise InputError(
            f"transformers {version('transformers')} cannot open the folder: {failed_at(error)}",
            where=folder.name,
            fix="check that the files belong together, and the version of transformers that wrote them",
        ) from error
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise InputError(
            f"{len(missing)} weights of {names[0]} are not in the files and would be random: {', '.join(missing[:3])}",
            where=folder.name,
            fix="give the folder of the whole model, or name in config.json the architecture that was saved",
        )
    if hasattr(module.config, "use_cache"):
        module.config.use_cache = False  # past keys and values are no outputs of a single call
    return cast(nn.Module, module)


def _inputs(module: nn.Module, folder: Path) -> tuple[tuple[TensorSpec, ...], dict[str, int]]:
    """Token ids, pixels or samples of sound, with batch (and length) free, and the masks that the module takes."""
    config: Any = module.config
    main = str(getattr(module, "main_input_name", ""))
    if getattr(config, "is_encoder_decoder", False):
        main = ""
    if main == "input_ids":
        taken = inspect.signature(module.forward).parameters
        names = [main, *(name for name in ("attention_mask", "token_type_ids") if name in taken)]
        if not getattr(config, "type_vocab_size", 0):
            names = [name for name in names if name != "token_type_ids"]
        return tuple(TensorSpec(name, IDS, (BATCH, LENGTH)) for name in names), {LENGTH: TOKENS}
    if main == "pixel_values" and hasattr(config, "image_size"):
        sides = [int(side) for side in np.atleast_1d(config.image_size)]
        channels = int(getattr(config, "num_channels", 3))
        return (TensorSpec(main, FLOATS, (BATCH, channels, sides[0], sides[-1])),), {}
    if main == "input_values":
        return (TensorSpec(main, FLOATS, (BATCH, LENGTH)),), {LENGTH: WAVE}
    raise UsageError(
        f"the inputs of {type(module).__name__} are not known here",
        where=f"{folder.name}: {main or 'encoder and decoder'}",
        fix=f"give {FORM}",
    )
