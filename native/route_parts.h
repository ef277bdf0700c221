// Routes of a dump by what they share: of a million most differ in nothing but
// their destination, so each other thing is told once. What a route says is
// not read here; a message is taken apart only as far as its destination.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace hostroute {

struct RoutePart {
  // dumpRoutes() of src/native.ts says what stands in them.
  std::vector<uint8_t> kinds;
  std::vector<uint32_t> records;

  size_t bytes() const { return kinds.size() + records.size() * sizeof(uint32_t); }
};

class RouteGatherer {
public:
  explicit RouteGatherer(uint8_t family) : family_(family) {}

  // Whole netlink messages, whose headers' lengths were checked.
  void add(const uint8_t *messages, size_t size);
  size_t bytes() const { return part_.bytes(); }
  // What was added since the last call; kinds are numbered anew.
  RoutePart take();

private:
  static constexpr uint32_t kWholeKind = 255;

  struct Destination {
    uint8_t bytes[16] = {};
    uint8_t length = 0;
  };

  void addMessage(const uint8_t *message, size_t size);
  // Fills kind_ with the message less its destination. false: it cannot be told apart.
  bool takeApart(const uint8_t *message, size_t size, Destination &destination);
  uint32_t numberOf(const std::string &kind);
  size_t addressBytes() const;

  uint8_t family_;
  RoutePart part_;
  std::unordered_map<std::string, uint32_t> numbers_;
  std::string kind_;
  // The last one, which the next route mostly is of, too.
  std::string last_;
  uint32_t lastNumber_ = 0;
  uint32_t count_ = 0;
};

} // namespace hostroute
