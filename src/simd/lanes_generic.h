/* Vector operations of the tile in portable form: 16-byte GCC / Clang vectors (SSE2, NEON, ...), 2 x 4 accumulators,
   or, with any other compiler, "vectors" of one number. */
#define NAME(x) JOIN(x, generic, TYPE)
#define TARGET
#define CHUNK_BYTES 24576 /* a transposed block of a chunk of features: with its panel it stays in a 32 KiB L1 */
#define NK 4
#define FC 4
#define PAIRS 0
#define HAS_LOOKUP 0
#define HAS_GATHER 0
#ifdef __GNUC__
#define NV 2
#define FR 2
#define VBYTES 16
#define VL (16 / REAL_BYTES)
typedef REAL NAME(vec) __attribute__((vector_size(16), may_alias));
typedef INT NAME(ivec) __attribute__((vector_size(16), may_alias));
typedef REAL NAME(uvec) __attribute__((vector_size(16), may_alias, aligned(REAL_BYTES)));
typedef INT NAME(uivec) __attribute__((vector_size(16), may_alias, aligned(REAL_BYTES)));
#define MASK NAME(ivec)
#define SPLAT(s) ((NAME(vec)){0} + (REAL)(s))
#define ISPLAT(s) ((NAME(ivec)){0} + (INT)(s))
#define PICK(m, a, b) ((NAME(vec))(((m) & (NAME(ivec))(a)) | (~(m) & (NAME(ivec))(b))))
#define IPICK(m, a, b) (((m) & (a)) | (~(m) & (b)))
#else
#define NV 4
#define FR 1
#define VBYTES REAL_BYTES
#define VL 1
typedef REAL NAME(vec);
typedef INT NAME(ivec);
typedef REAL NAME(uvec);
typedef INT NAME(uivec);
#define MASK int
#define SPLAT(s) ((REAL)(s))
#define ISPLAT(s) ((INT)(s))
#define PICK(m, a, b) ((m) ? (a) : (b))
#define IPICK(m, a, b) ((m) ? (a) : (b))
#endif
#define LOAD(p) (*(const NAME(uvec) *)(p))
#define STORE(p, v) (*(NAME(uvec) *)(p) = (v))
#define ILOAD(p) (*(const NAME(uivec) *)(p))
#define ISTORE(p, v) (*(NAME(uivec) *)(p) = (v))
#define GREATER(a, b) ((a) > (b))
#define MAX(a, b) PICK(GREATER(a, b), a, b)
#define MIN(a, b) PICK(GREATER(a, b), b, a)
#define FMA(a, b, c) ((a) * (b) + (c))
INLINE NAME(vec) NAME(square_roots)(NAME(vec) v) {
    REAL lane[VL];
    STORE(lane, v);
    for (int i = 0; i < VL; i++) lane[i] = (REAL)sqrt((double)lane[i]);
    return LOAD(lane);
}
#define SQRT(a) NAME(square_roots)(a)
#define TQ 1
#define TRANSPOSE_STEP(x, stride, o, to, ld)                                                                \
    do {                                                                                                    \
        for (int lane = 0; lane < VL; lane++) (to)[lane] = (x)[lane * (stride)] - *(o);                          \
    } while (0)
