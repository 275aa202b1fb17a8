"""The measurements of scripts/benchmark.py, a module for each command."""
