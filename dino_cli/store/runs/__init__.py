"""The folder of one training run: configuration, log, curves, checkpoints, teacher."""
