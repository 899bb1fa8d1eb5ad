"""Files in and out: weights, checkpoints, embeddings, figures, pages."""
