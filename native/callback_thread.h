// A thread that calls a JavaScript function.
//
// Life: start() on the JavaScript thread, then run() on the own thread of it
// and deliver() on the JavaScript thread whenever run() asked by wake(), then
// close() on the JavaScript thread, from anywhere and any number of times, also
// inside deliver(). It keeps itself alive from start() to close() plus
// the time node needs to let go; the end of the environment closes it.
//
// One wake-up delivers one portion: node would deliver a re-armed one without
// going round its event loop, so deliver() asks by poke() and run() wakes again.
#pragma once

#include <napi.h>
#include <pthread.h>

#include <atomic>
#include <functional>
#include <memory>

#include "descriptor.h"
#include "error.h"

namespace hostroute {

class CallbackThread : public std::enable_shared_from_this<CallbackThread> {
public:
  CallbackThread() = default;
  virtual ~CallbackThread();
  CallbackThread(const CallbackThread &) = delete;
  CallbackThread &operator=(const CallbackThread &) = delete;

  // holdsProcess: the process does not end by itself while it is open.
  Result start(Napi::Env env, Napi::Function callback, const char *name, bool holdsProcess);
  void close();
  bool closed() const { return closed_; }

protected:
  // Until stopping(). No JavaScript here.
  virtual void run() = 0;
  virtual void deliver(Napi::Env env, Napi::Function callback) = 0;

  // On the own thread.
  void wake();
  bool stopping() const { return stopping_; }
  // Waits until `descriptor` (may be -1) is readable or poke() was called. True: the descriptor is.
  bool wait(int descriptor);

  // On the JavaScript thread.
  void poke();
  // Calls back; an exception becomes an uncaught one of the process.
  static void call(Napi::Env env, Napi::Function callback, std::initializer_list<napi_value> arguments);

private:
  static void *threadMain(void *thread);
  static void onWake(napi_env env, napi_value callback, void *context, void *data);
  static void onFinalize(napi_env env, void *data, void *context);
  static void onEnvironmentEnd(void *thread);
  void stop();

  napi_env env_ = nullptr;
  napi_threadsafe_function function_ = nullptr;
  pthread_t thread_ = {};
  Descriptor poke_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> woken_{false};
  bool closed_ = true;
};

// {close()} for JavaScript, around a thread.
Napi::Object closeHandle(Napi::Env env, const std::shared_ptr<CallbackThread> &thread);

} // namespace hostroute
