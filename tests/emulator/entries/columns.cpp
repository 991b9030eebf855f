// The ordered half of column sums, from partial sums of either kind.
#include "collective/column_sums.cuh"

#include "driver/entry.h"
#include "entries/memory.h"

using namespace emulator;
using namespace halfops;

namespace {

template <class Partial>
void add(const Arguments& arguments) {
    const auto rows = arguments.value<int64_t>("rows"), cols = arguments.value<int64_t>("cols");
    check(status_of(
        add_columns(arguments["partial"].as<const Partial>(), rows, cols, arguments["sums"].as<float>(), nullptr)));
}

const Entry add_floats("add_floats", [](const Arguments& arguments) { add<float>(arguments); });
const Entry add_doubles("add_doubles", [](const Arguments& arguments) { add<double>(arguments); });

}  // namespace
