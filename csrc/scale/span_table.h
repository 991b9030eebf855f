// A list of tensors as this room takes it, and as its kernels read it: words on the device.
#pragma once

#include <cstdint>
#include <vector>

#include "core/chunk_table.h"
#include "core/dtype.h"

namespace halfops::scale {

// One tensor as flat memory. The dtype is its own, so that a list may mix them.
struct Span {
    const void* data;
    int64_t numel;
    DType dtype;
};

// Addresses and words lie apart, because gradients move from step to step while all else stays.
struct SpanTable {
    const int64_t* addresses;  // [count]
    const int64_t* words;      // numel [count], dtype [count], then a ChunkTable
    ChunkTable chunks;         // within words

    HALFOPS_HD int64_t numel(int64_t t) const { return words[t]; }
    HALFOPS_HD DType dtype(int64_t t) const { return static_cast<DType>(words[chunks.count + t]); }
};

inline std::vector<int64_t> span_addresses(const Span* spans, int64_t count) {
    std::vector<int64_t> addresses(static_cast<size_t>(count));
    for (int64_t t = 0; t < count; ++t) addresses[t] = address_of(spans[t].data);
    return addresses;
}

// The words of a table; how many chunks and groups there are in *sizes.
inline std::vector<int64_t> span_words(const Span* spans, int64_t count, ChunkTable* sizes) {
    std::vector<int64_t> words(static_cast<size_t>(2 * count));
    for (int64_t t = 0; t < count; ++t) {
        words[t] = spans[t].numel;
        words[count + t] = static_cast<int64_t>(spans[t].dtype);
    }
    *sizes = append_chunk_table(words, count, [=](int64_t t) { return spans[t].numel; });
    return words;
}

// The table where addresses and words have gone.
inline SpanTable span_table_at(const int64_t* addresses, const int64_t* words, ChunkTable sizes) {
    return {addresses, words, chunk_table_at(words + 2 * sizes.count, sizes)};
}

}  // namespace halfops::scale
