// Stream sockets between ranks, of one host or of several, and the frames that go over them. Nothing here waits without end.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/error.h"
#include "harness/parallel/collective_call.h"

namespace tandem {

/// The other side is gone, or silent: what is said of it after "rank 1 lost: it ".
class PeerGone : public Error {
 public:
  using Error::Error;
};

/// Owns a file descriptor.
class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  ~Socket();
  Socket(Socket&& other) noexcept;
  Socket& operator=(Socket&& other) noexcept;

  int fd() const { return fd_; }
  bool open() const { return fd_ >= 0; }

 private:
  int fd_;
};

/// Where ranks meet: "host:port", "[v6 address]:port", "unix:/path", or "unix:@name" in Linux's abstract name space, of which
/// nothing is left behind.
struct Listener {
  Socket socket;
  std::string address;  ///< with the port that was given for port 0
};
/// Throws UsageError for an address of no such form, IoError naming it when it cannot be listened at.
Listener listen_at(const std::string& address);
/// Absent where nobody asks. Throws IoError.
std::optional<Socket> accept_from(const Listener& listener);
/// Once. Absent where nobody listens yet: `why` says so. Throws UsageError as listen_at.
std::optional<Socket> connect_to(const std::string& address, std::string* why);

/// A new address of this host that the process at the other end of `connection` can reach too, with port 0 or a name that nobody
/// guesses.
std::string new_address_beside(const Socket& connection);
/// "unix:@tandem-0123456789abcdef".
std::string new_local_address();

enum class FrameKind : uint32_t {
  kHello = 1,  ///< a rank's first: who it is
  kWelcome,    ///< every rank has come
  kRefused,    ///< why the ranks cannot work together
  kData,       ///< what a rank gives to a collective operation
  kResult,     ///< what it gets
  kLost,       ///< another rank is lost: its number, a space, why
  kFailed,     ///< the operation failed: why
  kText,       ///< a message between rank 0 and another
};

struct Frame {
  FrameKind kind = FrameKind::kText;
  CollectiveCall call;  ///< of kData and kResult
  std::string payload;
};

/// Reads one frame after the other, as the bytes come.
class FrameReader {
 public:
  /// Takes what has come, without waiting. The frame, once it is whole. Throws PeerGone at the end of the connection and for
  /// what is no frame.
  std::optional<Frame> take(const Socket& from);

 private:
  std::string bytes_;
  size_t wanted_ = 0;
};

/// Waits for a frame, at most `wait_s` seconds without a byte; no limit where it is absent. Throws PeerGone.
Frame read_frame(const Socket& from, std::optional<double> wait_s);
/// Waits at most `wait_s` seconds in which no byte goes out. Throws PeerGone.
void write_frame(const Socket& to, FrameKind kind, const CollectiveCall& call, std::string_view payload,
                 double wait_s);

/// Which of `sockets` (those that are open) have something to read, or their end; waits at most `wait_s` seconds.
std::vector<size_t> readable(const std::vector<const Socket*>& sockets, double wait_s);

}  // namespace tandem
