// Loads and stores with a hint for the caches, which the emulator does not have.
#pragma once

template <class T>
T __ldg(const T* address) {
    return *address;
}

template <class T>
T __ldcs(const T* address) {
    return *address;
}

template <class T>
T __ldcg(const T* address) {
    return *address;
}

template <class T>
T __ldca(const T* address) {
    return *address;
}

template <class T>
void __stcs(T* address, T value) {
    *address = value;
}

template <class T>
void __stcg(T* address, T value) {
    *address = value;
}

template <class T>
void __stwb(T* address, T value) {
    *address = value;
}
