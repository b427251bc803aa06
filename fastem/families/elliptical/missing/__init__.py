"""Rows with missing values (NaN) in elliptical families, for each covariance type."""
