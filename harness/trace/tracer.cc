#include "harness/trace/tracer.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>

#include "harness/base/error.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

constexpr const char* kObject = "libtandem_cupti.so";

/// The table of the living tracer: what PhaseRange talks to.
const TandemTracer* listening = nullptr;
std::string counting_error;

/// Which phases of a pass are ranges of the counters: CUPTI has room for so many in a pass, and dies of more.
struct Counting {
  bool on = false;
  int first = 0, count = 0;  ///< of the phases in their order
  int seen = 0;              ///< phases of this pass up to now
  bool open = false;         ///< is the present phase a range?
};
Counting counting;

void count_phase(const Phase& phase) {
  char error[512] = "";
  const std::string name = phase_path({phase.kind, phase.side, -1});
  counting.open = listening->push_range(name.c_str(), error, sizeof error) == 0;
  if (!counting.open) counting_error = error;
}

void enter(const Phase& phase) {
  if (!counting.on) return listening->enter_phase(phase_tag(phase));
  const int number = counting.seen++ - counting.first;
  if (number >= 0 && number < counting.count) count_phase(phase);
}

void leave() {
  if (!counting.on) return listening->leave_phase();
  if (!counting.open) return;
  counting.open = false;
  char error[512] = "";
  if (listening->pop_range(error, sizeof error) != 0) counting_error = error;
}

template <typename Call>
void checked(const char* what, Call&& call) {
  std::array<char, 512> error{};
  if (call(error.data(), error.size()) != 0) throw Error(fmt::format("{}: {}", what, error.data()));
}

std::string demangled(const char* name) {
  int status = 0;
  char* text = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string result = status == 0 && text != nullptr ? text : name;
  std::free(text);
  return result;
}

ActivityKind kind_of(const TandemTraceRecord& r) {
  switch (r.kind) {
    case kTandemCopy:
      return ActivityKind::kCopy;
    case kTandemMemset:
      return ActivityKind::kMemset;
    case kTandemGraph:
      return ActivityKind::kGraph;
    default:
      return std::string_view(r.name).starts_with("ncclDevKernel") ? ActivityKind::kCommunication
                                                                   : ActivityKind::kKernel;
  }
}

void take_record(void* context, const TandemTraceRecord* record) {
  Trace& trace = *static_cast<Trace*>(context);
  const TandemTraceRecord& r = *record;
  if (r.start_ns == 0 || r.end_ns < r.start_ns) {
    ++trace.untimed;
    return;
  }
  const auto start = static_cast<int64_t>(r.start_ns);
  const auto end = static_cast<int64_t>(r.end_ns);
  if (r.kind == kTandemCall) {
    trace.calls.push_back({r.name, start, end, r.correlation});
  } else if (r.kind == kTandemMarker) {
    trace.markers.push_back({r.name, start, end, 0});
  } else {
    trace.activities.push_back({.kind = kind_of(r),
                                .name = r.kind == kTandemKernel ? demangled(r.name) : r.name,
                                .start_ns = start,
                                .end_ns = end,
                                .stream = static_cast<int>(r.stream),
                                .bytes = static_cast<int64_t>(r.bytes),
                                .graph_node = r.graph_node,
                                .graph_nodes = r.graph_nodes,
                                .correlation = r.correlation,
                                .phase = phase_of_tag(r.phase)});
  }
}

}  // namespace

uint32_t phase_tag(const Phase& phase) {
  return (static_cast<uint32_t>(phase.layer + 1) << 8) | (static_cast<uint32_t>(phase.side) << 7) |
         (static_cast<uint32_t>(phase.kind) + 1);
}

std::optional<Phase> phase_of_tag(uint32_t tag) {
  const uint32_t kind = tag & 0x7f;
  if (kind == 0 || kind > kPhaseKinds) return std::nullopt;
  return Phase{static_cast<PhaseKind>(kind - 1), static_cast<Side>((tag >> 7) & 1),
               static_cast<int>(tag >> 8) - 1};
}

Tracer::Tracer(const TandemTracer* table, const TracerOptions& options) : table_(table) {
  if (table->abi != kTandemTracerAbi) {
    unavailable_ = fmt::format("{} is of another build (its interface is {}, ours {})", kObject, table->abi,
                               kTandemTracerAbi);
    return;
  }
  const TandemTracerConfig config = {
      .level = options.level == TraceLevel::kGraph ? kTandemGraphLevel : kTandemNodeLevel,
      .buffer_bytes = options.buffer_bytes != 0 ? options.buffer_bytes : 4u << 20,
      .buffers = options.buffers != 0 ? options.buffers : 64};
  std::array<char, 512> error{};
  if (table->open(&config, error.data(), error.size()) != 0) {
    unavailable_ = error.data();
    return;
  }
  listening = table;
  set_phase_observer({.enter = enter, .leave = leave});
}

Tracer::~Tracer() {
  if (listening != nullptr && listening == table_) {
    set_phase_observer({});
    listening = nullptr;
    counting = {};
  }
}

void Tracer::need(bool available) const {
  if (!available) throw Error(fmt::format("profiler: not available: {}", unavailable_));
}

void Tracer::start() {
  need(unavailable_.empty());
  checked("profiler", [&](char* error, size_t bytes) { return table_->start(error, bytes); });
}

Trace Tracer::stop() {
  need(unavailable_.empty());
  Trace trace;
  TandemTraceTotals totals{};
  checked("profiler", [&](char* error, size_t bytes) {
    return table_->stop(take_record, &trace, &totals, error, bytes);
  });
  trace.dropped = static_cast<int64_t>(totals.dropped);
  trace.overhead_ns = static_cast<int64_t>(totals.overhead_ns);
  std::stable_sort(trace.activities.begin(), trace.activities.end(),
                   [](const Activity& a, const Activity& b) { return a.start_ns < b.start_ns; });
  std::stable_sort(trace.calls.begin(), trace.calls.end(),
                   [](const HostSpan& a, const HostSpan& b) { return a.start_ns < b.start_ns; });
  trace.missing = missing_records(trace.activities);
  return trace;
}

void Tracer::open_counters(const std::vector<std::string>& metrics, int max_ranges) {
  need(unavailable_.empty());
  std::vector<const char*> names;
  for (const std::string& m : metrics) names.push_back(m.c_str());
  checked("counters", [&](char* error, size_t bytes) {
    return table_->open_counters(names.data(), names.size(), static_cast<size_t>(max_ranges), error, bytes);
  });
}

int Tracer::count_ranges(const std::function<void()>& work) {
  need(unavailable_.empty());
  counting = {.on = true};
  try {
    work();
  } catch (...) {
    counting = {};
    throw;
  }
  const int seen = counting.seen;
  counting = {};
  return seen;
}

void Tracer::begin_pass(int first, int count) {
  checked("counters", [&](char* error, size_t bytes) { return table_->begin_pass(error, bytes); });
  counting_error.clear();
  counting = {.on = true, .first = first, .count = count};
}

void Tracer::push_range(const std::string& name) {
  checked("counters",
          [&](char* error, size_t bytes) { return table_->push_range(name.c_str(), error, bytes); });
  counting.on = false;  // ranges do not nest
}

void Tracer::pop_range() {
  checked("counters", [&](char* error, size_t bytes) { return table_->pop_range(error, bytes); });
  counting.on = true;
}

bool Tracer::end_pass() {
  counting = {};
  int done = 0;
  checked("counters", [&](char* error, size_t bytes) { return table_->end_pass(&done, error, bytes); });
  if (!counting_error.empty()) throw Error(fmt::format("counters: {}", counting_error));
  return done == 0;
}

std::vector<CounterRange> Tracer::read_counters() {
  std::vector<CounterRange> ranges;
  auto take = [](void* context, const TandemCounterRange* r) {
    static_cast<std::vector<CounterRange>*>(context)->push_back({r->name, {r->values, r->values + r->count}});
  };
  checked("counters",
          [&](char* error, size_t bytes) { return table_->read_counters(take, &ranges, error, bytes); });
  return ranges;
}

std::unique_ptr<Tracer> load_tracer(const TracerOptions& options) {
  std::vector<fs::path> places;
  if (const char* named = std::getenv("TANDEM_TRACER")) {
    places.emplace_back(named);
  } else {
    const fs::path bin = fs::read_symlink("/proc/self/exe").parent_path();
    places = {bin / kObject, bin.parent_path() / "lib" / kObject};
  }
  for (const fs::path& place : places) {
    if (!fs::exists(place)) continue;
    void* object = ::dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (object == nullptr) return std::make_unique<Tracer>(fmt::format("cannot open {}", ::dlerror()));
    const auto entry = reinterpret_cast<TandemTracerEntry>(::dlsym(object, TANDEM_TRACER_ENTRY));
    if (entry == nullptr) return std::make_unique<Tracer>(fmt::format("{}: holds no tracer", place.string()));
    return std::make_unique<Tracer>(entry(), options);
  }
  return std::make_unique<Tracer>(fmt::format(
      "there is no {}; a build with CUDA and CUPTI has it beside its binaries", places.front().string()));
}

}  // namespace tandem
