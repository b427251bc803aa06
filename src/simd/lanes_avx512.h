/* Vector operations of the tile for AVX-512: 64-byte vectors, 3 x 8 accumulators in 32 registers. */
#define NAME(x) JOIN(x, avx512, TYPE)
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
#define CHUNK_BYTES 36864 /* a transposed block of a chunk of features: with its panel it stays in a 48 KiB L1 */
#define NV 3
#define NK 8
#define FR 4
#define FC 6
#define VBYTES 64
#define TOTAL_WIDE(v) total_8_wide((__m512d)(v)) /* of a vector of double */
#define HAS_LOOKUP 1
#define HAS_GATHER 1
#define PAIRS 1
#if REAL_BYTES == 4
#define VL 16
typedef __m512 NAME(vec);
typedef __m512i NAME(ivec);
#define MASK __mmask16
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define SPLAT(s) _mm512_set1_ps(s)
#define ISPLAT(s) _mm512_set1_epi32(s)
#define ILOAD(p) _mm512_loadu_si512((const void *)(p))
#define ISTORE(p, v) _mm512_storeu_si512((void *)(p), v)
#define GREATER(a, b) _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)
#define EQUAL(a, b) _mm512_cmpeq_epi32_mask(a, b)
#define PICK(m, a, b) _mm512_mask_blend_ps(m, b, a)
#define IPICK(m, a, b) _mm512_mask_blend_epi32(m, b, a)
#define MAX(a, b) _mm512_max_ps(a, b)
#define MIN(a, b) _mm512_min_ps(a, b)
#define KEEP(m, a) _mm512_maskz_mov_ps(m, a)
#define TOTAL(v) total_16(v)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define SQRT(a) _mm512_sqrt_ps(a)
#define LOOKUP(table, i) _mm512_permutexvar_ps(i, table)
#define TRANSPOSE_PAIRS(x, o, to, ld)                                                                       \
    do {                                                                                                    \
        const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);  \
        const __m512 low = LOAD(x), high = LOAD((x) + 16);                                                  \
        const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));                                   \
        STORE(to, _mm512_permutex2var_ps(low, even, high) - SPLAT((o)[0]));                                 \
        STORE((to) + (ld), _mm512_permutex2var_ps(low, odd, high) - SPLAT((o)[1]));                         \
    } while (0)
#define LABELS(p) ILOAD(p)
#define GATHER(table, i) _mm512_i32gather_ps(i, table, 4)
#define BITS(m) ((unsigned)(m))
#define ALL_BITS 0xFFFFu
#define TQ 4
#define QUARTER(p) _mm_loadu_ps(p)
#define GATHERED(r)                                                                                         \
    _mm512_mask_broadcast_f32x4(                                                                            \
        _mm512_mask_broadcast_f32x4(                                                                        \
            _mm512_mask_broadcast_f32x4(_mm512_castps128_ps512(QUARTER(q0 + (r) * stride)), 0x00F0,         \
                                        QUARTER(q1 + (r) * stride)),                                        \
            0x0F00, QUARTER(q2 + (r) * stride)),                                                            \
        0xF000, QUARTER(q3 + (r) * stride))
#define TRANSPOSE_STEP(x, s, o, to, ld)                                                                     \
    do {                                                                                                    \
        const ptrdiff_t stride = (s);                                                                       \
        const REAL *q0 = (x), *q1 = q0 + 4 * stride, *q2 = q1 + 4 * stride, *q3 = q2 + 4 * stride;          \
        const __m512 shift = _mm512_broadcast_f32x4(QUARTER(o));                                            \
        const __m512 r0 = GATHERED(0) - shift, r1 = GATHERED(1) - shift;                                    \
        const __m512 r2 = GATHERED(2) - shift, r3 = GATHERED(3) - shift;                                    \
        const __m512d s0 = _mm512_castps_pd(_mm512_unpacklo_ps(r0, r1));                                    \
        const __m512d s1 = _mm512_castps_pd(_mm512_unpackhi_ps(r0, r1));                                    \
        const __m512d s2 = _mm512_castps_pd(_mm512_unpacklo_ps(r2, r3));                                    \
        const __m512d s3 = _mm512_castps_pd(_mm512_unpackhi_ps(r2, r3));                                    \
        STORE(to, _mm512_castpd_ps(_mm512_unpacklo_pd(s0, s2)));                                            \
        STORE((to) + (ld), _mm512_castpd_ps(_mm512_unpackhi_pd(s0, s2)));                                   \
        STORE((to) + 2 * (ld), _mm512_castpd_ps(_mm512_unpacklo_pd(s1, s3)));                               \
        STORE((to) + 3 * (ld), _mm512_castpd_ps(_mm512_unpackhi_pd(s1, s3)));                               \
    } while (0)
#else
#define VL 8
typedef __m512d NAME(vec);
typedef __m512i NAME(ivec);
#define MASK __mmask8
#define LOAD(p) _mm512_loadu_pd(p)
#define STORE(p, v) _mm512_storeu_pd(p, v)
#define SPLAT(s) _mm512_set1_pd(s)
#define ISPLAT(s) _mm512_set1_epi64(s)
#define ILOAD(p) _mm512_loadu_si512((const void *)(p))
#define ISTORE(p, v) _mm512_storeu_si512((void *)(p), v)
#define GREATER(a, b) _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ)
#define EQUAL(a, b) _mm512_cmpeq_epi64_mask(a, b)
#define PICK(m, a, b) _mm512_mask_blend_pd(m, b, a)
#define IPICK(m, a, b) _mm512_mask_blend_epi64(m, b, a)
#define MAX(a, b) _mm512_max_pd(a, b)
#define MIN(a, b) _mm512_min_pd(a, b)
#define KEEP(m, a) _mm512_maskz_mov_pd(m, a)
#define TOTAL(v) total_8_wide(v)
#define FMA(a, b, c) _mm512_fmadd_pd(a, b, c)
#define SQRT(a) _mm512_sqrt_pd(a)
#define LOOKUP(table, i) _mm512_permutexvar_pd(i, table)
#define TRANSPOSE_PAIRS(x, o, to, ld)                                                                       \
    do {                                                                                                    \
        const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);                                  \
        const __m512i odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);                                   \
        const __m512d low = LOAD(x), high = LOAD((x) + 8);                                                  \
        STORE(to, _mm512_permutex2var_pd(low, even, high) - SPLAT((o)[0]));                                 \
        STORE((to) + (ld), _mm512_permutex2var_pd(low, odd, high) - SPLAT((o)[1]));                         \
    } while (0)
#define LABELS(p) _mm512_cvtepi32_epi64(_mm256_loadu_si256((const __m256i *)(p)))
#define GATHER(table, i) _mm512_i64gather_pd(i, table, 8)
#define BITS(m) ((unsigned)(m))
#define ALL_BITS 0xFFu
#define TQ 2
#define QUARTER(p) _mm_loadu_pd(p)
#define GATHERED(r)                                                                                         \
    _mm512_mask_broadcast_f64x2(                                                                            \
        _mm512_mask_broadcast_f64x2(                                                                        \
            _mm512_mask_broadcast_f64x2(_mm512_castpd128_pd512(QUARTER(q0 + (r) * stride)), 0x0C,           \
                                        QUARTER(q1 + (r) * stride)),                                        \
            0x30, QUARTER(q2 + (r) * stride)),                                                              \
        0xC0, QUARTER(q3 + (r) * stride))
#define TRANSPOSE_STEP(x, s, o, to, ld)                                                                     \
    do {                                                                                                    \
        const ptrdiff_t stride = (s);                                                                       \
        const REAL *q0 = (x), *q1 = q0 + 2 * stride, *q2 = q1 + 2 * stride, *q3 = q2 + 2 * stride;          \
        const __m512d shift = _mm512_broadcast_f64x2(QUARTER(o));                                           \
        const __m512d r0 = GATHERED(0) - shift, r1 = GATHERED(1) - shift;                                   \
        STORE(to, _mm512_unpacklo_pd(r0, r1));                                                              \
        STORE((to) + (ld), _mm512_unpackhi_pd(r0, r1));                                                     \
    } while (0)
#endif
