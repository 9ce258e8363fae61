// The runtime behind host.h: fibers, their turns, shared memory, and the 16-bit number formats.

#include "host.h"

#include <cstdlib>
#include <map>
#include <string>
#include <sys/mman.h>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace host {

__thread Index thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t STACK_BYTES = 128 * 1024;
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STATIC_SHARED_LIMIT = 48 * 1024;
constexpr size_t SHARED_LIMIT = 227 * 1024;
constexpr size_t GUARD = 256;
constexpr uint64_t CANARY = 0x5ca1ab1e0ddba11ull;

#if defined(__x86_64__)
// The registers that a callee must keep, pushed on the stack that is left; the stack's top is the whole context.
extern "C" void dtrain_switch_stack(void **leave, void *enter);
asm(R"(
    .text
    .p2align 4
    .type dtrain_switch_stack, @function
dtrain_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size dtrain_switch_stack, . - dtrain_switch_stack
)");
struct Context {
    void *top = nullptr;
};
void switch_to(Context &leave, Context &enter) { dtrain_switch_stack(&leave.top, enter.top); }
void prepare(Context &context, char *stack, void (*entry)()) {
    // As if entry had been called: the return address (never used) lies at an odd multiple of 8.
    auto *top = reinterpret_cast<uintptr_t *>(stack + STACK_BYTES) - 3;
    *top = 0;
    *--top = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < 6; i++) *--top = 0;
    context.top = top;
}
#else
struct Context {
    ucontext_t u;
};
void switch_to(Context &leave, Context &enter) { swapcontext(&leave.u, &enter.u); }
void prepare(Context &context, char *stack, void (*entry)()) {
    getcontext(&context.u);
    context.u.uc_stack.ss_sp = stack;
    context.u.uc_stack.ss_size = STACK_BYTES;
    context.u.uc_link = nullptr;
    makecontext(&context.u, entry, 0);
}
#endif

struct Warp {
    uint64_t given[2][WARP];
    uint64_t turn = 0;
    unsigned arrived = 0, lanes = 0;
    int kind = 0;
};

struct Fiber {
    Context context;
    Index index;
    Warp *warp = nullptr;
    unsigned lane = 0;
    // Waits while *counter == value.
    const uint64_t *counter = nullptr;
    uint64_t value = 0;
    bool done = false;
};

struct Shared {
    std::map<const void *, std::pair<size_t, size_t>> places; // tag -> offset, bytes
    size_t used = 0;
};

struct Machine {
    char *stacks = nullptr;
    std::vector<Fiber> fibers = std::vector<Fiber>(MAX_THREADS);
    std::vector<Warp> warps = std::vector<Warp>(MAX_THREADS / WARP);
    std::vector<char> static_memory = std::vector<char>(STATIC_SHARED_LIMIT + 16);
    std::vector<char> dynamic_memory = std::vector<char>(SHARED_LIMIT + GUARD + 16);
    Shared shared;
    Context scheduler;
    Fiber *running = nullptr;
    unsigned threads = 0, returned = 0, at_barrier = 0;
    uint64_t barrier_turn = 0;
    size_t dynamic_bytes = 0;
    uint64_t random = 0;
    Work work{};
    std::string error;
    bool refused = false;

    Machine() {
        void *memory = mmap(nullptr, STACK_BYTES * MAX_THREADS, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        stacks = memory == MAP_FAILED ? nullptr : static_cast<char *>(memory);
    }
    ~Machine() {
        if (stacks) munmap(stacks, STACK_BYTES * MAX_THREADS);
    }
    char *stack(unsigned thread) { return stacks + STACK_BYTES * thread; }
};

thread_local Machine machine;

char *aligned(std::vector<char> &memory) {
    return reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(memory.data()) + 15) / 16 * 16);
}

void leave() { switch_to(machine.running->context, machine.scheduler); }

void wait_while(const uint64_t *counter, uint64_t value) {
    machine.running->counter = counter;
    machine.running->value = value;
    leave();
}

void enter() {
    machine.work.run(machine.work.context);
    machine.running->done = true;
    machine.returned++;
    leave();
    std::abort(); // nobody resumes a fiber that is done
}

uint64_t next_random() {
    uint64_t &x = machine.random;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x;
}

// Shuffles with the launch's own random numbers.
void shuffle(std::vector<unsigned> &turns) {
    for (size_t i = turns.size(); i > 1; i--) std::swap(turns[i - 1], turns[next_random() % i]);
}

// Runs a thread until it waits or returns; false if it cannot move.
bool moves(unsigned thread) {
    Machine &m = machine;
    Fiber &f = m.fibers[thread];
    if (m.refused || f.done || (f.counter && *f.counter == f.value)) return false;
    f.counter = nullptr;
    m.running = &f;
    thread_index = f.index;
    switch_to(m.scheduler, f.context);
    return true;
}

// One turn for every thread; false if none could move. In the orders 0 and 1 each warp runs as far ahead of the others as
// barriers let it; in the others all threads advance side by side, every time in another order.
bool take_turns(unsigned order, std::vector<unsigned> &turns) {
    bool moved = false;
    if (order >= 2) {
        shuffle(turns);
        for (unsigned thread : turns) moved |= moves(thread);
        return moved;
    }
    unsigned threads = unsigned(turns.size()), warps = (threads + WARP - 1) / WARP;
    for (unsigned i = 0; i < warps; i++) {
        unsigned first = (order == 0 ? i : warps - 1 - i) * WARP, count = std::min(WARP, threads - first);
        for (bool again = true; again;) {
            again = false;
            for (unsigned j = 0; j < count; j++) again |= moves(first + (order == 0 ? j : count - 1 - j));
            moved |= again;
        }
    }
    return moved;
}

void run_block(unsigned order, std::vector<unsigned> &turns) {
    Machine &m = machine;
    m.shared = Shared{};
    std::memset(m.static_memory.data(), 0xff, m.static_memory.size());
    std::memset(aligned(m.dynamic_memory), 0xff, m.dynamic_bytes);
    std::memset(aligned(m.dynamic_memory) + m.dynamic_bytes, 0x5a, GUARD);
    m.returned = m.at_barrier = 0;
    m.barrier_turn = 0;
    for (unsigned i = 0; i < (m.threads + WARP - 1) / WARP; i++) {
        m.warps[i] = Warp{};
        m.warps[i].lanes = std::min(WARP, m.threads - i * WARP);
    }
    for (unsigned i = 0; i < m.threads; i++) {
        Fiber &f = m.fibers[i];
        f.index = {i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y)};
        f.warp = &m.warps[i / WARP];
        f.lane = i % WARP;
        f.counter = nullptr;
        f.done = false;
        *reinterpret_cast<uint64_t *>(m.stack(i)) = CANARY;
        prepare(f.context, m.stack(i), enter);
    }
    while (m.returned < m.threads) {
        bool moved = take_turns(order, turns);
        if (m.refused) return;
        if (!moved) {
            m.error = m.at_barrier ? "__syncthreads() that not all threads of the block reach"
                                   : "a warp exchange that not all lanes reach";
            m.refused = true;
            return;
        }
    }
    for (unsigned i = 0; i < m.threads; i++) {
        if (*reinterpret_cast<uint64_t *>(m.stack(i)) != CANARY) {
            m.error = "a thread's stack overflowed";
            m.refused = true;
        }
    }
    const char *guard = aligned(m.dynamic_memory) + m.dynamic_bytes;
    for (size_t i = 0; i < GUARD; i++) {
        if (guard[i] != 0x5a) {
            m.error = "dynamic shared memory was written behind its end";
            m.refused = true;
        }
    }
}

} // namespace

void refuse(const char *what) {
    machine.error = what;
    machine.refused = true;
    leave();
    std::abort();
}

unsigned lane() { return machine.running->lane; }

void block_barrier() {
    Machine &m = machine;
    if (m.returned) refuse("__syncthreads() after a thread of the block returned");
    if (++m.at_barrier == m.threads) {
        m.at_barrier = 0;
        m.barrier_turn++;
        return;
    }
    wait_while(&m.barrier_turn, m.barrier_turn);
}

const uint64_t *warp_exchange(int kind, uint64_t given) {
    Fiber &f = *machine.running;
    Warp &w = *f.warp;
    if (w.arrived && w.kind != kind) refuse("the lanes of a warp are at different exchanges");
    w.kind = kind;
    // Two sets of slots: a lane can be one exchange ahead of one that has not read yet, never two.
    uint64_t *slots = w.given[w.turn % 2];
    slots[f.lane] = given;
    if (++w.arrived == w.lanes) {
        for (unsigned i = w.lanes; i < WARP; i++) slots[i] = 0;
        w.arrived = 0;
        w.turn++;
        return slots;
    }
    wait_while(&w.turn, w.turn);
    return slots;
}

void *static_shared(const void *tag, size_t bytes) {
    Shared &s = machine.shared;
    auto found = s.places.find(tag);
    if (found == s.places.end()) {
        if (s.used + bytes > STATIC_SHARED_LIMIT) refuse("more than 48 KB of static shared memory");
        found = s.places.emplace(tag, std::make_pair(s.used, bytes)).first;
        s.used += (bytes + 15) / 16 * 16;
    }
    return aligned(machine.static_memory) + found->second.first;
}

void *dynamic_shared() { return aligned(machine.dynamic_memory); }

const char *launch(const unsigned grid[3], const unsigned block[3], unsigned shared_bytes, unsigned order, Work work) {
    Machine &m = machine;
    uint64_t threads = uint64_t(block[0]) * block[1] * block[2];
    if (!m.stacks) return "no memory for the fibers' stacks";
    if (threads == 0 || threads > MAX_THREADS) return "a block must have 1 to 1024 threads";
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535)
        return "a grid that CUDA refuses";
    if (shared_bytes > SHARED_LIMIT) return "more than 227 KB of shared memory";
    m.threads = unsigned(threads);
    m.dynamic_bytes = shared_bytes;
    m.work = work;
    m.refused = false;
    m.random = 0x9e3779b97f4a7c15ull * (order + 1);
    block_size = {block[0], block[1], block[2]};
    grid_size = {grid[0], grid[1], grid[2]};
    std::vector<unsigned> turns(threads);
    for (unsigned i = 0; i < threads; i++) turns[i] = i;
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                block_index = {x, y, z};
                run_block(order, turns);
                if (m.refused) return m.error.c_str();
            }
    return nullptr;
}

} // namespace host

namespace {

uint32_t bits_of(float x) { return host::from_bits<uint32_t>(host::to_bits(x)); }
float float_of(uint32_t bits) { return host::from_bits<float>(bits); }

} // namespace

float __half2float(__half x) {
    uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, exponent = (x.bits >> 10) & 31, fraction = x.bits & 1023;
    if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) return float_of(sign | bits_of(float(fraction) * 0x1p-24f));
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

__half __float2half_rn(float x) {
    uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu;
    uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
    if (magnitude > 0x7f800000u) return {0x7fff};                    // NaN, as the hardware gives it
    if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)}; // 65520 and more
    if (magnitude < 0x38800000u) {                                   // below 2^-14: multiples of 2^-24
        // Adding 0.5 rounds to multiples of 2^-24 by the processor's own rounding to even.
        return {uint16_t(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u))};
    }
    uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
    return {uint16_t(sign | ((rounded >> 13) - (112u << 10)))};
}

float __bfloat162float(__nv_bfloat16 x) { return float_of(uint32_t(x.bits) << 16); }

__nv_bfloat16 __float2bfloat16_rn(float x) {
    uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}
