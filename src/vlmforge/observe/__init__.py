"""What a run shows and leaves behind: progress, metrics, curves, trackers, its manifest.

Nothing here decides anything about the training; every function takes plain numbers and writes them down.
"""
