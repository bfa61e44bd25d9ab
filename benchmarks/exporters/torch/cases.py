"""PyTorch models that ``benchmarks.export`` exports: timm, torch and transformers modules with random weights."""

from benchmarks.exporters.case import Case

MODELS = "benchmarks.exporters.torch.models"
FREE = "x:float32[N,3,H=128,W=128]"
"""Convolutional networks take any size."""
FIXED = "x:float32[N,3,224,224]"
"""Networks with positions take the one that they were built for."""
CONVOLUTIONAL = (
    "resnet18", "mobilenetv3_small_100", "efficientnet_b0", "convnext_atto", "densenet121", "regnety_002",
    "ghostnet_100", "repvgg_a0",
)  # fmt: skip
POSITIONAL = (
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224",
    "beit_base_patch16_224", "cait_xxs24_224", "levit_128s", "mobilevitv2_050",
)  # fmt: skip

CASES = (
    *(Case(name, f"{MODELS}:{name}", ("--input", FREE)) for name in CONVOLUTIONAL),
    *(Case(name, f"{MODELS}:{name}", ("--input", FIXED)) for name in POSITIONAL),
    Case("lstm", f"{MODELS}:lstm", ("--input", "x:float32[N,T=20,16]")),
    Case("gru", f"{MODELS}:gru", ("--input", "x:float32[N,T=20,16]")),
    Case("transformer_encoder", f"{MODELS}:transformer_encoder", ("--input", "x:float32[N,T=16,32]")),
    Case("bert", f"{MODELS}:bert", ("--input", "input_ids:int64[N,T]", "--input", "attention_mask:int64[N,T]")),
    Case("mobilevitv2_050, any size", f"{MODELS}:mobilevitv2_050", ("--input", FREE), refused="does not run"),
)
"""MobileViT counts its patches in Python: traced at one size it fits no other, which the exporters do not notice."""
