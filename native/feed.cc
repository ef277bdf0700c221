#include "feed.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <csignal>

namespace hostroute {

Feed::~Feed() = default;

Result Feed::start(Napi::Env env, Napi::Function callback, const char *name, bool holdsProcess) {
  env_ = env;
  poke_ = Descriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!poke_) return Failure{"cannot start a reader", errno, "eventfd"};
  auto *self = new std::shared_ptr<Feed>(shared_from_this());
  napi_status status = napi_create_threadsafe_function(env, callback, nullptr, Napi::String::New(env, name),
                                                       0, 1, self, onFinalize, self, onWake, &function_);
  if (status != napi_ok) {
    delete self;
    return Failure{"cannot start a reader: the environment is ending", ECANCELED,
                   "napi_create_threadsafe_function"};
  }
  if (!holdsProcess) napi_unref_threadsafe_function(env, function_);

  // Signals are the main thread's.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&thread_, nullptr, threadMain, this);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error) {
    napi_release_threadsafe_function(function_, napi_tsfn_abort);
    return Failure{"cannot start a reader", error, "pthread_create"};
  }
  pthread_setname_np(thread_, name);
  closed_ = false;
  // Added after node's own hook for the function, so that it runs before it:
  // the thread has ended when the function goes away.
  napi_add_env_cleanup_hook(env, onEnvironmentEnd, this);
  return std::nullopt;
}

void Feed::close() {
  if (closed_) return;
  napi_remove_env_cleanup_hook(env_, onEnvironmentEnd, this);
  stop();
}

void Feed::stop() {
  closed_ = true;
  stopping_ = true;
  poke();
  pthread_join(thread_, nullptr);
  napi_release_threadsafe_function(function_, napi_tsfn_abort);
}

void Feed::onEnvironmentEnd(void *feed) {
  auto *self = static_cast<Feed *>(feed);
  if (!self->closed_) self->stop();
}

void *Feed::threadMain(void *feed) {
  static_cast<Feed *>(feed)->run();
  return nullptr;
}

void Feed::wake() {
  if (!woken_.exchange(true)) napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
}

bool Feed::wait(int descriptor) {
  struct pollfd polled[] = {{poke_.get(), POLLIN, 0}, {descriptor, POLLIN, 0}};
  while (poll(polled, 2, -1) < 0 && errno == EINTR)
    continue;
  uint64_t pokes;
  if (polled[0].revents && read(poke_.get(), &pokes, sizeof(pokes)) < 0 && errno != EAGAIN) return false;
  return polled[1].revents != 0;
}

void Feed::poke() {
  uint64_t one = 1;
  while (write(poke_.get(), &one, sizeof(one)) < 0 && errno == EINTR)
    continue;
}

void Feed::onWake(napi_env env, napi_value callback, void *context, void *) {
  if (!env) return; // what was still queued when the function went, after onFinalize()
  auto feed = *static_cast<std::shared_ptr<Feed> *>(context);
  feed->woken_ = false;
  if (feed->closed_) return;
  Napi::HandleScope scope(env);
  feed->deliver(env, Napi::Function(env, callback));
}

void Feed::onFinalize(napi_env, void *data, void *) {
  delete static_cast<std::shared_ptr<Feed> *>(data);
}

void Feed::call(Napi::Env env, Napi::Function callback, std::initializer_list<napi_value> arguments) {
  napi_value receiver = env.Undefined();
  napi_status status =
      napi_call_function(env, receiver, callback, arguments.size(), arguments.begin(), nullptr);
  if (status != napi_pending_exception) return;
  napi_value thrown = nullptr;
  // A worker that is being ended has no exception to give.
  if (napi_get_and_clear_last_exception(env, &thrown) == napi_ok && thrown) napi_fatal_exception(env, thrown);
}

Napi::Object closeHandle(Napi::Env env, const std::shared_ptr<Feed> &feed) {
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("close",
             Napi::Function::New(env, [feed](const Napi::CallbackInfo &) { feed->close(); }, "close"));
  return handle;
}

} // namespace hostroute
