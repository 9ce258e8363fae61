// From pixels to tokens and back to CLS: patches, CLS and position embeddings, first tokens. T is f32, f16 or bf16.
//
// patches_T(y, x, c, h, w, p, count), launch::eights(count)
//   x[b,c,h,w] → y[b, (h/p)·(w/p), c·p·p]; count = b·c·h·w; p divides h and w. A thread takes eight values of y.
// tokens_T(x, y, cls, position, s, d, count), launch::eights(count)
//   x[b,s,d] = CLS[d], then y[b,s-1,d], all plus position[s,d]; cls and position f32; count = b·s·d
// tokens_backward_T(dposition, dcls, dx, b, s, d), launch::eights(s·d)
//   dposition[s,d] += Σ over images of dx[b,s,d], dcls[d] += the same of token 0; f32, in the order of the images
// rest_tokens_T(dy, dx, s, d, count), launch::eights(count)    dy[b,s-1,d] = dx without token 0; count = b·(s-1)·d
// first_tokens_T(y, x, s, d, count), launch::eights(count)     y[b,d] = token 0 of x[b,s,d]; count = b·d
// spread_first_tokens_T(dx, dy, s, d, count), launch::eights(count)
//   dx[b,s,d]: dy[b,d] in token 0, 0 elsewhere; count = b·s·d

#include "device.h"

namespace {

// y[at] = x[source(at)], or 0 where source says NOWHERE. Eights of y come from eights of x if `aligned`.
constexpr size_t NOWHERE = size_t(-1);

template <typename T, typename Source> DEVICE void move(T *y, const T *x, size_t count, bool aligned, Source source) {
    Eight eight(first_of_thread(), count, aligned && are_aligned(y, x));
    if (eight.count == 0) return;
    float values[8] = {};
    if (eight.whole) {
        size_t from = source(eight.at);
        if (from != NOWHERE) load_8(x + from, values);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            size_t from = i < eight.count ? source(eight.at + i) : NOWHERE;
            if (from != NOWHERE) values[i] = to_f32(x[from]);
        }
    }
    eight.store(y, values);
}

template <typename T>
DEVICE void patches(T *y, const T *x, unsigned c, unsigned h, unsigned w, unsigned p, size_t count) {
    unsigned down = h / p, across = w / p, row = c * p * p;
    move(y, x, count, p % 8 == 0 && w % 8 == 0, [=](size_t at) {
        unsigned inside = unsigned(at % row), dx = inside % p, dy = inside / p % p, channel = inside / (p * p);
        size_t patch = at / row, image = patch / (down * across);
        unsigned place = unsigned(patch % (down * across));
        return ((image * c + channel) * h + place / across * p + dy) * w + place % across * p + dx;
    });
}

template <typename T>
DEVICE void tokens(T *x, const T *y, const float *cls, const float *position, unsigned s, unsigned d, size_t count) {
    bool aligned = d % 8 == 0 && are_aligned(x, y) && are_aligned(cls, position);
    Eight eight(first_of_thread(), count, aligned);
    if (eight.count == 0) return;
    float values[8], places[8];
    if (eight.whole) {
        unsigned column = unsigned(eight.at % d), token = unsigned(eight.at / d % s);
        size_t image = eight.at / (size_t(s) * d);
        if (token == 0) load_8(cls + column, values);
        else load_8(y + (image * (s - 1) + token - 1) * d + column, values);
        load_8(position + size_t(token) * d + column, places);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            size_t at = eight.at + i;
            unsigned column = unsigned(at % d), token = unsigned(at / d % s);
            size_t image = at / (size_t(s) * d);
            values[i] = places[i] = 0.0f;
            if (i < eight.count) {
                values[i] = token == 0 ? cls[column] : to_f32(y[(image * (s - 1) + token - 1) * d + column]);
                places[i] = position[size_t(token) * d + column];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] += places[i];
    eight.store(x, values);
}

template <typename T>
DEVICE void tokens_backward(float *dposition, float *dcls, const T *dx, unsigned b, unsigned s, unsigned d) {
    size_t image_size = size_t(s) * d;
    Eight eight(first_of_thread(), image_size, d % 8 == 0 && is_aligned(dx) && are_aligned(dposition, dcls));
    if (eight.count == 0) return;
    float total[8] = {}, values[8];
    for (unsigned image = 0; image < b; image++) {
        eight.load(dx + image * image_size, values);
#pragma unroll
        for (int i = 0; i < 8; i++) total[i] += values[i];
    }
    eight.load(dposition, values);
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] += total[i];
    eight.store(dposition, values);
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < eight.count && eight.at + i < d) dcls[eight.at + i] += total[i];
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        patches_##suffix(T *y, const T *x, unsigned c, unsigned h, unsigned w, unsigned p, uint64_t count) {           \
        patches<T>(y, x, c, h, w, p, count);                                                                           \
    }                                                                                                                  \
    EXPORT(patches_##suffix)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        tokens_##suffix(T *x, const T *y, const float *cls, const float *position, unsigned s, unsigned d,             \
                        uint64_t count) {                                                                              \
        tokens<T>(x, y, cls, position, s, d, count);                                                                   \
    }                                                                                                                  \
    EXPORT(tokens_##suffix)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        tokens_backward_##suffix(float *dposition, float *dcls, const T *dx, unsigned b, unsigned s, unsigned d) {     \
        tokens_backward<T>(dposition, dcls, dx, b, s, d);                                                              \
    }                                                                                                                  \
    EXPORT(tokens_backward_##suffix)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        rest_tokens_##suffix(T *dy, const T *dx, unsigned s, unsigned d, uint64_t count) {                             \
        size_t rest = size_t(s - 1) * d;                                                                               \
        move(dy, dx, count, d % 8 == 0, [=](size_t at) { return at / rest * s * d + d + at % rest; });                 \
    }                                                                                                                  \
    EXPORT(rest_tokens_##suffix)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        first_tokens_##suffix(T *y, const T *x, unsigned s, unsigned d, uint64_t count) {                              \
        move(y, x, count, d % 8 == 0, [=](size_t at) { return at / d * s * d + at % d; });                             \
    }                                                                                                                  \
    EXPORT(first_tokens_##suffix)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        spread_first_tokens_##suffix(T *dx, const T *dy, unsigned s, unsigned d, uint64_t count) {                     \
        move(dx, dy, count, d % 8 == 0, [=](size_t at) {                                                               \
            size_t token = at / d;                                                                                     \
            return token % s == 0 ? token / s * d + at % d : NOWHERE;                                                  \
        });                                                                                                            \
    }                                                                                                                  \
    EXPORT(spread_first_tokens_##suffix)

FOR_ALL_FORMATS(ENTRIES)
