// The normal distribution, and GELU and its derivative (Hendrycks, Gimpel 2016), cheap enough to hide behind memory.
//
// Φ(-|x|) = t·P(t)·exp(-x²/2) with t = 1/(1 + |x|/4): the tail without its exponential is smooth in t, so six multiplications
// and the two hardware approximations (2^x, 1/x) are enough. P is our own weighted minimax fit over |x| in [0, 7];
// Φ is within 2.1e-7 of f64 in f32 arithmetic, and the exponential that it needs gives the density too.
#pragma once

#include "device.h"

// 2^x and 1/x for ordinary arguments: one instruction each on a GPU, within 2 units in the last place.
FN float fast_exp2(float x) {
#if ON_GPU
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

FN float fast_reciprocal(float x) {
#if ON_GPU
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return 1.0f / x;
#endif
}

constexpr float LOG2_E = 1.44269504f;
constexpr float LN_2 = 0.693147181f;

// e^x; the argument's rounding costs |x|·1e-7 of relative accuracy.
FN float fast_exp(float x) { return fast_exp2(x * LOG2_E); }

struct Normal {
    float cdf;         // Φ(x)
    float exponential; // exp(-x²/2)
};

FN Normal normal_distribution(float x) {
    float magnitude = fabsf(x);
    float exponential = fast_exp2(magnitude * magnitude * (-0.5f * LOG2_E));
    float t = fast_reciprocal(fmaf(magnitude, 0.25f, 1.0f));
    float p = -0.09319599717855453f;
    p = fmaf(p, t, 0.3489140570163727f);
    p = fmaf(p, t, -0.28070113062858582f);
    p = fmaf(p, t, 0.29462265968322754f);
    p = fmaf(p, t, 0.017535626888275146f);
    p = fmaf(p, t, 0.11423859745264053f);
    p = fmaf(p, t, 0.09858617186546326f);
    float tail = p * t * exponential;
    return {x > 0.0f ? 1.0f - tail : tail, exponential};
}

// x·Φ(x); NaN at -inf, as PyTorch has it.
FN float gelu(float x) { return x * normal_distribution(x).cdf; }

// Φ(x) + x·φ(x).
FN float gelu_derivative(float x) {
    Normal normal = normal_distribution(x);
    float slope = fmaf(x * normal.exponential, 0.398942280f, normal.cdf);
    return fabsf(x) < 30.0f ? slope : normal.cdf;
}
