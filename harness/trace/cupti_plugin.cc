// libtandem_cupti.so: activity records of CUPTI behind the table of tracer_plugin.h.
#include <dlfcn.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "harness/trace/cupti_buffers.h"
#include "harness/trace/cupti_check.h"
#include "harness/trace/node_phases.h"
#include "harness/trace/tracer_plugin.h"

namespace tandem::cupti {
namespace {

template <typename F>
F driver_function(const char* name) {
  static void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  void* f = library != nullptr ? ::dlsym(library, name) : nullptr;
  if (f == nullptr) throw Failure(std::string("no driver with ") + name + " is loaded in this process");
  return reinterpret_cast<F>(f);
}

void driver_check(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS)
    throw Failure(std::string(what) + ": driver error " + std::to_string(static_cast<int>(result)));
}

uint64_t now_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

/// Calls of the host that enqueue work or wait for it, and those that record the events a replay is timed by.
constexpr std::array kRuntimeCalls = {
    CUPTI_RUNTIME_TRACE_CBID_cudaGraphLaunch_v10000,     CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernel_v7000,
    CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernelExC_v11060, CUPTI_RUNTIME_TRACE_CBID___cudaLaunchKernel_v13000,
    CUPTI_RUNTIME_TRACE_CBID_cudaMemcpyAsync_v3020,      CUPTI_RUNTIME_TRACE_CBID_cudaMemsetAsync_v3020,
    CUPTI_RUNTIME_TRACE_CBID_cudaEventRecord_v3020,      CUPTI_RUNTIME_TRACE_CBID_cudaEventSynchronize_v3020,
    CUPTI_RUNTIME_TRACE_CBID_cudaStreamSynchronize_v3020};
/// Libraries launch past the runtime.
constexpr std::array kDriverCalls = {CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel,
                                     CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx};

constexpr std::array kNodeKinds = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                   CUPTI_ACTIVITY_KIND_MEMSET, CUPTI_ACTIVITY_KIND_MARKER,
                                   CUPTI_ACTIVITY_KIND_OVERHEAD};
constexpr std::array kGraphKinds = {CUPTI_ACTIVITY_KIND_GRAPH_TRACE, CUPTI_ACTIVITY_KIND_OVERHEAD};
constexpr size_t kMostCalls = 1u << 20;

bool device_work(CUgraphNodeType type) {
  return type == CU_GRAPH_NODE_TYPE_KERNEL || type == CU_GRAPH_NODE_TYPE_MEMCPY ||
         type == CU_GRAPH_NODE_TYPE_MEMSET;
}

struct Call {
  CUpti_CallbackDomain domain;
  CUpti_CallbackId id;
  uint32_t correlation;
  uint32_t phase;
  uint64_t start_ns;
  uint64_t end_ns;  // 0: not over
};

struct State {
  CUpti_SubscriberHandle subscriber = nullptr;
  uint32_t level = kTandemNodeLevel;
  bool running = false;
  std::atomic<uint32_t> phase{0};
  Buffers buffers;
  std::mutex mutex;  // of all below
  NodePhases nodes;
  std::vector<Call> calls;  // reserved when opened
  uint64_t calls_dropped = 0;
  std::string callback_error;
};

State& state() {
  // Never destroyed: CUPTI may still complete buffers while the process ends.
  static State& s = *new State;
  return s;
}

void on_call(State& s, CUpti_CallbackDomain domain, CUpti_CallbackId id, const CUpti_CallbackData& data) {
  const uint64_t now = now_ns();
  const std::lock_guard lock(s.mutex);
  if (data.callbackSite == CUPTI_API_EXIT) {
    // Calls end in the reverse order of their beginnings: the last one of this correlation is it.
    for (auto call = s.calls.rbegin(); call != s.calls.rend(); ++call) {
      if (call->correlation != data.correlationId || call->end_ns != 0) continue;
      call->end_ns = now;
      return;
    }
    return;
  }
  if (s.calls.size() == kMostCalls) {
    ++s.calls_dropped;
    return;
  }
  s.calls.push_back({domain, id, data.correlationId, s.phase, now, 0});
}

void on_resource(State& s, CUpti_CallbackId id, const CUpti_ResourceData& resource) {
  const std::lock_guard lock(s.mutex);
  if (id == CUPTI_CBID_RESOURCE_GRAPHEXEC_CREATE_STARTING) return s.nodes.begin_graph();
  const auto& graph = *static_cast<const CUpti_GraphData*>(resource.resourceDescriptor);
  uint64_t node = 0;
  uint64_t original = 0;
  CUptiResult result = cuptiGetGraphNodeId(graph.node, &node);
  if (id == CUPTI_CBID_RESOURCE_GRAPHNODE_CREATED) {
    if (result == CUPTI_SUCCESS) s.nodes.created(node, s.phase, device_work(graph.nodeType));
  } else {
    if (result == CUPTI_SUCCESS) result = cuptiGetGraphNodeId(graph.originalNode, &original);
    if (result == CUPTI_SUCCESS) s.nodes.cloned(original, node, device_work(graph.nodeType));
  }
  if (result != CUPTI_SUCCESS) s.callback_error = "cuptiGetGraphNodeId: " + result_text(result);
}

void CUPTIAPI on_callback(void*, CUpti_CallbackDomain domain, CUpti_CallbackId id, const void* data) {
  if (domain == CUPTI_CB_DOMAIN_RESOURCE)
    return on_resource(state(), id, *static_cast<const CUpti_ResourceData*>(data));
  on_call(state(), domain, id, *static_cast<const CUpti_CallbackData*>(data));
}

void CUPTIAPI request_buffer(uint8_t** buffer, size_t* bytes, size_t* max_records) {
  *buffer = state().buffers.take(bytes);
  *max_records = 0;
}

void CUPTIAPI complete_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  state().buffers.put(buffer, valid);
}

/// NVTX finds the library that listens by this variable, at its first call.
void listen_to_nvtx() {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<void*>(&cuptiSubscribe), &info) != 0 && info.dli_fname != nullptr)
    ::setenv("NVTX_INJECTION64_PATH", info.dli_fname, 0);
}

void subscribe(State& s) {
  char owner[CUPTI_OLD_SUBSCRIBER_NAME_MIN_LEN] = "";
  CUpti_SubscriberParams params{};
  params.structSize = CUpti_SubscriberParams_STRUCT_SIZE;
  params.subscriberName = "tandem";
  params.oldSubscriberName = owner;
  params.oldSubscriberSize = sizeof owner;
  const CUptiResult result = cuptiSubscribe_v2(&s.subscriber, on_callback, nullptr, &params);
  if (result == CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED) {
    throw Failure(std::string("another profiler owns CUPTI in this process") +
                  (owner[0] != '\0' ? std::string(" (") + owner + ")" : "") +
                  ": ours steps aside; the NVTX ranges stay");
  }
  check(result, "cuptiSubscribe");
}

void refuse_old_library() {
  uint32_t version = 0;
  TANDEM_CUPTI_CHECK(cuptiGetVersion(&version));
  if (version < CUPTI_API_VERSION) {
    throw Failure("CUPTI " + std::to_string(version) + " is older than " + std::to_string(CUPTI_API_VERSION) +
                  ", which this build was made for");
  }
}

void set_attributes() {
  uint8_t zeroed = 1;
  size_t size = sizeof zeroed;
  TANDEM_CUPTI_CHECK(
      cuptiActivitySetAttribute(CUPTI_ACTIVITY_ATTR_ZEROED_OUT_ACTIVITY_BUFFER, &size, &zeroed));
  // Room on the device for some 800 000 records before CUPTI has to allocate more on the launching thread.
  size_t device_buffers = 8;
  size_t device_bytes = 3200000;
  size = sizeof device_bytes;
  TANDEM_CUPTI_CHECK(cuptiActivitySetAttribute(CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_SIZE, &size, &device_bytes));
  TANDEM_CUPTI_CHECK(cuptiActivitySetAttribute(CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_PRE_ALLOCATE_VALUE, &size,
                                               &device_buffers));
  // Wall time may step; this clock is the one that records are translated into.
  TANDEM_CUPTI_CHECK(cuptiActivityRegisterTimestampCallback(now_ns));
}

int open(const TandemTracerConfig* config, char* error, size_t error_bytes) {
  return guarded(error, error_bytes, [&] {
    State& s = state();
    if (s.subscriber != nullptr) throw Failure("the tracer is open already");
    refuse_old_library();
    if (std::getenv("NSYS_PROFILING_SESSION_ID") != nullptr)
      throw Failure("this process runs under nsys, which owns CUPTI: ours steps aside; the NVTX ranges stay");
    subscribe(s);
    set_attributes();
    s.level = config->level;
    s.calls.reserve(kMostCalls);
    s.buffers.allocate(config->buffer_bytes, config->buffers);
    TANDEM_CUPTI_CHECK(cuptiActivityRegisterCallbacks(request_buffer, complete_buffer));
    if (s.level == kTandemGraphLevel) {
      // CUPTI 13.0 dies at the first launch when whole graphs are asked for only after the graph was instantiated.
      TANDEM_CUPTI_CHECK(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_GRAPH_TRACE));
      return;
    }
    for (const CUpti_CallbackId id :
         {CUPTI_CBID_RESOURCE_GRAPHNODE_CREATED, CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED,
          CUPTI_CBID_RESOURCE_GRAPHEXEC_CREATE_STARTING}) {
      TANDEM_CUPTI_CHECK(cuptiEnableCallback(1, s.subscriber, CUPTI_CB_DOMAIN_RESOURCE, id));
    }
    listen_to_nvtx();
  });
}

void enter_phase(uint32_t phase) {
  state().phase = phase;
}

void leave_phase() {
  state().phase = 0;
}

void enable_calls(uint8_t enable) {
  const CUpti_SubscriberHandle subscriber = state().subscriber;
  for (const auto id : kRuntimeCalls)
    TANDEM_CUPTI_CHECK(cuptiEnableCallback(enable, subscriber, CUPTI_CB_DOMAIN_RUNTIME_API, id));
  for (const auto id : kDriverCalls)
    TANDEM_CUPTI_CHECK(cuptiEnableCallback(enable, subscriber, CUPTI_CB_DOMAIN_DRIVER_API, id));
}

void enable_kinds(uint32_t level, bool enable) {
  auto each = [enable](const auto& kinds) {
    for (const CUpti_ActivityKind kind : kinds) {
      // Whole graphs are asked for once, for good (open).
      if (kind == CUPTI_ACTIVITY_KIND_GRAPH_TRACE) continue;
      check(enable ? cuptiActivityEnable(kind) : cuptiActivityDisable(kind),
            enable ? "cuptiActivityEnable" : "cuptiActivityDisable");
    }
  };
  level == kTandemGraphLevel ? each(kGraphKinds) : each(kNodeKinds);
}

size_t dropped_records() {
  size_t dropped = 0;
  TANDEM_CUPTI_CHECK(cuptiActivityGetNumDroppedRecords(nullptr, 0, &dropped));
  return dropped;
}

int start(char* error, size_t error_bytes) {
  return guarded(error, error_bytes, [&] {
    State& s = state();
    if (s.subscriber == nullptr) throw Failure("the tracer is not open");
    synchronize_context();
    {
      const std::lock_guard lock(s.mutex);
      if (!s.callback_error.empty()) throw Failure(s.callback_error);
      s.calls.clear();
      s.calls_dropped = 0;
    }
    enable_kinds(s.level, true);
    enable_calls(1);
    // What was recorded before, and what of it was dropped, is nobody's.
    TANDEM_CUPTI_CHECK(cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED));
    s.buffers.recycle();
    dropped_records();
    s.running = true;
  });
}

struct Marker {
  const char* name;
  uint64_t start_ns;
};

/// Two passes over the records: the first learns where ranges begin.
class Reader {
 public:
  Reader(void (*sink)(void*, const TandemTraceRecord*), void* context) : sink_(sink), context_(context) {}

  void learn(const CUpti_Activity& record) {
    if (record.kind != CUPTI_ACTIVITY_KIND_MARKER) return;
    const auto& r = reinterpret_cast<const CUpti_ActivityMarker2&>(record);
    if ((r.flags & CUPTI_ACTIVITY_FLAG_MARKER_START) != 0) markers_[r.id] = {r.name, r.timestamp};
  }

  void deliver(const CUpti_Activity& record) {
    switch (record.kind) {
      case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
        const auto& r = reinterpret_cast<const CUpti_ActivityKernel10&>(record);
        return work(kTandemKernel, r.name, r, 0);
      }
      case CUPTI_ACTIVITY_KIND_MEMCPY: {
        const auto& r = reinterpret_cast<const CUpti_ActivityMemcpy6&>(record);
        return work(kTandemCopy, "copy", r, r.bytes);
      }
      case CUPTI_ACTIVITY_KIND_MEMSET: {
        const auto& r = reinterpret_cast<const CUpti_ActivityMemset4&>(record);
        return work(kTandemMemset, "memset", r, r.bytes);
      }
      case CUPTI_ACTIVITY_KIND_GRAPH_TRACE: {
        const auto& r = reinterpret_cast<const CUpti_ActivityGraphTrace2&>(record);
        return give({.kind = kTandemGraph,
                     .name = "graph",
                     .start_ns = r.start,
                     .end_ns = r.end,
                     .bytes = 0,
                     .graph_node = 0,
                     .graph_nodes = 0,
                     .stream = r.streamId,
                     .correlation = r.correlationId,
                     .phase = 0});
      }
      case CUPTI_ACTIVITY_KIND_MARKER: {
        const auto& r = reinterpret_cast<const CUpti_ActivityMarker2&>(record);
        const auto begin = markers_.find(r.id);
        if ((r.flags & CUPTI_ACTIVITY_FLAG_MARKER_END) == 0 || begin == markers_.end()) return;
        return give({.kind = kTandemMarker,
                     .name = begin->second.name,
                     .start_ns = begin->second.start_ns,
                     .end_ns = r.timestamp,
                     .bytes = 0,
                     .graph_node = 0,
                     .graph_nodes = 0,
                     .stream = 0,
                     .correlation = 0,
                     .phase = 0});
      }
      case CUPTI_ACTIVITY_KIND_OVERHEAD: {
        const auto& r = reinterpret_cast<const CUpti_ActivityOverhead3&>(record);
        overhead_ns_ += r.end - r.start;
        std::free(r.overheadData);  // ours to free, says cupti_activity.h
        return;
      }
      default:
        return;
    }
  }

  /// The host's calls: they say which phase launched by itself.
  void deliver(const Call& call) {
    if (call.phase != 0) phase_of_call_[call.correlation] = call.phase;
    const char* name = nullptr;
    cuptiGetCallbackName(call.domain, call.id, &name);
    give({.kind = kTandemCall,
          .name = name != nullptr ? name : "call",
          .start_ns = call.start_ns,
          .end_ns = std::max(call.start_ns, call.end_ns),
          .bytes = 0,
          .graph_node = 0,
          .graph_nodes = 0,
          .stream = 0,
          .correlation = call.correlation,
          .phase = call.phase});
  }

  uint64_t overhead_ns() const { return overhead_ns_; }

 private:
  template <typename R>
  void work(uint32_t kind, const char* name, const R& r, uint64_t bytes) {
    const NodePhases& nodes = state().nodes;
    uint32_t phase = nodes.phase(r.graphNodeId);
    if (r.graphNodeId == 0) {
      const auto found = phase_of_call_.find(r.correlationId);
      phase = found == phase_of_call_.end() ? 0 : found->second;
    }
    give({.kind = kind,
          .name = name != nullptr ? name : "?",
          .start_ns = r.start,
          .end_ns = r.end,
          .bytes = bytes,
          .graph_node = r.graphNodeId,
          .graph_nodes = nodes.graph_nodes(r.graphNodeId),
          .stream = r.streamId,
          .correlation = r.correlationId,
          .phase = phase});
  }
  void give(const TandemTraceRecord& record) { sink_(context_, &record); }

  void (*sink_)(void*, const TandemTraceRecord*);
  void* context_;
  std::unordered_map<uint32_t, uint32_t> phase_of_call_;
  std::unordered_map<uint32_t, Marker> markers_;
  uint64_t overhead_ns_ = 0;
};

template <typename Each>
void for_each_record(const std::vector<Buffers::Filled>& filled, Each&& each) {
  for (const Buffers::Filled& f : filled) {
    CUpti_Activity* record = nullptr;
    CUptiResult result = CUPTI_SUCCESS;
    while ((result = cuptiActivityGetNextRecord(f.data, f.bytes, &record)) == CUPTI_SUCCESS) each(*record);
    if (result != CUPTI_ERROR_MAX_LIMIT_REACHED) check(result, "cuptiActivityGetNextRecord");
  }
}

int stop(void (*sink)(void*, const TandemTraceRecord*), void* context, TandemTraceTotals* totals, char* error,
         size_t error_bytes) {
  return guarded(error, error_bytes, [&] {
    State& s = state();
    if (!s.running) throw Failure("the tracer is not running");
    synchronize_context();
    s.running = false;
    enable_kinds(s.level, false);
    enable_calls(0);
    TANDEM_CUPTI_CHECK(cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED));
    *totals = {.dropped = dropped_records() + s.calls_dropped, .overhead_ns = 0};
    const std::vector<Buffers::Filled> filled = s.buffers.filled();
    Reader reader(sink, context);
    for (const Call& call : s.calls) reader.deliver(call);
    for_each_record(filled, [&](const CUpti_Activity& r) { reader.learn(r); });
    for_each_record(filled, [&](const CUpti_Activity& r) { reader.deliver(r); });
    totals->overhead_ns = reader.overhead_ns();
    s.buffers.recycle();
  });
}

}  // namespace

CUcontext current_context() {
  CUcontext context = nullptr;
  driver_check(driver_function<CUresult (*)(CUcontext*)>("cuCtxGetCurrent")(&context), "cuCtxGetCurrent");
  if (context == nullptr) throw Failure("no CUDA context is current");
  return context;
}

void synchronize_context() {
  driver_check(driver_function<CUresult (*)()>("cuCtxSynchronize")(), "cuCtxSynchronize");
}

}  // namespace tandem::cupti

extern "C" __attribute__((visibility("default"))) const TandemTracer* tandem_tracer() {
  using namespace tandem::cupti;
  static constexpr TandemTracer kTable = {.abi = kTandemTracerAbi,
                                          .open = open,
                                          .enter_phase = enter_phase,
                                          .leave_phase = leave_phase,
                                          .start = start,
                                          .stop = stop,
                                          .open_counters = open_counters,
                                          .begin_pass = begin_pass,
                                          .push_range = push_range,
                                          .pop_range = pop_range,
                                          .end_pass = end_pass,
                                          .read_counters = read_counters};
  return &kTable;
}
