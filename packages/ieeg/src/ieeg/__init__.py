"""Intracranial EEG: recordings to forecasts and seizure events."""
