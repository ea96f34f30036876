// Who is at the other end of a Unix socket: SO_PEERCRED and SO_PEERGROUPS, which Node has no call for. An addon of its own, so that control
// loads none of the engine. Who: src/api/access-peer.ts, once a connection. Thread: Node's main thread; nothing here blocks.
// Bounds: GROUPS_MAX groups; a peer with more has all of them left out, which can take rights from it but never give any.
#include <napi.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <sys/socket.h>
#include <vector>

namespace {

constexpr size_t GROUPS_MAX = 4096;

// peerCredentials(fd) → { pid, uid, gid, groups }. The kernel noted them when the peer called connect(); nobody can change them since.
Napi::Value peer_credentials(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = info[0].As<Napi::Number>().Int32Value();
  ucred peer{};
  socklen_t length = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || length != sizeof peer) {
    throw Napi::Error::New(env, std::string("SO_PEERCRED: ") + std::strerror(errno));
  }
  std::vector<gid_t> groups(GROUPS_MAX);
  length = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &length) != 0) length = 0;
  Napi::Array list = Napi::Array::New(env);
  for (uint32_t i = 0; i < length / sizeof(gid_t); i++) list.Set(i, Napi::Number::New(env, groups[i]));
  Napi::Object answer = Napi::Object::New(env);
  answer.Set("pid", Napi::Number::New(env, peer.pid));
  answer.Set("uid", Napi::Number::New(env, peer.uid));
  answer.Set("gid", Napi::Number::New(env, peer.gid));
  answer.Set("groups", list);
  return answer;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("peerCredentials", Napi::Function::New(env, peer_credentials, "peerCredentials"));
  return exports;
}

}  // namespace

NODE_API_MODULE(sluice_peer, init)
