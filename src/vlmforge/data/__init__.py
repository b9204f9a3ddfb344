"""From files to micro-batches: sources, formats, order, rendering, packing."""
