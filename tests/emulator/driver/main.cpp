// The builds with sanitizers: a program of its own, because a sanitizer cannot be loaded into a running Python.
//
//     program ENTRY FILE ORDER SEED POISON COMPLETION MULTIPROCESSORS BLOCKS_PER_MULTIPROCESSOR CAPABILITY MOST_SHARED
//
// FILE holds the arrays and gets their bytes back, and behind them the counters: for each one a line "name bytes
// misalignment", a newline, the bytes. Each lies in memory of its own, exactly as long, so that AddressSanitizer sees
// an access beside it.
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <list>
#include <string>
#include <vector>

#include "driver/entry.h"
#include "emulator/config.h"
#include "emulator/counters.h"

using namespace emulator;

namespace {

constexpr int kErrorStatus = 3;

struct Stored {
    std::string name;
    int64_t bytes;
    int64_t misalignment;  // of the first byte, modulo 16
    char* data;
};

std::list<Stored> read_file(const char* path) {
    std::ifstream file(path, std::ios::binary);
    std::list<Stored> stored;
    Stored next;
    while (file >> next.name >> next.bytes >> next.misalignment) {
        file.get();
        char* memory = static_cast<char*>(std::malloc(static_cast<size_t>(next.bytes + next.misalignment)));
        next.data = memory + next.misalignment;
        file.read(next.data, next.bytes);
        stored.push_back(next);
    }
    return stored;
}

void write_file(const char* path, const std::list<Stored>& stored) {
    std::ofstream file(path, std::ios::binary);
    for (const Stored& array : stored) file.write(array.data, array.bytes);
    file.write(reinterpret_cast<const char*>(&counters()), sizeof(Counters));
}

}  // namespace

int main(int count, char** words) {
    if (count != 12) return EXIT_FAILURE;
    const auto number = [&](int i) { return std::atoi(words[i]); };
    config() = Config{static_cast<Order>(number(3)),
                      static_cast<uint32_t>(std::atoll(words[4])),
                      number(5),
                      static_cast<Completion>(number(6)),
                      number(7),
                      number(8),
                      number(9),
                      number(10),
                      number(11)};
    const std::list<Stored> stored = read_file(words[2]);
    std::vector<Array> arrays;
    for (const Stored& array : stored) arrays.push_back({array.name.c_str(), array.data, array.bytes});
    try {
        call_entry(words[1], Arguments(arrays.data(), static_cast<int64_t>(arrays.size())));
    } catch (const std::exception& error) {
        std::cerr << "emulator: " << error.what() << "\n";
        return kErrorStatus;
    }
    write_file(words[2], stored);
    return EXIT_SUCCESS;
}
