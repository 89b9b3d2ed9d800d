#include "bind/bind.h"

NB_MODULE(_native, m) {
  m.doc() =
      "The native core's interface. Addresses are ``tensor.data_ptr()``; the caller keeps the memory alive.\n\n"
      "A factory of steps raises ``ValueError``, saying why, where it does not serve the descriptors it is given.";
  // torch's caches may hold models, and with them programs, until the process ends; users can do nothing about it.
  nanobind::set_leak_warnings(false);
  drystone::bind_core(m);
  drystone::bind_onednn(m);
  drystone::bind_steps(m);
  drystone::bind_winograd(m);
  drystone::bind_depthwise(m);
  drystone::bind_gemm(m);
  drystone::bind_recurrent(m);
  drystone::bind_cache_pages(m);
  drystone::bind_torch(m);
}
