/* Vector operations of the tile for AVX2 with FMA: 32-byte vectors, 3 x 4 accumulators in 16 registers. */
#define NAME(x) JOIN(x, avx2, TYPE)
#define TARGET __attribute__((target("avx2,fma")))
#define CHUNK_BYTES 24576 /* a transposed block of a chunk of features: with its panel it stays in a 32 KiB L1 */
#define NV 3
#define NK 4
#define HAS_GATHER 1
#define FR 2
#define FC 4
#define PAIRS 0
#define VBYTES 32
#define TOTAL_WIDE(v) total_4_wide((__m256d)(v)) /* of a vector of double */
#if REAL_BYTES == 4
#define VL 8
#define HAS_LOOKUP 1
typedef __m256 NAME(vec);
typedef __m256i NAME(ivec);
#define MASK __m256
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define SPLAT(s) _mm256_set1_ps(s)
#define ISPLAT(s) _mm256_set1_epi32(s)
#define ILOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define ISTORE(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define GREATER(a, b) _mm256_cmp_ps(a, b, _CMP_GT_OQ)
#define EQUAL(a, b) _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b))
#define PICK(m, a, b) _mm256_blendv_ps(b, a, m)
#define IPICK(m, a, b) _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(b), _mm256_castsi256_ps(a), m))
#define MAX(a, b) _mm256_max_ps(a, b)
#define MIN(a, b) _mm256_min_ps(a, b)
#define KEEP(m, a) _mm256_and_ps(m, a)
#define TOTAL(v) total_8(v)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define SQRT(a) _mm256_sqrt_ps(a)
#define LOOKUP(table, i) _mm256_permutevar8x32_ps(table, i)
#define LABELS(p) ILOAD(p)
#define GATHER(table, i) _mm256_i32gather_ps(table, i, 4)
#define BITS(m) ((unsigned)_mm256_movemask_ps(m))
#define ALL_BITS 0xFFu
#define TQ 4
#define QUARTER(p) _mm_loadu_ps(p)
#define GATHERED(r) _mm256_insertf128_ps(_mm256_castps128_ps256(QUARTER(q0 + (r) * stride)), QUARTER(q1 + (r) * stride), 1)
#define TRANSPOSE_STEP(x, s, o, to, ld)                                                                     \
    do {                                                                                                    \
        const ptrdiff_t stride = (s);                                                                       \
        const REAL *q0 = (x), *q1 = q0 + 4 * stride;                                                        \
        const __m256 shift = _mm256_insertf128_ps(_mm256_castps128_ps256(QUARTER(o)), QUARTER(o), 1);       \
        const __m256 r0 = GATHERED(0) - shift, r1 = GATHERED(1) - shift;                                    \
        const __m256 r2 = GATHERED(2) - shift, r3 = GATHERED(3) - shift;                                    \
        const __m256d s0 = _mm256_castps_pd(_mm256_unpacklo_ps(r0, r1));                                    \
        const __m256d s1 = _mm256_castps_pd(_mm256_unpackhi_ps(r0, r1));                                    \
        const __m256d s2 = _mm256_castps_pd(_mm256_unpacklo_ps(r2, r3));                                    \
        const __m256d s3 = _mm256_castps_pd(_mm256_unpackhi_ps(r2, r3));                                    \
        STORE(to, _mm256_castpd_ps(_mm256_unpacklo_pd(s0, s2)));                                            \
        STORE((to) + (ld), _mm256_castpd_ps(_mm256_unpackhi_pd(s0, s2)));                                   \
        STORE((to) + 2 * (ld), _mm256_castpd_ps(_mm256_unpacklo_pd(s1, s3)));                               \
        STORE((to) + 3 * (ld), _mm256_castpd_ps(_mm256_unpackhi_pd(s1, s3)));                               \
    } while (0)
#else
#define VL 4
#define HAS_LOOKUP 0
typedef __m256d NAME(vec);
typedef __m256i NAME(ivec);
#define MASK __m256d
#define LOAD(p) _mm256_loadu_pd(p)
#define STORE(p, v) _mm256_storeu_pd(p, v)
#define SPLAT(s) _mm256_set1_pd(s)
#define ISPLAT(s) _mm256_set1_epi64x(s)
#define ILOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define ISTORE(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define GREATER(a, b) _mm256_cmp_pd(a, b, _CMP_GT_OQ)
#define PICK(m, a, b) _mm256_blendv_pd(b, a, m)
#define IPICK(m, a, b) _mm256_castpd_si256(_mm256_blendv_pd(_mm256_castsi256_pd(b), _mm256_castsi256_pd(a), m))
#define MAX(a, b) _mm256_max_pd(a, b)
#define MIN(a, b) _mm256_min_pd(a, b)
#define TOTAL(v) total_4_wide(v)
#define FMA(a, b, c) _mm256_fmadd_pd(a, b, c)
#define SQRT(a) _mm256_sqrt_pd(a)
#define LABELS(p) _mm256_cvtepi32_epi64(_mm_loadu_si128((const __m128i *)(p)))
#define GATHER(table, i) _mm256_i64gather_pd(table, i, 8)
#define BITS(m) ((unsigned)_mm256_movemask_pd(m))
#define ALL_BITS 0xFu
#define TQ 2
#define QUARTER(p) _mm_loadu_pd(p)
#define GATHERED(r) _mm256_insertf128_pd(_mm256_castpd128_pd256(QUARTER(q0 + (r) * stride)), QUARTER(q1 + (r) * stride), 1)
#define TRANSPOSE_STEP(x, s, o, to, ld)                                                                     \
    do {                                                                                                    \
        const ptrdiff_t stride = (s);                                                                       \
        const REAL *q0 = (x), *q1 = q0 + 2 * stride;                                                        \
        const __m256d shift = _mm256_insertf128_pd(_mm256_castpd128_pd256(QUARTER(o)), QUARTER(o), 1);      \
        const __m256d r0 = GATHERED(0) - shift, r1 = GATHERED(1) - shift;                                   \
        STORE(to, _mm256_unpacklo_pd(r0, r1));                                                              \
        STORE((to) + (ld), _mm256_unpackhi_pd(r0, r1));                                                     \
    } while (0)
#endif
