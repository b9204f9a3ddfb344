"""The one training loop, its step, loss, optimizer and state."""
