// Errors of CUPTI inside the plugin. They end at the C functions, as one line each.
#pragma once

#include <cupti.h>

#include <cstdio>
#include <stdexcept>
#include <string>

#include "harness/trace/tracer_plugin.h"

namespace tandem::cupti {

class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline std::string result_text(CUptiResult result) {
  const char* text = nullptr;
  cuptiGetResultString(result, &text);
  return text != nullptr ? text : "CUPTI error " + std::to_string(static_cast<int>(result));
}

inline void check(CUptiResult result, const char* what) {
  if (result != CUPTI_SUCCESS) throw Failure(std::string(what) + ": " + result_text(result));
}

#define TANDEM_CUPTI_CHECK(call) ::tandem::cupti::check((call), #call)

/// Runs `body`; what it throws becomes 1 and a line in `error`.
template <typename Body>
int guarded(char* error, size_t error_bytes, Body&& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& e) {
    if (error != nullptr && error_bytes > 0) std::snprintf(error, error_bytes, "%s", e.what());
    return 1;
  }
}

/// The driver's context calls, found at run time: this object is built and loaded without a driver. Throws Failure.
CUcontext current_context();
void synchronize_context();

/// The counters' part of the table (cupti_counters.cc).
int open_counters(const char* const* metrics, size_t count, size_t max_ranges, char* error,
                  size_t error_bytes);
int begin_pass(char* error, size_t error_bytes);
int push_range(const char* name, char* error, size_t error_bytes);
int pop_range(char* error, size_t error_bytes);
int end_pass(int* done, char* error, size_t error_bytes);
int read_counters(void (*sink)(void*, const TandemCounterRange*), void* context, char* error,
                  size_t error_bytes);

}  // namespace tandem::cupti
