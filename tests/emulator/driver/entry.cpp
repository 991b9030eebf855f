#include "driver/entry.h"

#include <map>

namespace emulator {

namespace {

std::map<std::string, Function>& entries() {
    static std::map<std::string, Function> known;
    return known;
}

}  // namespace

Entry::Entry(const char* name, Function function) { entries()[name] = function; }

void call_entry(const std::string& name, const Arguments& arguments) {
    const auto found = entries().find(name);
    if (found == entries().end()) throw std::invalid_argument("no entry is called " + name);
    found->second(arguments);
}

}  // namespace emulator
