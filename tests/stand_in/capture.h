// Stream capture and graphs of the driver's stand-in, as the driver's interface describes them.
//
// While a stream is captured nothing of what it is asked is done: it becomes nodes, with kernels' arguments as they are then.
// Calls that may not be made meanwhile fail and spoil the capture: waiting for the stream, asking for or freeing memory past
// it, events of other streams, copies from memory that is not pinned (the driver would record an address that means nothing
// later), the null stream. Memory that is asked for in a capture belongs to the graph: its address stays, and at every replay it
// is fresh where it was asked for and spoilt where it was freed. It takes room only between a launch and a trim.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

enum {
    ILLEGAL_STATE = 401,
    UNSUPPORTED = 900,
    INVALIDATED = 901,
    MERGE = 902,
    UNJOINED = 904,
    ISOLATION = 905,
    IMPLICIT = 906,
    CAPTURED_EVENT = 907,
    WRONG_THREAD = 908,
};
enum { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 };

struct Stream;

// What a capture has recorded so far.
struct Capture {
    Stream *origin;
    int mode;
    std::thread::id thread;
    bool is_spoilt = false;
    std::vector<std::function<int()>> nodes;
    std::map<uint64_t, size_t> memory; // all that was asked for
    std::map<uint64_t, size_t> live;   // not freed yet
    size_t bytes = 0, most = 0;
    std::map<Stream *, size_t> last;   // behind the last node of a stream
    std::map<Stream *, size_t> joined; // as far as the origin waited for another stream

    int spoil(int error) { return is_spoilt = true, error; }
};

struct Graph {
    std::vector<std::function<int()>> nodes;
    std::map<uint64_t, size_t> memory;
    size_t most = 0;
    bool leaks = false;    // memory is freed elsewhere: it may be launched once
    bool is_mapped = false;
    int in_flight = 0, launched = 0;
};
struct GraphHandle {
    std::shared_ptr<Graph> graph;
    bool is_instantiated = false;
};
struct ExecutableHandle {
    std::shared_ptr<Graph> graph;
    GraphHandle *of;
};
