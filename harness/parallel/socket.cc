#include "harness/parallel/socket.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <utility>

namespace tandem {
namespace {

constexpr uint32_t kMagic = 0x4d444e54;  // "TNDM" in little-endian bytes
constexpr uint64_t kMostBytes = uint64_t{4} << 30;
constexpr std::string_view kForms = "HOST:PORT, [ADDRESS]:PORT, unix:/PATH or unix:@NAME";

struct Header {
  uint32_t magic = kMagic;
  FrameKind kind = FrameKind::kText;
  CollectiveCall call;
  uint64_t bytes = 0;
};
static_assert(sizeof(Header) == 32);

std::string error_text() {
  return std::strerror(errno);
}

/// One way to reach an address.
struct Endpoint {
  sockaddr_storage storage{};
  socklen_t length = 0;
  int family = AF_UNSPEC;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

Endpoint unix_endpoint(const std::string& address, std::string_view path) {
  sockaddr_un un{};
  if (path.empty() || path.size() >= sizeof(un.sun_path) || (path[0] != '/' && path[0] != '@')) {
    throw UsageError(fmt::format("rendezvous: '{}' is not allowed; {}, of at most {} characters", address,
                                 kForms, sizeof(un.sun_path) - 1));
  }
  un.sun_family = AF_UNIX;
  std::memcpy(un.sun_path, path.data(), path.size());
  const bool abstract = path[0] == '@';
  if (abstract) un.sun_path[0] = '\0';
  Endpoint e;
  std::memcpy(&e.storage, &un, sizeof(un));
  e.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1));
  e.family = AF_UNIX;
  return e;
}

std::vector<Endpoint> endpoints(const std::string& address, bool to_listen) {
  if (address.starts_with("unix:")) return {unix_endpoint(address, std::string_view(address).substr(5))};
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon == std::string::npos ? 0 : colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  const std::string port = colon == std::string::npos ? "" : address.substr(colon + 1);
  const bool number = !port.empty() && port.size() <= 5 &&
                      port.find_first_not_of("0123456789") == std::string::npos && std::stoi(port) <= 65535;
  if (host.empty() || !number || (!to_listen && std::stoi(port) == 0)) {
    throw UsageError(fmt::format("rendezvous: '{}' is not allowed; {}", address, kForms));
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = to_listen ? AI_PASSIVE : 0;
  addrinfo* found = nullptr;
  const int code = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (code != 0) throw IoError(fmt::format("rendezvous: '{}': {}", address, ::gai_strerror(code)));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  std::vector<Endpoint> all;
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    Endpoint& e = all.emplace_back();
    std::memcpy(&e.storage, a->ai_addr, a->ai_addrlen);
    e.length = a->ai_addrlen;
    e.family = a->ai_family;
  }
  return all;
}

Socket make_socket(int family) {
  Socket s(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!s.open()) throw IoError(fmt::format("socket: {}", error_text()));
  return s;
}

/// Small frames at once. A host that went away without a word is noticed in half a minute.
void tune(const Socket& s) {
  const auto set = [&](int level, int name, int value) {
    ::setsockopt(s.fd(), level, name, &value, sizeof(value));  // fails on a Unix socket, which needs none
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
}

/// Another user of this host may find the name of a socket: it is not let in.
bool is_ours(const Socket& s) {
  ucred peer{};
  socklen_t length = sizeof(peer);
  sockaddr_storage name{};
  socklen_t name_length = sizeof(name);
  if (::getsockname(s.fd(), reinterpret_cast<sockaddr*>(&name), &name_length) != 0) return false;
  if (name.ss_family != AF_UNIX) return true;
  return ::getsockopt(s.fd(), SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == ::getuid();
}

/// False when nothing happens for `wait_s` seconds.
bool wait_for(int fd, short what, std::optional<double> wait_s) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (;;) {
    int left_ms = -1;
    if (wait_s) {
      const double left = *wait_s - std::chrono::duration<double>(Clock::now() - start).count();
      if (left <= 0) return false;
      left_ms = static_cast<int>(std::min(std::ceil(left * 1000), 1e9));
    }
    pollfd p{fd, what, 0};
    const int n = ::poll(&p, 1, left_ms);
    if (n > 0) return true;
    if (n < 0 && errno != EINTR) throw IoError(fmt::format("poll: {}", error_text()));
  }
}

}  // namespace

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

Socket::Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Listener listen_at(const std::string& address) {
  std::string why = "no such address";
  for (const Endpoint& e : endpoints(address, true)) {
    Socket s = make_socket(e.family);
    const int one = 1;
    if (e.family != AF_UNIX) ::setsockopt(s.fd(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (::bind(s.fd(), e.get(), e.length) != 0 || ::listen(s.fd(), SOMAXCONN) != 0) {
      why = error_text();
      continue;
    }
    Listener l{std::move(s), address};
    if (e.family == AF_UNIX) return l;
    sockaddr_storage bound{};
    socklen_t length = sizeof(bound);
    ::getsockname(l.socket.fd(), reinterpret_cast<sockaddr*>(&bound), &length);
    const uint16_t port = e.family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                               : reinterpret_cast<const sockaddr_in&>(bound).sin_port;
    l.address = fmt::format("{}:{}", address.substr(0, address.rfind(':')), ntohs(port));
    return l;
  }
  throw IoError(fmt::format("rendezvous: cannot listen at '{}': {}", address, why));
}

std::optional<Socket> accept_from(const Listener& listener) {
  if (!wait_for(listener.socket.fd(), POLLIN, 0.001)) return std::nullopt;
  Socket s(::accept4(listener.socket.fd(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!s.open() || !is_ours(s)) return std::nullopt;  // who asked has gone again
  tune(s);
  return s;
}

std::optional<Socket> connect_to(const std::string& address, std::string* why) {
  for (const Endpoint& e : endpoints(address, false)) {
    Socket s = make_socket(e.family);
    const timeval most{.tv_sec = 5, .tv_usec = 0};  // of a connect, which else takes minutes
    ::setsockopt(s.fd(), SOL_SOCKET, SO_SNDTIMEO, &most, sizeof(most));
    if (::connect(s.fd(), e.get(), e.length) == 0 && is_ours(s)) {
      tune(s);
      return s;
    }
    *why = error_text();
  }
  return std::nullopt;
}

std::string new_local_address() {
  std::random_device draw;
  return fmt::format("unix:@tandem-{:08x}{:08x}", draw(), draw());
}

std::string new_address_beside(const Socket& connection) {
  sockaddr_storage own{};
  socklen_t length = sizeof(own);
  if (::getsockname(connection.fd(), reinterpret_cast<sockaddr*>(&own), &length) != 0) {
    throw IoError(fmt::format("rendezvous: {}", error_text()));
  }
  if (own.ss_family == AF_UNIX) return new_local_address();
  char host[NI_MAXHOST];
  const int code = ::getnameinfo(reinterpret_cast<const sockaddr*>(&own), length, host, sizeof(host), nullptr,
                                 0, NI_NUMERICHOST);
  if (code != 0) throw IoError(fmt::format("rendezvous: {}", ::gai_strerror(code)));
  return fmt::format("[{}]:0", host);
}

std::optional<Frame> FrameReader::take(const Socket& from) {
  for (;;) {
    if (wanted_ == 0) wanted_ = sizeof(Header);
    const size_t have = bytes_.size();
    if (have < wanted_) {
      const size_t piece = std::min(wanted_ - have, size_t{1} << 20);
      bytes_.resize(have + piece);
      const ssize_t n = ::recv(from.fd(), bytes_.data() + have, piece, MSG_DONTWAIT);
      bytes_.resize(have + static_cast<size_t>(std::max<ssize_t>(n, 0)));
      if (n == 0) throw PeerGone("closed its connection");
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return std::nullopt;
      if (n < 0) throw PeerGone(fmt::format("broke its connection: {}", error_text()));
      continue;
    }
    Header h;
    std::memcpy(&h, bytes_.data(), sizeof(h));
    if (h.magic != kMagic || h.bytes > kMostBytes) throw PeerGone("does not speak the ranks' language");
    if (wanted_ < sizeof(Header) + h.bytes) {
      wanted_ = sizeof(Header) + h.bytes;
      continue;
    }
    Frame frame{h.kind, h.call, bytes_.substr(sizeof(Header))};
    bytes_.clear();
    wanted_ = 0;
    return frame;
  }
}

Frame read_frame(const Socket& from, std::optional<double> wait_s) {
  FrameReader reader;
  for (;;) {
    if (!wait_for(from.fd(), POLLIN, wait_s)) throw PeerGone(fmt::format("was silent for {:g} s", *wait_s));
    if (auto frame = reader.take(from)) return std::move(*frame);
  }
}

void write_frame(const Socket& to, FrameKind kind, const CollectiveCall& call, std::string_view payload,
                 double wait_s) {
  const Header h{.kind = kind, .call = call, .bytes = payload.size()};
  std::string head(reinterpret_cast<const char*>(&h), sizeof(h));
  for (std::string_view bytes : {std::string_view(head), payload}) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(to.fd(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n > 0) {
        bytes.remove_prefix(static_cast<size_t>(n));
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        if (!wait_for(to.fd(), POLLOUT, wait_s))
          throw PeerGone(fmt::format("read nothing for {:g} s", wait_s));
      } else if (errno == EPIPE || errno == ECONNRESET) {
        throw PeerGone("closed its connection");
      } else if (errno != EINTR) {
        throw PeerGone(fmt::format("broke its connection: {}", error_text()));
      }
    }
  }
}

std::vector<size_t> readable(const std::vector<const Socket*>& sockets, double wait_s) {
  std::vector<pollfd> fds;
  for (const Socket* s : sockets) fds.push_back({s->fd(), POLLIN, 0});  // poll leaves out negative ones
  const int n = ::poll(fds.data(), fds.size(), static_cast<int>(std::ceil(std::max(0.0, wait_s) * 1000)));
  if (n < 0 && errno != EINTR) throw IoError(fmt::format("poll: {}", error_text()));
  std::vector<size_t> ready;
  for (size_t i = 0; i < fds.size() && n > 0; ++i) {
    if (fds[i].revents != 0) ready.push_back(i);
  }
  return ready;
}

}  // namespace tandem
