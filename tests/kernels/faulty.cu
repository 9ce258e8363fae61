// Kernels with the mistakes that the host runtime is there to catch; tests/kernels.rs demands that it does.

#include "device.h"

// Reads a neighbour's value without waiting for it.
extern "C" __global__ void no_barrier(float *out) {
    SHARED(float, values, 64);
    values[threadIdx.x] = float(threadIdx.x);
    out[threadIdx.x] = values[63 - threadIdx.x];
}
EXPORT(no_barrier)

// As it should be.
extern "C" __global__ void with_barrier(float *out) {
    SHARED(float, values, 64);
    values[threadIdx.x] = float(threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = values[63 - threadIdx.x];
}
EXPORT(with_barrier)

extern "C" __global__ void divergent_barrier(float *out) {
    if (threadIdx.x < 32) __syncthreads();
    else out[threadIdx.x] = 0.0f;
}
EXPORT(divergent_barrier)

extern "C" __global__ void divergent_shuffle(float *out) {
    float x = 1.0f;
    if (threadIdx.x % 2) x = __shfl_xor_sync(WHOLE_WARP, x, 2);
    out[threadIdx.x] = x;
}
EXPORT(divergent_shuffle)

extern "C" __global__ void shared_overrun(float *out) {
    DYNAMIC_SHARED(float, values);
    values[threadIdx.x] = 1.0f; // 64 values in 128 bytes
    out[threadIdx.x] = 1.0f;
}
EXPORT(shared_overrun)

extern "C" __global__ void behind_the_end(float *out) { out[threadIdx.x + 1] = 1.0f; }
EXPORT(behind_the_end)

extern "C" __global__ void writes_its_input(float *out, float *in) { out[threadIdx.x] = in[threadIdx.x] = 1.0f; }
EXPORT(writes_its_input)

// Reads what no thread of the block wrote.
extern "C" __global__ void stale_shared(float *out) {
    SHARED(float, values, 64);
    if (blockIdx.x == 0) values[threadIdx.x] = 1.0f;
    __syncthreads();
    out[blockIdx.x * 64 + threadIdx.x] = values[threadIdx.x];
}
EXPORT(stale_shared)

// Every 16-bit number there and back, and every 32-bit number that `from` and `step` name.
extern "C" __global__ void formats(float *from_half, float *from_bfloat, unsigned short *to_half, unsigned short *to_bfloat,
                                   unsigned from, unsigned step) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned short bits = (unsigned short)i;
    f16 h;
    bf16 b;
    memcpy(&h, &bits, 2);
    memcpy(&b, &bits, 2);
    from_half[i] = to_f32(h);
    from_bfloat[i] = to_f32(b);
    unsigned word = from + i * step;
    float x;
    memcpy(&x, &word, 4);
    h = from_f32<f16>(x);
    b = from_f32<bf16>(x);
    memcpy(&to_half[i], &h, 2);
    memcpy(&to_bfloat[i], &b, 2);
}
EXPORT(formats)
