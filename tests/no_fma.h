/*
** no_fma.h: what `make valgrind` compiles the kernels with: valgrind emulates an fma by a call a number, a hundred times the time of
** anything else, so here it is a product and a sum: the same memory, other last digits.
*/
#include <immintrin.h>
#include <math.h>
#define _mm256_fmadd_ps(a, b, c) _mm256_add_ps(_mm256_mul_ps(a, b), c)
#define _mm512_fmadd_ps(a, b, c) _mm512_add_ps(_mm512_mul_ps(a, b), c)
#define fmaf(a, b, c) ((a) * (b) + (c))
