"""The steps of a model's life, as functions without Dagster that combine the packages of the engine.

Assets, command line and benchmarks call the same functions; each module contains one step.
"""
