// libFuzzer's entry point for programs that have a main of their own (llvm/docs/LibFuzzer.rst, "Using libFuzzer as a
// library").
#pragma once
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*callback)(const uint8_t *data, size_t bytes));
