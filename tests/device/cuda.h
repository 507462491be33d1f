// CUDA C++ on the CPU, for tests: a header that is put before a .cu file and compiled by g++.
//
// A thread of a block is a fiber with its own stack; fibers switch only where threads wait for each other (barriers,
// shuffles). Blocks run one after another; blocks of a cooperative launch run in parallel, each in a system thread, so a
// block's shared memory is thread_local. A seed other than 0 makes the order of a block's threads random.
//
// Errors that a GPU lets pass are reported: a barrier that not all threads reach, a shuffle from an inactive lane.
// Shared memory starts as NaN. ThreadSanitizer is told of the fibers, and of the order that barriers make (shuffles make
// none), so it sees races between threads of a block and between blocks.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>
#include <math.h>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define FOR_TSAN(...) __VA_ARGS__
#else
#define FOR_TSAN(...)
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define UNWATCHED __attribute__((no_sanitize("thread", "address"), noinline))

struct dim3 {
    unsigned int x, y, z;
};

namespace device {

// ------------------------------------------------------------------------------------------------------------- fibers
#ifdef __x86_64__
struct Context {
    void* top = nullptr;
};
// Save the callee-saved registers on one stack and load them from the other.
extern "C" void device_switch(void** from, void* to);
__asm__(
    ".text\n.weak device_switch\n.type device_switch,@function\ndevice_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size device_switch,.-device_switch\n");
UNWATCHED inline void go(Context& from, Context& to) { device_switch(&from.top, to.top); }
inline void prepare(Context& context, char* stack, size_t size, void (*entry)()) {
    void** top = (void**)(stack + size);
    *--top = nullptr;  // entry() finds the stack aligned as after a call, and never returns
    *--top = (void*)entry;
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    context.top = top;
}
#else
struct Context {
    ucontext_t state;
};
inline void go(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
inline void prepare(Context& context, char* stack, size_t size, void (*entry)()) {
    getcontext(&context.state);
    context.state.uc_stack = {stack, 0, size};
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
}
#endif

enum Wait { RUNS, AT_BARRIER, IN_WARP, ENDED };
enum Collective { SYNC, SHUFFLE };

struct Thread {
    Context context;
    char* stack = nullptr;
    dim3 index{};
    int warp = 0, lane = 0;
    Wait wait = RUNS;
    Collective kind = SYNC;
    unsigned mask = 0;
    int source = 0;
    uint64_t value = 0, result = 0;
    FOR_TSAN(void* fiber = nullptr;)
};

struct Warp {
    unsigned alive = 0, arrived = 0, turn = 0;
    char order[2];  // addresses for ThreadSanitizer, in turns: a late thread must not see the next barrier's release
};

constexpr unsigned MOST = 1024;  // threads per block, at most

struct Grid {
    dim3 blocks, threads;
    size_t memory;
    bool cooperative;
    uint64_t seed;
    void (*body)(void*);
    void* arguments;
    unsigned count, waiting = 0, gone = 0, turn = 0;
    std::mutex lock;
    std::condition_variable changed;
    std::string failure;
    char order[2], end;
};

struct Block {
    Grid* grid;
    dim3 index{};
    Context outside;
    // Plain arrays: ThreadSanitizer would attribute the accesses of library containers to the kernel.
    Thread threads[MOST];
    Warp warps[MOST / 32];
    Thread* ready[MOST];  // a ring of the threads that can run
    unsigned first = 0, waiting = 0;
    unsigned count = 0, alive = 0, arrived = 0, turn = 0;
    uint64_t random = 0;
    char* memory = nullptr;
    bool failed = false;
    char order[2];
    FOR_TSAN(void* fiber = nullptr;)
};

inline thread_local Block* block = nullptr;
inline thread_local Thread* self = nullptr;
constexpr size_t STACK = 1 << 17;

UNWATCHED inline void leave() {
    FOR_TSAN(__tsan_switch_to_fiber(block->fiber, 1);)
    go(self->context, block->outside);
}

UNWATCHED inline void fail(const char* what) {
    Grid* grid = block->grid;
    {
        std::lock_guard<std::mutex> held(grid->lock);
        if (grid->failure.empty())
            grid->failure = std::string(what) + " (block " + std::to_string(block->index.x) + ", thread " +
                            std::to_string(self ? self->index.x : 0) + ")";
        grid->changed.notify_all();
    }
    block->failed = true;
}

UNWATCHED inline void wait_for(Wait what) {
    self->wait = what;
    leave();
}

UNWATCHED inline void release(Thread& thread) {
    thread.wait = RUNS;
    block->ready[(block->first + block->waiting++) % MOST] = &thread;
}

UNWATCHED inline void release_all() {
    for (unsigned n = 0; n < block->count; ++n)
        if (block->threads[n].wait != ENDED) release(block->threads[n]);
}

// ----------------------------------------------------------------------------------------------------------- barriers
UNWATCHED inline void block_barrier() {
    Block* here = block;
    char* order = &here->order[here->turn % 2];
    FOR_TSAN(__tsan_release(order);)
    if (here->alive != here->count) fail("a barrier that threads which have ended will not reach");
    if (++here->arrived == here->count) {
        here->arrived = 0, here->turn++;
        release_all();
    }
    wait_for(AT_BARRIER);
    FOR_TSAN(__tsan_acquire(order);)
    (void)order;
}

// Called by one thread of each block of a cooperative launch: blocks until all blocks have called it.
UNWATCHED inline void blocks_meet() {
    Grid* grid = block->grid;
    if (!grid->cooperative) return fail("blocks that wait for each other in a launch that is not cooperative"), leave();
    std::unique_lock<std::mutex> held(grid->lock);
    const unsigned turn = grid->turn;
    char* order = &grid->order[turn % 2];
    FOR_TSAN(__tsan_release(order);)
    if (++grid->waiting == grid->count) grid->waiting = 0, grid->turn++, grid->changed.notify_all();
    else
        grid->changed.wait(held, [&] { return grid->turn != turn || grid->gone || !grid->failure.empty(); });
    const bool is_met = grid->turn != turn;
    held.unlock();
    if (!is_met) return fail("a grid barrier that not every block reaches"), leave();
    FOR_TSAN(__tsan_acquire(order);)
    (void)order;
}

UNWATCHED inline uint64_t collective(Collective kind, unsigned mask, uint64_t value, int source) {
    Warp& warp = block->warps[self->warp];
    char* order = &warp.order[warp.turn % 2];
    if (kind == SYNC) FOR_TSAN(__tsan_release(order));
    if (mask & ~warp.alive) fail("lanes of a mask that have ended, or never were");
    if (!(mask >> self->lane & 1)) fail("a lane that is not in its own mask");
    self->kind = kind, self->mask = mask, self->value = value, self->source = source;
    warp.arrived |= 1u << self->lane;
    if ((warp.arrived & mask) == mask) {
        Thread* lanes = &block->threads[self->warp * 32];
        for (int lane = 0; lane < 32; ++lane) {
            if (!(mask >> lane & 1)) continue;
            Thread& other = lanes[lane];
            if (other.kind != kind || other.mask != mask) fail("lanes of a warp that do not do the same");
            if (!(mask >> other.source & 1)) fail("a shuffle from a lane that takes no part");
            other.result = lanes[other.source].value;
        }
        warp.arrived &= ~mask, warp.turn++;
        for (int lane = 0; lane < 32; ++lane)
            if (mask >> lane & 1) release(lanes[lane]);
    }
    wait_for(IN_WARP);
    if (kind == SYNC) FOR_TSAN(__tsan_acquire(order));
    (void)order;
    return self->result;
}

// --------------------------------------------------------------------------------------------------------- scheduling
UNWATCHED inline void entry() {
    block->grid->body(block->grid->arguments);
    FOR_TSAN(__tsan_release(&block->grid->end);)
    block->alive--;
    block->warps[self->warp].alive &= ~(1u << self->lane);
    wait_for(ENDED);
}

UNWATCHED inline Thread* next_ready(Block& here) {
    if (here.random) {
        here.random ^= here.random << 13, here.random ^= here.random >> 7, here.random ^= here.random << 17;
        Thread*& chosen = here.ready[(here.first + here.random % here.waiting) % MOST];
        Thread* kept = chosen;
        chosen = here.ready[here.first], here.ready[here.first] = kept;
    }
    Thread* next = here.ready[here.first];
    here.first = (here.first + 1) % MOST, here.waiting--;
    return next;
}

UNWATCHED inline void run_block(Grid& grid, Block& here, unsigned number) {
    const unsigned count = grid.threads.x;
    block = &here;
    here.grid = &grid, here.index = {number, 0, 0}, here.alive = count, here.arrived = here.turn = 0;
    here.random = grid.seed ? grid.seed * 0x9E3779B97F4A7C15u + number * 0xD1B54A32D192ED03u | 1 : 0;
    here.count = count, here.first = here.waiting = 0;
    for (unsigned warp = 0; warp < MOST / 32; ++warp) here.warps[warp] = Warp{};
    memset(here.memory, 0xff, grid.memory);
    FOR_TSAN(here.fiber = __tsan_get_current_fiber();)
    for (unsigned n = 0; n < count; ++n) {
        Thread& thread = here.threads[n];
        if (!thread.stack)
            thread.stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        thread.index = {n, 0, 0}, thread.warp = n / 32, thread.lane = n % 32;
        here.warps[thread.warp].alive |= 1u << thread.lane;
        prepare(thread.context, thread.stack, STACK - n % 64 * 192, &entry);  // so that stack tops share no cache line
        FOR_TSAN(thread.fiber = __tsan_create_fiber(0);)
        release(thread);
    }
    while (!here.failed && here.waiting) {
        self = next_ready(here);
        FOR_TSAN(__tsan_switch_to_fiber(self->fiber, 1);)
        go(here.outside, self->context);
    }
    if (!here.failed && here.alive) fail("threads that wait for others which never come");
    FOR_TSAN(for (unsigned n = 0; n < count; ++n) __tsan_destroy_fiber(here.threads[n].fiber);)
    std::lock_guard<std::mutex> held(grid.lock);
    grid.gone++, grid.changed.notify_all();
}

struct Kept {  // stacks of one launch's blocks, kept for the next
    Block* block = new Block;
    ~Kept() {
        for (Thread& thread : block->threads)
            if (thread.stack) munmap(thread.stack, STACK);
        delete block;
    }
};

UNWATCHED inline void run_blocks(Grid& grid, unsigned first, unsigned end) {
    static thread_local Kept kept;
    Block& here = *kept.block;
    here.failed = false;
    here.memory = (char*)malloc(grid.memory + !grid.memory);  // exact size, so that AddressSanitizer detects overruns
    for (unsigned number = first; number < end && !here.failed; ++number) run_block(grid, here, number);
    free(here.memory);
}

inline std::string& last_failure() {
    static std::string what;
    return what;
}

template <class... A, size_t... n> void apply(void (*kernel)(A...), void** values, std::index_sequence<n...>) {
    kernel(*(A*)values[n]...);
}

template <class... A>
int launch(void (*kernel)(A...), unsigned blocks, unsigned threads, size_t memory, bool cooperative, uint64_t seed,
           void** values) {
    struct Call {
        void (*kernel)(A...);
        void** values;
    } call{kernel, values};
    Grid grid{{blocks, 1, 1}, {threads, 1, 1}, memory, cooperative, seed, nullptr, &call, blocks};
    grid.body = [](void* given) {
        apply(((Call*)given)->kernel, ((Call*)given)->values, std::index_sequence_for<A...>{});
    };
    bool is_side_by_side = cooperative;
    FOR_TSAN(is_side_by_side = true;)  // blocks do not see each other's shared memory
    if (is_side_by_side) {
        std::vector<std::thread> all;
        for (unsigned n = 0; n < blocks; ++n) all.emplace_back([&grid, n] { run_blocks(grid, n, n + 1); });
        for (std::thread& one : all) one.join();
    } else
        run_blocks(grid, 0, blocks);
    FOR_TSAN(__tsan_acquire(&grid.end);)
    last_failure() = grid.failure;
    return !grid.failure.empty();
}

// The type of a parameter, as NumPy names it: "f4", or "*f4" for an array of them.
template <class T> std::string type_name() {
    using Plain = std::remove_cv_t<T>;
    if constexpr (std::is_pointer_v<Plain>) return "*" + type_name<std::remove_pointer_t<Plain>>();
    else if constexpr (std::is_same_v<Plain, bool>) return "b1";
    else return (std::is_floating_point_v<Plain> ? "f" : std::is_unsigned_v<Plain> ? "u" : "i") + std::to_string(sizeof(Plain));
}

template <class... A> std::string signature(void (*)(A...)) {
    std::string all;
    ((all += type_name<A>() + " "), ...);
    return all;
}

template <class T> uint64_t packed(T value) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}

template <class T> T unpacked(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
}  // namespace device

// `more` is the kernel's static shared memory in bytes, added to what the launch requests.
#define EXPORT_KERNEL(name, more)                                                                                 \
    extern "C" int launch_##name(unsigned blocks, unsigned threads, size_t memory, int cooperative, uint64_t seed, \
                                 void** values) {                                                                  \
        return device::launch(&name, blocks, threads, memory + more, cooperative, seed, values);                   \
    }                                                                                                              \
    extern "C" const char* signature_##name() {                                                                    \
        static const std::string all = device::signature(&name);                                                   \
        return all.c_str();                                                                                        \
    }
extern "C" inline __attribute__((used)) const char* launch_failure() { return device::last_failure().c_str(); }

// ------------------------------------------------------------------------------------------------ what kernels may use
#define threadIdx (device::self->index)
#define blockIdx (device::block->index)
#define blockDim (device::block->grid->threads)
#define gridDim (device::block->grid->blocks)
#define ON_PROCESSOR
#define DYNAMIC_SHARED(type) ((type*)device::block->memory)

inline void __syncthreads() { device::block_barrier(); }
inline void __syncwarp(unsigned mask = ~0u) { device::collective(device::SYNC, mask, 0, device::self->lane); }

template <class T> T __shfl_xor_sync(unsigned mask, T value, int other) {
    return device::unpacked<T>(
        device::collective(device::SHUFFLE, mask, device::packed(value), device::self->lane ^ other));
}

template <class T> T __shfl_sync(unsigned mask, T value, int source) {
    return device::unpacked<T>(device::collective(device::SHUFFLE, mask, device::packed(value), source & 31));
}

template <class T, class U> T atomicMin(T* at, U value) {
    T old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while ((T)value < old && !__atomic_compare_exchange_n(at, &old, (T)value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return old;
}

inline float __uint_as_float(unsigned int bits) { return device::unpacked<float>(bits); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline unsigned int __float_as_uint(float value) { return (unsigned int)device::packed(value); }
