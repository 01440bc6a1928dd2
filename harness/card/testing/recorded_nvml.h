// NVML for tests: functions that play back what nvidia-smi showed.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "harness/card/nvml.h"

namespace tandem::testing {

/// What nvidia-smi showed of one card, played back. A value of -1: the function fails.
struct Recorded {
  const char* name;
  const char* uuid;
  int major, minor;
  unsigned cores;
  int ecc;
  int mig;
  unsigned power_limit_mw;
  unsigned applications_mhz, default_mhz;
  int links;
  unsigned sm_mhz, celsius, power_mw;
  unsigned long long reasons;
  std::vector<NvmlFunctions::Process> processes;
  unsigned long long millijoules = 5000;
};

/// The cards of the machine that is played back, in the order of the bus.
inline std::vector<Recorded>& machine() {
  static std::vector<Recorded> cards;
  return cards;
}

inline Recorded h200() {
  return {"NVIDIA H200",
          "GPU-11111111-2222-3333-4444-555555555555",
          9,
          0,
          16896,
          1,
          0,
          700000,
          1980,
          1980,
          18,
          1755,
          61,
          698120,
          0x4,
          {{4242, 1ull << 30, ~0u, ~0u}}};
}

/// Another model: a machine with it and an H200 has two cards that must not be mixed up.
inline Recorded l40s() {
  Recorded card = h200();
  card.name = "NVIDIA L40S";
  card.uuid = "GPU-99999999-2222-3333-4444-555555555555";
  card.sm_mhz = 2520;
  card.millijoules = 9000;
  return card;
}

inline const Recorded& at(NvmlFunctions::Device device) {
  return machine()[reinterpret_cast<uintptr_t>(device) - 1];
}

inline int put(char* text, unsigned length, const char* value) {
  if (std::strlen(value) >= length) return 7;
  std::strcpy(text, value);
  return 0;
}

inline NvmlFunctions recorded() {
  using D = NvmlFunctions::Device;
  NvmlFunctions f;
  f.system_driver_version = [](char* t, unsigned n) { return put(t, n, "580.65.06"); };
  f.system_cuda_driver_version = [](int* v) { return *v = 13000, 0; };
  f.device_count = [](unsigned* n) { return *n = static_cast<unsigned>(machine().size()), 0; };
  f.device_by_index = [](unsigned i, D* d) {
    if (i >= machine().size()) return 2;
    return *d = reinterpret_cast<D>(static_cast<uintptr_t>(i) + 1), 0;
  };
  f.name = [](D d, char* t, unsigned n) { return put(t, n, at(d).name); };
  f.uuid = [](D d, char* t, unsigned n) { return put(t, n, at(d).uuid); };
  f.compute_capability = [](D d, int* a, int* b) { return *a = at(d).major, *b = at(d).minor, 0; };
  f.num_gpu_cores = [](D d, unsigned* n) { return *n = at(d).cores, 0; };
  f.memory_info = [](D, NvmlFunctions::Memory* m) { return *m = {150754820096ull, 0, 0}, 0; };
  f.ecc_mode = [](D d, int* now, int* next) { return *now = *next = at(d).ecc, at(d).ecc < 0 ? 3 : 0; };
  f.mig_mode = [](D d, unsigned* now, unsigned* next) {
    return *now = *next = static_cast<unsigned>(at(d).mig), at(d).mig < 0 ? 3 : 0;
  };
  f.enforced_power_limit = [](D d, unsigned* mw) { return *mw = at(d).power_limit_mw, 0; };
  f.applications_clock = [](D d, int, unsigned* mhz) { return *mhz = at(d).applications_mhz, 0; };
  f.default_applications_clock = [](D d, int, unsigned* mhz) { return *mhz = at(d).default_mhz, 0; };
  f.nvlink_state = [](D d, unsigned link, int* up) { return *up = static_cast<int>(link) < at(d).links, 0; };
  f.clock_info = [](D d, int type, unsigned* mhz) { return *mhz = at(d).sm_mhz, type == 1 ? 0 : 2; };
  f.temperature = [](D d, int, unsigned* c) { return *c = at(d).celsius, 0; };
  f.power_usage = [](D d, unsigned* mw) { return *mw = at(d).power_mw, 0; };
  f.clocks_event_reasons = [](D d, unsigned long long* bits) { return *bits = at(d).reasons, 0; };
  f.total_energy = [](D d, unsigned long long* mj) { return *mj = at(d).millijoules, 0; };
  f.compute_processes = [](D d, unsigned* n, NvmlFunctions::Process* out) {
    const auto& list = at(d).processes;
    const bool fits = list.size() <= *n;
    *n = static_cast<unsigned>(list.size());
    if (!fits) return 7;
    std::copy(list.begin(), list.end(), out);
    return 0;
  };
  return f;
}

}  // namespace tandem::testing
