#pragma once

#include <memory>

#include "cache/record_store.h"

namespace cachette {

// Records in the machine's memory. Reads are copies and done when StartRead returns, so tickets have nothing to wait
// for. Verifying, each read costs a checksum beside its copy; debug builds always verify.
std::unique_ptr<RecordStore> MakeRamStore(size_t record_bytes, size_t limit_bytes, bool verifies);

}  // namespace cachette
