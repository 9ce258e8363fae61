// A moving average of flat f32 buffers, and its exchange with what is averaged. launch::eights(count), a thread eight values.
//
// average_f32(mean, x, decay, rest, apply, count)    mean = decay·mean + rest·x in place, products and sum rounded one by one
//   apply (f32 on the device) may be null; where it is 0 the mean stays: the step was skipped.
// swap_f32(a, b, count)    exchanges the values of a and b

#include "device.h"

extern "C" __global__ void __launch_bounds__(256)
    average_f32(float *mean, const float *x, float decay, float rest, const float *apply, uint64_t count) {
    if (apply && apply[0] == 0.0f) return;
    Eight eight(first_of_thread(), count, are_aligned(mean, x));
    if (eight.count == 0) return;
    float old[8], fresh[8];
    eight.load(mean, old);
    eight.load(x, fresh);
#pragma unroll
    for (int i = 0; i < 8; i++) old[i] = decay * old[i] + rest * fresh[i];
    eight.store(mean, old);
}
EXPORT(average_f32)

extern "C" __global__ void __launch_bounds__(256) swap_f32(float *a, float *b, uint64_t count) {
    Eight eight(first_of_thread(), count, are_aligned(a, b));
    if (eight.count == 0) return;
    float of_a[8], of_b[8];
    eight.load(a, of_a);
    eight.load(b, of_b);
    eight.store(a, of_b);
    eight.store(b, of_a);
}
EXPORT(swap_f32)
