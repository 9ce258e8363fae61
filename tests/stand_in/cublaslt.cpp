// A stand-in for libcublasLt.so.13, for the tests: products of column-major matrices as its interface describes them, in
// float (sums in double), one element after the other.
//
// It refuses what the library refuses: types that do not go together, leading dimensions that are too small, operands that
// are not aligned as the heuristic was told.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <initializer_list>
#include <string>

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum { OK = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { F32 = 0, F16 = 2, BF16 = 14 };

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t leading;
};
struct Description {
    int32_t transposed_a = 0, transposed_b = 0;
    int32_t epilogue = 1;
    uint64_t bias = 0;
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t alignment[4] = {256, 256, 256, 256};
};
// What lies in the first bytes of a cublasLtMatmulAlgo_t (64 bytes).
struct Algorithm {
    uint32_t alignment[4];
};
struct Heuristic {
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

float half(uint16_t bits) {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ff, word;
    if (exponent == 31) word = sign | 0x7f800000 | fraction << 13;
    else if (exponent) word = sign | (exponent + 112) << 23 | fraction << 13;
    else {
        float value = float(fraction) * 0x1p-24f;
        return sign ? -value : value;
    }
    float value;
    memcpy(&value, &word, 4);
    return value;
}

uint16_t to_half(float value) {
    __extension__ using Native = _Float16; // rounds to nearest, ties to even
    Native rounded = Native(value);
    uint16_t bits;
    memcpy(&bits, &rounded, 2);
    return bits;
}

float load(const void *at, int type, size_t i) {
    if (type == F32) return static_cast<const float *>(at)[i];
    uint16_t bits = static_cast<const uint16_t *>(at)[i];
    if (type == F16) return half(bits);
    uint32_t word = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
}

void store(void *at, int type, size_t i, float value) {
    if (type == F32) {
        static_cast<float *>(at)[i] = value;
        return;
    }
    uint16_t bits;
    if (type == F16) bits = to_half(value);
    else {
        uint32_t word;
        memcpy(&word, &value, 4);
        bits = value != value ? 0x7fc0 : uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16);
    }
    static_cast<uint16_t *>(at)[i] = bits;
}

bool fits(const Description &d, const Layout &a, const Layout &b, const Layout &c, const Layout &r) {
    uint64_t m = d.transposed_a ? a.columns : a.rows, k = d.transposed_a ? a.rows : a.columns;
    uint64_t n = d.transposed_b ? b.rows : b.columns, kb = d.transposed_b ? b.columns : b.rows;
    bool sizes = k == kb && r.rows == m && r.columns == n && c.rows == m && c.columns == n && k > 0;
    bool types = a.type == b.type && c.type == r.type && (r.type == a.type || r.type == F32);
    for (const Layout *layout : {&a, &b, &c, &r})
        if (layout->leading < int64_t(layout->rows)) return false;
    return sizes && types && (d.epilogue == 1 || d.epilogue == 4);
}

// Does `job` in the order of a stream of the driver's stand-in, or lets it be captured there.
int ask(void *stream, const std::function<int()> &job) {
    static auto *function = [] {
        const char *folder = getenv("DTRAIN_CUDA_LIB_DIR");
        void *driver = folder ? dlopen((std::string(folder) + "/libcuda.so.1").c_str(), RTLD_NOW) : nullptr;
        return reinterpret_cast<int (*)(void *, const std::function<int()> *)>(
            driver ? dlsym(driver, "stand_in_ask") : nullptr);
    }();
    return function ? function(stream, &job) : job();
}

} // namespace

API size_t cublasLtGetVersion() { return 130000; }
API int cublasLtCreate(void **handle) { return *handle = new int(0), OK; }
API int cublasLtDestroy(void *handle) { return delete static_cast<int *>(handle), OK; }
API int cublasLtMatmulDescCreate(void **description, int compute, int scale) {
    if (compute != 68 || scale != F32) return NOT_SUPPORTED; // CUBLAS_COMPUTE_32F
    return *description = new Description, OK;
}
API int cublasLtMatmulDescDestroy(void *description) { return delete static_cast<Description *>(description), OK; }
API int cublasLtMatmulDescSetAttribute(void *description, int attribute, const void *value, size_t bytes) {
    auto &d = *static_cast<Description *>(description);
    void *to = attribute == 3 ? (void *)&d.transposed_a : attribute == 4 ? (void *)&d.transposed_b
             : attribute == 7 ? (void *)&d.epilogue : attribute == 8 ? (void *)&d.bias : nullptr;
    if (!to || bytes != (attribute == 8 ? 8u : 4u)) return INVALID_VALUE;
    return memcpy(to, value, bytes), OK;
}
API int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    if (type != F32 && type != F16 && type != BF16) return NOT_SUPPORTED;
    return *layout = new Layout{type, rows, columns, leading}, OK;
}
API int cublasLtMatrixLayoutDestroy(void *layout) { return delete static_cast<Layout *>(layout), OK; }
API int cublasLtMatmulPreferenceCreate(void **preference) { return *preference = new Preference, OK; }
API int cublasLtMatmulPreferenceDestroy(void *preference) { return delete static_cast<Preference *>(preference), OK; }
API int cublasLtMatmulPreferenceSetAttribute(void *preference, int attribute, const void *value, size_t bytes) {
    auto &p = *static_cast<Preference *>(preference);
    if (attribute == 1 && bytes == 8) return memcpy(&p.workspace, value, 8), OK;
    if (attribute < 5 || attribute > 8 || bytes != 4) return INVALID_VALUE;
    return memcpy(&p.alignment[attribute - 5], value, 4), OK;
}
API int cublasLtMatmulAlgoGetHeuristic(void *, void *description, void *a, void *b, void *c, void *d, void *preference,
                                       int wanted, Heuristic *results, int *found) {
    auto layout = [](void *at) -> const Layout & { return *static_cast<Layout *>(at); };
    *found = 0;
    if (wanted < 1 || !fits(*static_cast<Description *>(description), layout(a), layout(b), layout(c), layout(d)))
        return NOT_SUPPORTED;
    memset(results, 0, sizeof *results);
    memcpy(results->algorithm, static_cast<Preference *>(preference)->alignment, sizeof(Algorithm));
    return *found = 1, OK;
}
API int cublasLtMatmul(void *, void *description, const float *alpha, const void *a, void *a_layout, const void *b,
                       void *b_layout, const float *beta, const void *c, void *c_layout, void *d, void *d_layout,
                       const Algorithm *algorithm, void *, size_t, void *stream) {
    // The descriptions may change when the call is over.
    auto what = *static_cast<Description *>(description);
    auto la = *static_cast<Layout *>(a_layout), lb = *static_cast<Layout *>(b_layout);
    auto lc = *static_cast<Layout *>(c_layout), ld = *static_cast<Layout *>(d_layout);
    float by = *alpha, plus = *beta;
    if (!fits(what, la, lb, lc, ld)) return INVALID_VALUE;
    const void *operands[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        if (reinterpret_cast<uintptr_t>(operands[i]) % algorithm->alignment[i]) {
            fprintf(stderr, "stand-in cuBLASLt: operand %d is not aligned to %u bytes\n", i, algorithm->alignment[i]);
            return INVALID_VALUE;
        }
    auto multiply = [=] {
        uint64_t k = what.transposed_a ? la.rows : la.columns;
        for (uint64_t column = 0; column < ld.columns; column++)
            for (uint64_t row = 0; row < ld.rows; row++) {
                double sum = 0;
                for (uint64_t i = 0; i < k; i++) {
                    size_t ia = what.transposed_a ? row * la.leading + i : i * la.leading + row;
                    size_t ib = what.transposed_b ? i * lb.leading + column : column * lb.leading + i;
                    sum += double(load(a, la.type, ia)) * double(load(b, lb.type, ib));
                }
                double value = double(by) * sum;
                if (plus != 0) value += double(plus) * double(load(c, lc.type, column * lc.leading + row));
                if (what.epilogue == 4) value += double(load(reinterpret_cast<void *>(what.bias), ld.type, row));
                store(d, ld.type, column * ld.leading + row, float(value));
            }
        return int(OK);
    };
    return ask(stream, multiply) ? EXECUTION_FAILED : OK;
}
API const char *cublasLtGetStatusString(int) { return "some status"; }
