"""From a table of measurements to forecasts, classes and tags."""
