"""Runs a training from photos to a registered version, with a journal and a report."""
