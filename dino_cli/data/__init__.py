"""Pixels in: finding, decoding, preprocessing, random draws and the renderers of views."""
