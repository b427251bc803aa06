# One pass over each of many groups of rows, whatever the family; included by mixtures.pyx.

def pass_over_groups(const int64_t[::1] offsets, const int64_t[::1] numbers, const intptr_t[::1] call, list fields, list places,
                     double[:, ::1] records):
    """Call an E-step for the rows of groups, each with prepared parameters of its own.

    Parameters
    ----------
    offsets : int64 array (G + 1,)
        Rows offsets[g] .. offsets[g + 1] are those of group g.
    numbers : int64 array (A,)
        The groups.
    call : intp array (2,)
        Address and context of the E-step.
    fields : list of arrays (A, ...)
        The prepared parameters of each group.
    places : list of arrays (...)
        Those that the context holds, in as many fields: each group's are copied there for its call.
    records : float64 array (A, size)
        OUT. What the calls have added up; size may be 0.
    """
    cdef ptrdiff_t n = numbers.shape[0], n_fields = len(fields), size = records.shape[1], i, p
    for field, place in zip(fields, places, strict=True):
        if field.nbytes != n * place.nbytes or not (field.flags.c_contiguous and place.flags.c_contiguous):
            raise ValueError(f"prepared parameters {field.shape} are none of {n} groups like {place.shape}")
    if records.shape[0] != n:
        raise ValueError(f"{records.shape[0]} records for {n} groups")
    cdef intptr_t[::1] sources = np.array([field.ctypes.data for field in fields], np.intp)
    cdef intptr_t[::1] targets = np.array([place.ctypes.data for place in places], np.intp)
    cdef intptr_t[::1] sizes = np.array([place.nbytes for place in places], np.intp)
    with nogil:
        for i in range(n):
            for p in range(n_fields):
                memcpy(<void *>targets[p], <const void *>(sources[p] + i * sizes[p]), sizes[p])
            if size:
                memset(&records[i, 0], 0, size * sizeof(double))
            (<e_step><void *>call[0])(call[1], offsets[numbers[i]], offsets[numbers[i] + 1],
                                      &records[i, 0] if size else NULL, size)
