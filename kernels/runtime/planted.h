// Work beside a graph's own, for slow-downs of known size (Workload::plant, harness/engine/planted.h). A build that was not
// made to test a gate captures none.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace tandem::kernels {

/// What the work is made of: what the time and the power of the case go into, so that a card at its power limit holds its
/// clock when such work is added.
enum class PlantKind : uint8_t {
  kReads,     ///< reads of the case's own weights, past the L1; a unit is 64 KiB
  kProducts,  ///< tensor-core products in registers; a unit is four m16n8k16 a warp
};

struct PlantedWork {
  double units = 0;  ///< of each graph launch; 0: graphs run without it
  PlantKind kind = PlantKind::kReads;
  const void* weights = nullptr;  ///< [bytes], aligned to 16
  int64_t bytes = 0;
};

/// Do graphs that are captured from now on carry the work? A planted build's do; tests ask for it.
bool plant_possible();
void make_plant_possible();

/// What graphs of this process do from their next launch on. The device must be idle.
void set_planted_work(const PlantedWork& work);
/// Is there any now?
bool has_planted_work();

/// One kernel on all multiprocessors that does the work set at the time it runs. Its first launch, which loads it, may not be
/// in a capture.
void launch_planted_work(cudaStream_t stream);

}  // namespace tandem::kernels
