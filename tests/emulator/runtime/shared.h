// The shared memory of one block: the dynamic part, and arrays that the first thread to ask creates. Between them lie
// red zones: AddressSanitizer reports an access there at once, other builds notice a write at the end of the block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "emulator/location.h"

namespace emulator {

class SharedArena {
  public:
    explicit SharedArena(size_t dynamic_bytes);
    ~SharedArena();
    SharedArena(const SharedArena&) = delete;
    SharedArena& operator=(const SharedArena&) = delete;

    void* dynamic(Location where);
    void* array(const void* key, const char* name, size_t bytes, size_t alignment, Location where);

    // Whether the bytes lie in one array or in the dynamic part.
    bool contains(const void* memory, size_t bytes) const;

    // What lies at this place in the shared memory of another block, which may not have asked for the array yet;
    // nullptr if the bytes are not in one array or in the dynamic part.
    char* counterpart(const void* memory, size_t bytes, SharedArena& of, Location where) const;

    // Places as descriptors name them: 18 bits, with the pointer's remainder by 1024.
    uint32_t window_address(const void* memory, Location where) const;
    char* at(uint32_t window_address, size_t bytes, Location where) const;

    // A sentence about the first red zone that was written to, or nothing.
    std::string overrun() const;

  private:
    struct RedZone {
        char* begin;
        size_t bytes;
        const char* before;  // what lies in front of it
    };

    struct Part {
        char* begin;
        size_t bytes;
        size_t alignment;
        const void* key;  // of an array
        const char* name;
    };

    char* place(size_t bytes, size_t alignment, const void* key, const char* name);
    const Part* part_of(const void* memory, size_t bytes) const;

    char* memory_;
    size_t used_ = 0;
    size_t static_bytes_ = 0;
    size_t dynamic_bytes_;
    char* dynamic_ = nullptr;
    std::map<const void*, char*> arrays_;
    std::vector<Part> parts_;
    std::vector<RedZone> red_zones_;
};

}  // namespace emulator
