#include "callback_thread.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <csignal>

namespace hostroute {

CallbackThread::~CallbackThread() = default;

Result CallbackThread::start(Napi::Env env, Napi::Function callback, const char *name, bool holdsProcess) {
  env_ = env;
  poke_ = Descriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!poke_) return Failure{"cannot start a reader", errno, "eventfd"};
  auto *self = new std::shared_ptr<CallbackThread>(shared_from_this());
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

void CallbackThread::close() {
  if (closed_) return;
  napi_remove_env_cleanup_hook(env_, onEnvironmentEnd, this);
  stop();
}

void CallbackThread::stop() {
  closed_ = true;
  stopping_ = true;
  poke();
  pthread_join(thread_, nullptr);
  napi_release_threadsafe_function(function_, napi_tsfn_abort);
}

void CallbackThread::onEnvironmentEnd(void *thread) {
  auto *self = static_cast<CallbackThread *>(thread);
  if (!self->closed_) self->stop();
}

void *CallbackThread::threadMain(void *thread) {
  static_cast<CallbackThread *>(thread)->run();
  return nullptr;
}

void CallbackThread::wake() {
  if (!woken_.exchange(true)) napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
}

bool CallbackThread::wait(int descriptor) {
  struct pollfd polled[] = {{poke_.get(), POLLIN, 0}, {descriptor, POLLIN, 0}};
  while (poll(polled, 2, -1) < 0 && errno == EINTR)
    continue;
  uint64_t pokes;
  if (polled[0].revents && read(poke_.get(), &pokes, sizeof(pokes)) < 0 && errno != EAGAIN) return false;
  return polled[1].revents != 0;
}

void CallbackThread::poke() {
  uint64_t one = 1;
  while (write(poke_.get(), &one, sizeof(one)) < 0 && errno == EINTR)
    continue;
}

void CallbackThread::onWake(napi_env env, napi_value callback, void *context, void *) {
  if (!env) return; // what was still queued when the function went, after onFinalize()
  auto thread = *static_cast<std::shared_ptr<CallbackThread> *>(context);
  thread->woken_ = false;
  if (thread->closed_) return;
  Napi::HandleScope scope(env);
  thread->deliver(env, Napi::Function(env, callback));
}

void CallbackThread::onFinalize(napi_env, void *data, void *) {
  delete static_cast<std::shared_ptr<CallbackThread> *>(data);
}

void CallbackThread::call(Napi::Env env, Napi::Function callback,
                          std::initializer_list<napi_value> arguments) {
  napi_value receiver = env.Undefined();
  napi_status status =
      napi_call_function(env, receiver, callback, arguments.size(), arguments.begin(), nullptr);
  if (status != napi_pending_exception) return;
  napi_value thrown = nullptr;
  // A worker that is being ended has no exception to give.
  if (napi_get_and_clear_last_exception(env, &thrown) == napi_ok && thrown) napi_fatal_exception(env, thrown);
}

Napi::Object closeHandle(Napi::Env env, const std::shared_ptr<CallbackThread> &thread) {
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("close",
             Napi::Function::New(env, [thread](const Napi::CallbackInfo &) { thread->close(); }, "close"));
  return handle;
}

} // namespace hostroute
