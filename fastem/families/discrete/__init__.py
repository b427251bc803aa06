"""Families of discrete rows: Bernoulli, Poisson and categorical distributions, independent features."""
