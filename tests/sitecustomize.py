"""Simulated GPUs in any process: Python reads this where its folder is in PYTHONPATH."""

import os

if os.environ.get("DINO_SIMULATED_CUDA"):
    import simulated_cuda

    simulated_cuda.start(int(os.environ["DINO_SIMULATED_CUDA"]))
