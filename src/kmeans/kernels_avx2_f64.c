/* The kernels for double, for AVX2 with FMA. */
#include "tile.h"

#if ON_X86
#include "simd/float64.h"
#include "simd/lanes_avx2.h"
#include "kernels.h"
#endif
