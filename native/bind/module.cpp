#include "bind/bind.h"

NB_MODULE(_native, m) {
  drystone::bind_core(m);
  drystone::bind_onednn(m);
  drystone::bind_pointwise(m);
  drystone::bind_reductions(m);
  drystone::bind_windows(m);
  drystone::bind_movement(m);
  drystone::bind_winograd(m);
  drystone::bind_elementwise(m);
}
