// `tandem doctor`: what is here, what is missing, and what follows from it.
#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "harness/base/error.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/session/ceilings_store.h"
#include "harness/record/environment.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

void ok(const std::string& what) {
  fmt::print("ok       {}\n", what);
}
void note(const std::string& what, const std::string& consequence) {
  fmt::print("note     {}: {}\n", what, consequence);
}
void missing(const std::string& what, const std::string& consequence) {
  fmt::print("missing  {}: {}\n", what, consequence);
}

std::optional<fs::path> in_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::string list = path != nullptr ? path : "";
  list += ":/usr/local/cuda/bin";
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(':', at), list.size());
    const fs::path file = fs::path(list.substr(at, end - at)) / program;
    if (::access(file.c_str(), X_OK) == 0 && fs::is_regular_file(file)) return file;
    at = end + 1;
  }
  return std::nullopt;
}

bool has_library(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (void* library = ::dlopen(name, RTLD_LAZY | RTLD_LOCAL)) {
      ::dlclose(library);
      return true;
    }
  }
  return false;
}

void check_build(const fs::path& bin_dir) {
  const BuildInfo& build = build_info();
  ok(fmt::format("build: tandem {}, {}, {}, revision {}{}", build.version, build.type, build.compiler,
                 build.git_revision.value_or("unknown"),
                 build.git_dirty.value_or(false) ? " with changes" : ""));
  if (build.cuda_architectures) {
    ok(fmt::format("engine cuda: built with CUDA {} for sm_{}", build.cuda.value_or("unknown"),
                   *build.cuda_architectures));
  } else {
    missing("engine cuda", "this build has the reference engine only; presets cuda and h200 have both");
  }
  // Not suites(): a sweep may name one that no build makes yet, and what cannot be had is not missing.
  std::istringstream built(TANDEM_SUITES);
  std::string here, gone;
  for (std::string suite; built >> suite;) {
    std::string& list = fs::exists(bin_dir / fmt::format("suite_{}", suite)) ? here : gone;
    list += fmt::format("{}suite_{}", list.empty() ? "" : " ", suite);
  }
  if (!here.empty()) ok(fmt::format("suites in {}: {}", bin_dir.string(), here));
  if (!gone.empty()) missing(gone, "their cases are skipped");
}

void check_card(const CardInfo& card) {
  auto word = [](const auto& value, const char* unit) {
    return value ? fmt::format("{}{}", *value, unit) : "unknown";
  };
  ok(fmt::format("card {}: {} {}, compute capability {}, {} SMs, {} GB, power limit {}", card.index,
                 card.name, card.uuid, card.compute_capability.value_or("unknown"), word(card.sms, ""),
                 card.memory_bytes ? fmt::format("{:.0f}", *card.memory_bytes * 1e-9) : "unknown",
                 word(card.power_limit_w, " W")));
  fmt::print("         clocks {}, ECC {}, MIG {}, NVLinks up: {}\n", card.clock_policy.value_or("unknown"),
             card.ecc ? (*card.ecc ? "on" : "off") : "unknown",
             card.mig ? (*card.mig ? "on" : "off") : "unknown", card.nvlinks.size());
  if (card.clock_policy == "default") {
    note("clocks are not locked",
         "samples are taken once the clock is steady, and say which regime that was");
  }
  if (card.mig.value_or(false))
    note("MIG is on", "a slice is measured, not the card: do not compare with whole cards");
  if (card.ecc && !*card.ecc) note("ECC is off", "results are not comparable with cards that have it on");
  const auto processes = card_processes(nvml(), card.index);
  if (!processes) {
    note("processes on the card cannot be listed", "samples are not marked as contended");
  } else if (!processes->empty()) {
    std::string list;
    for (const CardProcess& p : *processes)
      list += fmt::format(" {}{}", p.pid, p.name.empty() ? "" : "(" + p.name + ")");
    note(fmt::format("other processes on card {}:{}", card.index, list),
         "samples will be marked as contended");
  }
}

void check_cards() {
  const auto cards = nvml_cards(nvml());
  if (nvml() == nullptr) {
    missing("NVIDIA driver (libnvidia-ml.so.1)",
            "engine cuda cannot run here; `--engine auto` is the reference");
    return;
  }
  if (cards.empty()) {
    missing("a card", "engine cuda cannot run here; `--engine auto` is the reference");
    return;
  }
  ok(fmt::format("driver {}, CUDA up to {}", cards[0].driver.value_or("unknown"),
                 cards[0].cuda_driver.value_or("unknown")));
  for (const CardInfo& card : cards) check_card(card);
  std::ifstream params("/proc/driver/nvidia/params");
  for (std::string line; std::getline(params, line);) {
    if (line == "RmProfilingAdminOnly: 1" && ::geteuid() != 0) {
      note("hardware counters are for root only",
           "`tandem profile` gives times and no counters (NVreg_RestrictProfilingToAdminUsers=0)");
    }
  }
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES")) {
    note(fmt::format("CUDA_VISIBLE_DEVICES is '{}'", visible), "--device counts within it");
  }
}

void check_tools() {
  const std::pair<const char*, const char*> tools[] = {
      {"nvcc", "the CUDA engine cannot be built here"},
      {"nsys", "scripts/nsys cannot run"},
      {"cmake", "nothing can be built here"},
      {"ninja", "the presets cannot be built here"},
      {"ccache", "builds after the first take as long as the first"},
      {"git", "records do not say which revision they were built from"},
      {"python3", "no reports, no comparisons, no gate"}};
  for (const auto& [tool, consequence] : tools) {
    if (const auto path = in_path(tool)) {
      ok(fmt::format("{}: {}", tool, path->string()));
    } else {
      missing(tool, consequence);
    }
  }
  if (in_path("tandem-report")) {
    ok("tandem-report");
  } else if (fs::exists(".venv/bin/tandem-report")) {
    ok("tandem-report: .venv/bin/tandem-report");
  } else {
    missing("tandem-report", "no reports; scripts/bootstrap makes .venv with it");
  }
  if (!build_info().cuda_architectures) return;
  if (!has_library({"libcublasLt.so.13", "libcublasLt.so"}))
    missing("cuBLASLt", "engine cuda does not start");
  if (!has_library({"libnccl.so.2"})) missing("NCCL", "no tp or dp above 1");
  if (!has_library({"libcupti.so.13", "libcupti.so", "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so"})) {
    missing("CUPTI", "`tandem profile` has nothing to profile with");
  }
}

std::string rate(const std::optional<double>& value) {
  return value ? fmt::format("{:.4g}", *value) : "unknown";
}

/// Ceilings as they are kept, how old they are, and whether they can be believed. `stored`: as a run would take them.
void check_ceilings(const fs::path& path, const std::optional<Ceilings>& stored) {
  Ceilings kept;
  try {
    kept = read_ceilings(path);
  } catch (const Error& e) {
    note("ceilings cannot be read", fmt::format("the next `tandem run` measures them: {}", e.what()));
    return;
  }
  const auto age = std::chrono::duration_cast<std::chrono::hours>(fs::file_time_type::clock::now() -
                                                                  fs::last_write_time(path));
  const std::string what = fmt::format("ceilings measured {} ({} days ago): {}", kept.measured_at,
                                       age.count() / 24, path.string());
  const auto wrong = contradictions(kept);
  if (!wrong.empty()) {
    note(what, fmt::format("not believed, the next `tandem run` measures them: {}", fmt::join(wrong, "; ")));
  } else if (!kept.doubt.empty()) {
    note(what, fmt::format("in question, the next `tandem run` measures them: {}", kept.doubt));
  } else if (!stored) {
    note(what, fmt::format("of '{}', another machine: the next `tandem run` measures them", kept.machine));
  } else {
    ok(what);
  }
  fmt::print(
      "         memory read {} and copied {} GB/s, cache {} GB/s, bf16 {} TFLOP/s in a burst, {} sustained\n",
      rate(kept.read_gbs), rate(kept.copy_gbs), rate(kept.l2_gbs),
      rate(kept.burst_tflops[static_cast<size_t>(Precision::kBf16)]),
      rate(kept.sustained_tflops[static_cast<size_t>(Precision::kBf16)]));
}

void check_places(const std::optional<CardInfo>& card) {
  struct statvfs fs_info {};
  if (::statvfs("/dev/shm", &fs_info) == 0) {
    ok(fmt::format("shared memory for the Level-1 cache: {:.1f} GB free in /dev/shm",
                   static_cast<double>(fs_info.f_bavail) * static_cast<double>(fs_info.f_frsize) * 1e-9));
  } else {
    missing("/dev/shm", "the Level-1 cache is in the run folder");
  }
  const fs::path path = ceilings_path(card);
  if (path.empty()) {
    missing("a cache folder (HOME or XDG_CACHE_HOME)", "ceilings are measured again by every run");
  } else if (fs::exists(path)) {
    check_ceilings(path, stored_ceilings(card));
  } else {
    note("ceilings are not measured yet", "the next `tandem run` measures them first");
  }
}

}  // namespace

int doctor_command(const fs::path& bin_dir, int device, bool require_device) {
  const auto card = usable_card(device);
  check_build(bin_dir);
  check_cards();
  check_tools();
  check_places(card);
  if (require_device && !card)
    throw DeviceError(fmt::format("--require-device: engine cuda has no usable device {} here", device));
  return static_cast<int>(ExitCode::kGood);
}

}  // namespace tandem
