// SPDX-License-Identifier: Apache-2.0
// addon.cc: the boundary to JavaScript, and the only file that includes napi.h. Each export checks its arguments and
// hands over to `engine`; errors become JavaScript errors with a code. Called on Node's main thread; events from other
// threads come by a thread-safe function. src/engine/binding.ts is the other side.
#include <napi.h>

#include <memory>

#include "engine.h"

namespace {

using namespace sluice;

struct instance_data {
  std::unique_ptr<engine> dataplane;
  Napi::ThreadSafeFunction events;
  bool has_events = false;
};
instance_data& instance(Napi::Env env) { return *env.GetInstanceData<instance_data>(); }

[[noreturn]] void fail(Napi::Env env, const char* code, const std::string& text) {
  Napi::Error error = Napi::Error::New(env, text);
  error.Set("code", Napi::String::New(env, code));
  throw error;
}

engine& opened(Napi::Env env) {
  instance_data& i = instance(env);
  if (!i.dataplane || !i.dataplane->is_open()) fail(env, "SLUICE_ENGINE_CLOSED", "the engine is not open: call open() first");
  return *i.dataplane;
}

Napi::Uint8Array bytes_argument(const Napi::CallbackInfo& info, size_t index, size_t exactly = 0) {
  if (index >= info.Length() || !info[index].IsTypedArray() || info[index].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    fail(info.Env(), "SLUICE_ARGUMENT", "argument " + std::to_string(index + 1) + " must be a Uint8Array");
  auto array = info[index].As<Napi::Uint8Array>();
  if (exactly && array.ByteLength() != exactly) fail(info.Env(), "SLUICE_ARGUMENT", "argument " + std::to_string(index + 1) + " must have " + std::to_string(exactly) + " bytes");
  return array;
}
uint32_t number_argument(const Napi::CallbackInfo& info, size_t index) {
  if (index >= info.Length() || !info[index].IsNumber()) fail(info.Env(), "SLUICE_ARGUMENT", "argument " + std::to_string(index + 1) + " must be a number");
  return info[index].As<Napi::Number>().Uint32Value();
}
uint64_t time_argument(const Napi::CallbackInfo& info, size_t index) {
  if (index >= info.Length() || !info[index].IsBigInt()) fail(info.Env(), "SLUICE_ARGUMENT", "argument " + std::to_string(index + 1) + " must be a bigint");
  bool lossless;
  return info[index].As<Napi::BigInt>().Uint64Value(&lossless);
}
uint32_t number_field(const Napi::Object& o, const char* name, uint32_t fallback) { return o.Has(name) && o.Get(name).IsNumber() ? o.Get(name).As<Napi::Number>().Uint32Value() : fallback; }
std::string text_field(const Napi::Object& o, const char* name) { return o.Has(name) && o.Get(name).IsString() ? o.Get(name).As<Napi::String>().Utf8Value() : std::string(); }
bool flag_field(const Napi::Object& o, const char* name) { return o.Has(name) && o.Get(name).ToBoolean().Value(); }

Napi::Uint8Array copy_out(Napi::Env env, const void* data, size_t bytes) {
  auto out = Napi::Uint8Array::New(env, bytes);
  if (bytes) std::memcpy(out.Data(), data, bytes);
  return out;
}

Napi::Value open(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsObject()) fail(env, "SLUICE_ARGUMENT", "open(options) needs an object");
  auto o = info[0].As<Napi::Object>();
  engine_options options;
  options.pin_directory = text_field(o, "pinDirectory");
  options.bpf_object = text_field(o, "bpfObject");
  if (auto name = text_field(o, "hostDevice"); !name.empty()) options.host_device = name;
  options.workers = number_field(o, "workers", options.workers);
  options.sessions_max = number_field(o, "sessionsMax", options.sessions_max);
  options.frames_per_worker = number_field(o, "framesPerWorker", options.frames_per_worker);
  options.tx_budget = number_field(o, "txBudget", options.tx_budget);
  options.busy_poll = flag_field(o, "busyPoll");
  options.offline = flag_field(o, "offline");
  instance_data& i = instance(env);
  auto fresh = std::make_unique<engine>();
  instance_data* holder = &i;
  auto on_event = [holder](const engine_event& e) {
    if (!holder->has_events) return;
    auto* copy = new engine_event(e);
    auto status = holder->events.NonBlockingCall(copy, [](Napi::Env call_env, Napi::Function callback, engine_event* event) {
      Napi::Object object = Napi::Object::New(call_env);
      object.Set("type", event->type);
      object.Set("level", event->level);
      object.Set("text", event->text);
      delete event;
      callback.Call({object});
    });
    if (status != napi_ok) delete copy;  // the queue is full or closing
  };
  std::string error;
  if (i.dataplane && i.dataplane->is_open()) fail(env, "SLUICE_ENGINE_OPEN", "the engine is open already: close() it first");
  if (!fresh->open(options, on_event, &error)) fail(env, "SLUICE_ENGINE_OPEN", error);
  i.dataplane = std::move(fresh);
  return env.Undefined();
}

Napi::Value add_port(const Napi::CallbackInfo& info) {
  engine& e = opened(info.Env());
  if (info.Length() < 1 || !info[0].IsObject()) fail(info.Env(), "SLUICE_ARGUMENT", "addPort(port) needs an object");
  auto o = info[0].As<Napi::Object>();
  port_options p{text_field(o, "name"), number_field(o, "ifindex", 0), number_field(o, "slot", 0), number_field(o, "queues", 1), number_field(o, "workers", 1), text_field(o, "mode") == "generic", flag_field(o, "partialChecksums")};
  bool generic = false;
  std::string error;
  if (!e.add_port(p, &generic, &error)) fail(info.Env(), "SLUICE_PORT", error);
  auto out = Napi::Object::New(info.Env());
  out.Set("mode", generic ? "generic" : "native");
  return out;
}

Napi::Value remove_port(const Napi::CallbackInfo& info) { opened(info.Env()).remove_port(number_argument(info, 0)); return info.Env().Undefined(); }

Napi::Value apply(const Napi::CallbackInfo& info) {
  engine& e = opened(info.Env());
  auto buffer = bytes_argument(info, 0);
  uint64_t generation = 0, microseconds = 0;
  std::string error;
  if (!e.apply(buffer.Data(), buffer.ByteLength(), &generation, &microseconds, &error)) fail(info.Env(), "SLUICE_SNAPSHOT", error);
  auto out = Napi::Object::New(info.Env());
  out.Set("generation", Napi::Number::New(info.Env(), static_cast<double>(generation)));
  out.Set("microseconds", Napi::Number::New(info.Env(), static_cast<double>(microseconds)));
  return out;
}

Napi::Value counters(const Napi::CallbackInfo& info) {
  auto words = opened(info.Env()).counters();
  return copy_out(info.Env(), words.data(), words.size() * sizeof(uint64_t));
}

Napi::Value records(const Napi::CallbackInfo& info) {
  auto into = bytes_argument(info, 0);
  uint32_t flows, drops;
  opened(info.Env()).records(into.Data(), into.ByteLength(), &flows, &drops);
  auto out = Napi::Object::New(info.Env());
  out.Set("flows", flows);
  out.Set("drops", drops);
  out.Set("bytes", static_cast<double>(flows * sizeof(sl_flow_record) + drops * sizeof(sl_drop_record)));
  return out;
}

Napi::Value sessions(const Napi::CallbackInfo& info) {
  uint32_t cursor = number_argument(info, 0);
  auto into = bytes_argument(info, 1);
  uint32_t count = opened(info.Env()).sessions(&cursor, reinterpret_cast<sl_flow_record*>(into.Data()), static_cast<uint32_t>(into.ByteLength() / sizeof(sl_flow_record)));
  auto out = Napi::Object::New(info.Env());
  out.Set("count", count);
  out.Set("cursor", cursor);
  return out;
}

Napi::Value kill_session(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), opened(info.Env()).kill_session(time_argument(info, 0))); }

Napi::Value simulate(const Napi::CallbackInfo& info) {
  auto request = bytes_argument(info, 0, sizeof(sl_simulate_request));
  sl_simulate_request q;
  std::memcpy(&q, request.Data(), sizeof q);
  sl_simulate_result result;
  std::string error;
  if (!opened(info.Env()).simulate(q, &result, &error)) fail(info.Env(), "SLUICE_SIMULATE", error);
  return copy_out(info.Env(), &result, sizeof result);
}

// setCapture(slot, filter): starts or replaces it; setCapture(slot): ends it.
Napi::Value set_capture(const Napi::CallbackInfo& info) {
  engine& e = opened(info.Env());
  std::string error;
  sl_capture_filter filter;
  const bool start = info.Length() > 1 && info[1].IsTypedArray();
  if (start) std::memcpy(&filter, bytes_argument(info, 1, sizeof filter).Data(), sizeof filter);
  if (!e.set_capture(number_argument(info, 0), start ? &filter : nullptr, &error)) fail(info.Env(), "SLUICE_CAPTURE", error);
  return info.Env().Undefined();
}
Napi::Value captured(const Napi::CallbackInfo& info) {
  auto into = bytes_argument(info, 0);
  return Napi::Number::New(info.Env(), static_cast<double>(opened(info.Env()).captured(into.Data(), into.ByteLength())));
}
template <auto listing> Napi::Value list_of(const Napi::CallbackInfo& info) {
  auto list = (opened(info.Env()).*listing)();
  return copy_out(info.Env(), list.data(), list.size() * sizeof list[0]);
}

// ---- WireGuard: see src/engine/binding.ts ----

Napi::Value wireguard_index(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), opened(info.Env()).wireguard_index()); }

Napi::Value wireguard_install(const Napi::CallbackInfo& info) {
  auto given = bytes_argument(info, 0, sizeof(sl_wireguard_keypair));
  sl_wireguard_keypair keypair;
  std::memcpy(&keypair, given.Data(), sizeof keypair);
  explicit_bzero(given.Data(), sizeof keypair);
  std::string error;
  const bool done = opened(info.Env()).wireguard_install(&keypair, &error);
  explicit_bzero(&keypair, sizeof keypair);
  if (!done) fail(info.Env(), "SLUICE_WIREGUARD", error);
  return info.Env().Undefined();
}

Napi::Value wireguard_forget(const Napi::CallbackInfo& info) {
  opened(info.Env()).wireguard_forget(number_argument(info, 0));
  return info.Env().Undefined();
}

sl_wireguard_endpoint endpoint_argument(const Napi::CallbackInfo& info, size_t index) {
  sl_wireguard_endpoint endpoint;
  std::memcpy(&endpoint, bytes_argument(info, index, sizeof endpoint).Data(), sizeof endpoint);
  return endpoint;
}

Napi::Value wireguard_endpoint(const Napi::CallbackInfo& info) {
  if (!opened(info.Env()).wireguard_endpoint(number_argument(info, 0), endpoint_argument(info, 1))) fail(info.Env(), "SLUICE_WIREGUARD", "unknown WireGuard peer");
  return info.Env().Undefined();
}

Napi::Value wireguard_send(const Napi::CallbackInfo& info) {
  engine& e = opened(info.Env());
  auto message = bytes_argument(info, 2);
  const bool has_endpoint = info.Length() > 3 && info[3].IsTypedArray();
  const sl_wireguard_endpoint endpoint = has_endpoint ? endpoint_argument(info, 3) : sl_wireguard_endpoint{};
  return Napi::Boolean::New(info.Env(), e.wireguard_send(number_argument(info, 0), number_argument(info, 1), {message.Data(), message.ByteLength()}, has_endpoint ? &endpoint : nullptr));
}

Napi::Value wireguard_gate(const Napi::CallbackInfo& info) {
  engine& e = opened(info.Env());
  auto given = bytes_argument(info, 1);
  if (given.ByteLength() % sizeof(sl_wireguard_gate_key)) fail(info.Env(), "SLUICE_ARGUMENT", "argument 2 must have a multiple of " + std::to_string(sizeof(sl_wireguard_gate_key)) + " bytes");
  std::vector<sl_wireguard_gate_key> keys(given.ByteLength() / sizeof(sl_wireguard_gate_key));
  if (!keys.empty()) std::memcpy(keys.data(), given.Data(), given.ByteLength());
  std::string error;
  if (!e.wireguard_gate(number_argument(info, 0), keys, &error)) fail(info.Env(), "SLUICE_WIREGUARD", error);
  return info.Env().Undefined();
}

Napi::Value wireguard_events(const Napi::CallbackInfo& info) {
  auto into = bytes_argument(info, 0);
  return Napi::Number::New(info.Env(), static_cast<double>(opened(info.Env()).wireguard_events(into.Data(), into.ByteLength())));
}

Napi::Value on_event(const Napi::CallbackInfo& info) {
  instance_data& i = instance(info.Env());
  if (info.Length() < 1 || !info[0].IsFunction()) fail(info.Env(), "SLUICE_ARGUMENT", "onEvent(callback) needs a function");
  if (i.has_events) i.events.Release();
  i.events = Napi::ThreadSafeFunction::New(info.Env(), info[0].As<Napi::Function>(), "sluice-events", 1024, 1);
  i.events.Unref(info.Env());
  i.has_events = true;
  return info.Env().Undefined();
}

Napi::Object injected_object(Napi::Env env, const injected& result) {
  auto out = Napi::Object::New(env);
  out.Set("verdict", result.verdict);
  static const char* const names[] = {
#define SL_X_TEXT(name, text, help) text,
      SL_DROP_REASONS(SL_X_TEXT)
#undef SL_X_TEXT
  };
  out.Set("reason", names[result.reason]);
  auto frames = Napi::Array::New(env, result.frames.size());
  for (uint32_t i = 0; i < result.frames.size(); ++i) {
    auto frame = Napi::Object::New(env);
    frame.Set("interface", result.frames[i].interface);
    frame.Set("frame", copy_out(env, result.frames[i].frame.data(), result.frames[i].frame.size()));
    frames.Set(i, frame);
  }
  auto host = Napi::Array::New(env, result.host.size());
  for (uint32_t i = 0; i < result.host.size(); ++i) host.Set(i, copy_out(env, result.host[i].data(), result.host[i].size()));
  out.Set("frames", frames);
  out.Set("host", host);
  return out;
}

Napi::Value inject(const Napi::CallbackInfo& info) {
  auto frame = bytes_argument(info, 1);
  injected result;
  std::string error;
  if (!opened(info.Env()).inject(static_cast<uint16_t>(number_argument(info, 0)), frame.Data(), frame.ByteLength(), time_argument(info, 2), &result, &error)) fail(info.Env(), "SLUICE_INJECT", error);
  return injected_object(info.Env(), result);
}

Napi::Value advance(const Napi::CallbackInfo& info) {
  injected result;
  opened(info.Env()).advance(time_argument(info, 0), &result);
  return injected_object(info.Env(), result);
}

Napi::Value set_neighbour(const Napi::CallbackInfo& info) {
  auto address = bytes_argument(info, 1, sizeof(sl_address));
  sl_address a;
  std::memcpy(a.bytes, address.Data(), sizeof a.bytes);
  bool known = info.Length() > 2 && info[2].IsTypedArray();
  opened(info.Env()).set_neighbour(static_cast<uint16_t>(number_argument(info, 0)), a, known ? bytes_argument(info, 2, 6).Data() : nullptr);
  return info.Env().Undefined();
}

Napi::Value close(const Napi::CallbackInfo& info) {
  instance_data& i = instance(info.Env());
  i.dataplane.reset();
  if (i.has_events) {
    i.events.Release();
    i.has_events = false;
  }
  return info.Env().Undefined();
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new instance_data);
  const std::pair<const char*, Napi::Value (*)(const Napi::CallbackInfo&)> calls[] = {
      {"open", open}, {"addPort", add_port}, {"removePort", remove_port}, {"apply", apply}, {"counters", counters}, {"records", records},
      {"sessions", sessions}, {"killSession", kill_session}, {"simulate", simulate}, {"ruleHits", list_of<&engine::rule_hits>}, {"neighbours", list_of<&engine::neighbours>},
      {"natPools", list_of<&engine::nat_pools>}, {"rings", list_of<&engine::rings>}, {"interfaces", list_of<&engine::interfaces>},
      {"setCapture", set_capture}, {"captured", captured},
      {"wireguardIndex", wireguard_index}, {"wireguardInstall", wireguard_install}, {"wireguardForget", wireguard_forget}, {"wireguardEndpoint", wireguard_endpoint},
      {"wireguardSend", wireguard_send}, {"wireguardGate", wireguard_gate}, {"wireguardEvents", wireguard_events}, {"wireguardPeers", list_of<&engine::wireguard_peers>},
      {"onEvent", on_event}, {"inject", inject}, {"advance", advance}, {"setNeighbour", set_neighbour}, {"close", close}};
  for (const auto& [name, call] : calls) exports.Set(name, Napi::Function::New(env, call, name));
  return exports;
}

}  // namespace

NODE_API_MODULE(sluice, init)
