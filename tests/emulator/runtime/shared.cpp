#include "runtime/shared.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "emulator/config.h"
#include "emulator/runtime_api.h"
#include "emulator/shared.h"
#include "runtime/error.h"
#include "runtime/sanitize.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

// The alignment of dynamic shared memory, which csrc/collective/shared.cuh asks for too.
constexpr size_t kBaseAlignment = 1024;
constexpr size_t kLargestLoad = 16;
constexpr size_t kRedZone = 64;
constexpr unsigned char kRedZoneByte = 0xc5;
// Room for the arrays, their alignment and the red zones between them.
constexpr size_t kRoomForArrays = 3 * kMostStaticShared;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

size_t capacity(size_t dynamic_bytes) {
    return round_up(kBaseAlignment + dynamic_bytes + kRedZone + kRoomForArrays, kBaseAlignment);
}

// "[with Tag = Partial; T = float; int kCount = 8]" without the bracket.
std::string readable(const char* name) {
    const char* parameters = std::strstr(name, "[with ");
    if (parameters == nullptr) return name;
    std::string text = parameters + std::strlen("[with ");
    text.pop_back();
    return "shared array (" + text + ")";
}

}  // namespace

SharedArena::SharedArena(size_t dynamic_bytes) : dynamic_bytes_(dynamic_bytes) {
    memory_ = static_cast<char*>(std::aligned_alloc(kBaseAlignment, capacity(dynamic_bytes)));
    if (memory_ == nullptr) throw std::bad_alloc();
    address::forbid(memory_, capacity(dynamic_bytes));
    if (dynamic_bytes > 0) dynamic_ = place(dynamic_bytes, kBaseAlignment, nullptr, "dynamic shared memory");
}

SharedArena::~SharedArena() {
    address::allow(memory_, capacity(dynamic_bytes_));
    std::free(memory_);
}

// A red zone in front, and one behind. No more aligned than the type asks for: that an array of floats can be read
// 16 bytes at a time would be luck on a device too.
char* SharedArena::place(size_t bytes, size_t alignment, const void* key, const char* name) {
    const size_t least = alignment < kLargestLoad ? alignment : 0;
    const size_t begin = round_up(used_ + kRedZone, std::max(alignment, kLargestLoad)) + least;
    char* memory = memory_ + begin;
    used_ = begin + bytes + kRedZone;
    if (!address::kActive) {
        fill_unseen(memory + bytes, kRedZoneByte, kRedZone);
        red_zones_.push_back({memory + bytes, kRedZone, name});
    }
    parts_.push_back({memory, bytes, alignment, key, name});
    address::allow(memory, bytes);
    fill_unseen(memory, config().poison != 0 ? 0xff : 0x00, bytes);
    return memory;
}

void* SharedArena::dynamic(Location where) {
    if (dynamic_ == nullptr) fail("the launch gave the kernel no dynamic shared memory", where);
    return dynamic_;
}

void* SharedArena::array(const void* key, const char* name, size_t bytes, size_t alignment, Location where) {
    const auto known = arrays_.find(key);
    if (known != arrays_.end()) return known->second;
    static_bytes_ = round_up(static_bytes_, alignment) + bytes;
    const size_t needed = used_ + alignment + kLargestLoad + bytes + 2 * kRedZone;
    if (static_bytes_ > kMostStaticShared || needed > capacity(dynamic_bytes_)) {
        fail(readable(name) +
                 format(" brings static shared memory to %zu bytes, more than %zu", static_bytes_, kMostStaticShared),
             where);
    }
    char* memory = place(bytes, alignment, key, name);
    arrays_.emplace(key, memory);
    return memory;
}

const SharedArena::Part* SharedArena::part_of(const void* memory, size_t bytes) const {
    const auto begin = reinterpret_cast<uintptr_t>(memory);
    for (const Part& part : parts_) {
        const auto first = reinterpret_cast<uintptr_t>(part.begin);
        if (begin >= first && begin + bytes <= first + part.bytes) return &part;
    }
    return nullptr;
}

bool SharedArena::contains(const void* memory, size_t bytes) const { return part_of(memory, bytes) != nullptr; }

char* SharedArena::counterpart(const void* memory, size_t bytes, SharedArena& of, Location where) const {
    const Part* part = part_of(memory, bytes);
    if (part == nullptr) return nullptr;
    char* begin = part->key == nullptr
                      ? of.dynamic_
                      : static_cast<char*>(of.array(part->key, part->name, part->bytes, part->alignment, where));
    return begin + (static_cast<const char*>(memory) - part->begin);
}

uint32_t SharedArena::window_address(const void* memory, Location where) const {
    constexpr uint32_t kWindow = 1u << 18;
    const auto address = static_cast<uintptr_t>(static_cast<const char*>(memory) - memory_);
    if (!contains(memory, 1) || address >= kWindow) {
        fail(format("a descriptor of %p, which is not in the block's shared memory", memory), where);
    }
    return static_cast<uint32_t>(address);
}

char* SharedArena::at(uint32_t window_address, size_t bytes, Location where) const {
    char* memory = memory_ + window_address;
    if (!contains(memory, bytes)) {
        fail(format("an operand at %u of the window of shared memory, which is in no array", window_address), where);
    }
    return memory;
}

std::string SharedArena::overrun() const {
    for (const RedZone& zone : red_zones_) {
        for (size_t i = 0; i < zone.bytes; ++i) {
            if (static_cast<unsigned char>(zone.begin[i]) == kRedZoneByte) continue;
            return format("somebody wrote byte %zu behind the end of ", i) + readable(zone.before);
        }
    }
    return "";
}

void* static_shared(const void* key, const char* name, size_t bytes, size_t alignment, Location where) {
    const EnterRuntime entered;
    return current_block().shared.array(key, name, bytes, alignment, where);
}

void* dynamic_shared(Location where) {
    const EnterRuntime entered;
    return current_block().shared.dynamic(where);
}

}  // namespace emulator
