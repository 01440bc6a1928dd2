#include "harness/card/nvml.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <string_view>

namespace tandem {
namespace {

// Values of nvml.h, which is not needed to build.
constexpr int kClockSm = 1;
constexpr int kTemperatureGpu = 0;
constexpr unsigned kNvLinks = 18;
constexpr int kInsufficientSize = 7;

struct Reason {
  unsigned long long bit;
  std::string_view word;
};
constexpr Reason kReasons[] = {{0x2, "applications_clocks_setting"},
                               {0x4, "sw_power_cap"},
                               {0x8, "hw_slowdown"},
                               {0x10, "sync_boost"},
                               {0x20, "sw_thermal_slowdown"},
                               {0x40, "hw_thermal_slowdown"},
                               {0x80, "hw_power_brake_slowdown"},
                               {0x100, "display_clock_setting"}};

template <typename F>
void load(void* library, F& function, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (function == nullptr) function = reinterpret_cast<F>(::dlsym(library, name));
  }
}

const NvmlFunctions* open_library() {
  void* library = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  static NvmlFunctions f;
  int (*init)() = nullptr;
  load(library, init, {"nvmlInit_v2"});
  load(library, f.system_driver_version, {"nvmlSystemGetDriverVersion"});
  load(library, f.system_cuda_driver_version,
       {"nvmlSystemGetCudaDriverVersion_v2", "nvmlSystemGetCudaDriverVersion"});
  load(library, f.device_count, {"nvmlDeviceGetCount_v2"});
  load(library, f.device_by_index, {"nvmlDeviceGetHandleByIndex_v2"});
  load(library, f.name, {"nvmlDeviceGetName"});
  load(library, f.uuid, {"nvmlDeviceGetUUID"});
  load(library, f.compute_capability, {"nvmlDeviceGetCudaComputeCapability"});
  load(library, f.num_gpu_cores, {"nvmlDeviceGetNumGpuCores"});
  load(library, f.memory_info, {"nvmlDeviceGetMemoryInfo"});
  load(library, f.ecc_mode, {"nvmlDeviceGetEccMode"});
  load(library, f.mig_mode, {"nvmlDeviceGetMigMode"});
  load(library, f.enforced_power_limit, {"nvmlDeviceGetEnforcedPowerLimit"});
  load(library, f.applications_clock, {"nvmlDeviceGetApplicationsClock"});
  load(library, f.default_applications_clock, {"nvmlDeviceGetDefaultApplicationsClock"});
  load(library, f.nvlink_state, {"nvmlDeviceGetNvLinkState"});
  load(library, f.clock_info, {"nvmlDeviceGetClockInfo"});
  load(library, f.temperature, {"nvmlDeviceGetTemperature"});
  load(library, f.power_usage, {"nvmlDeviceGetPowerUsage"});
  load(library, f.clocks_event_reasons,
       {"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"});
  load(library, f.compute_processes, {"nvmlDeviceGetComputeRunningProcesses_v3"});
  load(library, f.total_energy, {"nvmlDeviceGetTotalEnergyConsumption"});
  if (init == nullptr || init() != 0) return nullptr;
  return &f;
}

/// Calls an NVML getter of one value; nothing when the library lacks it or it fails.
template <typename T, typename F, typename... Args>
std::optional<T> get(F* function, Args... args) {
  T value{};
  if (function == nullptr || function(args..., &value) != 0) return std::nullopt;
  return value;
}

template <typename F, typename... Args>
std::optional<std::string> get_text(F* function, Args... args) {
  std::array<char, 128> text{};
  if (function == nullptr || function(args..., text.data(), text.size()) != 0) return std::nullopt;
  return std::string(text.data());
}

std::optional<NvmlFunctions::Device> device_of(const NvmlFunctions* f, int card) {
  if (f == nullptr) return std::nullopt;
  return get<NvmlFunctions::Device>(f->device_by_index, static_cast<unsigned>(card));
}

std::optional<double> scaled(std::optional<unsigned> value, double scale) {
  return value ? std::optional(*value * scale) : std::nullopt;
}

/// CUDA cores of one multiprocessor (CUDA C++ Programming Guide, "Compute capabilities").
int cores_per_sm(int major, int minor) {
  return major == 7 || (major == 8 && minor == 0) ? 64 : 128;
}

CardInfo card_info(const NvmlFunctions& f, int index, NvmlFunctions::Device device) {
  CardInfo card;
  card.index = index;
  card.name = get_text(f.name, device).value_or("unknown");
  card.uuid = get_text(f.uuid, device).value_or("unknown");
  card.driver = get_text(f.system_driver_version);
  if (const auto v = get<int>(f.system_cuda_driver_version)) {
    card.cuda_driver = fmt::format("{}.{}", *v / 1000, *v % 1000 / 10);
  }
  int major = 0, minor = 0;
  if (f.compute_capability != nullptr && f.compute_capability(device, &major, &minor) == 0) {
    card.compute_capability = fmt::format("{}.{}", major, minor);
    if (const auto cores = get<unsigned>(f.num_gpu_cores, device))
      card.sms = *cores / cores_per_sm(major, minor);
  }
  if (const auto m = get<NvmlFunctions::Memory>(f.memory_info, device))
    card.memory_bytes = static_cast<double>(m->total);
  int ecc = 0, ecc_pending = 0;
  if (f.ecc_mode != nullptr && f.ecc_mode(device, &ecc, &ecc_pending) == 0) card.ecc = ecc != 0;
  unsigned mig = 0, mig_pending = 0;
  if (f.mig_mode != nullptr && f.mig_mode(device, &mig, &mig_pending) == 0) card.mig = mig != 0;
  card.power_limit_w = scaled(get<unsigned>(f.enforced_power_limit, device), 1e-3);
  const auto set = get<unsigned>(f.applications_clock, device, kClockSm);
  const auto usual = get<unsigned>(f.default_applications_clock, device, kClockSm);
  if (set && usual) card.clock_policy = *set == *usual ? "default" : fmt::format("applications:{}", *set);
  for (unsigned link = 0; link < kNvLinks; ++link) {
    if (get<int>(f.nvlink_state, device, link).value_or(0) == 1)
      card.nvlinks.push_back(static_cast<int>(link));
  }
  return card;
}

}  // namespace

const NvmlFunctions* nvml() {
  static const NvmlFunctions* const functions = open_library();
  return functions;
}

std::optional<double> nvlink_gbs(const CardInfo& card) {
  if (card.nvlinks.empty() || !card.compute_capability) return std::nullopt;
  const std::string& of = *card.compute_capability;
  const double links = static_cast<double>(card.nvlinks.size());
  if (of == "8.0" || of == "9.0") return 25 * links;
  if (of == "10.0") return 50 * links;
  return std::nullopt;
}

std::vector<CardInfo> nvml_cards(const NvmlFunctions* functions) {
  std::vector<CardInfo> cards;
  if (functions == nullptr) return cards;
  const unsigned count = get<unsigned>(functions->device_count).value_or(0);
  for (unsigned i = 0; i < count; ++i) {
    const int index = static_cast<int>(i);
    if (const auto device = device_of(functions, index))
      cards.push_back(card_info(*functions, index, *device));
  }
  return cards;
}

std::optional<CardInfo> visible_card(const std::vector<CardInfo>& cards, const char* cuda_visible_devices,
                                     int device) {
  std::vector<CardInfo> visible;
  if (cuda_visible_devices == nullptr) {
    visible = cards;
  } else {
    std::string_view list(cuda_visible_devices);
    while (!list.empty()) {
      const std::string_view entry = list.substr(0, list.find(','));
      list.remove_prefix(std::min(list.size(), entry.size() + 1));
      const auto it = std::find_if(cards.begin(), cards.end(), [&](const CardInfo& card) {
        // A prefix of the UUID is enough for CUDA.
        return entry == std::to_string(card.index) ||
               (entry.starts_with("GPU-") && card.uuid.starts_with(entry));
      });
      if (it == cards.end()) break;  // CUDA shows only the devices before an invalid entry
      visible.push_back(*it);
    }
  }
  if (device < 0 || device >= static_cast<int>(visible.size())) return std::nullopt;
  return visible[device];
}

std::optional<CardInfo> card_in_use(const NvmlFunctions* functions, const std::optional<std::string>& uuid,
                                    int device) {
  const std::vector<CardInfo> cards = nvml_cards(functions);
  const auto it = std::find_if(cards.begin(), cards.end(), [&](const CardInfo& c) { return c.uuid == uuid; });
  if (it != cards.end()) return *it;
  return visible_card(cards, std::getenv("CUDA_VISIBLE_DEVICES"), device);
}

CardReading read_block(const NvmlFunctions* functions, int card) {
  CardReading reading;
  const auto device = device_of(functions, card);
  if (!device) return reading;
  reading.sm_mhz = scaled(get<unsigned>(functions->clock_info, *device, kClockSm), 1);
  reading.temperature_c = scaled(get<unsigned>(functions->temperature, *device, kTemperatureGpu), 1);
  reading.power_w = scaled(get<unsigned>(functions->power_usage, *device), 1e-3);
  const auto bits = get<unsigned long long>(functions->clocks_event_reasons, *device).value_or(0);
  for (const Reason& reason : kReasons) {
    if ((bits & reason.bit) != 0) reading.reasons.emplace_back(reason.word);
  }
  return reading;
}

std::optional<double> card_energy_j(const NvmlFunctions* functions, int card) {
  const auto device = device_of(functions, card);
  if (!device) return std::nullopt;
  const auto millijoules = get<unsigned long long>(functions->total_energy, *device);
  return millijoules ? std::optional(static_cast<double>(*millijoules) * 1e-3) : std::nullopt;
}

std::optional<std::vector<CardProcess>> card_processes(const NvmlFunctions* functions, int card) {
  const auto device = device_of(functions, card);
  if (!device || functions->compute_processes == nullptr) return std::nullopt;
  std::vector<NvmlFunctions::Process> raw(64);
  for (;;) {
    auto count = static_cast<unsigned>(raw.size());
    const int status = functions->compute_processes(*device, &count, raw.data());
    if (status == 0) {
      raw.resize(count);
      break;
    }
    if (status != kInsufficientSize || raw.size() > 4096) return std::nullopt;
    raw.resize(raw.size() * 4);
  }
  std::vector<CardProcess> processes;
  for (const auto& p : raw) {
    CardProcess process{.pid = p.pid, .name = {}, .used_bytes = {}};
    std::ifstream comm(fmt::format("/proc/{}/comm", p.pid));
    std::getline(comm, process.name);
    if (p.used_bytes != ~0ull) process.used_bytes = static_cast<double>(p.used_bytes);
    processes.push_back(std::move(process));
  }
  return processes;
}

std::optional<bool> card_contended(const NvmlFunctions* functions, int card) {
  const auto processes = card_processes(functions, card);
  if (!processes) return std::nullopt;
  // We have a context on the card: an empty list is one that we are not shown. In a container the pids are
  // the host's, so that ours cannot be told from another one's: one entry is ours.
  if (processes->empty()) return std::nullopt;
  return processes->size() > 1;
}

}  // namespace tandem
