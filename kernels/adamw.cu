// The end of a step over the flat f32 buffers: gradient norm and overflow check, loss scale, AdamW (Loshchilov, Hutter 2019).
//
// Nothing of it needs the host: learning rate, step count, loss scale and the decision to skip live on the device. All ranks
// hold the same summed gradients, so all decide the same.
//
// sum_of_squares_partial(squares, strange, g, n), launch::gradient_norm(n)
//   squares[parts] f64: Σ g² of 4096 values each; strange[parts] u32: is one of them not finite?
// adamw_prepare(state, constants, squares, strange, parts, rates, rate_count, step, max_norm, beta1, beta2, weight_decay,
//               growth, backoff, interval), one block of 256 threads
//   state[9] f64, kept over the run:
//     [0] updates done t        [1] loss scale           [2] good steps since the scale changed
//     [3] norm of the unscaled gradient before clipping  [4] steps skipped in all
//     [5] 1 if this step is skipped, else 0              [6] learning rate of this step
//     [7] factor on the gradient: clipping over loss scale
//     [8] micro-batches whose losses step_loss has noted since the last call; 0 afterwards
//   A step with a gradient that is not finite is skipped: constants[0] = 0, and [0] stays. The loss scale then follows
//   torch.amp.GradScaler: times `backoff` after a skipped step, times `growth` after `interval` good ones in a row; interval
//   0 leaves it alone (no loss scaling: state[1] = 1).
//   The learning rate is rates[min(step - skipped, rate_count - 1)] f64, both counted before this step. max_norm 0: no clipping,
//   else the factor is min(1, max_norm / (norm + 1e-6)) as torch.nn.utils.clip_grad_norm_ has it.
//   constants[9] f32: [0] 1 = apply, [1] gradient factor, [2] 1 - lr·wd, [3] 1-β₁, [4] β₂, [5] 1-β₂, [6] lr/(1-β₁ᵗ), [7] √(1-β₂ᵗ),
//   [8] the loss scale of the next step
// step_loss(state, sums, count, losses, b), one block of 256 threads
//   sums[state[8]] f64 = Σ losses[b] f32, and state[8] moves on; nothing is written from sums[count] on.
// adamw_T(p, m, v, copy, g, decayed, constants, epsilon, n), launch::eights(n)
//   p (values), m, v (moments) [n] f32 in place: the order of operations is torch.optim.AdamW's, the bits are those of
//   ops::adamw. Bit i of decayed[⌈n/32⌉] u32: does value i decay? copy[n] T: p again, rounded, for the products; may be null.

#include "device.h"

extern "C" __global__ void __launch_bounds__(256)
    sum_of_squares_partial(double *squares, unsigned *strange, const float *g, uint64_t n) {
    constexpr unsigned PER_BLOCK = 4096;
    size_t start = size_t(blockIdx.x) * PER_BLOCK, end = min(size_t(n), start + PER_BLOCK);
    double total = 0.0;
    bool finite = true;
    for (size_t at = start + threadIdx.x * 8; at < end; at += 256 * 8) {
        float x[8];
        Eight(at, end, is_aligned(g)).load(g, x);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            total = fma(double(x[i]), double(x[i]), total);
            finite = finite && isfinite(x[i]);
        }
    }
    total = block_sum(total);
    unsigned bad = block_sum(finite ? 0u : 1u);
    if (threadIdx.x == 0) {
        squares[blockIdx.x] = total;
        strange[blockIdx.x] = bad != 0;
    }
}
EXPORT(sum_of_squares_partial)

extern "C" __global__ void __launch_bounds__(256)
    adamw_prepare(double *state, float *constants, const double *squares, const unsigned *strange, unsigned parts,
                  const double *rates, unsigned rate_count, uint64_t step, double max_norm, double beta1, double beta2,
                  double weight_decay, double growth, double backoff, unsigned interval) {
    double total = 0.0;
    unsigned bad = 0;
    for (unsigned i = threadIdx.x; i < parts; i += 256) {
        total += squares[i];
        bad |= strange[i];
    }
    total = block_sum(total);
    bad = block_sum(bad);
    if (threadIdx.x != 0) return;
    bool skip = bad != 0;
    double scale = state[1], norm = sqrt(total) / scale;
    double clip = max_norm > 0.0 ? fmin(1.0, max_norm / (norm + 1e-6)) : 1.0;
    double t = state[0] + (skip ? 0.0 : 1.0);
    uint64_t moved = step - uint64_t(state[4]);
    double rate = rate_count ? rates[min(moved, uint64_t(rate_count - 1))] : 0.0;
    state[0] = t;
    state[3] = norm;
    state[4] += skip ? 1.0 : 0.0;
    state[5] = skip ? 1.0 : 0.0;
    state[6] = rate;
    state[7] = clip / scale;
    state[8] = 0.0;
    if (interval > 0) {
        double good = skip ? 0.0 : state[2] + 1.0;
        if (skip) scale *= backoff;
        if (good == double(interval)) {
            // The scale is an f32 to everybody else.
            if (isfinite(float(scale * growth))) scale *= growth;
            good = 0.0;
        }
        state[1] = scale;
        state[2] = good;
    }
    constants[0] = skip ? 0.0f : 1.0f;
    constants[1] = float(state[7]);
    constants[2] = float(1.0 - rate * weight_decay);
    constants[3] = float(1.0 - beta1);
    constants[4] = float(beta2);
    constants[5] = float(1.0 - beta2);
    constants[6] = skip ? 0.0f : float(rate / (1.0 - pow(beta1, t)));
    constants[7] = skip ? 1.0f : float(sqrt(1.0 - pow(beta2, t)));
    constants[8] = float(state[1]);
}
EXPORT(adamw_prepare)

extern "C" __global__ void __launch_bounds__(256)
    step_loss(double *state, double *sums, unsigned count, const float *losses, unsigned b) {
    double total = 0.0;
    for (unsigned i = threadIdx.x; i < b; i += 256) total += double(losses[i]);
    total = block_sum(total);
    if (threadIdx.x != 0) return;
    unsigned which = unsigned(state[8]);
    if (which < count) sums[which] = total;
    state[8] = double(which + 1);
}
EXPORT(step_loss)

namespace {

struct Constants {
    float factor, decay, one_minus_beta1, beta2, one_minus_beta2, step_size, correction, epsilon;
};

FN void adamw_value(float &p, float &m, float &v, float g, bool decays, const Constants &c) {
    g = g * c.factor;
    if (decays) p = p * c.decay;
    m = fmaf(g - m, c.one_minus_beta1, m);
    v = fmaf(g * g, c.one_minus_beta2, v * c.beta2);
    float denominator = sqrtf(v) / c.correction + c.epsilon;
    p = p - c.step_size * (m / denominator);
}

template <typename T>
DEVICE void update(float *p, float *m, float *v, T *copy, const float *g, const unsigned *decayed, const float *constants,
                   float epsilon, size_t n) {
    if (constants[0] == 0.0f) return;
    Constants c{constants[1], constants[2], constants[3], constants[4], constants[5], constants[6], constants[7], epsilon};
    Eight eight(first_of_thread(), n, are_aligned(p, m, v, g) && is_aligned(copy));
    if (eight.count == 0) return;
    unsigned bits = decayed[eight.at / 32] >> (eight.at % 32);
    float values[8], first[8], second[8], gradient[8];
    eight.load(p, values);
    eight.load(m, first);
    eight.load(v, second);
    eight.load(g, gradient);
#pragma unroll
    for (int i = 0; i < 8; i++) adamw_value(values[i], first[i], second[i], gradient[i], bits >> i & 1, c);
    eight.store(p, values);
    eight.store(m, first);
    eight.store(v, second);
    if (copy) eight.store(copy, values);
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        adamw_##suffix(float *p, float *m, float *v, T *copy, const float *g, const unsigned *decayed,                 \
                       const float *constants, float epsilon, uint64_t n) {                                            \
        update<T>(p, m, v, copy, g, decayed, constants, epsilon, n);                                                   \
    }                                                                                                                  \
    EXPORT(adamw_##suffix)

FOR_ALL_FORMATS(ENTRIES)
