"""Make the models that come with the package."""
