/* tinkex.hpp: C++17 classes over tinkex.h.  SPDX-License-Identifier: Apache-2.0
 *
 * Every class owns its C object and frees it. Failures throw `tinkex::error`. Clients (service, training, sampling, rest)
 * can be copied: a copy is one more handle of the same client. Everything else can only be moved. `raw()` gives the
 * C object for functions that have no wrapper here. The conventions at the head of tinkex.h apply, with one difference:
 * callbacks may throw. Exceptions of a custom loss fail that loss; exceptions of other callbacks are dropped.
 */
#ifndef TINKEX_HPP
#define TINKEX_HPP
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>
#include "tinkex.h"
namespace tinkex {
using std::int32_t, std::int64_t, std::size_t, std::uint64_t;

/* A pointer and a number of elements. Made from vectors, arrays and everything else that std::data takes. */
template <class T> class span {
  T *data_ = nullptr;
  size_t size_ = 0;
public:
  span() = default; span(T *data, size_t size) : data_(data), size_(size) {}
  template <class C, class = std::enable_if_t<std::is_convertible_v<decltype(std::data(std::declval<C &>())), T *>>>
  span(C &&values) : data_(std::data(values)), size_(std::size(values)) {}
  T *data() const { return data_; } size_t size() const { return size_; }
  T *begin() const { return data_; } T *end() const { return data_ + size_; } T &operator[](size_t i) const { return data_[i]; }
};
using floats = span<const float>;
using tokens = span<const int32_t>;
using int64s = span<const int64_t>;

template <class T, void (*Free)(T **)> struct freer { void operator()(T *p) const noexcept { Free(&p); } };
template <class T, void (*Free)(T **)> class handle {
  std::unique_ptr<T, freer<T, Free>> raw_;
public:
  explicit handle(T *raw = nullptr) : raw_(raw) {}
  T *raw() const noexcept { return raw_.get(); } T *release() noexcept { return raw_.release(); }
  explicit operator bool() const noexcept { return raw_ != nullptr; }
};
inline std::string string(const char *text) { return text ? text : ""; }
/* What a function without an error parameter returns: throws if that is NULL. */
template <class T> T *valid(T *made, const char *reason = "tinkex: no new handle: the source is empty, or of before a fork") {
  return made ? made : throw std::runtime_error(reason);
}

class error : public std::runtime_error {
  std::shared_ptr<const tinkex_error> raw_;
public:
  explicit error(tinkex_error *raw) : std::runtime_error(string(tinkex_error_message(raw))), raw_(raw, [](tinkex_error *p) { tinkex_error_free(&p); }) {}
  const tinkex_error *raw() const noexcept { return raw_.get(); } tinkex_code code() const noexcept { return tinkex_error_code(raw()); }
  const char *name() const noexcept { return tinkex_code_name(code()); } std::string path() const { return string(tinkex_error_path(raw())); } std::string operation() const { return string(tinkex_error_operation(raw())); }
  std::string request_id() const { return string(tinkex_error_request_id(raw())); } std::string json() const { return string(tinkex_error_json(raw())); }
  int32_t http_status() const noexcept { return tinkex_error_http_status(raw()); } int64_t retry_after_ms() const noexcept { return tinkex_error_retry_after_ms(raw()); }
  bool is_retryable() const noexcept { return tinkex_error_is_retryable(raw()); } bool is_user_error() const noexcept { return tinkex_error_is_user_error(raw()); } bool is_timeout() const noexcept { return tinkex_error_is_timeout(raw()); }
};

/* Calls a C function with the error parameter added, and throws its error. */
template <class F, class... A> void call(F f, A &&...a) {
  if (tinkex_error *e = nullptr; f(std::forward<A>(a)..., &e) != TINKEX_OK) throw error(e);
}
/* As `call`, and returns what the function writes to its output of type `T *`. */
template <class T, class F, class... A> T *make(F f, A &&...a) {
  T *out = nullptr;
  call(f, std::forward<A>(a)..., &out);
  return out;
}
/* As `make`, for functions with an array of `T` and its length as outputs. */
template <class T, class F, class... A> span<const T> array(F f, A &&...a) {
  const T *values = nullptr; size_t n = 0;
  call(f, std::forward<A>(a)..., &values, &n);
  return {values, n};
}
/* As `make`, for functions with a text as output. */
template <class F, class... A> std::string text(F f, A &&...a) {
  handle<tinkex_text, tinkex_text_free> made(make<tinkex_text>(f, std::forward<A>(a)...));
  return {tinkex_text_data(made.raw()), tinkex_text_len(made.raw())};
}
/* Options: no object, which stands for the defaults, until the first setter. */
template <class T, T *(*New)(), void (*Free)(T **)> class options {
  handle<T, Free> raw_;
protected:
  T *made() { if (!raw_) raw_ = handle<T, Free>(New()); return raw_.raw(); }
public:
  T *raw() const noexcept { return raw_.raw(); }
};
#define TINKEX_SET(name, f, parameters, ...) auto &name parameters { f(made(), __VA_ARGS__); return *this; }
using str = const std::string &;

/* --- results ------------------------------------------------------------------------------------------------------- */
struct ragged { int64s offsets; floats values; };
/* Views of a result. They are valid until its pending is destroyed or assigned to, so keep that in a variable. */
class result {
  const tinkex_result *raw_;
public:
  explicit result(const tinkex_result *raw) : raw_(raw) {}
  const tinkex_result *raw() const { return raw_; } int32_t kind() const { return tinkex_result_kind(raw_); }
  std::string json() const { return string(tinkex_result_json(raw_)); }
  std::string path() const { return string(tinkex_result_path(raw_)); } /* of what was saved or loaded */
  double metric(str name) const { return tinkex_result_metric(raw_, name.c_str()); }
  std::vector<std::pair<std::string, double>> metrics() const {
    std::vector<std::pair<std::string, double>> all;
    for (size_t i = 0; i < tinkex_result_metric_count(raw_); i++)
      all.emplace_back(tinkex_result_metric_name(raw_, i), tinkex_result_metric_value(raw_, i));
    return all;
  }
};
struct pass : result {
  using result::result;
  double loss() const { return metric("loss"); } double loss_per_token() const { return metric("loss_per_token"); } size_t size() const { return tinkex_result_example_count(raw()); }
  floats output(size_t i, str name = "logprobs") const { return array<float>(tinkex_result_output_f32, raw(), i, name.c_str()); }
  int64s output_i64(size_t i, str name) const { return array<int64_t>(tinkex_result_output_i64, raw(), i, name.c_str()); }
  span<const size_t> shape(size_t i, str name = "logprobs") const { return array<size_t>(tinkex_result_output_shape, raw(), i, name.c_str()); }
  ragged outputs(str name = "logprobs") const {
    const int64_t *at; const float *values;
    call(tinkex_result_outputs_f32, raw(), name.c_str(), &at, &values);
    return {{at, size() + 1}, {values, static_cast<size_t>(at[size()])}};
  }
};
struct sample : result {
  using result::result;
  size_t size() const { return tinkex_result_sequence_count(raw()); }
  tinkex::tokens tokens(size_t sequence = 0) const { size_t n; auto p = tinkex_result_tokens(raw(), sequence, &n); return {p, n}; }
  floats logprobs(size_t sequence = 0) const { size_t n; auto p = tinkex_result_logprobs(raw(), sequence, &n); return {p, n}; }
  floats prompt_logprobs() const { size_t n; auto p = tinkex_result_prompt_logprobs(raw(), &n); return {p, n}; }
  int32_t stop_reason(size_t sequence = 0) const { return tinkex_result_stop_reason(raw(), sequence); } std::string sequence_id(size_t sequence = 0) const { return string(tinkex_result_sequence_id(raw(), sequence)); }
};

/* --- queues and pending operations --------------------------------------------------------------------------------- */
struct loss_deleter { bool owns = true; void operator()(tinkex_loss_call *p) const noexcept { if (owns) tinkex_loss_call_finish(&p); } };
/* One evaluation of a custom loss. Destroying a pulled one finishes it. */
class loss_call {
  std::unique_ptr<tinkex_loss_call, loss_deleter> raw_;
  template <class T> span<T> part(T *all, size_t i) const { return {all + offsets()[i], static_cast<size_t>(offsets()[i + 1] - offsets()[i])}; }
public:
  loss_call(tinkex_loss_call *raw, bool owns) : raw_(raw, loss_deleter{owns}) {}
  tinkex_loss_call *raw() const noexcept { return raw_.get(); } size_t size() const { return tinkex_loss_call_count(raw()); }
  int64s offsets() const { return {tinkex_loss_call_offsets(raw()), size() + 1}; } floats logprobs() const { return {tinkex_loss_call_logprobs(raw()), static_cast<size_t>(offsets()[size()])}; }
  span<float> gradients() const { return {tinkex_loss_call_gradients(raw()), static_cast<size_t>(offsets()[size()])}; }
  floats logprobs(size_t example) const { return part(tinkex_loss_call_logprobs(raw()), example); } span<float> gradients(size_t example) const { return part(tinkex_loss_call_gradients(raw()), example); }
  floats input(size_t example, str name) const { return array<float>(tinkex_loss_call_input_f32, raw(), example, name.c_str()); }
  int64s input_i64(size_t example, str name) const { return array<int64_t>(tinkex_loss_call_input_i64, raw(), example, name.c_str()); }
  void set_loss(double loss) const { tinkex_loss_call_set_loss(raw(), loss); }
  void set_metric(str name, double value) const { tinkex_loss_call_set_metric(raw(), name.c_str(), value); }
  void fail(str message) const { tinkex_loss_call_fail(raw(), message.c_str()); } void finish() { raw_.reset(); }
};
template <class E> class event_parts { /* what an `E` tells, which has `raw()` */
  const tinkex_event *view() const { return static_cast<const E *>(this)->raw(); }
public:
  int32_t kind() const { return tinkex_event_kind(view()); } uint64_t tag() const { return tinkex_event_tag(view()); } int32_t level() const { return tinkex_event_level(view()); }
  std::string message() const { return string(tinkex_event_message(view())); } std::string json() const { return string(tinkex_event_json(view())); }
};
class event_view : public event_parts<event_view> { /* the argument of an observer, valid until the observer returns */
  const tinkex_event *raw_;
public:
  explicit event_view(const tinkex_event *raw) : raw_(raw) {} const tinkex_event *raw() const noexcept { return raw_; }
};
struct event : handle<tinkex_event, tinkex_event_free>, event_parts<event> {
  explicit event(tinkex_event *raw) : handle(raw) {}
  loss_call take_loss() const { return {valid(tinkex_event_take_loss(raw()), "tinkex: the event has no loss, or it was taken before"), true}; }
};
struct queue : handle<tinkex_queue, tinkex_queue_free> {
  queue() : handle(make<tinkex_queue>(tinkex_queue_new)) {}
  /* The next event; nothing if none comes in time. */
  std::optional<event> next(int64_t ms = -1) const {
    tinkex_event *out; tinkex_error *e;
    switch (tinkex_queue_next(raw(), ms, &out, &e)) {
      case TINKEX_OK: return event(out);
      case TINKEX_ERROR_TIMEOUT_WAIT: tinkex_error_free(&e); return std::nullopt;
      default: throw error(e);
    }
  }
  size_t take_done(span<uint64_t> tags, int64_t ms = -1) const { return tinkex_queue_take_done(raw(), tags.data(), tags.size(), ms); }
  int64_t fd() const { return tinkex_queue_fd(raw()); } void wake() const { tinkex_queue_wake(raw()); }
};
/* An operation, with a result that is read as `R`. */
template <class R> struct pending : handle<tinkex_pending, tinkex_pending_free> {
  using type = handle<tinkex_pending, tinkex_pending_free>;
  explicit pending(tinkex_pending *raw) : type(raw) {}
  R wait(int64_t ms = -1) const & { const tinkex_result *r; call(tinkex_pending_wait, this->raw(), ms, &r); return R(r); }
  /* Of a temporary: deleted for results that are views, which would outlive it. Write `auto p = ...; auto r = p.wait();`. */
  template <class V = R, std::enable_if_t<std::is_base_of_v<result, V>, int> = 0> V wait(int64_t ms = -1) const && = delete;
  template <class V = R, std::enable_if_t<!std::is_base_of_v<result, V>, int> = 0> V wait(int64_t ms = -1) const && { return static_cast<const pending &>(*this).wait(ms); }
  bool is_done() const { return tinkex_pending_is_done(this->raw()); } void notify(const queue &queue, uint64_t tag) const { call(tinkex_pending_notify, this->raw(), queue.raw(), tag); }
  void cancel() const { tinkex_pending_cancel(this->raw()); } void detach() && { auto p = this->release(); tinkex_pending_detach(&p); }
  std::string status() const { /* as JSON */
    handle<tinkex_status, tinkex_status_free> status(make<tinkex_status>(tinkex_pending_status, this->raw()));
    return string(tinkex_status_json(status.raw()));
  }
};
template <class C> std::vector<tinkex_pending *> raws(const C &all) {
  std::vector<tinkex_pending *> raw;
  for (auto &one : all) raw.push_back(one.raw());
  return raw;
}
/* Wait for all or for the first of a container of pendings; the number of the first one that has ended. */
template <class C> void wait_all(const C &all, int64_t ms = -1) { auto p = raws(all); call(tinkex_wait_all, p.data(), p.size(), ms, nullptr); }
template <class C> size_t wait_any(const C &all, int64_t ms = -1) { size_t i; auto p = raws(all); call(tinkex_wait_any, p.data(), p.size(), ms, &i); return i; }

/* --- callbacks: C functions that call an `F` that `user` points to, and let no exception through -------------------- */
template <class F> void drop(void *user) noexcept { delete static_cast<F *>(user); }
template <class F> int32_t on_loss(void *user, tinkex_loss_call *raw) noexcept {
  try {
    loss_call call(raw, false);
    call.set_loss((*static_cast<F *>(user))(static_cast<const loss_call &>(call)));
    return 0;
  } catch (const std::exception &e) {
    tinkex_loss_call_fail(raw, e.what());
  } catch (...) {
    tinkex_loss_call_fail(raw, "the custom loss threw an object that is not a std::exception");
  }
  return 1;
}
template <class F> void on_event(void *user, const tinkex_event *raw) noexcept {
  try { (*static_cast<F *>(user))(event_view(raw)); } catch (...) {}
}
template <class F> void on_log(void *user, int32_t level, const char *target, const char *message) noexcept {
  try { (*static_cast<F *>(user))(level, std::string_view(target), std::string_view(message)); } catch (...) {}
}
/* Calls f(level, target, message) for each log record. */
template <class F> void log_to(int32_t level, F f) { call(tinkex_log_to_callback, level, on_log<F>, new F(std::move(f)), drop<F>); }

/* --- data, losses, optimizers -------------------------------------------------------------------------------------- */
struct input : handle<tinkex_input, tinkex_input_free> {
  input() : handle(tinkex_input_new()) {}
  input &add(tokens t) { call(tinkex_input_add_tokens, raw(), t.data(), t.size()); return *this; }
  input &add_image(std::string_view bytes, str format, int64_t expected_tokens) { call(tinkex_input_add_image, raw(), bytes.data(), bytes.size(), format.c_str(), expected_tokens); return *this; }
  int64_t size() const { return tinkex_input_len(raw()); }
};
struct batch : handle<tinkex_batch, tinkex_batch_free> {
  batch() : handle(tinkex_batch_new()) {}
  size_t size() const { return tinkex_batch_len(raw()); } void clear() { tinkex_batch_clear(raw()); }
  size_t add(tokens t) { return added(tinkex_batch_add_tokens, t.data(), t.size()); }
  size_t add(const input &input) { return added(tinkex_batch_add_input, input.raw()); }
  size_t add_completion(tokens prompt, tokens completion) {
    return added(tinkex_batch_add_completion, prompt.data(), prompt.size(), completion.data(), completion.size());
  }
  size_t add_weighted(tokens t, floats weights) {
    if (t.size() != weights.size()) throw std::invalid_argument("tinkex: as many weights as tokens are needed");
    return added(tinkex_batch_add_weighted, t.data(), weights.data(), t.size());
  }
  /* `shape` empty: one dimension. */
  void set(size_t index, str name, floats v, span<const size_t> shape = {}) { set_with(tinkex_batch_set_f32, index, name, v, shape); }
  void set(size_t index, str name, int64s v, span<const size_t> shape = {}) { set_with(tinkex_batch_set_i64, index, name, v, shape); }
  void set(size_t index, str name, tokens v, span<const size_t> shape = {}) { set_with(tinkex_batch_set_i32, index, name, v, shape); }
  std::string json() const { return text(tinkex_batch_json, raw()); }
private:
  template <class F, class... A> size_t added(F f, A &&...a) { size_t i = 0; call(f, raw(), std::forward<A>(a)..., &i); return i; }
  template <class F, class T> void set_with(F f, size_t index, str name, span<T> values, span<const size_t> shape) {
    size_t product = shape.size() == 0 ? values.size() : 1; /* an overflow is found by the C function */
    for (size_t n : shape) product *= n;
    if (product != values.size()) throw std::invalid_argument("tinkex: the shape of `" + name + "` does not fit its values");
    const size_t flat = values.size();
    call(f, raw(), index, name.c_str(), values.data(), shape.size() == 0 ? &flat : shape.data(), shape.size() == 0 ? 1 : shape.size());
  }
};
struct loss : handle<tinkex_loss, tinkex_loss_free> {
  explicit loss(str name) : handle(make<tinkex_loss>(tinkex_loss_new, name.c_str())) {}
  explicit loss(const tinkex_result *result) : handle(make<tinkex_loss>(tinkex_result_loss, result)) {}
  loss &set(str name, double value) { tinkex_loss_set_number(raw(), name.c_str(), value); return *this; }
  loss &set(str name, str value) { tinkex_loss_set_text(raw(), name.c_str(), value.c_str()); return *this; }
};
struct graph : handle<tinkex_graph, tinkex_graph_free> { /* nodes are numbers; the C functions take `raw()` */
  explicit graph(str name, int32_t dims = 1) : handle(make<tinkex_graph>(tinkex_graph_new, name.c_str(), dims)) {}
  int32_t logprobs() { return tinkex_graph_logprobs(raw()); } int32_t input(str name, int32_t dims = 1) { return tinkex_graph_input(raw(), name.c_str(), dims); }
  int32_t number(double value) { return tinkex_graph_number(raw(), value); } int32_t op(str name, int32_t a) { return tinkex_graph_unary(raw(), name.c_str(), a); }
  int32_t op(str name, int32_t a, int32_t b) { return tinkex_graph_binary(raw(), name.c_str(), a, b); }
  void metric(str name, int32_t node) { tinkex_graph_metric(raw(), name.c_str(), node); } void result(int32_t node) { tinkex_graph_result(raw(), node); }
};
struct optim : handle<tinkex_optim, tinkex_optim_free> {
  explicit optim(str kind = "adam") : handle(make<tinkex_optim>(tinkex_optim_new, kind.c_str())) {}
  optim &set(str name, double value) { tinkex_optim_set(raw(), name.c_str(), value); return *this; }
};

/* --- clients ------------------------------------------------------------------------------------------------------- */
/* A handle whose copies are made by `Ref`. */
template <class T, void (*Free)(T **), T *(*Ref)(const T *)> struct client : handle<T, Free> {
  explicit client(T *raw = nullptr) : handle<T, Free>(raw) {}
  client(const client &other) : handle<T, Free>(other ? valid(Ref(other.raw())) : nullptr) {}
  client(client &&) = default;
  client &operator=(const client &other) { return *this = client(other); }
  client &operator=(client &&) = default;
protected:
  template <class R, class F, class... A> pending<R> start(F f, A &&...a) const { return pending<R>(make<tinkex_pending>(f, this->raw(), std::forward<A>(a)...)); }
};
struct service_options : options<tinkex_service_options, tinkex_service_options_new, tinkex_service_options_free> {
  TINKEX_SET(base_url, tinkex_service_options_set_base_url, (str url), url.c_str())
  TINKEX_SET(api_key, tinkex_service_options_set_api_key, (str key), key.c_str()) TINKEX_SET(project, tinkex_service_options_set_project, (str id), id.c_str())
  TINKEX_SET(tag, tinkex_service_options_add_tag, (str tag), tag.c_str()) TINKEX_SET(metadata, tinkex_service_options_add_metadata, (str key, str value), key.c_str(), value.c_str())
  TINKEX_SET(header, tinkex_service_options_add_header, (str name, str value), name.c_str(), value.c_str())
  TINKEX_SET(text, tinkex_service_options_set_text, (str name, str value), name.c_str(), value.c_str())
  TINKEX_SET(timeout, tinkex_service_options_set_timeout, (str name, int64_t ms), name.c_str(), ms)
  TINKEX_SET(number, tinkex_service_options_set_number, (str name, double value), name.c_str(), value)
  TINKEX_SET(flag, tinkex_service_options_set_flag, (str name, bool on), name.c_str(), on)
  TINKEX_SET(observer_queue, tinkex_service_options_set_observer_queue, (const queue &queue, uint64_t tag), queue.raw(), tag)
  template <class F> TINKEX_SET(observer, tinkex_service_options_set_observer, (F f), on_event<F>, new F(std::move(f)), drop<F>)
};
struct model_options : options<tinkex_model_options, tinkex_model_options_new, tinkex_model_options_free> {
  TINKEX_SET(rank, tinkex_model_options_set_rank, (int32_t rank), rank) TINKEX_SET(seed, tinkex_model_options_set_seed, (int64_t seed), seed)
  TINKEX_SET(flag, tinkex_model_options_set_flag, (str name, bool on), name.c_str(), on) TINKEX_SET(text, tinkex_model_options_set_text, (str name, str value), name.c_str(), value.c_str())
  TINKEX_SET(metadata, tinkex_model_options_add_metadata, (str key, str value), key.c_str(), value.c_str())
};
struct save_options : options<tinkex_save_options, tinkex_save_options_new, tinkex_save_options_free> {
  TINKEX_SET(ttl, tinkex_save_options_set_ttl, (int64_t seconds), seconds) TINKEX_SET(overwrite, tinkex_save_options_set_overwrite, (bool on), on)
  TINKEX_SET(metadata, tinkex_save_options_add_metadata, (str key, str value), key.c_str(), value.c_str())
};
struct sample_options : options<tinkex_sample_options, tinkex_sample_options_new, tinkex_sample_options_free> {
  TINKEX_SET(max_tokens, tinkex_sample_options_set_max_tokens, (int32_t n), n) TINKEX_SET(temperature, tinkex_sample_options_set_temperature, (double temperature), temperature)
  TINKEX_SET(top_p, tinkex_sample_options_set_top_p, (double top_p), top_p) TINKEX_SET(top_k, tinkex_sample_options_set_top_k, (int32_t top_k), top_k)
  TINKEX_SET(seed, tinkex_sample_options_set_seed, (int64_t seed), seed) TINKEX_SET(stop, tinkex_sample_options_add_stop_text, (str text), text.c_str())
  TINKEX_SET(stop_tokens, tinkex_sample_options_set_stop_tokens, (tokens t), t.data(), t.size())
  TINKEX_SET(number, tinkex_sample_options_set_number, (str name, int64_t value), name.c_str(), value)
};
struct server_options : options<tinkex_server_options, tinkex_server_options_new, tinkex_server_options_free> {
  TINKEX_SET(text, tinkex_server_options_set_text, (str name, str value), name.c_str(), value.c_str())
  TINKEX_SET(number, tinkex_server_options_set_number, (str name, double value), name.c_str(), value)
};
/* The embedded engine, which runs until this object is destroyed. */
struct server : handle<tinkex_server, tinkex_server_free> {
  explicit server(const server_options &o = {}) : handle(make<tinkex_server>(tinkex_server_new, o.raw())) {}
  std::string url() const { return string(tinkex_server_url(raw())); } std::string api_key() const { return string(tinkex_server_api_key(raw())); }
  service_options options() const { service_options o; o.base_url(url()).api_key(api_key()); return o; }
};
struct cancel : handle<tinkex_cancel, tinkex_cancel_free> { /* cancels the samples of the clients and the downloads made with it */
  cancel() : handle(tinkex_cancel_new()) {} void now() const { tinkex_cancel_now(raw()); }
};
class progress_view { /* how far a download is: the argument of its callback, valid until that returns */
  const tinkex_progress *raw_;
public:
  explicit progress_view(const tinkex_progress *raw) : raw_(raw) {} const tinkex_progress *raw() const noexcept { return raw_; }
  int32_t phase() const { return tinkex_progress_phase(raw_); } int64_t bytes() const { return tinkex_progress_bytes(raw_); } int64_t files() const { return tinkex_progress_files(raw_); }
  int64_t total_bytes() const { return tinkex_progress_total_bytes(raw_); } int64_t total_files() const { return tinkex_progress_total_files(raw_); } /* -1: not known yet */
  std::string error() const { return string(tinkex_error_message(tinkex_progress_error(raw_))); } /* why it tries again, or "" */
};
template <class F> void on_progress(void *user, const tinkex_progress *raw) noexcept {
  try { (*static_cast<F *>(user))(progress_view(raw)); } catch (...) {}
}
struct download_options : options<tinkex_download_options, tinkex_download_options_new, tinkex_download_options_free> {
  TINKEX_SET(text, tinkex_download_options_set_text, (str name, str value), name.c_str(), value.c_str())
  TINKEX_SET(flag, tinkex_download_options_set_flag, (str name, bool on), name.c_str(), on)
  TINKEX_SET(number, tinkex_download_options_set_number, (str name, int64_t value), name.c_str(), value)
  TINKEX_SET(cancelled_by, tinkex_download_options_set_cancel, (const cancel &cancel), cancel.raw())
  template <class F> TINKEX_SET(progress, tinkex_download_options_set_progress, (F f), on_progress<F>, new F(std::move(f)), drop<F>)
};
struct sampling : client<tinkex_sampling, tinkex_sampling_free, tinkex_sampling_ref> {
  using client::client;
  explicit sampling(const tinkex_result *result) : client(make<tinkex_sampling>(tinkex_result_sampling, result)) {}
  pending<tinkex::sample> sample(tokens prompt, int32_t n = 1, const sample_options &o = {}) const { return start<tinkex::sample>(tinkex_sampling_sample_tokens, prompt.data(), prompt.size(), n, o.raw()); }
  pending<tinkex::sample> sample(const input &prompt, int32_t n = 1, const sample_options &o = {}) const { return start<tinkex::sample>(tinkex_sampling_sample, prompt.raw(), n, o.raw()); }
  /* Ragged prompts: `offsets` has one entry more than there are prompts. */
  std::vector<pending<tinkex::sample>> sample_many(int64s offsets, tokens all, int32_t n = 1, const sample_options &o = {}) const {
    if (offsets.size() == 0 || offsets[offsets.size() - 1] != static_cast<int64_t>(all.size())) throw std::invalid_argument("tinkex: `offsets` does not fit `all`");
    std::vector<tinkex_pending *> made(offsets.size() - 1);
    std::vector<pending<tinkex::sample>> owned;
    owned.reserve(made.size()); /* from here on nothing throws before all handles have an owner */
    size_t submitted = 0; tinkex_error *e = nullptr;
    auto code = tinkex_sampling_sample_many(raw(), made.size(), offsets.data(), all.data(), n, o.raw(), made.data(), &submitted, &e);
    for (size_t i = 0; i < submitted; i++) owned.emplace_back(made[i]);
    if (code != TINKEX_OK) throw error(e);
    return owned;
  }
  pending<tinkex::sample> logprobs(const input &prompt, int64_t last_n = -1) const { return start<tinkex::sample>(tinkex_sampling_logprobs, prompt.raw(), last_n); }
  sampling with_cancel(const cancel &cancel) const { return sampling(valid(tinkex_sampling_with_cancel(raw(), cancel.raw()))); }
  std::string base_model() const { return string(tinkex_sampling_base_model(raw())); } void close() const { tinkex_sampling_close(raw()); }
};
struct training : client<tinkex_training, tinkex_training_free, tinkex_training_ref> {
  using client::client;
  explicit training(const tinkex_result *result) : client(make<tinkex_training>(tinkex_result_training, result)) {}
  std::string model_id() const { return string(tinkex_training_model_id(raw())); } std::string info() const { return string(tinkex_training_info(raw())); }
  pending<pass> forward(const batch &b, const loss &l) const { return start<pass>(tinkex_training_forward, b.raw(), l.raw()); }
  pending<pass> forward_backward(const batch &b, const loss &l) const { return start<pass>(tinkex_training_forward_backward, b.raw(), l.raw()); }
  /* `f(const loss_call &)` fills the gradients and returns the loss, on a thread of tinkex. */
  template <class F> pending<pass> forward_backward_custom(const batch &b, F f) const { return start<pass>(tinkex_training_forward_backward_custom, b.raw(), on_loss<F>, new F(std::move(f)), drop<F>); }
  pending<pass> forward_backward_pulled(const batch &b, const queue &queue, uint64_t tag) const { return start<pass>(tinkex_training_forward_backward_pulled, b.raw(), queue.raw(), tag); }
  pending<result> optim_step(const optim &o) const { return start<result>(tinkex_training_optim_step, o.raw()); }
  pending<result> save_state(str name, const save_options &o = {}) const { return start<result>(tinkex_training_save_state, name.c_str(), o.raw()); }
  pending<result> save_for_sampler(str name, const save_options &o = {}) const { return start<result>(tinkex_training_save_for_sampler, name.c_str(), o.raw()); }
  pending<result> load_state(str path, bool with_optimizer) const { return start<result>(tinkex_training_load_state, path.c_str(), with_optimizer); }
  tinkex::sampling sampler(int32_t inflight = 0) const { return tinkex::sampling(make<tinkex_sampling>(tinkex_training_sampler, raw(), inflight)); }
  void close() const { tinkex_training_close(raw()); }
};
struct rest : client<tinkex_rest, tinkex_rest_free, tinkex_rest_ref> {
  using client::client;
  explicit rest(const service_options &o) : client(make<tinkex_rest>(tinkex_rest_new, o.raw())) {}
  /* json(tinkex_rest_get_run, "run-id"): the JSON of a function of tinkex.h with its arguments. */
  template <class F, class... A> std::string json(F f, A &&...a) const { return text(f, raw(), std::forward<A>(a)...); }
  template <class F, class... A> void run(F f, A &&...a) const { call(f, raw(), std::forward<A>(a)...); }
  /* Downloads a checkpoint to the disk, and returns the JSON of tinkex_rest_download. */
  std::string download(str path, const download_options &o = {}) const { return text(tinkex_rest_download, raw(), path.c_str(), o.raw()); }
};
struct service : client<tinkex_service, tinkex_service_free, tinkex_service_ref> {
  using client::client;
  explicit service(const service_options &o = {}) : client(make<tinkex_service>(tinkex_service_new, o.raw())) {}
  tinkex::training training(str base_model, const model_options &o = {}) const { return tinkex::training(make<tinkex_training>(tinkex_training_new, raw(), base_model.c_str(), o.raw())); }
  tinkex::training training_from_state(str path, bool with_optimizer, const model_options &o = {}) const { return tinkex::training(make<tinkex_training>(tinkex_training_from_state, raw(), path.c_str(), with_optimizer, o.raw())); }
  pending<tinkex::training> start_training(str model_or_path, bool with_optimizer = false, const model_options &o = {}) const { return start<tinkex::training>(tinkex_training_start, model_or_path.c_str(), with_optimizer, o.raw()); }
  tinkex::sampling sampling(str model_or_path) const { return tinkex::sampling(make<tinkex_sampling>(tinkex_sampling_new, raw(), model_or_path.c_str())); }
  pending<tinkex::sampling> start_sampling(str model_or_path) const { return start<tinkex::sampling>(tinkex_sampling_start, model_or_path.c_str()); }
  pending<loss> create_loss(const graph &graph) const { return start<loss>(tinkex_service_create_loss, graph.raw()); }
  tinkex::rest rest() const { return tinkex::rest(make<tinkex_rest>(tinkex_service_rest, raw())); }
  std::string session_id() const { return string(tinkex_service_session_id(raw())); }
  std::string capabilities() const { return text(tinkex_service_capabilities, raw()); } std::string metrics() const { return text(tinkex_service_metrics, raw()); }
  void close(int32_t status = TINKEX_CLOSE_SUCCESS, str detail = "") const { call(tinkex_service_close, raw(), status, detail.empty() ? nullptr : detail.c_str()); }
};
struct tokenizer : handle<tinkex_tokenizer, tinkex_tokenizer_free> {
  explicit tokenizer(str name_or_path) : handle(make<tinkex_tokenizer>(tinkex_tokenizer_new, name_or_path.c_str())) {}
  std::vector<int32_t> encode(std::string_view t) const {
    handle<tinkex_tokens, tinkex_tokens_free> made(make<tinkex_tokens>(tinkex_tokenizer_encode, raw(), t.data(), t.size()));
    return {tinkex_tokens_data(made.raw()), tinkex_tokens_data(made.raw()) + tinkex_tokens_len(made.raw())};
  }
  std::string decode(tokens t) const { return text(tinkex_tokenizer_decode, raw(), t.data(), t.size()); }
};
#undef TINKEX_SET
} /* namespace tinkex */
#endif
