"""The folders and ground truth of published benchmarks."""
