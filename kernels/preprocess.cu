// Decoded pictures to normalized samples in one pass: crop, antialiased resize as Pillow does it, flip, normalize, cast, layout.
//
// T is f32, f16 or bf16. Everything up to the normalization is whole numbers and equal to ops::resample bit for bit: two passes, each
// rounded and clipped to u8, in the order that the job names. Normalization is a look-up, so it is what the CPU computes,
// rounded to T.
//
// preprocess_T(out, pixels, jobs, tables, normalization, width, height, strip, patch), launch::Preprocess
//   pixels: pictures, u8, rows of interleaved red green blue without gaps, anywhere in it; aligned to 4 bytes; 16 readable bytes
//   follow the last picture.
//   jobs[b] (struct Job) say what becomes of a picture, tables (16-byte aligned) have the weights: src/ops/preprocess.rs.
//   normalization[3][256] f32.
//   out: [b,3,height,width] if patch is 0, else the rows that a patch embedding multiplies: [b,(height/patch)·(width/patch),
//   3·patch·patch], where patch divides both.
//   A thread makes one column of `strip` rows (a multiple of 4) of one sample; all threads of a block together bring four rows
//   of the crop at a time into shared memory, a word of four neighbours a channel, while the next four are on their way.
//
// Why it is made so: the passes are bound by integer instructions, not by memory, unless each takes four inputs at a
// time. Across that means four neighbouring columns in a word, down four rows; a thread that keeps to one column finds
// those of the second pass in its own registers, and nothing between the passes is ever stored.

#include "resample.h"

// What becomes of one picture; src/ops/preprocess.rs writes these 48 bytes.
struct Job {
    uint64_t start;  // the crop's first byte in `pixels`
    uint64_t tables; // where this picture's tables begin, in units of 16 bytes
    uint32_t pitch;  // bytes from row to row
    uint32_t height; // rows of the crop
    uint32_t across, down; // most Weights of a column and of a row
    uint32_t flip;   // mirror the sample from left to right
    uint32_t vertical_first;
    uint32_t reserved[2];
};

namespace {

constexpr int UNITS = 2;                      // words of a row that a thread brings at most
constexpr unsigned MOST_WORDS = UNITS * 256 / 4; // of a row that lie in shared memory at a time
constexpr int KEPT = 3;                       // groups of four rows between the passes that a thread remembers
constexpr int TOGETHER = 4;                   // rows that are made together where they need more groups than that

// The groups of four inputs first .. first + count of an output; firsts and ends never fall from one output to the next.
struct Span {
    uint32_t first, count;
    FN uint32_t end() const { return first + count; }
};

// Spans of columns, spans of rows; Weights [across][width] and [height][down].
struct Tables {
    const uint4 *start;
    unsigned width, height, across, down;

    DEVICE Span column(unsigned x) const { return reinterpret_cast<const Span *>(start)[x]; }
    DEVICE Span row(unsigned y) const { return reinterpret_cast<const Span *>(start)[width + y]; }
    DEVICE const Weights *of_column(unsigned x) const { return start + ceil_div(width + height, 2) + x; }
    DEVICE const Weights *of_row(unsigned y) const {
        return start + ceil_div(width + height, 2) + size_t(across) * width + size_t(y) * down;
    }
};

// The picture's bytes as words, since they start anywhere.
struct Pixels {
    const uint32_t *words;
    unsigned start, pitch; // `start` is a place in the first word
    unsigned height;

    // Four words around the twelve bytes of pixels 4·word .. of a row; how far they are shifted is the row's own.
    DEVICE void load(unsigned row, unsigned word, uint32_t (&raw)[4]) const {
        const uint32_t *from = words + (place(row) / 4 + 3 * word);
#pragma unroll
        for (int i = 0; i < 4; i++) raw[i] = from[i];
    }
    DEVICE void shift(unsigned row, const uint32_t (&raw)[4], uint32_t (&twelve)[3]) const {
        unsigned bits = place(row) % 4 * 8;
#pragma unroll
        for (int i = 0; i < 3; i++) twelve[i] = __funnelshift_r(raw[i], raw[i + 1], bits);
    }
    // Four bytes from 4·word on.
    DEVICE uint32_t bytes(unsigned row, unsigned word) const {
        const uint32_t *from = words + (place(row) / 4 + word);
        return __funnelshift_r(from[0], from[1], place(row) % 4 * 8);
    }
    // Rows behind the last one have no weight; any will do.
    DEVICE unsigned place(unsigned row) const { return start + min(row, height - 1) * pitch; }
};

// What the horizontal pass works on: rows of the crop, fetched ahead of their use or not; rows of the sample.
enum Rows { AHEAD, PLAIN, RESIZED };

// Where the values of one column go, row after row.
template <typename T> struct Column {
    T *at;
    unsigned channel, row, next_patch, patch, left;

    DEVICE Column(T *sample, unsigned x, unsigned y, unsigned width, unsigned height, unsigned patch_)
        : patch(patch_ ? patch_ : height) {
        unsigned across = patch_ ? patch_ : width;
        channel = patch * across;
        row = across;
        next_patch = patch_ ? width / across * 3 * channel - channel : 0;
        left = patch - y % patch;
        at = sample + (x / across * 3 * channel + x % across + y * row + y / patch * next_patch);
    }
    DEVICE void put(T a, T b, T c) {
        at[0] = a;
        at[channel] = b;
        at[size_t(2) * channel] = c;
        at += row;
        if (--left == 0) {
            at += next_patch;
            left = patch;
        }
    }
};

template <typename T> struct Strip {
    Pixels pixels;
    Tables tables;
    uint32_t *stage; // two of [4 rows][3 channels][MOST_WORDS]
    const T *values; // [3][256]
    // This thread's column, and the words of a row that the block's columns need.
    unsigned x;
    Span span, words;
    // Which row of four and which words of it this thread brings.
    unsigned row_of_four, first_word, word_step;
    unsigned turn;

    DEVICE Strip(const Pixels &pixels, const Tables &tables, uint32_t *stage, const T *values, unsigned x, Span span,
                 Span words, unsigned word_step)
        : pixels(pixels), tables(tables), stage(stage), values(values), x(x), span(span), words(words),
          row_of_four(threadIdx.x / word_step), first_word(threadIdx.x % word_step), word_step(word_step), turn(0) {}

    DEVICE unsigned chunk() const { return UNITS * word_step; }

    DEVICE void fetch(uint32_t (&raw)[UNITS][4], unsigned group, unsigned word) const {
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            unsigned w = word + first_word + u * word_step;
            if (w < words.end()) pixels.load(4 * group + row_of_four, w, raw[u]);
        }
    }

    // Rows of the crop.
    DEVICE void put(const uint32_t (&raw)[UNITS][4], unsigned group, unsigned word) const {
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            unsigned at = first_word + u * word_step;
            if (word + at >= words.end()) continue;
            uint32_t twelve[3];
            pixels.shift(4 * group + row_of_four, raw[u], twelve);
            put_planes(at, twelve);
        }
    }

    // Rows of the sample, made of those of the crop.
    DEVICE void put_resized(unsigned group, unsigned word) const {
        unsigned y = min(4 * group + row_of_four, tables.height - 1);
#pragma unroll 1
        for (unsigned at = first_word; at < chunk() && word + at < words.end(); at += word_step) {
            uint32_t twelve[3];
#pragma unroll
            for (int j = 0; j < 3; j++) twelve[j] = resized_bytes(y, 3 * (word + at) + j);
            put_planes(at, twelve);
        }
    }

    // Four bytes of a row of the sample, before it becomes narrower.
    DEVICE uint32_t resized_bytes(unsigned y, unsigned word) const {
        Span rows = tables.row(y);
        WeightedSum sums[4];
#pragma unroll 1
        for (unsigned p = 0; p < rows.count; p++) {
            uint32_t across[4], down[4];
#pragma unroll
            for (int i = 0; i < 4; i++) across[i] = pixels.bytes(4 * (rows.first + p) + i, word);
            transpose(across, down);
            Weights weights = tables.of_row(y)[p];
#pragma unroll
            for (int i = 0; i < 4; i++) sums[i].add(down[i], weights);
        }
        return pack_4(sums[0].sample(), sums[1].sample(), sums[2].sample(), sums[3].sample());
    }

    DEVICE void put_planes(unsigned at, const uint32_t (&twelve)[3]) const {
        uint32_t planes[3];
        to_planes(twelve, planes);
        uint32_t *to = stage + (turn % 2 * 12 + row_of_four * 3) * MOST_WORDS + at;
#pragma unroll
        for (int c = 0; c < 3; c++) to[c * MOST_WORDS] = planes[c];
    }

    // What the words from `word` on that lie in shared memory add to this thread's column of four rows.
    DEVICE void take(WeightedSum (&sums)[4][3], unsigned word) const {
        unsigned end = min(span.end(), word + chunk());
        const Weights *weights = tables.of_column(x);
        for (unsigned w = max(span.first, word); w < end; w++) {
            Weights of = weights[size_t(w - span.first) * tables.width];
            const uint32_t *from = stage + turn % 2 * 12 * MOST_WORDS + (w - word);
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int c = 0; c < 3; c++) sums[i][c].add(from[(i * 3 + c) * MOST_WORDS], of);
        }
    }

    // Horizontal pass of groups first .. end: four rows as a word a channel, give(group, words).
    template <Rows ROWS, typename Give> DEVICE void each_group(unsigned first, unsigned end, Give give) {
        uint32_t raw[UNITS][4];
        if (ROWS == AHEAD && first < end) fetch(raw, first, words.first);
        for (unsigned group = first; group < end; group++) {
            WeightedSum sums[4][3];
            unsigned word = words.first;
            do {
                unsigned next = word + chunk();
                if (ROWS == RESIZED) {
                    put_resized(group, word);
                } else {
                    if (ROWS == PLAIN) fetch(raw, group, word);
                    put(raw, group, word);
                    if (ROWS == AHEAD && next < words.end()) fetch(raw, group, next);
                    else if (ROWS == AHEAD && group + 1 < end) fetch(raw, group + 1, words.first);
                }
                // One barrier is enough: what is overwritten next was read before the barrier that comes then.
                __syncthreads();
                take(sums, word);
                turn++;
                word = next;
            } while (word < words.end());
            uint32_t four[3];
#pragma unroll
            for (int c = 0; c < 3; c++)
                four[c] = pack_4(sums[0][c].sample(), sums[1][c].sample(), sums[2][c].sample(), sums[3][c].sample());
            give(group, four);
        }
    }

    DEVICE T value(int channel, uint32_t sample) const { return values[channel * 256 + sample]; }

    DEVICE void put_sums(Column<T> &column, const WeightedSum (&sums)[3]) const {
        column.put(value(0, sums[0].sample()), value(1, sums[1].sample()), value(2, sums[2].sample()));
    }

    // Each row is made as soon as the last group that it needs is there.
    DEVICE void horizontal_first(Column<T> column, bool exists, unsigned y, unsigned y_end) {
        uint32_t kept[KEPT][3] = {};
        auto rows_up_to = [&](unsigned end) {
            for (Span rows = tables.row(min(y, y_end - 1)); y < y_end && rows.end() <= end;) {
                WeightedSum sums[3];
#pragma unroll
                for (int back = 0; back < KEPT; back++) {
                    if (back >= int(rows.count)) break;
                    Weights of = tables.of_row(y)[rows.count - 1 - back];
#pragma unroll
                    for (int c = 0; c < 3; c++) sums[c].add(kept[back][c], of);
                }
                if (exists) put_sums(column, sums);
                if (++y < y_end) rows = tables.row(y);
            }
        };
        each_group<AHEAD>(tables.row(y).first, tables.row(y_end - 1).end(), [&](unsigned group, const uint32_t (&four)[3]) {
#pragma unroll
            for (int c = 0; c < 3; c++) {
#pragma unroll
                for (int back = KEPT - 1; back > 0; back--) kept[back][c] = kept[back - 1][c];
                kept[0][c] = four[c];
            }
            rows_up_to(group + 1);
        });
        rows_up_to(0xffffffffu); // padding
    }

    // Where a row needs more groups than are kept: a few rows at a time take what comes.
    DEVICE void horizontal_first_by_sums(Column<T> column, bool exists, unsigned y, unsigned y_end) {
        for (; y < y_end; y += TOGETHER) {
            unsigned count = min(unsigned(TOGETHER), y_end - y);
            WeightedSum sums[TOGETHER][3];
            each_group<PLAIN>(tables.row(y).first, tables.row(y + count - 1).end(),
                              [&](unsigned group, const uint32_t (&four)[3]) {
#pragma unroll
                                  for (unsigned i = 0; i < TOGETHER; i++) {
                                      if (i >= count) break;
                                      Span rows = tables.row(y + i);
                                      if (group < rows.first || group >= rows.end()) continue;
                                      Weights of = tables.of_row(y + i)[group - rows.first];
#pragma unroll
                                      for (int c = 0; c < 3; c++) sums[i][c].add(four[c], of);
                                  }
                              });
#pragma unroll
            for (unsigned i = 0; i < TOGETHER; i++)
                if (i < count && exists) put_sums(column, sums[i]);
        }
    }

    DEVICE void vertical_first(Column<T> column, bool exists, unsigned y, unsigned y_end) {
        each_group<RESIZED>(y / 4, ceil_div(y_end, 4), [&](unsigned group, const uint32_t (&four)[3]) {
#pragma unroll
            for (unsigned i = 0; i < 4; i++)
                if (exists && 4 * group + i < y_end)
                    column.put(value(0, four[0] >> (8 * i) & 255), value(1, four[1] >> (8 * i) & 255),
                               value(2, four[2] >> (8 * i) & 255));
        });
    }
};

template <typename T>
DEVICE void preprocess(T *out, const uint8_t *pixels, const Job *jobs, const uint32_t *tables_, const float *normalization,
                       unsigned width, unsigned height, unsigned strip, unsigned patch) {
    SHARED(uint32_t, stage, 2 * 4 * 3 * MOST_WORDS);
    SHARED(T, values, 3 * 256);
    for (unsigned i = threadIdx.x; i < 3 * 256; i += blockDim.x) values[i] = from_f32<T>(normalization[i]);
    __syncthreads();
    const Job &job = jobs[blockIdx.z];
    Tables tables{reinterpret_cast<const uint4 *>(tables_) + job.tables, width, height, job.across, job.down};
    unsigned x_first = blockIdx.y * blockDim.x, x_last = min(x_first + blockDim.x, width) - 1;
    unsigned x = x_first + threadIdx.x, y = blockIdx.x * strip, y_end = min(y + strip, height);
    bool exists = x < width;
    Span words = tables.column(x_first);
    words.count = tables.column(x_last).end() - words.first;
    Span span{words.first, 0};
    if (exists) span = tables.column(x);
    unsigned word_step = blockDim.x / 4;
    Pixels picture{reinterpret_cast<const uint32_t *>(pixels) + job.start / 4, unsigned(job.start % 4), job.pitch,
                   job.height};
    Strip<T> all(picture, tables, stage, values, x, span, words, word_step);
    unsigned x_to = job.flip ? width - 1 - x : x;
    Column<T> column(out + blockIdx.z * (size_t(3) * width * height), exists ? x_to : 0, y, width, height, patch);
    if (job.vertical_first) all.vertical_first(column, exists, y, y_end);
    else if (job.down <= KEPT) all.horizontal_first(column, exists, y, y_end);
    else all.horizontal_first_by_sums(column, exists, y, y_end);
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256, 3)                                                                \
        preprocess_##suffix(T *out, const uint8_t *pixels, const Job *jobs, const uint32_t *tables,                    \
                            const float *normalization, unsigned width, unsigned height, unsigned strip,               \
                            unsigned patch) {                                                                          \
        preprocess<T>(out, pixels, jobs, tables, normalization, width, height, strip, patch);                          \
    }                                                                                                                  \
    EXPORT(preprocess_##suffix)

FOR_ALL_FORMATS(ENTRIES)
