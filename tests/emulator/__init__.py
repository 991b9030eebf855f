"""Runs the project's CUDA kernels on the CPU; README.md has the whole story."""
