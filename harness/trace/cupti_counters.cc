// Hardware counters by CUPTI's Range Profiler: user ranges, user replay. Several passes over the same work, because not all
// counters can be read at once.
#include <cupti_profiler_host.h>
#include <cupti_profiler_target.h>
#include <cupti_range_profiler.h>
#include <cupti_target.h>

#include <memory>
#include <string>
#include <vector>

#include "harness/trace/cupti_check.h"
#include "harness/trace/tracer_plugin.h"

namespace tandem::cupti {
namespace {

/// A parameter struct of this API with its size set, as every call wants it.
#define TANDEM_CUPTI_PARAMS(Type, name) \
  Type name{};                          \
  name.structSize = Type##_STRUCT_SIZE

class Counters {
 public:
  Counters(std::vector<std::string> metrics, size_t max_ranges)
      : metrics_(std::move(metrics)), room_(max_ranges) {
    for (const std::string& m : metrics_) names_.push_back(m.c_str());
    const CUcontext context = current_context();
    TANDEM_CUPTI_PARAMS(CUpti_Profiler_Initialize_Params, initialize);
    TANDEM_CUPTI_CHECK(cuptiProfilerInitialize(&initialize));
    make_host(context);
    make_config();
    TANDEM_CUPTI_PARAMS(CUpti_RangeProfiler_Enable_Params, enable);
    enable.ctx = context;
    TANDEM_CUPTI_CHECK(cuptiRangeProfilerEnable(&enable));
    profiler_ = enable.pRangeProfilerObject;
    make_counter_data(max_ranges);
    configure(max_ranges);
  }
  ~Counters() {
    if (profiler_ != nullptr) {
      TANDEM_CUPTI_PARAMS(CUpti_RangeProfiler_Disable_Params, disable);
      disable.pRangeProfilerObject = profiler_;
      cuptiRangeProfilerDisable(&disable);
    }
    if (host_ != nullptr) {
      TANDEM_CUPTI_PARAMS(CUpti_Profiler_Host_Deinitialize_Params, deinitialize);
      deinitialize.pHostObject = host_;
      cuptiProfilerHostDeinitialize(&deinitialize);
    }
  }
  Counters(const Counters&) = delete;
  Counters& operator=(const Counters&) = delete;

  void begin_pass() {
    TANDEM_CUPTI_PARAMS(CUpti_RangeProfiler_Start_Params, start);
    start.pRangeProfilerObject = profiler_;
    TANDEM_CUPTI_CHECK(cuptiRangeProfilerStart(&start));
    pushed_ = 0;
  }
  void push(const char* name) {
    // CUPTI does not say so: it writes past its image.
    if (pushed_ == room_)
      throw Failure("more than " + std::to_string(room_) + " ranges of counters in a pass");
    ++pushed_;
    TANDEM_CUPTI_PARAMS(CUpti_RangeProfiler_PushRange_Params, push);
    push.pRangeProfilerObject = profiler_;
    push.pRangeName = name;
    TANDEM_CUPTI_CHECK(cuptiRangeProfilerPushRange(&push));
  }
  void pop() {
    synchronize_context();
    TANDEM_CUPTI_PARAMS(CUpti_RangeProfiler_PopRange_Params, pop);
    pop.pRangeProfilerObject = profiler_;
    TANDEM_CUPTI_CHECK(cuptiRangeProfilerPopRange(&pop));
  }
  bool end_pass() {
    TANDEM_CUPTI_PARAMS(CUpti_RangeProfiler_Stop_Params, stop);
    stop.pRangeProfilerObject = profiler_;
    TANDEM_CUPTI_CHECK(cuptiRangeProfilerStop(&stop));
    return stop.isAllPassSubmitted != 0;
  }

  void read(void (*sink)(void*, const TandemCounterRange*), void* context) {
    TANDEM_CUPTI_PARAMS(CUpti_RangeProfiler_DecodeData_Params, decode);
    decode.pRangeProfilerObject = profiler_;
    TANDEM_CUPTI_CHECK(cuptiRangeProfilerDecodeData(&decode));
    if (decode.numOfRangeDropped != 0)
      throw Failure(std::to_string(decode.numOfRangeDropped) + " ranges of counters were dropped");
    TANDEM_CUPTI_PARAMS(CUpti_RangeProfiler_GetCounterDataInfo_Params, info);
    info.pCounterDataImage = data_.data();
    info.counterDataImageSize = data_.size();
    TANDEM_CUPTI_CHECK(cuptiRangeProfilerGetCounterDataInfo(&info));
    std::vector<double> values(names_.size());
    for (size_t i = 0; i < info.numTotalRanges; ++i) {
      TANDEM_CUPTI_PARAMS(CUpti_RangeProfiler_CounterData_GetRangeInfo_Params, range);
      range.pCounterDataImage = data_.data();
      range.counterDataImageSize = data_.size();
      range.rangeIndex = i;
      range.rangeDelimiter = "|";
      TANDEM_CUPTI_CHECK(cuptiRangeProfilerCounterDataGetRangeInfo(&range));
      TANDEM_CUPTI_PARAMS(CUpti_Profiler_Host_EvaluateToGpuValues_Params, evaluate);
      evaluate.pHostObject = host_;
      evaluate.pCounterDataImage = data_.data();
      evaluate.counterDataImageSize = data_.size();
      evaluate.rangeIndex = i;
      evaluate.ppMetricNames = names_.data();
      evaluate.numMetrics = names_.size();
      evaluate.pMetricValues = values.data();
      TANDEM_CUPTI_CHECK(cuptiProfilerHostEvaluateToGpuValues(&evaluate));
      const TandemCounterRange out = {
          .name = range.rangeName, .values = values.data(), .count = values.size()};
      sink(context, &out);
    }
  }

 private:
  void make_host(CUcontext context) {
    uint32_t device = 0;
    TANDEM_CUPTI_CHECK(cuptiGetDeviceId(context, &device));
    TANDEM_CUPTI_PARAMS(CUpti_Device_GetChipName_Params, chip);
    chip.deviceIndex = device;
    TANDEM_CUPTI_CHECK(cuptiDeviceGetChipName(&chip));
    TANDEM_CUPTI_PARAMS(CUpti_Profiler_GetCounterAvailability_Params, availability);
    availability.ctx = context;
    TANDEM_CUPTI_CHECK(cuptiProfilerGetCounterAvailability(&availability));
    available_.resize(availability.counterAvailabilityImageSize);
    availability.pCounterAvailabilityImage = available_.data();
    TANDEM_CUPTI_CHECK(cuptiProfilerGetCounterAvailability(&availability));
    TANDEM_CUPTI_PARAMS(CUpti_Profiler_Host_Initialize_Params, host);
    host.profilerType = CUPTI_PROFILER_TYPE_RANGE_PROFILER;
    host.pChipName = chip.pChipName;
    host.pCounterAvailabilityImage = available_.data();
    TANDEM_CUPTI_CHECK(cuptiProfilerHostInitialize(&host));
    host_ = host.pHostObject;
  }

  void make_config() {
    TANDEM_CUPTI_PARAMS(CUpti_Profiler_Host_ConfigAddMetrics_Params, add);
    add.pHostObject = host_;
    add.ppMetricNames = names_.data();
    add.numMetrics = names_.size();
    TANDEM_CUPTI_CHECK(cuptiProfilerHostConfigAddMetrics(&add));
    TANDEM_CUPTI_PARAMS(CUpti_Profiler_Host_GetConfigImageSize_Params, size);
    size.pHostObject = host_;
    TANDEM_CUPTI_CHECK(cuptiProfilerHostGetConfigImageSize(&size));
    config_.resize(size.configImageSize);
    TANDEM_CUPTI_PARAMS(CUpti_Profiler_Host_GetConfigImage_Params, image);
    image.pHostObject = host_;
    image.configImageSize = config_.size();
    image.pConfigImage = config_.data();
    TANDEM_CUPTI_CHECK(cuptiProfilerHostGetConfigImage(&image));
  }

  void make_counter_data(size_t max_ranges) {
    TANDEM_CUPTI_PARAMS(CUpti_RangeProfiler_GetCounterDataSize_Params, size);
    size.pRangeProfilerObject = profiler_;
    size.pMetricNames = names_.data();
    size.numMetrics = names_.size();
    size.maxNumOfRanges = max_ranges;
    size.maxNumRangeTreeNodes = static_cast<uint32_t>(max_ranges);
    TANDEM_CUPTI_CHECK(cuptiRangeProfilerGetCounterDataSize(&size));
    data_.resize(size.counterDataSize);
    TANDEM_CUPTI_PARAMS(CUpti_RangeProfiler_CounterDataImage_Initialize_Params, initialize);
    initialize.pRangeProfilerObject = profiler_;
    initialize.counterDataSize = data_.size();
    initialize.pCounterData = data_.data();
    TANDEM_CUPTI_CHECK(cuptiRangeProfilerCounterDataImageInitialize(&initialize));
  }

  void configure(size_t max_ranges) {
    TANDEM_CUPTI_PARAMS(CUpti_RangeProfiler_SetConfig_Params, set);
    set.pRangeProfilerObject = profiler_;
    set.configSize = config_.size();
    set.pConfig = config_.data();
    set.counterDataImageSize = data_.size();
    set.pCounterDataImage = data_.data();
    set.range = CUPTI_UserRange;
    set.replayMode = CUPTI_UserReplay;
    set.maxRangesPerPass = max_ranges;
    set.numNestingLevels = 1;
    set.minNestingLevel = 1;
    set.passIndex = 0;
    set.targetNestingLevel = 1;
    TANDEM_CUPTI_CHECK(cuptiRangeProfilerSetConfig(&set));
  }

  std::vector<std::string> metrics_;
  std::vector<const char*> names_;
  size_t room_, pushed_ = 0;
  std::vector<uint8_t> available_, config_, data_;
  CUpti_Profiler_Host_Object* host_ = nullptr;
  CUpti_RangeProfiler_Object* profiler_ = nullptr;
};

std::unique_ptr<Counters> counters;

Counters& open_ones() {
  if (!counters) throw Failure("no counters are open");
  return *counters;
}

}  // namespace

int open_counters(const char* const* metrics, size_t count, size_t max_ranges, char* error,
                  size_t error_bytes) {
  return guarded(error, error_bytes, [&] {
    counters.reset();
    counters = std::make_unique<Counters>(std::vector<std::string>(metrics, metrics + count), max_ranges);
  });
}

int begin_pass(char* error, size_t error_bytes) {
  return guarded(error, error_bytes, [] { open_ones().begin_pass(); });
}
int push_range(const char* name, char* error, size_t error_bytes) {
  return guarded(error, error_bytes, [name] { open_ones().push(name); });
}
int pop_range(char* error, size_t error_bytes) {
  return guarded(error, error_bytes, [] { open_ones().pop(); });
}
int end_pass(int* done, char* error, size_t error_bytes) {
  return guarded(error, error_bytes, [done] { *done = open_ones().end_pass() ? 1 : 0; });
}
int read_counters(void (*sink)(void*, const TandemCounterRange*), void* context, char* error,
                  size_t error_bytes) {
  return guarded(error, error_bytes, [&] { open_ones().read(sink, context); });
}

}  // namespace tandem::cupti
