// Rectangles of samples that get other values, behind preprocess.cu: the last step of random erasing.
//
// erase_T(out, jobs, tables, width, height), launch::erase(b)
//   out [b,3,height,width]; jobs and tables are preprocess_T's. Word 10 of a picture's job says in which unit of the tables its
//   record begins (0: nothing is erased), word 11 how many values that has: none (all become 0), 3 (one a channel), or as many
//   as the rectangle has, channel by channel. Record: left, top, width, height; the values, f32 (src/ops/staging.rs).

#include "device.h"

namespace {

constexpr unsigned JOB = 12, RECORD = 10, RECORD_VALUES = 11;

template <typename T>
DEVICE void erase(T *out, const uint32_t *jobs, const uint32_t *tables, unsigned width, unsigned height) {
    const uint32_t *job = jobs + size_t(JOB) * blockIdx.z;
    if (job[RECORD] == 0) return;
    const uint32_t *record = tables + size_t(4) * job[RECORD];
    unsigned left = record[0], top = record[1], across = record[2], area = across * record[3];
    unsigned channel = blockIdx.y, count = job[RECORD_VALUES];
    const float *values = reinterpret_cast<const float *>(record + 4);
    T *plane = out + (size_t(3) * blockIdx.z + channel) * width * height;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < area; i += gridDim.x * blockDim.x) {
        float value = count == 0 ? 0.0f : values[count == 3 ? channel : channel * area + i];
        plane[size_t(top + i / across) * width + left + i % across] = from_f32<T>(value);
    }
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        erase_##suffix(T *out, const uint32_t *jobs, const uint32_t *tables, unsigned width, unsigned height) {        \
        erase<T>(out, jobs, tables, width, height);                                                                    \
    }                                                                                                                  \
    EXPORT(erase_##suffix)

FOR_ALL_FORMATS(ENTRIES)
