/* Includes the kernels once per instruction set for the number type at hand. */
#define CLEAN "simd/forget_lanes.h"

#if ON_X86
#define NAME(x) JOIN(x, avx512, TYPE)
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
#include "simd/lanes_avx512.h"
#include "tile_body.h"
#include "settle_body.h"
#include "differences_body.h"
#include "bounds_body.h"
#include "rotated_body.h"
#include "seeding_body.h"
#include "screened_body.h"
#include "csr_body.h"
#include "cell_body.h"
#include CLEAN

#define NAME(x) JOIN(x, avx2, TYPE)
#define TARGET __attribute__((target("avx2,fma")))
#include "simd/lanes_avx2.h"
#include "tile_body.h"
#include "settle_body.h"
#include "differences_body.h"
#include "bounds_body.h"
#include "rotated_body.h"
#include "seeding_body.h"
#include "screened_body.h"
#include "csr_body.h"
#include "cell_body.h"
#include CLEAN
#endif

#define NAME(x) JOIN(x, generic, TYPE)
#define TARGET
#include "simd/lanes_generic.h"
#include "tile_body.h"
#include "settle_body.h"
#include "differences_body.h"
#include "bounds_body.h"
#include "rotated_body.h"
#include "seeding_body.h"
#include "screened_body.h"
#include "csr_body.h"
#include "cell_body.h"
#include CLEAN
#undef CLEAN
