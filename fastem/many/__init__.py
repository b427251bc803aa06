"""Many small problems in one call: groups of rows, a fit for each, and one result (`fit`, `result`)."""
