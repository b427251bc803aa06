"""Thin scikit-learn classes over the engine: parameters, validation and fitted attributes, no algorithm."""
