/* Numbers of 8 bytes: REAL and INT are as wide. */
#define TYPE f64
#define REAL double
#define INT int64_t
#define REAL_BYTES 8
#define EPSILON EPSILON_64
