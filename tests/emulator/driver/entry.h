// A file of entries/ gives kernels a name and arrays: what Python calls, in whichever build.
//
// Every planted bug compiles an entry in three builds, so this header includes little.
#pragma once

#include <cstdint>
#include <cstring>
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

// For what is wrong with a call, not with a kernel: throws a std::runtime_error.
[[noreturn]] void refuse_call(const char* reason, const char* name);

// Arrays by name. One name may stand for a list of them.
class Arguments {
  public:
    Arguments(const Array* arrays, int64_t count) : arrays_(arrays, arrays + count) {}

    std::vector<Array> list(const char* name) const {
        std::vector<Array> found;
        for (const Array& array : arrays_) {
            if (std::strcmp(array.name, name) == 0) found.push_back(array);
        }
        return found;
    }

    Array operator[](const char* name) const {
        const std::vector<Array> found = list(name);
        if (found.size() != 1) refuse_call("not one array of this name", name);
        return found.front();
    }

    // The one element of an array.
    template <class T>
    T value(const char* name) const {
        const Array array = (*this)[name];
        if (array.bytes != sizeof(T)) refuse_call("not one element of the type wanted", name);
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
void call_entry(const char* name, const Arguments& arguments);

}  // namespace emulator
