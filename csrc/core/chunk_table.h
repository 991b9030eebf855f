// Tables that tell kernels how a list of tensors is cut into chunks (chunks.h): made on the host, as plain words.
#pragma once

#include <cstdint>
#include <vector>

#include "core/chunks.h"
#include "core/dtype.h"

namespace halfops {

// Member t of a list has the chunks first_chunk[t] ... first_chunk[t + 1] - 1 of the list, and likewise groups of them.
struct ChunkTable {
    const int64_t* first_chunk;  // [count + 1]
    const int64_t* first_group;  // [count + 1]
    int64_t count, chunks, groups;

    static constexpr int64_t words(int64_t count) { return 2 * (count + 1); }
};

// Appends the words of a ChunkTable, in its order, for get_numel(0) ... get_numel(count - 1); gives chunks and groups.
template <class GetNumel>
ChunkTable append_chunk_table(std::vector<int64_t>& words, int64_t count, const GetNumel& get_numel) {
    const size_t begin = words.size();
    words.resize(begin + static_cast<size_t>(ChunkTable::words(count)));
    int64_t* first_chunk = words.data() + begin;
    int64_t* first_group = first_chunk + count + 1;
    first_chunk[0] = first_group[0] = 0;
    for (int64_t t = 0; t < count; ++t) {
        const int64_t chunks = ceil_div(get_numel(t), kChunk);
        first_chunk[t + 1] = first_chunk[t] + chunks;
        first_group[t + 1] = first_group[t] + ceil_div(chunks, kRadix);
    }
    return {nullptr, nullptr, count, first_chunk[count], first_group[count]};
}

// The same table where its words have gone.
inline ChunkTable chunk_table_at(const int64_t* words, ChunkTable sizes) {
    return {words, words + sizes.count + 1, sizes.count, sizes.chunks, sizes.groups};
}

// How a table holds the place of an array.
inline int64_t address_of(const void* array) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(array)); }

}  // namespace halfops
