// Many entries of a map at once: in one system call where the kernel can for
// this type of map, else one by one.
#pragma once

#include <cstdint>
#include <vector>

#include "bpf_map.h"

namespace hostroute {

// All return 0 or an errno.

// `written` says how many entries were written, also after a failure.
int updateEntries(int map, const MapShape &shape, const uint8_t *keys, const uint8_t *values, uint32_t count,
                  uint32_t &written);

// Absent keys are passed over. `deleted` counts the others, also after a failure.
int deleteEntries(int map, const MapShape &shape, const uint8_t *keys, uint32_t count, uint32_t &deleted);

// Every entry that is there throughout is there once. EAGAIN: the map changes
// faster than it can be read.
int readEntries(int map, const MapShape &shape, std::vector<uint8_t> &keys, std::vector<uint8_t> &values);

// The same, but of an array only rows that are not all zeros. Per-CPU arrays are read as a whole.
int readPresentEntries(int map, const MapShape &shape, std::vector<uint8_t> &keys,
                       std::vector<uint8_t> &values);

// The next entries of a hash map, an array or a trie, `most` or a few more or less, and the position after
// them: empty at the end. `position`: empty at the beginning. Every entry that is there throughout is there
// once, but of a trie again when the entry at the position was deleted: then the kernel begins anew.
int readNextEntries(int map, const MapShape &shape, std::vector<uint8_t> &position, uint32_t most,
                    std::vector<uint8_t> &keys, std::vector<uint8_t> &values);

bool isHash(uint32_t type);

} // namespace hostroute
