"""Data: the one schema (groups), files that hold it, readers of foreign formats, conversions, and audits."""
