#include "map_batch.h"

#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace hostroute {

namespace {

constexpr uint32_t kMostRows = 8192;
constexpr size_t kMostBytes = 256 * 1024;
// The position in a hash map: a bucket number.
constexpr size_t kBucketBytes = 4;
// A key deleted under the walk sends it back to the start of the map.
constexpr uint64_t kMostWalks = 8;

// Rows of one call: their buffer is cleared before each.
uint32_t rowsOfOneCall(const MapShape &shape) {
  size_t fit = kMostBytes / (shape.keySize + shape.valueBytes);
  uint32_t most = std::min(kMostRows, std::max<uint32_t>(shape.maxEntries, 16));
  return std::clamp<uint32_t>(static_cast<uint32_t>(fit), 16, most);
}

// EINVAL: the command is unknown to the kernel or refuses this map; the loop
// finds the true error if it was something else.
bool batchUnsupported(int error) {
  return error == 524 || error == EOPNOTSUPP || error == EINVAL;
}

// Keeps the first of entries with equal keys, in place.
class Deduplication {
public:
  Deduplication(const MapShape &shape, std::vector<uint8_t> &keys, std::vector<uint8_t> &values)
      : keySize_(shape.keySize), valueBytes_(shape.valueBytes), keys_(keys), values_(values) {}

  void run() {
    size_t count = keys_.size() / keySize_;
    size_t slots = 16;
    while (slots < count * 2)
      slots *= 2;
    table_.assign(slots, 0);
    size_t kept = 0;
    for (size_t index = 0; index < count; index++) {
      if (seen(index, kept)) continue;
      if (kept != index) {
        memcpy(&keys_[kept * keySize_], &keys_[index * keySize_], keySize_);
        memcpy(&values_[kept * valueBytes_], &values_[index * valueBytes_], valueBytes_);
      }
      kept++;
    }
    keys_.resize(kept * keySize_);
    values_.resize(kept * valueBytes_);
  }

private:
  // Rows of table_: index among the kept + 1.
  bool seen(size_t index, size_t kept) {
    const uint8_t *key = &keys_[index * keySize_];
    size_t slot = hash(key) & (table_.size() - 1);
    for (; table_[slot]; slot = (slot + 1) & (table_.size() - 1))
      if (memcmp(&keys_[(table_[slot] - 1) * keySize_], key, keySize_) == 0) return true;
    table_[slot] = static_cast<uint32_t>(kept + 1);
    return false;
  }

  uint64_t hash(const uint8_t *key) const {
    uint64_t value = 0xcbf29ce484222325;
    for (size_t i = 0; i < keySize_; i++)
      value = (value ^ key[i]) * 0x100000001b3;
    return value ^ (value >> 29);
  }

  size_t keySize_;
  size_t valueBytes_;
  std::vector<uint8_t> &keys_;
  std::vector<uint8_t> &values_;
  std::vector<uint32_t> table_;
};

int readByBatch(int map, const MapShape &shape, std::vector<uint8_t> &keys, std::vector<uint8_t> &values,
                bool &restartable) {
  // The kernel's position: a bucket number for hashes, the last key for others.
  std::vector<uint8_t> position(std::max<size_t>(shape.keySize, 8));
  bool first = true;
  uint32_t chunk = rowsOfOneCall(shape);
  size_t total = 0;
  uint64_t most = kMostWalks * shape.maxEntries + chunk;
  for (;;) {
    keys.resize((total + chunk) * shape.keySize);
    values.resize((total + chunk) * shape.valueBytes);
    std::vector<uint8_t> next(position.size());
    uint32_t count = chunk;
    int failed = bpf_map_lookup_batch(map, first ? nullptr : position.data(), next.data(),
                                      &keys[total * shape.keySize], &values[total * shape.valueBytes], &count,
                                      nullptr);
    int error = failed ? -failed : 0;
    if (error == ENOSPC && chunk <= shape.maxEntries) { // one hash bucket holds more than the chunk
      chunk *= 2;
      continue;
    }
    if (error == EINTR) continue;
    if (error && error != ENOENT) {
      keys.resize(total * shape.keySize);
      values.resize(total * shape.valueBytes);
      restartable = total == 0;
      return error;
    }
    total += count;
    if (error == ENOENT || total >= most) {
      keys.resize(total * shape.keySize);
      values.resize(total * shape.valueBytes);
      return error == ENOENT ? 0 : EAGAIN;
    }
    position = next;
    first = false;
  }
}

int readByKey(int map, const MapShape &shape, std::vector<uint8_t> &keys, std::vector<uint8_t> &values) {
  std::vector<uint8_t> key(shape.keySize);
  std::vector<uint8_t> next(shape.keySize);
  std::vector<uint8_t> value(shape.valueBytes);
  bool first = true;
  uint64_t most = kMostWalks * shape.maxEntries + kMostRows;
  for (uint64_t steps = 0; steps < most; steps++) {
    int failed = bpf_map_get_next_key(map, first ? nullptr : key.data(), next.data());
    if (failed) return failed == -ENOENT ? 0 : -failed;
    first = false;
    key = next;
    failed = bpf_map_lookup_elem(map, key.data(), value.data());
    if (failed == -ENOENT) continue;
    if (failed) return -failed;
    keys.insert(keys.end(), key.begin(), key.end());
    values.insert(values.end(), value.begin(), value.end());
  }
  return EAGAIN;
}

bool isArray(uint32_t type) {
  return type == BPF_MAP_TYPE_ARRAY || type == BPF_MAP_TYPE_PERCPU_ARRAY;
}

} // namespace

bool isHash(uint32_t type) {
  return type == BPF_MAP_TYPE_HASH || type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_LRU_HASH ||
         type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

int updateEntries(int map, const MapShape &shape, const uint8_t *keys, const uint8_t *values, uint32_t count,
                  uint32_t &written) {
  written = 0;
  if (count == 0) return 0;
  uint32_t processed = count;
  LIBBPF_OPTS(bpf_map_batch_opts, options);
  int failed = bpf_map_update_batch(map, keys, values, &processed, &options);
  if (!failed) {
    written = count;
    return 0;
  }
  // The kernel sets the count only after it got as far as the entries.
  written = processed < count ? processed : 0;
  if (!batchUnsupported(-failed) && failed != -EINTR) return -failed;
  for (; written < count; written++) {
    failed = bpf_map_update_elem(map, keys + size_t{written} * shape.keySize,
                                 values + written * shape.valueBytes, BPF_ANY);
    if (failed) return -failed;
  }
  return 0;
}

int deleteEntries(int map, const MapShape &shape, const uint8_t *keys, uint32_t count, uint32_t &deleted) {
  deleted = 0;
  uint32_t done = 0;
  bool batch = true;
  while (done < count) {
    const uint8_t *rest = keys + size_t{done} * shape.keySize;
    if (batch) {
      uint32_t processed = count - done;
      LIBBPF_OPTS(bpf_map_batch_opts, options);
      int failed = bpf_map_delete_batch(map, rest, &processed, &options);
      if (!failed) {
        deleted += count - done;
        return 0;
      }
      if (processed >= count - done) processed = 0;
      deleted += processed;
      done += processed;
      if (failed == -ENOENT) {
        done++; // the key that stopped it
        continue;
      }
      if (!batchUnsupported(-failed) && failed != -EINTR) return -failed;
      batch = false;
      continue;
    }
    int failed = bpf_map_delete_elem(map, rest);
    if (failed && failed != -ENOENT) return -failed;
    if (!failed) deleted++;
    done++;
  }
  return 0;
}

int readNextEntries(int map, const MapShape &shape, std::vector<uint8_t> &position, uint32_t most,
                    std::vector<uint8_t> &keys, std::vector<uint8_t> &values) {
  std::vector<uint8_t> next(isHash(shape.type) ? kBucketBytes : shape.keySize);
  for (;;) {
    keys.resize(size_t{most} * shape.keySize);
    values.resize(most * shape.valueBytes);
    uint32_t count = most;
    int failed = bpf_map_lookup_batch(map, position.empty() ? nullptr : position.data(), next.data(),
                                      keys.data(), values.data(), &count, nullptr);
    if (failed == -EINTR) continue;
    if (failed == -ENOSPC && most <= shape.maxEntries) { // one hash bucket holds more
      most *= 2;
      continue;
    }
    if (failed && failed != -ENOENT) return -failed;
    keys.resize(size_t{count} * shape.keySize);
    values.resize(count * shape.valueBytes);
    if (failed) next.clear();
    position = next;
    return 0;
  }
}

int readEntries(int map, const MapShape &shape, std::vector<uint8_t> &keys, std::vector<uint8_t> &values) {
  if (shape.keySize == 0 || shape.valueBytes == 0) return EOPNOTSUPP;
  bool restartable = false;
  int error = readByBatch(map, shape, keys, values, restartable);
  bool byKey = error && restartable && batchUnsupported(error);
  if (byKey) error = readByKey(map, shape, keys, values);
  if (error) return error;
  // Hash batches go by bucket and arrays by index: neither can restart.
  if (!isArray(shape.type) && (byKey || !isHash(shape.type))) Deduplication(shape, keys, values).run();
  return 0;
}

int readPresentEntries(int map, const MapShape &shape, std::vector<uint8_t> &keys,
                       std::vector<uint8_t> &values) {
  if (shape.type != BPF_MAP_TYPE_ARRAY) return readEntries(map, shape, keys, values);
  std::vector<uint8_t> position;
  std::vector<uint8_t> someKeys;
  std::vector<uint8_t> someValues;
  do {
    if (int error = readNextEntries(map, shape, position, rowsOfOneCall(shape), someKeys, someValues))
      return error;
    size_t count = someKeys.size() / shape.keySize;
    for (size_t row = 0; row < count; row++) {
      auto value = someValues.begin() + static_cast<ptrdiff_t>(row * shape.valueBytes);
      auto end = value + static_cast<ptrdiff_t>(shape.valueBytes);
      if (std::all_of(value, end, [](uint8_t byte) { return byte == 0; })) continue;
      auto key = someKeys.begin() + static_cast<ptrdiff_t>(row * shape.keySize);
      keys.insert(keys.end(), key, key + static_cast<ptrdiff_t>(shape.keySize));
      values.insert(values.end(), value, end);
    }
  } while (!position.empty());
  return 0;
}

} // namespace hostroute
