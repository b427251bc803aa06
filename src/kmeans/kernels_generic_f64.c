/* The kernels for double, in portable form. */
#include "tile.h"

#include "simd/float64.h"
#include "simd/lanes_generic.h"
#include "kernels.h"
