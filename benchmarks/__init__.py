"""Measurements of what the project promises, with other libraries beside it in the same run.

``python -m benchmarks`` runs all of them, ``python -m benchmarks stitching imports`` some,
``--quick`` on less data, ``--list`` says what there is. Each is a module with a function
``run(quick) -> list[Row]`` and runs in an interpreter of its own. Contenders take turns within a
run and medians are compared, so that what else the machine does hits all of them alike; the table
states the machine's load before and after. Figures are worth keeping only from a quiet machine.

``python -m pytest benchmarks`` compares results, not times.
"""
