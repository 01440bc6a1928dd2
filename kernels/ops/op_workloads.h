// The operations of suite_kernels, suite_collectives, suite_limits and suite_memory on a card. Each checks what it computed by a
// plain second computation on the host.
#pragma once

#include <memory>

#include "harness/engine/engine.h"
#include "harness/model/config.h"
#include "kernels/runtime/device.h"

namespace tandem::kernels {

/// Throw ImpossibleCase, naming the field, for what the operation cannot be measured with.
void check_kernels_op(const Case& c, const ModelConfig& config);
void check_limits_op(const Case& c);
void check_collectives_op(const Case& c);

/// One operation of a decoder step with c.batch rows (or, for encoder_attention, of the encoder over c.batch
/// x c.src tokens), as the engine's plan would run it under c.kernel. A repetition is a graph of copies of
/// the operation whose weights or K/V together are far larger than L2, so that each is read from memory; its
/// time is the mean of one.
OpWorkload kernels_op(std::shared_ptr<Device> device, const Case& c, const ModelConfig& config);
/// c.batch rows of d_model summed over the ranks by c.allreduce, of which every rank calls this. `all_reduce`: the mean of
/// several in a row. `chain`: what each of 72 costs that are followed by a residual and a norm, beyond the same 72 norms.
OpWorkload collectives_op(std::shared_ptr<Device> device, const Case& c, const ModelConfig& config);
/// A ceiling of the card (kernels/limits).
OpWorkload limits_op(std::shared_ptr<Device> device, const Case& c);
/// Loads, allocation latency, peak and fragmentation at the level of c.memory.
OpWorkload memory_op(std::shared_ptr<Device> device, const Case& c, const ModelConfig& config);

}  // namespace tandem::kernels
