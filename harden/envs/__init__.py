"""Simulation: seeded environments, split over worker processes, and whole-episode roll-outs.

Nothing is imported here: a worker process must not load what it does not need.
"""
