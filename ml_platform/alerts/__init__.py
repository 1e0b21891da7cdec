"""Alerts: their kinds, lifecycle, routes and receivers, without Dagster.

Sources report what fires now (:mod:`ml_platform.steps.alert_sources`, :mod:`resources.alert_sources`). One evaluation
compares it with the open alerts of the state store and queues messages; a delivery sends them.
"""
