"""Benchmarks of what the project promises, with other libraries in the same run.

``python -m benchmarks`` runs all of them, ``python -m benchmarks stitching imports`` some;
``--quick`` uses less data, ``--list`` describes them. Each benchmark is a module with a function
``run(quick) -> list[Row]`` and runs in its own interpreter. The compared libraries take turns within
a run, and medians are compared. Still, other programs on the machine slow several threads down more
than one. The table states the load before and after, and how many cores other processes took during
each benchmark. Use figures only where other processes took almost none.

``python -m pytest benchmarks`` compares results, not times.
"""
