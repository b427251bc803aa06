/* The kernels for float, in portable form. */
#include "tile.h"

#include "simd/float32.h"
#include "simd/lanes_generic.h"
#include "kernels.h"
