#include "emulator/config.h"

namespace emulator {

Config& config() {
    static Config current;
    return current;
}

}  // namespace emulator
