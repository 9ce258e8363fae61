// A stand-in for libnccl.so.2, for the tests: sums in place over ranks of one machine, through a shared file.
//
// Calls return at once with ncclInProgress, as those of a communicator that does not block may, and a thread does the rest: it
// waits for the other ranks as long as it takes, or until the communicator is aborted.

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum { OK = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, IN_PROGRESS = 7 };

constexpr size_t MOST_VALUES = 16 << 20;

struct Id {
    char name[128];
};
struct Config {
    size_t size;
    uint32_t magic, version;
    int blocking;
};
struct Shared {
    std::atomic<uint32_t> arrived, rounds;
};

struct Communicator {
    int ranks, rank;
    Shared *shared;
    float *values; // [ranks][MOST_VALUES]
    std::atomic<int> state{OK};
    std::atomic<bool> stop{false};
    std::thread work;

    // False: aborted.
    bool barrier() {
        uint32_t round = shared->rounds.load();
        if (shared->arrived.fetch_add(1) + 1 == uint32_t(ranks)) {
            shared->arrived = 0;
            shared->rounds++;
            return true;
        }
        while (shared->rounds.load() == round) {
            if (stop) return false;
            usleep(50);
        }
        return true;
    }

    template <typename F> int start(F job) {
        if (work.joinable()) work.join();
        state = IN_PROGRESS;
        work = std::thread([this, job] {
            job();
            if (!stop) state = OK;
        });
        return IN_PROGRESS;
    }
};

// Does what the driver's stand-in was asked on a stream and left for later.
void catch_up(void *stream) {
    static auto *function = [] {
        const char *folder = getenv("DTRAIN_CUDA_LIB_DIR");
        void *driver = folder ? dlopen((std::string(folder) + "/libcuda.so.1").c_str(), RTLD_NOW) : nullptr;
        return reinterpret_cast<int (*)(void *)>(driver ? dlsym(driver, "stand_in_catch_up") : nullptr);
    }();
    if (function) function(stream);
}

} // namespace

API int ncclGetVersion(int *version) {
    const char *set = getenv("DTRAIN_STAND_IN_NCCL");
    return *version = set ? atoi(set) : 22809, OK;
}
API int ncclGetUniqueId(Id *id) {
    memset(id, 0, sizeof *id);
    snprintf(id->name, sizeof id->name, "/tmp/dtrain-stand-in-nccl-XXXXXX");
    int file = mkstemp(id->name);
    if (file < 0) return SYSTEM_ERROR;
    return close(file), OK;
}
API int ncclCommInitRankConfig(Communicator **communicator, int ranks, Id id, int rank, Config *config) {
    if (config->magic != 0xcafebeef || config->blocking != 0 || config->size < sizeof(Config)) return INVALID_ARGUMENT;
    size_t bytes = 4096 + size_t(ranks) * MOST_VALUES * sizeof(float);
    int file = open(id.name, O_RDWR);
    if (file < 0 || ftruncate(file, off_t(bytes)) != 0) return SYSTEM_ERROR;
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    close(file);
    if (memory == MAP_FAILED) return SYSTEM_ERROR;
    auto *c = new Communicator;
    c->ranks = ranks;
    c->rank = rank;
    c->shared = static_cast<Shared *>(memory);
    c->values = reinterpret_cast<float *>(static_cast<char *>(memory) + 4096);
    *communicator = c;
    return c->start([c, id] {
        if (c->barrier() && c->rank == 0) unlink(id.name);
    });
}
API int ncclCommGetAsyncError(Communicator *c, int *state) { return *state = c->state, OK; }
template <typename T> int sum(T *values, size_t count, Communicator *c) {
    if (count * sizeof(T) > MOST_VALUES * sizeof(float)) return INVALID_ARGUMENT;
    return c->start([=] {
        auto of_rank = [=](int rank) { return reinterpret_cast<T *>(c->values + size_t(rank) * MOST_VALUES); };
        memcpy(of_rank(c->rank), values, count * sizeof(T));
        if (!c->barrier()) return;
        for (size_t i = 0; i < count; i++) {
            T sum = 0;
            for (int rank = 0; rank < c->ranks; rank++) sum += of_rank(rank)[i];
            values[i] = sum;
        }
        c->barrier();
    });
}
API int ncclAllReduce(const void *from, void *to, size_t count, int type, int operation, Communicator *c, void *stream) {
    catch_up(stream);
    if (operation != 0 || from != to) return INVALID_ARGUMENT; // sum
    if (type == 7) return sum(static_cast<float *>(to), count, c);
    return type == 8 ? sum(static_cast<double *>(to), count, c) : int(INVALID_ARGUMENT);
}
API int ncclCommFinalize(Communicator *c) { return c->start([c] { c->barrier(); }); }
API int ncclCommDestroy(Communicator *c) {
    if (c->work.joinable()) c->work.join();
    return delete c, OK;
}
API int ncclCommAbort(Communicator *c) { return c->stop = true, ncclCommDestroy(c); }
API const char *ncclGetErrorString(int) { return "some error"; }
API const char *ncclGetLastError(Communicator *) { return ""; }
