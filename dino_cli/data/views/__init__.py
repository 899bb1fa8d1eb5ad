"""Random views for training: drawn, rendered, batched."""
