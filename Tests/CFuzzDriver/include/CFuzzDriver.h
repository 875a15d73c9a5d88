// libFuzzer's entry point for programs that have a main of their own (llvm/docs/LibFuzzer.rst, "Using libFuzzer as a
// library").
#pragma once
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*callback)(const uint8_t *data, size_t bytes));

// AddressSanitizer's: nobody may touch this memory, or everybody may again.
void __asan_poison_memory_region(const volatile void *start, size_t bytes);
void __asan_unpoison_memory_region(const volatile void *start, size_t bytes);
