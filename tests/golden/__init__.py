"""Micro-kernels whose answers a GPU records and the emulator must repeat to the bit; README.md has the whole story."""
