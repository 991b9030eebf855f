"""Benchmarks: each bench_*.py is one subject; harness.py times, shapes.py names the problems."""
