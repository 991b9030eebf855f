#include "emulator/config.h"

#include "emulator/counters.h"

namespace emulator {

Config& config() {
    static Config current;
    return current;
}

Counters& counters() {
    static Counters current;
    return current;
}

}  // namespace emulator
