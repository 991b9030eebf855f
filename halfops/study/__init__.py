"""The precision study: the same networks, seeds and batches trained in several precisions, measured and drawn.

`data` and `models` say what is trained, `tasks` with which recipe, `arms` in which precision; `train` runs one arm with
one seed, `measure` counts, `study` runs them all; `table`, `verdict`, `picture` and `report` say what came out.
"""
