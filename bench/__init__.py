"""Measurements: speed and accuracy, each a command. `bench/README.md` lists them."""
