/* Sums of the lanes of a vector, half upon half: the same bits as a loop over an array of them, which compilers put
   together lane by lane, through the stack (at AVX-512 a third of the time of a comparison of 64 numbers). */
#define SUMS(isa) static inline __attribute__((always_inline, target(isa)))

SUMS("avx2") float total_4(__m128 v) {
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}

SUMS("avx2") float total_8(__m256 v) { return total_4(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1))); }

SUMS("avx2") double total_4_wide(__m256d v) {
    const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

SUMS("avx512f,avx512dq,avx2") float total_16(__m512 v) {
    return total_8(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}

SUMS("avx512f,avx512dq,avx2") double total_8_wide(__m512d v) {
    return total_4_wide(_mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1)));
}

#undef SUMS
