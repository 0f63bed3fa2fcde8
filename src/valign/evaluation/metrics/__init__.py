"""Metrics: pure functions from arrays to numbers, one subject per file. No model, no files, no clock, no
Result.
"""
