// A file of entries/ gives kernels a name and arrays: what Python calls, in whichever build.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace emulator {

// Flat memory that Python owns, or that main.cpp has read from a file; an entry may write to it.
struct Array {
    const char* name;
    void* data;
    int64_t bytes;

    template <class T>
    T* as() const {
        return static_cast<T*>(data);
    }
    template <class T>
    int64_t count() const {
        return bytes / static_cast<int64_t>(sizeof(T));
    }
};

// Arrays by name. One name may stand for a list of them.
class Arguments {
  public:
    Arguments(const Array* arrays, int64_t count) : arrays_(arrays, arrays + count) {}

    std::vector<Array> list(std::string_view name) const {
        std::vector<Array> found;
        for (const Array& array : arrays_) {
            if (array.name == name) found.push_back(array);
        }
        return found;
    }

    Array operator[](std::string_view name) const {
        const std::vector<Array> found = list(name);
        if (found.size() != 1) throw std::invalid_argument("not one array called " + std::string(name));
        return found.front();
    }

    // The one element of an array.
    template <class T>
    T value(std::string_view name) const {
        const Array array = (*this)[name];
        if (array.bytes != sizeof(T)) throw std::invalid_argument(std::string(name) + " has another type");
        return *array.as<T>();
    }

  private:
    std::vector<Array> arrays_;
};

using Function = void (*)(const Arguments& arguments);

// Declared once per entry, at namespace scope: `const Entry sum("sum", [](const Arguments& arguments) {...});`
struct Entry {
    Entry(const char* name, Function function);
};

// Throws what the entry throws.
void call_entry(const std::string& name, const Arguments& arguments);

}  // namespace emulator
