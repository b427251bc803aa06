/* Numbers of 4 bytes: REAL and INT are as wide. */
#define TYPE f32
#define REAL float
#define INT int32_t
#define REAL_BYTES 4
#define EPSILON EPSILON_32
