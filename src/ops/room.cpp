// SPDX-License-Identifier: MIT
#include "ops/room.h"

#include <new>

#include "base/memory.h"

namespace diffuse {

void need_room(int64_t bytes) {
  if (!has_room(kRoomForPrograms + bytes)) throw std::bad_alloc();
}

}  // namespace diffuse
