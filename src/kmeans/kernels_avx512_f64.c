/* The kernels for double, for AVX-512. */
#include "tile.h"

#if ON_X86
#include "simd/float64.h"
#include "simd/lanes_avx512.h"
#include "kernels.h"
#endif
