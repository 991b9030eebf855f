#include "driver/entry.h"

#include <map>
#include <stdexcept>
#include <string>

namespace emulator {

namespace {

std::map<std::string, Function>& entries() {
    static std::map<std::string, Function> known;
    return known;
}

}  // namespace

Entry::Entry(const char* name, Function function) { entries()[name] = function; }

void refuse_call(const char* reason, const char* name) {
    throw std::runtime_error(name + (": " + std::string(reason)));
}

void call_entry(const char* name, const Arguments& arguments) {
    const auto found = entries().find(name);
    if (found == entries().end()) refuse_call("no such entry", name);
    found->second(arguments);
}

}  // namespace emulator
