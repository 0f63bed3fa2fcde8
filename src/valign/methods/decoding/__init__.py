"""Methods that change how a response is drawn or chosen, never the weights."""
