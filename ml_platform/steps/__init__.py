"""What a model does, step by step: where the rooms of the engine meet, on functions without Dagster.

Assets, command line and benchmarks run the same steps; each module is one of them.
"""
