"""Benchmarks: valign beside TRL, lm-evaluation-harness and transformers on the same model, data and machine.

`python -m benchmarks --list` names the workloads, `python -m benchmarks dpo` runs one, `python -m benchmarks.table`
writes the page. What always holds: inputs are prepared once and read by both sides; every run is a fresh process;
no ratio stands where the sides do not compute the same numbers. Nothing here is imported by the package.

Importing this module needs the standard library only: the peers' environments do it too.
"""
