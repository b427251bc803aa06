"""Building blocks of kernels that know no model: blocks of rows, responsibilities, products, register tiles."""
