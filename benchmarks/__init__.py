"""Measurements of what the project promises, with other libraries beside it in the same run.

``python -m benchmarks`` runs all of them, ``python -m benchmarks stitching imports`` some,
``--quick`` on less data, ``--list`` says what there is. Each is a module with a function
``run(quick) -> list[Row]`` and runs in an interpreter of its own. Contenders take turns within a
run and medians are compared, but what else the machine does hits several threads harder than one.
The table states the load before and after, and how many cores other processes took during each
benchmark. Figures are worth keeping only where that is next to none.

``python -m pytest benchmarks`` compares results, not times.
"""
