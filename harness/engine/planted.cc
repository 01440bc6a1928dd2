#include "harness/engine/planted.h"

// Defined for this file alone, so that a planted build differs from a plain one in as little as it can.
#ifndef TANDEM_PLANT_DELAY_PERCENT
#define TANDEM_PLANT_DELAY_PERCENT 0
#endif

namespace tandem {

double planted_delay_percent() {
  return TANDEM_PLANT_DELAY_PERCENT;
}

}  // namespace tandem
