"""Weights in the files that other programs open: reference, timm, Hugging Face, ONNX."""
