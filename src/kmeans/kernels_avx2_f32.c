/* The kernels for float, for AVX2 with FMA. */
#include "tile.h"

#if ON_X86
#include "simd/float32.h"
#include "simd/lanes_avx2.h"
#include "kernels.h"
#endif
