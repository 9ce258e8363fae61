// A stand-in for libcuda.so.1 on machines without a GPU, for the tests: the part of the driver's interface that dtrain uses,
// over ordinary memory, with kernels that were built for the host (kernels/host.h).
//
// So the whole CUDA side runs as it is shipped: finding kernels by name, their arguments and launch shapes, memory, streams.
// Everything is done at once; only copies into pinned memory arrive late, when their stream, or an event behind them, was waited
// for. DTRAIN_STAND_IN_ORDER lets streams do their work as late as events and the host's waits allow, so that work shows
// that is ordered wrongly. Fresh memory holds 0xff, which reads
// as NaN; every block has guards, and a kernel that writes past its operands ends the program with a message.
//
//   DTRAIN_STAND_IN_KERNELS   the shared object with the kernels
//   DTRAIN_STAND_IN_GPUS      how many GPUs there seem to be (1)
//   DTRAIN_STAND_IN_VERSION   the CUDA version that the driver serves (99000)
//   DTRAIN_STAND_IN_CAPABILITY  its compute capability (90)
//   DTRAIN_STAND_IN_LOST      GPU,FILE: that GPU answers everything with the same error from when there is this file
//   DTRAIN_STAND_IN_NCCL      the version of NCCL (22809)
//   DTRAIN_STAND_IN_BYTES     memory of a GPU (1 GiB)
//   DTRAIN_STAND_IN_PINNED    the largest block of pinned memory that can be had (any)
//   DTRAIN_STAND_IN_GRAPHS    none: no graph can be instantiated
//   DTRAIN_STAND_IN_ORDER     late: all streams; mixed: all but those with a priority (at once)
//   DTRAIN_STAND_IN_COUNTS    a file to which the process adds a line at its end: how often the host waited for everything
//                             (streams, contexts, copies into memory that is not pinned) and for single events, kernels and graphs that were launched

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unistd.h>
#include <vector>

#include "capture.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
       LAUNCH_FAILED = 719, NOT_SUPPORTED = 801 };

constexpr size_t GUARD = 256;
constexpr unsigned char GUARD_BYTE = 0xa5;
constexpr int MOST_SHARED = 227 << 10;

std::mutex lock;
std::map<uintptr_t, size_t> blocks;
size_t used = 0;
__thread void *current = nullptr;

std::atomic<long> waits{0}, events_awaited{0}, launches{0}, graphs_launched{0};

struct Copy {
    void *to;
    std::vector<unsigned char> bytes;
};
} // namespace
struct Stream {
    bool is_late;
    std::deque<std::function<int()>> asked;
    int failed = OK;
    std::shared_ptr<Capture> capture; // that it is part of
};
namespace {
struct Mark {
    Stream *stream = nullptr;
    uint64_t recorded = 0, reached = 0;
};
struct Event {
    bool asked = false; // since it was recorded
    std::shared_ptr<Mark> mark = std::make_shared<Mark>();
    std::shared_ptr<Capture> capture; // in which it was recorded last,
    Stream *of = nullptr;             // on which stream, behind how many nodes
    size_t behind = 0;
};
struct Function {
    const char *(*call)(const unsigned *, const unsigned *, unsigned, void **, unsigned);
    unsigned arguments;
};

// Held while anything is asked or done.
std::recursive_mutex turn;
std::set<Stream *> streams;
std::vector<std::shared_ptr<Capture>> captures; // under way
std::set<std::shared_ptr<Graph>> graphs;
std::map<uintptr_t, size_t> of_graphs;          // blocks that are theirs
std::map<uintptr_t, size_t> pinned;
std::vector<Copy> late;

long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

[[noreturn]] void die(const char *what) {
    fprintf(stderr, "stand-in GPU: %s\n", what);
    abort();
}

// Has this GPU failed?
bool is_lost() {
    static const char *text = getenv("DTRAIN_STAND_IN_LOST");
    const char *comma = text ? strchr(text, ',') : nullptr;
    return comma && current == reinterpret_cast<void *>(uintptr_t(0x1000 + atol(text))) && access(comma + 1, F_OK) == 0;
}

void *kernels() {
    static void *library = [] {
        const char *path = getenv("DTRAIN_STAND_IN_KERNELS");
        void *opened = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
        if (!opened) die(path ? dlerror() : "DTRAIN_STAND_IN_KERNELS is not set");
        return opened;
    }();
    return library;
}

int open_stream(void **stream, bool has_priority) {
    const char *order = getenv("DTRAIN_STAND_IN_ORDER");
    std::lock_guard<std::recursive_mutex> mine(turn);
    auto *made = new Stream{order && (!strcmp(order, "late") || !has_priority), {}, OK, nullptr};
    streams.insert(made);
    return *stream = made, OK;
}

void step(Stream *stream) {
    auto job = std::move(stream->asked.front());
    stream->asked.pop_front();
    int error = job();
    if (error && !stream->failed) stream->failed = error;
}

int drain(Stream *stream) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    while (stream && !stream->asked.empty()) step(stream);
    return stream ? stream->failed : OK;
}

int drain_all() {
    std::lock_guard<std::recursive_mutex> mine(turn);
    for (Stream *stream : streams)
        if (int error = drain(stream)) return error;
    return OK;
}

Capture *capture_of(void *stream) { return stream ? static_cast<Stream *>(stream)->capture.get() : nullptr; }

int record(Stream *stream, std::function<int()> job) {
    Capture &capture = *stream->capture;
    if (capture.is_spoilt) return INVALIDATED;
    capture.nodes.push_back(std::move(job));
    capture.last[stream] = capture.nodes.size();
    return OK;
}

// A call that is not safe while this thread captures.
int unsafe_call(const char *name) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    for (auto &capture : captures)
        if (capture->mode == GLOBAL || (capture->mode == THREAD_LOCAL && capture->thread == std::this_thread::get_id())) {
            fprintf(stderr, "stand-in GPU: %s in a capture\n", name);
            return capture->spoil(UNSUPPORTED);
        }
    return OK;
}

// The null stream, which nobody should use, is as good as everything.
int ask(void *stream_, std::function<int()> job) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    if (is_lost()) return ILLEGAL_ADDRESS;
    auto *stream = static_cast<Stream *>(stream_);
    if (!stream) {
        for (auto &capture : captures) return capture->spoil(IMPLICIT);
        return drain_all() ? LAUNCH_FAILED : job();
    }
    if (stream->capture) return record(stream, std::move(job));
    if (!stream->is_late && stream->asked.empty()) return job();
    stream->asked.push_back(std::move(job));
    return stream->is_late ? OK : drain(stream);
}

// Does what the mark's stream was asked before it.
int reach(const std::shared_ptr<Mark> &mark, uint64_t recorded) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    while (mark->reached < recorded) {
        if (mark->stream->asked.empty()) die("streams wait for each other");
        step(mark->stream);
    }
    return mark->stream ? mark->stream->failed : OK;
}

void check_guards(uintptr_t at, size_t bytes) {
    auto *end = reinterpret_cast<unsigned char *>(at + bytes), *start = reinterpret_cast<unsigned char *>(at) - GUARD;
    for (size_t i = 0; i < GUARD; i++) {
        if (start[i] != GUARD_BYTE) die("memory before a block was written");
        if (end[i] != GUARD_BYTE) die("memory behind a block was written");
    }
}

bool has_room(size_t bytes) { return used + bytes <= size_t(setting("DTRAIN_STAND_IN_BYTES", 1l << 30)); }

// A block between guards, which takes no room yet; `lock` is held.
int place(uint64_t *address, size_t bytes) {
    auto *all = static_cast<unsigned char *>(aligned_alloc(GUARD, (bytes + 3 * GUARD - 1) / GUARD * GUARD));
    if (!all) return OUT_OF_MEMORY;
    memset(all, GUARD_BYTE, GUARD);
    memset(all + GUARD, 0xff, bytes);
    memset(all + GUARD + bytes, GUARD_BYTE, GUARD);
    *address = reinterpret_cast<uintptr_t>(all + GUARD);
    blocks[*address] = bytes;
    return OK;
}

void displace(uint64_t address) {
    auto block = blocks.find(address);
    check_guards(block->first, block->second);
    free(reinterpret_cast<void *>(address - GUARD));
    blocks.erase(block);
}

int allocate(uint64_t *address, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    std::lock_guard<std::mutex> held(lock);
    if (!has_room(bytes)) return OUT_OF_MEMORY;
    if (int error = place(address, bytes)) return error;
    used += bytes;
    return OK;
}

// Memory of a graph that is being captured.
int allocate_in(Stream *stream, uint64_t *address, size_t bytes) {
    Capture &capture = *stream->capture;
    if (capture.is_spoilt) return INVALIDATED;
    if (bytes == 0) return INVALID_VALUE;
    {
        std::lock_guard<std::mutex> held(lock);
        if (int error = place(address, bytes)) return error;
        of_graphs[*address] = bytes;
    }
    capture.memory[*address] = capture.live[*address] = bytes;
    capture.most = std::max(capture.most, capture.bytes += bytes);
    auto *at = reinterpret_cast<void *>(*address);
    return record(stream, [=] { return memset(at, 0xff, bytes), OK; });
}

int free_in(Stream *stream, uint64_t address) {
    Capture &capture = *stream->capture;
    auto block = capture.live.find(address);
    if (block == capture.live.end()) {
        fprintf(stderr, "stand-in GPU: memory is freed in a capture that it is not of\n");
        return capture.spoil(INVALID_VALUE);
    }
    size_t bytes = block->second;
    capture.bytes -= bytes;
    capture.live.erase(block);
    return record(stream, [=] {
        check_guards(address, bytes);
        return memset(reinterpret_cast<void *>(address), 0xff, bytes), OK;
    });
}

void forget_memory(const std::map<uint64_t, size_t> &memory) {
    std::lock_guard<std::mutex> held(lock);
    for (auto &block : memory) {
        displace(block.first);
        of_graphs.erase(block.first);
    }
}

int map_graph(Graph &graph) {
    std::lock_guard<std::mutex> held(lock);
    if (graph.is_mapped) return OK;
    if (!has_room(graph.most)) return OUT_OF_MEMORY;
    used += graph.most;
    graph.is_mapped = true;
    return OK;
}

void unmap_graph(Graph &graph) {
    std::lock_guard<std::mutex> held(lock);
    if (graph.is_mapped) used -= graph.most;
    graph.is_mapped = false;
}

int release(uint64_t address) {
    std::lock_guard<std::mutex> held(lock);
    auto block = blocks.find(address);
    if (block == blocks.end() || of_graphs.count(address)) return INVALID_VALUE;
    used -= block->second;
    displace(address);
    return OK;
}

// Do `bytes` from `address` on lie in one block?
bool is_owned(uint64_t address, size_t bytes) {
    std::lock_guard<std::mutex> held(lock);
    auto block = blocks.upper_bound(address);
    if (block == blocks.begin()) return false;
    --block;
    return address + bytes <= block->first + block->second;
}

void all_guards() {
    std::lock_guard<std::mutex> held(lock);
    for (auto &block : blocks) check_guards(block.first, block.second);
}

bool is_pinned(const void *address, size_t bytes) {
    std::lock_guard<std::mutex> held(lock);
    auto block = pinned.upper_bound(reinterpret_cast<uintptr_t>(address));
    if (block == pinned.begin()) return false;
    --block;
    return reinterpret_cast<uintptr_t>(address) + bytes <= block->first + block->second;
}

// What was copied into pinned memory is there.
int arrive() {
    std::lock_guard<std::mutex> held(lock);
    for (auto &copy : late) memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
    late.clear();
    return OK;
}

int wait_for_all(Stream *stream) {
    {
        std::lock_guard<std::recursive_mutex> mine(turn);
        for (auto &capture : captures)
            if (!stream || stream->capture == capture) {
                fprintf(stderr, "stand-in GPU: a wait for what is being captured\n");
                return capture->spoil(UNSUPPORTED);
            }
    }
    waits++;
    if (is_lost()) return ILLEGAL_ADDRESS;
    int error = stream ? drain(stream) : drain_all();
    all_guards();
    arrive();
    return error;
}

__attribute__((destructor)) void tell_counts() {
    const char *path = getenv("DTRAIN_STAND_IN_COUNTS");
    FILE *file = path ? fopen(path, "a") : nullptr;
    if (!file) return;
    fprintf(file, "%ld %ld %ld %ld\n", waits.load(), events_awaited.load(), launches.load(), graphs_launched.load());
    fclose(file);
}

} // namespace

API int cuInit(unsigned) { return setting("DTRAIN_STAND_IN_GPUS", 1) > 0 ? OK : NO_DEVICE; }
API int cuDriverGetVersion(int *version) { return *version = int(setting("DTRAIN_STAND_IN_VERSION", 99000)), OK; }
API int cuDeviceGetCount(int *count) { return *count = int(setting("DTRAIN_STAND_IN_GPUS", 1)), OK; }
API int cuDeviceGet(int *device, int ordinal) {
    return *device = ordinal, ordinal < setting("DTRAIN_STAND_IN_GPUS", 1) ? OK : 101;
}
API int cuDeviceGetName(char *name, int length, int) { return snprintf(name, size_t(length), "stand-in GPU"), OK; }
API int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    memset(uuid, 0, 16);
    uuid[15] = (unsigned char)device;
    return OK;
}
API int cuDeviceGetUuid(unsigned char *uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }
API int cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
    case 75: *value = int(setting("DTRAIN_STAND_IN_CAPABILITY", 90)) / 10; break;
    case 76: *value = int(setting("DTRAIN_STAND_IN_CAPABILITY", 90)) % 10; break;
    case 115: *value = 1; break;  // memory pools
    case 16: *value = 132; break; // multiprocessors
    case 97: *value = MOST_SHARED; break; // shared memory that a block may ask for
    default: *value = 1;
    }
    return OK;
}
API int cuDevicePrimaryCtxRetain(void **context, int device) {
    return *context = reinterpret_cast<void *>(uintptr_t(0x1000 + device)), OK;
}
API int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API int cuCtxGetCurrent(void **context) { return *context = current, OK; }
API int cuCtxSetCurrent(void *context) { return current = context, OK; }
API int cuCtxSynchronize() { return wait_for_all(nullptr); }
API int cuStreamCreate(void **stream, unsigned) { return open_stream(stream, false); }
API int cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, OK; }
API int cuStreamCreateWithPriority(void **stream, unsigned, int) { return open_stream(stream, true); }
API int cuStreamDestroy_v2(void *stream) {
    drain(static_cast<Stream *>(stream)); // marks may still name it, so it stays
    return OK;
}
// For the other stand-ins: does what a stream was asked, without counting as a wait.
API int stand_in_catch_up(void *stream) {
    if (Capture *capture = capture_of(stream)) return capture->spoil(UNSUPPORTED);
    return drain(static_cast<Stream *>(stream));
}
// The same for those that can be captured: does `job` in the stream's order.
API int stand_in_ask(void *stream, const std::function<int()> *job) { return ask(stream, *job); }
API int cuStreamSynchronize(void *stream) { return wait_for_all(static_cast<Stream *>(stream)); }
API int cuStreamWaitEvent(void *stream, void *event, unsigned) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    auto &it = *static_cast<Event *>(event);
    auto *waiting = static_cast<Stream *>(stream);
    if (it.capture) {
        if (!waiting || (waiting->capture && waiting->capture != it.capture)) return it.capture->spoil(MERGE);
        waiting->capture = it.capture;
        if (waiting == it.capture->origin) it.capture->joined[it.of] = it.behind;
        return OK;
    }
    if (Capture *capture = capture_of(stream)) return capture->spoil(ISOLATION);
    auto mark = it.mark;
    uint64_t recorded = mark->recorded;
    if (mark->reached >= recorded) return OK;
    return ask(stream, [mark, recorded] { return reach(mark, recorded); });
}
API int cuStreamIsCapturing(void *stream, int *status) {
    Capture *capture = capture_of(stream);
    return *status = !capture ? 0 : capture->is_spoilt ? 2 : 1, OK;
}
API int cuStreamBeginCapture_v2(void *stream_, int mode) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    auto *stream = static_cast<Stream *>(stream_);
    if (!stream) return UNSUPPORTED;
    if (stream->capture) return ILLEGAL_STATE;
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream;
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    captures.push_back(stream->capture);
    return OK;
}
API int cuStreamEndCapture(void *stream_, void **graph) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    auto capture = stream_ ? static_cast<Stream *>(stream_)->capture : nullptr;
    *graph = nullptr;
    if (!capture || capture->origin != stream_) return ILLEGAL_STATE;
    if (capture->mode != RELAXED && capture->thread != std::this_thread::get_id()) return WRONG_THREAD;
    bool are_joined = true;
    for (Stream *stream : streams)
        if (stream->capture == capture) {
            if (stream != capture->origin && capture->joined[stream] < capture->last[stream]) are_joined = false;
            stream->capture = nullptr;
        }
    for (size_t i = 0; i < captures.size(); i++)
        if (captures[i] == capture) captures.erase(captures.begin() + long(i));
    if (capture->is_spoilt || !are_joined) {
        forget_memory(capture->memory);
        return capture->is_spoilt ? INVALIDATED : UNJOINED;
    }
    auto made = std::make_shared<Graph>();
    made->nodes = std::move(capture->nodes);
    made->memory = std::move(capture->memory);
    made->most = capture->most;
    made->leaks = !capture->live.empty();
    graphs.insert(made);
    return *graph = new GraphHandle{made}, OK;
}
API int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    auto *handle = static_cast<GraphHandle *>(graph);
    const char *graphs_are = getenv("DTRAIN_STAND_IN_GRAPHS");
    if (graphs_are && !strcmp(graphs_are, "none")) return NOT_SUPPORTED;
    if (handle->is_instantiated && !handle->graph->memory.empty()) return INVALID_VALUE;
    handle->is_instantiated = true;
    return *executable = new ExecutableHandle{handle->graph, handle}, OK;
}
API int cuGraphLaunch(void *executable, void *stream) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    auto graph = static_cast<ExecutableHandle *>(executable)->graph;
    if (Capture *capture = capture_of(stream)) return capture->spoil(UNSUPPORTED);
    if (graph->leaks && graph->launched) return INVALID_VALUE;
    if (int error = map_graph(*graph)) return error;
    graphs_launched++;
    graph->launched++;
    graph->in_flight++;
    return ask(stream, [graph] {
        graph->in_flight--;
        for (auto &node : graph->nodes)
            if (int error = node()) return error;
        return int(OK);
    });
}
API int cuGraphUpload(void *executable, void *stream) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    if (Capture *capture = capture_of(stream)) return capture->spoil(UNSUPPORTED);
    return map_graph(*static_cast<ExecutableHandle *>(executable)->graph);
}
// What is under way goes on: it holds the graph, and the last to leave gives its memory back.
API int cuGraphExecDestroy(void *executable) {
    auto *handle = static_cast<ExecutableHandle *>(executable);
    handle->of->is_instantiated = false;
    return delete handle, OK;
}
API int cuGraphDestroy(void *graph_) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    auto *handle = static_cast<GraphHandle *>(graph_);
    if (handle->is_instantiated) die("a graph is destroyed before what was made of it");
    auto graph = handle->graph;
    if (graph->in_flight && drain_all()) return LAUNCH_FAILED;
    unmap_graph(*graph);
    forget_memory(graph->memory);
    graphs.erase(graph);
    return delete handle, OK;
}
API int cuDeviceGraphMemTrim(int) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    for (auto &graph : graphs)
        if (!graph->in_flight) unmap_graph(*graph);
    return OK;
}
API int cuMemPoolTrimTo(void *, size_t) { return OK; }
API int cuEventCreate(void **event, unsigned) { return *event = new Event, OK; }
API int cuEventDestroy_v2(void *event) { return delete static_cast<Event *>(event), OK; }
API int cuEventRecord(void *event_, void *stream) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    auto *event = static_cast<Event *>(event_);
    event->asked = false;
    event->capture = stream ? static_cast<Stream *>(stream)->capture : nullptr;
    if (event->capture) {
        event->of = static_cast<Stream *>(stream);
        event->behind = event->capture->nodes.size();
        return event->capture->is_spoilt ? int(INVALIDATED) : int(OK);
    }
    auto mark = event->mark;
    // Waits for what was recorded before lead to where they were asked; nobody may record on another stream meanwhile.
    if (mark->stream != stream && mark->reached < mark->recorded) reach(mark, mark->recorded);
    mark->stream = static_cast<Stream *>(stream);
    uint64_t number = ++mark->recorded;
    return ask(stream, [mark, number] { return mark->reached = number, OK; });
}
API int cuStreamQuery(void *stream) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    for (auto &capture : captures)
        if (!stream || capture_of(stream) == capture.get()) return capture->spoil(stream ? UNSUPPORTED : IMPLICIT);
    return is_lost() ? ILLEGAL_ADDRESS : OK;
}
API int cuEventQuery(void *event) {
    if (is_lost()) return ILLEGAL_ADDRESS;
    std::lock_guard<std::recursive_mutex> mine(turn);
    if (static_cast<Event *>(event)->capture) return CAPTURED_EVENT;
    if (int error = unsafe_call("cuEventQuery")) return error;
    auto &asked = static_cast<Event *>(event)->asked;
    auto &mark = static_cast<Event *>(event)->mark;
    if (!asked) return asked = true, NOT_READY;
    if (mark->reached < mark->recorded) return step(mark->stream), NOT_READY;
    events_awaited++;
    return arrive();
}
API int cuEventSynchronize(void *event) {
    if (is_lost()) return ILLEGAL_ADDRESS;
    if (static_cast<Event *>(event)->capture) return CAPTURED_EVENT;
    events_awaited++;
    auto mark = static_cast<Event *>(event)->mark;
    int error = reach(mark, mark->recorded);
    arrive();
    return error;
}
API int cuEventElapsedTime_v2(float *milliseconds, void *, void *) { return *milliseconds = 0.001f, OK; }
API int cuEventElapsedTime(float *milliseconds, void *, void *) { return *milliseconds = 0.001f, OK; }
API int cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = nullptr, OK; }
API int cuMemPoolSetAttribute(void *, int, void *) { return OK; }
API int cuMemGetInfo_v2(size_t *left, size_t *total) {
    std::lock_guard<std::mutex> held(lock);
    *total = size_t(setting("DTRAIN_STAND_IN_BYTES", 1l << 30));
    *left = *total - used;
    return OK;
}
API int cuMemAllocAsync(uint64_t *address, size_t bytes, void *stream) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    return capture_of(stream) ? allocate_in(static_cast<Stream *>(stream), address, bytes) : allocate(address, bytes);
}
API int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (int error = unsafe_call("cuMemAlloc")) return error;
    return allocate(address, bytes);
}
API int cuMemFreeAsync(uint64_t address, void *stream) {
    std::lock_guard<std::recursive_mutex> mine(turn);
    if (capture_of(stream)) return free_in(static_cast<Stream *>(stream), address);
    // What a graph leaves may be freed once it ran; here it goes with the graph.
    for (auto &graph : graphs)
        if (graph->memory.count(address)) return graph->leaks && graph->launched ? int(OK) : int(INVALID_VALUE);
    return ask(stream, [address] { return release(address); });
}
API int cuMemFree_v2(uint64_t address) {
    if (int error = unsafe_call("cuMemFree")) return error;
    return drain_all(), release(address);
}
API int cuMemHostAlloc(void **address, size_t bytes, unsigned) {
    if (int error = unsafe_call("cuMemHostAlloc")) return error;
    if (bytes > size_t(setting("DTRAIN_STAND_IN_PINNED", 1l << 40))) return OUT_OF_MEMORY;
    *address = malloc(bytes);
    std::lock_guard<std::mutex> held(lock);
    pinned[reinterpret_cast<uintptr_t>(*address)] = bytes;
    return OK;
}
API int cuMemFreeHost(void *address) {
    if (int error = unsafe_call("cuMemFreeHost")) return error;
    drain_all();
    arrive();
    std::lock_guard<std::mutex> held(lock);
    pinned.erase(reinterpret_cast<uintptr_t>(address));
    return free(address), OK;
}
API int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    if (!is_owned(to, bytes)) return INVALID_VALUE;
    auto *target = reinterpret_cast<void *>(to);
    if (is_pinned(from, bytes)) return ask(stream, [=] { return memcpy(target, from, bytes), OK; });
    if (capture_of(stream)) return unsafe_call("a copy from memory that is not pinned");
    auto *start = static_cast<const unsigned char *>(from);
    auto taken = std::make_shared<std::vector<unsigned char>>(start, start + bytes);
    return ask(stream, [=] { return memcpy(target, taken->data(), bytes), OK; });
}
API int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    if (!is_owned(from, bytes)) return INVALID_VALUE;
    auto *start = reinterpret_cast<unsigned char *>(from);
    if (is_pinned(to, bytes))
        return ask(stream, [=] {
            std::lock_guard<std::mutex> held(lock);
            late.push_back({to, {start, start + bytes}});
            return OK;
        });
    if (capture_of(stream)) return unsafe_call("a copy to memory that is not pinned");
    waits++;
    int error = drain(static_cast<Stream *>(stream));
    return memcpy(to, start, bytes), error;
}
API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    if (!is_owned(from, bytes) || !is_owned(to, bytes)) return INVALID_VALUE;
    return ask(stream, [=] { return memmove(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes), OK; });
}
API int cuMemsetD8Async(uint64_t to, unsigned char byte, size_t bytes, void *stream) {
    if (!is_owned(to, bytes)) return INVALID_VALUE;
    return ask(stream, [=] { return memset(reinterpret_cast<void *>(to), byte, bytes), OK; });
}
API int cuMemsetD8_v2(uint64_t to, unsigned char byte, size_t bytes) {
    return drain_all(), cuMemsetD8Async(to, byte, bytes, nullptr);
}

// Every image is the same to it: all kernels are in one shared object. candle's PTX (it is text) has none of them.
API int cuModuleLoadData(void **module, const void *image) {
    bool is_text = memcmp(image, "//", 2) == 0 || memcmp(image, "\n", 1) == 0 || memcmp(image, ".version", 8) == 0;
    return *module = reinterpret_cast<void *>(uintptr_t(is_text ? 2 : 1)), OK;
}
API int cuModuleUnload(void *) { return OK; }
API int cuModuleGetFunction(void **function, void *module, const char *name) {
    std::string symbol = std::string(name) + "_host";
    bool is_ours = module == reinterpret_cast<void *>(uintptr_t(1));
    void *found = is_ours ? dlsym(kernels(), symbol.c_str()) : nullptr;
    if (!found) return *function = nullptr, NOT_FOUND;
    auto *arguments = static_cast<const unsigned *>(dlsym(kernels(), (symbol + "_arguments").c_str()));
    if (!arguments) die("a kernel that does not say how many arguments it has");
    return *function = new Function{reinterpret_cast<decltype(Function::call)>(found), *arguments}, OK;
}
API int cuFuncSetAttribute(void *, int, int value) { return value <= MOST_SHARED ? OK : INVALID_VALUE; }
API int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared, void *stream, void **arguments, void **) {
    launches++;
    if (gx * gy * gz == 0 || bx * by * bz == 0 || bx * by * bz > 1024) return INVALID_VALUE;
    auto *kernel = static_cast<Function *>(function);
    // Whoever launches keeps its arguments no longer than the call; each lies in eight bytes.
    std::vector<uint64_t> cells(kernel->arguments);
    for (unsigned i = 0; i < kernel->arguments; i++) memcpy(&cells[i], arguments[i], sizeof(uint64_t));
    return ask(stream, [=]() mutable {
        unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
        std::vector<void *> places;
        for (auto &cell : cells) places.push_back(&cell);
        const char *problem = kernel->call(grid, block, shared, places.data(), 0);
        if (problem) fprintf(stderr, "stand-in GPU: %s\n", problem);
        return problem ? int(LAUNCH_FAILED) : int(OK);
    });
}

API int cuGetErrorString(int error, const char **text) {
    switch (error) {
    case INVALID_VALUE: *text = "invalid argument"; break;
    case OUT_OF_MEMORY: *text = "out of memory"; break;
    case NO_DEVICE: *text = "no CUDA-capable device is detected"; break;
    case NOT_FOUND: *text = "named symbol not found"; break;
    case NOT_READY: *text = "device not ready"; break;
    case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; break;
    case LAUNCH_FAILED: *text = "unspecified launch failure"; break;
    case NOT_SUPPORTED: *text = "operation not supported"; break;
    case UNSUPPORTED: *text = "operation not permitted when stream is capturing"; break;
    case INVALIDATED: *text = "operation failed due to a previous error during capture"; break;
    default: *text = "some error"; break;
    }
    return OK;
}
API int cuGetErrorName(int error, const char **text) { return cuGetErrorString(error, text); }
