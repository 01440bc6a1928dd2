// PhaseRange as NVTX3 ranges: registered strings, one domain, payload = layer.
#include <nvtx3/nvToolsExt.h>

#include <array>
#include <string>

#include "harness/base/phase.h"

namespace tandem {
namespace {

nvtxDomainHandle_t domain() {
  static nvtxDomainHandle_t handle = nvtxDomainCreateA("tandem");
  return handle;
}

nvtxStringHandle_t registered_name(const Phase& phase) {
  static const auto names = [] {
    std::array<std::array<nvtxStringHandle_t, kPhaseKinds>, 2> table{};
    for (int side = 0; side < 2; ++side) {
      for (int kind = 0; kind < kPhaseKinds; ++kind) {
        const std::string name = phase_path({static_cast<PhaseKind>(kind), static_cast<Side>(side), -1});
        table[side][kind] = nvtxDomainRegisterStringA(domain(), name.c_str());
      }
    }
    return table;
  }();
  return names[static_cast<int>(phase.side)][static_cast<int>(phase.kind)];
}

}  // namespace

PhaseRange::PhaseRange(const Phase& phase) {
  if (phase_observer().enter != nullptr) phase_observer().enter(phase);
  nvtxEventAttributes_t event{};
  event.version = NVTX_VERSION;
  event.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  event.payloadType = NVTX_PAYLOAD_TYPE_INT64;
  event.payload.llValue = phase.layer;
  event.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
  event.message.registered = registered_name(phase);
  nvtxDomainRangePushEx(domain(), &event);
}

MarkedRange::MarkedRange(const char* name) {
  nvtxEventAttributes_t event{};
  event.version = NVTX_VERSION;
  event.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  event.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
  event.message.registered = nvtxDomainRegisterStringA(domain(), name);
  nvtxDomainRangePushEx(domain(), &event);
}

MarkedRange::~MarkedRange() {
  nvtxDomainRangePop(domain());
}

PhaseRange::~PhaseRange() {
  nvtxDomainRangePop(domain());
  if (phase_observer().leave != nullptr) phase_observer().leave();
}

}  // namespace tandem
