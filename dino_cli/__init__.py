"""DINO self-supervised vision transformers: train, embed, classify, and look at attention."""

__version__ = "0.1.0"
