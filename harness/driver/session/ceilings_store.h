// Measured ceilings, kept per card (or CPU) in the user's cache folder.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "harness/card/nvml.h"
#include "harness/cost/ceilings.h"

namespace tandem {

/// The card that engine cuda would use as `device`, through CUDA_VISIBLE_DEVICES; nothing where the build has no CUDA
/// engine or there is no such card.
std::optional<CardInfo> usable_card(int device);

/// What ceilings of this card (of the CPU, without one) are labelled with: name and UUID, or the CPU's name.
std::string machine_label(const std::optional<CardInfo>& card);

/// ceilings-GPU-....json or ceilings-cpu-....json in user_cache_dir(); an empty path where there is no such folder.
std::filesystem::path ceilings_path(const std::optional<CardInfo>& card);

/// What is kept for `card` (for the CPU, without one), with the rate of its links. Nothing when it was never measured, cannot be
/// read, is labelled as another machine's, or contradicts itself. In question where it does not say how large the cache is:
/// records would have other floors than lists.
std::optional<Ceilings> stored_ceilings(const std::optional<CardInfo>& card);

/// stored_ceilings unless they are in question, or measured now with `suite_limits --measure-ceilings` of `bin_dir` and
/// stored: once more where they contradict themselves or other work ran beside. Nothing when that fails, measures another
/// machine or contradicts itself again: then there are no floors, and stderr says so. Throws Interrupted.
std::optional<Ceilings> obtain_ceilings(const std::filesystem::path& bin_dir,
                                        const std::optional<CardInfo>& card, int device);

/// Keeps that the stored ceilings are in question and why: lists and doctor say so, the next run measures them again.
/// Does nothing where none are stored.
void doubt_ceilings(const std::optional<CardInfo>& card, const std::string& why);

}  // namespace tandem
