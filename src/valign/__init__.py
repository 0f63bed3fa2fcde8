"""valign: align a model with people, and measure how far it still is."""

__version__ = "0.1.0"
