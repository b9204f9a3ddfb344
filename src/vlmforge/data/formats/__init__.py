"""Data formats, one file each: how a raw row becomes a `Sample`."""
