// Errors of a call's inputs that only the call can find: Python has them as drystone.InputError.
#pragma once

#include <stdexcept>

namespace drystone {

struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace drystone
