"""Studies: a grid of runs, what is missing of it run, and all of it put side by side."""
