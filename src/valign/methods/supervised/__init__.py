"""Methods that learn from demonstrations and from comparisons."""
