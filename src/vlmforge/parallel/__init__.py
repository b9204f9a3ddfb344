"""Meshes, sharding passes, recompute and reductions; with checkpoint the only place that touches torch.distributed."""
