// The cards of this machine through NVML, which is opened at run time: without the library there are no
// cards, never an error. Read between blocks of samples only: a query inside a timed window disturbs it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tandem {

/// The functions of libnvidia-ml.so.1 that are used, under their own names. Tests put functions here that
/// play recorded data; a null pointer stands for a function that an older library does not have.
struct NvmlFunctions {
  using Device = void*;
  struct Memory {
    unsigned long long total, free, used;
  };
  struct Process {  // nvmlProcessInfo_v2_t
    unsigned pid;
    unsigned long long used_bytes;
    unsigned gpu_instance, compute_instance;
  };
  int (*system_driver_version)(char* text, unsigned length) = nullptr;
  int (*system_cuda_driver_version)(int* version) = nullptr;
  int (*device_count)(unsigned* count) = nullptr;
  int (*device_by_index)(unsigned index, Device* device) = nullptr;
  int (*name)(Device, char* text, unsigned length) = nullptr;
  int (*uuid)(Device, char* text, unsigned length) = nullptr;
  int (*compute_capability)(Device, int* major, int* minor) = nullptr;
  int (*num_gpu_cores)(Device, unsigned* cores) = nullptr;
  int (*memory_info)(Device, Memory* memory) = nullptr;
  int (*ecc_mode)(Device, int* current, int* pending) = nullptr;
  int (*mig_mode)(Device, unsigned* current, unsigned* pending) = nullptr;
  int (*enforced_power_limit)(Device, unsigned* milliwatts) = nullptr;
  int (*applications_clock)(Device, int type, unsigned* mhz) = nullptr;
  int (*default_applications_clock)(Device, int type, unsigned* mhz) = nullptr;
  int (*nvlink_state)(Device, unsigned link, int* active) = nullptr;
  int (*clock_info)(Device, int type, unsigned* mhz) = nullptr;
  int (*temperature)(Device, int sensor, unsigned* celsius) = nullptr;
  int (*power_usage)(Device, unsigned* milliwatts) = nullptr;
  int (*clocks_event_reasons)(Device, unsigned long long* bits) = nullptr;
  int (*compute_processes)(Device, unsigned* count, Process* processes) = nullptr;
  int (*total_energy)(Device, unsigned long long* millijoules) = nullptr;
};

/// The library's functions, initialised on the first call; null where there is no library or no driver.
const NvmlFunctions* nvml();

struct CardInfo {
  int index = 0;  ///< NVML's: in the order of the PCI bus
  std::string name, uuid;
  std::optional<std::string> driver, cuda_driver;
  std::optional<std::string> compute_capability;  ///< "9.0"
  std::optional<int> sms;
  std::optional<double> memory_bytes;
  std::optional<bool> ecc, mig;
  std::optional<double> power_limit_w;
  /// "default", or "applications:MHZ" where the applications clock was set. A range locked with nvidia-smi
  /// -lgc cannot be queried; it shows in the clocks of the samples.
  std::optional<std::string> clock_policy;
  std::vector<int> nvlinks;  ///< links that are up
};
/// From the card to others over all its links that are up, one direction, 1e9 bytes/s, as published; absent without links and for
/// a card of a generation that is not known. 25 a link of NVLink 3 (12 of an A100, 600 GB/s both ways) and 4 (18 of an H100, 900 GB/s
/// both ways), 50 of NVLink 5 (18 of a B200, 1.8 TB/s both ways): NVIDIA's data sheets.
std::optional<double> nvlink_gbs(const CardInfo& card);
/// All cards; none where `functions` is null.
std::vector<CardInfo> nvml_cards(const NvmlFunctions* functions);

/// Which card CUDA's device number `device` is, given the value of CUDA_VISIBLE_DEVICES (null: not set).
/// Holds under CUDA_DEVICE_ORDER=PCI_BUS_ID, which the driver sets for its workers. Nothing when there is no
/// such card.
std::optional<CardInfo> visible_card(const std::vector<CardInfo>& cards, const char* cuda_visible_devices,
                                     int device);

/// The card that CUDA's device number `device` is: the one of this UUID, as the CUDA runtime tells it, wherever NVML counts it;
/// visible_card by CUDA_VISIBLE_DEVICES of the environment where `uuid` is absent, or is one that NVML does not know (a
/// MIG slice has one of its own).
std::optional<CardInfo> card_in_use(const NvmlFunctions* functions, const std::optional<std::string>& uuid,
                                    int device);

/// What the card is doing now; absent what cannot be read.
struct CardReading {
  std::optional<double> sm_mhz, temperature_c, power_w;
  /// Why the clock is held down: "sw_power_cap", "hw_thermal_slowdown", ... Idleness is not a reason: between
  /// blocks every card is idle.
  std::vector<std::string> reasons;
};
CardReading read_block(const NvmlFunctions* functions, int card);

/// Energy since the driver was loaded, in joules; absent where the card does not count it.
std::optional<double> card_energy_j(const NvmlFunctions* functions, int card);

struct CardProcess {
  int64_t pid =
      0;  ///< of the host's namespace: in a container it need not be one of ours even when it is ours
  std::string name;  ///< empty where it cannot be read
  std::optional<double> used_bytes;
};
/// Processes with a CUDA context on the card; absent when they cannot be listed.
std::optional<std::vector<CardProcess>> card_processes(const NvmlFunctions* functions, int card);

/// Is another process than the caller, which has a CUDA context on the card, there too? Absent when that
/// cannot be told.
std::optional<bool> card_contended(const NvmlFunctions* functions, int card);

}  // namespace tandem
