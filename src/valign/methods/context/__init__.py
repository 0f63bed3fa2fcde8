"""Methods that change what the model reads, never its weights."""
