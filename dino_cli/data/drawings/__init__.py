"""Drawn pictures with exact masks, for `dino demo` and its training."""
