#include "runtime/wgmma.h"

#include <algorithm>
#include <tuple>

#include "emulator/wgmma.h"
#include "runtime/error.h"
#include "runtime/half.h"
#include "runtime/registers.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

constexpr unsigned kRowsOfWarp = 16, kDepthOfProduct = 16;  // of a warp's part of one product
constexpr size_t kChunkBytes = 16, kLineBytes = 128;
constexpr uint32_t kUnderWay = 0x7fa5a5a5u;  // a NaN

struct ProductOperand {
    const ProductCall* call;
    const uint32_t* a;
    float* d;
    const void* instruction;
};

ProductsOfWarp& products_of(Thread& thread) { return thread.block.products[thread.warp()]; }

// A descriptor's fields, and where an element of what it describes lies.
struct Described {
    uint32_t start, leading, stride;
    bool turned;

    Described(uint64_t bits, bool turned)
        : start(static_cast<uint32_t>(bits & 0x3fffu) << 4),
          leading(static_cast<uint32_t>(bits >> 16 & 0x3fffu) << 4),
          stride(static_cast<uint32_t>(bits >> 32 & 0x3fffu) << 4),
          turned(turned) {}

    // Of the sixteen-byte chunk that holds (mn, k).
    uint32_t address(unsigned mn, unsigned k) const {
        const uint32_t linear = turned ? start + mn / 64 * leading + k / 8 * stride + k % 8 * kLineBytes + mn % 64 * 2
                                       : start + mn / 8 * stride + mn % 8 * kLineBytes + k * 2;
        return linear ^ (linear >> 3 & 0x70u);
    }
};

void check_descriptor(uint64_t bits, Location where) {
    if (bits >> 62 != 1)
        fail(format("wgmma: the emulator knows the 128-byte swizzle (1), not %d", static_cast<int>(bits >> 62)), where);
    if ((bits >> 49 & 7) != 0) fail("wgmma: a base offset other than 0, which the emulator does not know", where);
}

uint16_t element_at(Block& block, const Described& operand, unsigned mn, unsigned k, Location where) {
    uint16_t element = 0;
    copy_unseen(&element, block.shared.at(operand.address(mn, k), sizeof element, where), sizeof element);
    return element;
}

// What a product reads in shared memory, chunk by chunk, said in the name of its context.
void note_reads(Product& product) {
    if (!race::kActive) return;
    Block& block = product.first.block;
    const ProductCall& call = product.call;
    const race::Context context = companion(product.first, Beside::products).context;
    const auto note = [&](const Described& operand, unsigned begin, unsigned end) {
        for (unsigned outer = operand.turned ? 0 : begin; outer < (operand.turned ? kDepthOfProduct : end); ++outer) {
            for (unsigned inner = operand.turned ? begin : 0; inner < (operand.turned ? end : kDepthOfProduct);
                 inner += 8) {
                const uint32_t at = operand.turned ? operand.address(inner, outer) : operand.address(outer, inner);
                read_as(context, block.shared.at(at, kChunkBytes, call.where), kChunkBytes, product.instruction);
            }
        }
    };
    const unsigned row = product.first.warp() % kWarpsOfGroup * kRowsOfWarp;
    if (!call.a_in_registers) note(Described(call.a, call.a_turned != 0), row, row + kRowsOfWarp);
    note(Described(call.b, call.b_turned != 0), 0, static_cast<unsigned>(call.columns));
}

std::list<Product*> under_way(ProductsOfWarp& products) {
    std::list<Product*> all;
    for (ProductGroup& group : products.groups) {
        for (Product& product : group.products) all.push_back(&product);
    }
    for (Product& product : products.in_no_group) all.push_back(&product);
    return all;
}

// By the last lane of a warp, for the warp.
void execute_product(const Meeting& meeting) {
    Thread& first = lane_of_current_warp(0);
    ProductsOfWarp& own = products_of(first);
    const ProductCall& call = *meeting.of<ProductOperand>(0).call;
    for (unsigned lane = 1; lane < 32; ++lane) {
        if (!meeting.of<ProductOperand>(lane).call->is_like(call)) {
            fail(format("wgmma: lane %u has another descriptor or another flag than lane 0", lane), meeting.where);
        }
    }
    own.calls.push_back(call);
    const unsigned begin = first.warp() / kWarpsOfGroup * kWarpsOfGroup;
    for (unsigned warp = begin; warp < begin + kWarpsOfGroup; ++warp) {
        const std::vector<ProductCall>& others = first.block.products[warp].calls;
        if (others.size() < own.calls.size() || others[own.calls.size() - 1].is_like(call)) continue;
        fail(format("wgmma: warp %u of the warpgroup has another descriptor or another flag", warp), meeting.where);
    }
    if (!own.fenced) {
        fail("wgmma without wgmma.fence since accumulators, or registers of a, could last be touched", meeting.where);
    }
    const std::list<Product*> earlier = under_way(own);
    Product& product = own.in_no_group.emplace_back(first, call);
    const auto count = static_cast<size_t>(call.columns) / 2;
    product.values.resize(count);
    for (unsigned lane = 0; lane < 32; ++lane) {
        const ProductOperand& operand = meeting.of<ProductOperand>(lane);
        product.d[lane] = operand.d;
        product.instruction = operand.instruction;
        if (operand.a != nullptr) copy_unseen(product.a[lane].data(), operand.a, sizeof product.a[lane]);
    }
    for (Product* other : earlier) {
        if (other->d[0] == product.d[0]) product.before = other;
    }
    for (unsigned lane = 0; lane < 32; ++lane) {
        for (size_t i = 0; i < count; ++i) {
            copy_unseen(&product.values[i][lane], product.d[lane] + i, sizeof(float));
            copy_unseen(product.d[lane] + i, &kUnderWay, sizeof(float));
        }
    }
    if (race::kActive) begin_after(companion(first, Beside::products), companion(first, Beside::proxy).context);
    note_reads(product);
    product.happen_in_time();
}

void execute_fence(const Meeting&) { products_of(lane_of_current_warp(0)).fenced = true; }

void execute_commit(const Meeting&) {
    ProductsOfWarp& products = products_of(lane_of_current_warp(0));
    products.groups.emplace_back();
    products.groups.back().products.splice(products.groups.back().products.end(), products.in_no_group);
}

// Results go to the registers of the lanes, unless a product that is still under way has them.
void deliver(const Product& product, const std::list<Product*>& later, Location where) {
    for (const Product* other : later) {
        if (other->d[0] == product.d[0]) return;
    }
    for (unsigned lane = 0; lane < 32; ++lane) {
        for (size_t i = 0; i < product.values.size(); ++i) {
            uint32_t there = 0;
            copy_unseen(&there, product.d[lane] + i, sizeof there);
            if (there != kUnderWay) {
                fail(format("wgmma: accumulator %zu of lane %u was written while products were under way", i, lane),
                     where);
            }
            copy_unseen(product.d[lane] + i, &product.values[i][lane], sizeof(float));
        }
    }
}

void execute_wait(const Meeting& meeting) {
    Thread& first = lane_of_current_warp(0);
    ProductsOfWarp& products = products_of(first);
    const auto pending = static_cast<size_t>(meeting.of<const int>(0));
    std::list<ProductGroup> over;
    while (products.groups.size() > pending) over.splice(over.end(), products.groups, products.groups.begin());
    const std::list<Product*> later = under_way(products);
    bool any = false;
    for (auto group = over.begin(); group != over.end(); ++group) {
        for (auto product = group->products.begin(); product != group->products.end(); ++product) {
            product->happen();
            any = true;
            // Of products with the same accumulators the last one's are the result.
            std::list<Product*> after = later;
            for (auto next = std::next(product); next != group->products.end(); ++next) after.push_back(&*next);
            for (auto next = std::next(group); next != over.end(); ++next) {
                for (Product& other : next->products) after.push_back(&other);
            }
            for (Product* other : after) {
                if (other->before != &*product) continue;
                other->values = product->values;  // which it begins with
                other->before = nullptr;
            }
            deliver(*product, after, meeting.where);
        }
    }
    if (!any) return;
    products.fenced = false;
    if (race::kActive) {
        release_as(companion(first, Beside::products).context, products.read);
        for (unsigned lane = 0; lane < 32; ++lane) acquire_as(lane_of_current_warp(lane), products.read);
    }
}

void begin_products(const char* operation, Location where) {
    require_capability(operation, 90, where);
    const size_t group = current_thread().warp() / kWarpsOfGroup, threads = current_block().threads.size();
    if (threads < (group + 1) * kWarpsOfGroup * 32) {
        fail(format("%s needs a whole warpgroup, of this one the block has %zu threads", operation,
                    threads - group * kWarpsOfGroup * 32),
             where);
    }
}

void issue(const ProductCall& call, float* d, const uint32_t* a, const void* instruction) {
    begin_products("wgmma", call.where);
    if (call.columns % 8 != 0 || call.columns < 8 || call.columns > 256) {
        fail(format("wgmma of %d columns, wanted a multiple of 8 up to 256", call.columns), call.where);
    }
    if (!call.a_in_registers) check_descriptor(call.a, call.where);
    check_descriptor(call.b, call.where);
    ProductOperand operand{&call, a, d, instruction};
    meet_whole_warp("wgmma", &operand, execute_product, call.where);
}

}  // namespace

bool ProductCall::is_like(const ProductCall& other) const {
    const auto all = [](const ProductCall& c) {
        return std::tuple(c.format, c.columns, c.a, c.b, c.a_turned, c.b_turned, c.accumulate, c.a_in_registers,
                          c.where.line());
    };
    return all(*this) == all(other);
}

// Products of 16-bit numbers are exact in double: one rounding to float for each instruction, as for mma.
void Product::act() {
    if (before != nullptr) {
        before->happen();
        values = before->values;
        before = nullptr;
    }
    note_reads(*this);
    Block& block = first.block;
    const Described in_a(call.a, call.a_turned != 0), in_b(call.b, call.b_turned != 0);
    const unsigned row = first.warp() % kWarpsOfGroup * kRowsOfWarp;
    double rows[kRowsOfWarp][kDepthOfProduct];
    for (unsigned i = 0; i < kRowsOfWarp; ++i) {
        for (unsigned k = 0; k < kDepthOfProduct; ++k) {
            if (call.a_in_registers) {
                const unsigned lane = i % 8 * 4 + k % 8 / 2, number = k / 8 * 2 + i / 8;
                rows[i][k] = value_of(call.format, k % 2 == 0 ? a[lane][number] & 0xffffu : a[lane][number] >> 16);
            } else {
                rows[i][k] = value_of(call.format, element_at(block, in_a, row + i, k, call.where));
            }
        }
    }
    for (unsigned n = 0; n < static_cast<unsigned>(call.columns); ++n) {
        double column[kDepthOfProduct];
        for (unsigned k = 0; k < kDepthOfProduct; ++k)
            column[k] = value_of(call.format, element_at(block, in_b, n, k, call.where));
        for (unsigned i = 0; i < kRowsOfWarp; ++i) {
            float& value = values[n / 8 * 4 + i / 8 * 2 + n % 2][i % 8 * 4 + n % 8 / 2];
            double sum = call.accumulate ? value : 0.0;
            for (unsigned k = 0; k < kDepthOfProduct; ++k) sum += rows[i][k] * column[k];
            value = static_cast<float>(sum);
        }
    }
}

uint32_t shared_window_address(const void* shared, Location where) {
    const EnterRuntime entered;
    return current_block().shared.window_address(shared, where);
}

void wgmma_fence(Location where) {
    const EnterRuntime entered;
    begin_products("wgmma.fence", where);
    meet_whole_warp("wgmma.fence", nullptr, execute_fence, where);
}

void wgmma_commit(Location where) {
    const EnterRuntime entered;
    begin_products("wgmma.commit_group", where);
    meet_whole_warp("wgmma.commit_group", nullptr, execute_commit, where);
}

void wgmma_wait(int pending, Location where) {
    const EnterRuntime entered;
    begin_products("wgmma.wait_group", where);
    meet_whole_warp("wgmma.wait_group", &pending, execute_wait, where);
}

void wgmma(Half format, float* d, int columns, uint64_t a, int a_turned, uint64_t b, int b_turned, bool accumulate,
           Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    issue({format, columns, a, b, a_turned, b_turned, accumulate, false, where}, d, nullptr, instruction);
}

void wgmma(Half format, float* d, int columns, const uint32_t* a, uint64_t b, int b_turned, bool accumulate,
           Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    issue({format, columns, 0, b, 0, b_turned, accumulate, true, where}, d, a, instruction);
}

void refuse_exit_during_products(const Thread& thread) {
    const ProductsOfWarp& products = thread.block.products[thread.warp()];
    if (products.groups.empty() && products.in_no_group.empty()) return;
    const Product& product = products.groups.empty() || products.groups.front().products.empty()
                                 ? products.in_no_group.front()
                                 : products.groups.front().products.front();
    fail("the thread exits while products of its warp are under way", product.call.where, thread);
}

}  // namespace emulator
