/* The kernels for float, for AVX-512. */
#include "tile.h"

#if ON_X86
#include "simd/float32.h"
#include "simd/lanes_avx512.h"
#include "kernels.h"
#endif
