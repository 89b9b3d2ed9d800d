// A libtorch whose table of operators is elsewhere, or no list: a library that stands before torch's own where names are looked up.
#include <cstdint>

namespace {
uintptr_t node[32], list[3] = {reinterpret_cast<uintptr_t>(node), 0, 1000};
}

extern "C" void* _ZN3c1010Dispatcher13realSingletonEv() {
#if defined(NOWHERE)
  return reinterpret_cast<void*>(uintptr_t{64});
#elif defined(NO_LIST)
  node[0] = node[1] = reinterpret_cast<uintptr_t>(node);  // the list is not what is before the first node
  return list;
#endif
}
