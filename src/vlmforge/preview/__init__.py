"""What a step trains on, for people: `view` reads it from the batches, `terminal` and `page` write it."""
