"""Configuration: the schema of every key, composition with Hydra, strict decoding, and the checks of gate 1."""
