"""Where rows come from.

`base` says what every source owes.  `memory`: an array, a CSR matrix, rows seen through a function.  `opening` takes
what users give and returns `rows` of more than memory holds, which are passed over as a `stream`: `readers` decode
files and Arrow data, `reading` cuts them to the grid ahead of the kernels, `spool` keeps them, and arrays with an entry
for each row, in temporary files; `writing` writes what is said of each row.  `dask`: rows in partitions of Dask, which
`ragged` lays on the grid, with entries of each row (`columns`) beside them; `dask_collections` opens what users give of
these.
"""
