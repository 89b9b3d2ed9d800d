#include "torch/dispatch_table.h"

#include <link.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <optional>
#include <utility>

namespace drystone::torch {

namespace {

constexpr size_t word = sizeof(uintptr_t);

// Words of this process's memory, as many as can be read of it.
std::vector<uintptr_t> read(uintptr_t address, size_t words) {
  std::vector<uintptr_t> read(words);
  const iovec into{read.data(), words * word}, from{reinterpret_cast<void*>(address), words * word};
  const ssize_t bytes = address % word ? -1 : process_vm_readv(getpid(), &into, 1, &from, 1, 0);
  read.resize(bytes < 0 ? 0 : bytes / word);
  return read;
}

struct Range {
  uintptr_t begin = 0, end = 0;
  bool has(uintptr_t address) const { return begin <= address && address < end; }
};

// The machine code around this address.
Range code_around(void* address) {
  Range found{reinterpret_cast<uintptr_t>(address), 0};
  dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void* data) {
        auto* range = static_cast<Range*>(data);
        for (size_t i = 0; i < library->dlpi_phnum; i++) {
          const auto& segment = library->dlpi_phdr[i];
          const uintptr_t begin = library->dlpi_addr + segment.p_vaddr;
          if (segment.p_type != PT_LOAD || !(segment.p_flags & PF_X) || !Range{begin, begin + segment.p_memsz}.has(range->begin)) continue;
          *range = {begin, begin + segment.p_memsz};
          return 1;
        }
        return 0;
      },
      &found);
  return found;
}

// c10::Dispatcher begins with a std::list of its operators: {first, last, length}; a node is {next, previous, operator}, an operator begins
// with two strings {characters, length, room for 15}, the name and the overload. Gives the address of an operator, 0 for none.
uintptr_t find_operator(uintptr_t dispatcher, const std::string& name) {
  const size_t dot = name.find('.');
  const std::array<std::string, 2> wanted = {"aten::" + name.substr(0, dot), dot == std::string::npos ? "" : name.substr(dot + 1)};
  const auto matches = [](const std::string& expected, const uintptr_t* string) {
    if (string[1] != expected.size()) return false;
    const auto characters = read(string[0] & ~(word - 1), (expected.size() + 2 * word - 1) / word);
    return characters.size() * word >= string[0] % word + expected.size() &&
           !std::memcmp(reinterpret_cast<const char*>(characters.data()) + string[0] % word, expected.data(), expected.size());
  };
  const auto list = read(dispatcher, 3);
  if (list.size() < 3) return 0;
  uintptr_t previous = dispatcher, node = list[0];
  for (size_t i = 0; i < list[2] && node != dispatcher; i++) {
    const auto words = read(node, 10);
    if (words.size() < 10 || words[1] != previous) return 0;  // it is no list
    if (matches(wanted[0], &words[2]) && matches(wanted[1], &words[6])) return node + 2 * word;
    previous = std::exchange(node, words[0]);
  }
  return 0;
}

// c10::KernelFunction begins with the kernel, an object on the heap, the function that calls it on a stack, and those that call it with the
// arguments as they are: one that takes integers, and one that takes symbolic ones. Both are null for a boxed kernel.
struct KernelFunction {
  uintptr_t kernel, boxed, unboxed, symbolic;
};

std::optional<KernelFunction> kernel_at(const std::vector<uintptr_t>& words, size_t i) {
  if (i + 4 > words.size()) return {};
  return KernelFunction{words[i], words[i + 1], words[i + 2], words[i + 3]};
}

struct Torch {
  uintptr_t dispatcher = 0;
  Range code;  // of libtorch_cpu
  bool is_known = false;

  Torch() {
    uintptr_t (*singleton)();
    if (!find(singleton, "_ZN3c1010Dispatcher13realSingletonEv")) return;
    dispatcher = singleton();
    code = code_around(reinterpret_cast<void*>(singleton));
    // Which of the two addresses comes first: torch's own tanh has no integers, and so just the one that is no symbolic one.
    const auto words = read(find_operator(dispatcher, "tanh"), operator_words);
    for (size_t i = 0; const auto own = kernel_at(words, i); i++)
      is_known = is_known || (own->kernel && code.has(own->boxed) && code.has(own->unboxed) && !own->symbolic);
  }

  // As much as an operator can take; what comes after it is left out by what it is compared with.
  static constexpr size_t operator_words = 2048;
};

const Torch& known_torch() {
  static const Torch torch;
  return torch;
}

}  // namespace

DispatchTable::DispatchTable(const std::string& name) {
  const Torch& torch = known_torch();
  if (!torch.is_known) return;
  address_ = find_operator(torch.dispatcher, name);
  if (address_) words_ = read(address_, Torch::operator_words);
}

bool DispatchTable::set_unboxed(BoxedKernel boxed, void* unboxed) const {
  const Range& code = known_torch().code;
  const auto now = read(address_, words_.size());
  for (size_t i = 0; const auto after = kernel_at(now, i); i++) {
    const auto before = kernel_at(words_, i);
    if (!before || before->kernel == after->kernel || !code.has(before->boxed)) continue;
    if (before->unboxed ? !code.has(before->unboxed) || before->symbolic : !code.has(before->symbolic)) continue;
    if (!code.has(after->boxed) || after->unboxed || after->symbolic) continue;
    bool holds_ours = false;
    for (uintptr_t held : read(after->kernel, 6)) holds_ours = holds_ours || held == reinterpret_cast<uintptr_t>(boxed);
    if (!holds_ours) continue;
    auto& place = *reinterpret_cast<uintptr_t*>(address_ + (i + 2) * word);
    std::atomic_ref(place).store(reinterpret_cast<uintptr_t>(unboxed), std::memory_order_release);
    return true;
  }
  return false;
}

}  // namespace drystone::torch
