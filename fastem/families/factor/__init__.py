"""Factor analysis and mixtures of factor analysers (lecture row L9)."""
