"""From files to micro-batches: sources, order, tokens, rows, batches.

1. `sources/` opens files, `formats/` parses a row to a `Sample`.
2. `blend.py` says which row is the n-th sample.
3. `render.py` makes tokens and labels of it.
4. `pack.py` lays samples together in rows, `collate.py` rows in a micro-batch.
5. `loader.py` deals the rows of every step to data ranks and micro-batches; `ledger.py` counts them.
"""
