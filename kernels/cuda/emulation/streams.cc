// Streams and events of device.h on the host, at once, late or captured (streams.h).
#include "kernels/cuda/emulation/streams.h"

#include <utility>

#include "base/clock.h"
#include "kernels/cuda/emulation/capture.h"

namespace sepia::kernels::cuda {
namespace emulation {
namespace {

std::atomic<int> late_streams = 0;  // how many LateStreams live

}  // namespace

LateStreams::LateStreams() { ++late_streams; }
LateStreams::~LateStreams() { --late_streams; }

void StreamWork::RunNext() {
  const std::function<void()> work = std::move(waiting.front());
  waiting.pop_front();
  work();
}

void RecordedPoint::Reach() {
  seconds = MonotonicSeconds();
  done = true;
}

void RecordedPoint::WaitFor() {
  while (!done && !stream->waiting.empty()) stream->RunNext();
  if (!done) Reach();  // dropped with its stream
}

std::unique_ptr<Capture>& CurrentCapture() {
  thread_local std::unique_ptr<Capture> capture;
  return capture;
}

bool IsCaptured(void* stream_handle) {
  const auto& capture = CurrentCapture();
  return capture != nullptr && stream_handle != nullptr &&
         capture->ends.contains(StreamOf(stream_handle).get());
}

bool IsPutOff(void* stream_handle) {
  return stream_handle != nullptr &&
         (StreamOf(stream_handle)->is_late || IsCaptured(stream_handle));
}

void RunOnStream(void* stream_handle, WorkKind kind, std::function<void()> work,
                 const Where& where) {
  if (stream_handle == nullptr) RefuseInCapture("the legacy stream", where);
  if (IsCaptured(stream_handle)) {
    Capture& capture = *CurrentCapture();
    if (!capture.spoiled.empty()) throw DeviceError("the capture was spoiled before", where);
    std::vector<size_t>& end = capture.ends[StreamOf(stream_handle).get()];
    capture.nodes.push_back({kind, std::move(work), std::move(end)});
    end = {capture.nodes.size() - 1};
  } else if (stream_handle != nullptr && StreamOf(stream_handle)->is_late) {
    StreamOf(stream_handle)->waiting.push_back(std::move(work));
  } else {
    work();
  }
}

void SpoilCapture(const char* what) noexcept {
  if (CurrentCapture() != nullptr) CurrentCapture()->spoiled = what;
}

void RefuseInCapture(const char* what, const Where& where) {
  if (CurrentCapture() == nullptr) return;
  SpoilCapture(what);
  throw DeviceError(std::string("not allowed while this thread captures a stream: ") + what, where);
}

}  // namespace emulation

namespace {

using emulation::Capture;
using emulation::CurrentCapture;
using emulation::RecordedPoint;
using emulation::SharedStream;
using emulation::StreamOf;

using EmulatedEvent = std::shared_ptr<RecordedPoint>;  // null: never recorded
const EmulatedEvent& PointOf(void* event) { return *static_cast<EmulatedEvent*>(event); }

void RefuseCaptured(const EmulatedEvent& point, const Where& where) {
  if (point == nullptr || point->capture == 0) return;
  emulation::SpoilCapture("an event of the capture");
  throw DeviceError("an event that was recorded in a capture tells nothing outside it", where);
}

// Joins the stream to the capture that the event is of.
void WaitInCapture(const RecordedPoint& point, void* stream_handle, const Where& where) {
  const auto& capture = CurrentCapture();
  if (capture == nullptr || capture->id != point.capture) {
    throw DeviceError("a stream waits for an event of a capture that it is no part of", where);
  }
  std::vector<size_t>& end = capture->ends[StreamOf(stream_handle).get()];
  end.insert(end.end(), point.nodes.begin(), point.nodes.end());
}

}  // namespace

Stream::Stream(const Where&)
    : handle_(new SharedStream(std::make_shared<emulation::StreamWork>())) {
  StreamOf(handle_)->is_late = emulation::late_streams > 0;
}

Stream::~Stream() {
  if (handle_ == nullptr) return;
  const std::unique_ptr<SharedStream> stream(static_cast<SharedStream*>(handle_));
  (*stream)->waiting.clear();
}

void Stream::Synchronize(const Where& where) {
  emulation::RefuseInCapture("waiting for a stream on the host", where);
  const SharedStream stream = StreamOf(handle_);
  while (!stream->waiting.empty()) stream->RunNext();
}

Event::Event(const Where&) : handle_(new EmulatedEvent) {}
Event::~Event() { delete static_cast<EmulatedEvent*>(handle_); }

void Event::Record(Stream& stream, const Where& where) {
  const auto point = std::make_shared<RecordedPoint>();
  point->stream = StreamOf(stream.handle());
  if (emulation::IsCaptured(stream.handle())) {
    point->capture = CurrentCapture()->id;
    point->nodes = CurrentCapture()->ends[point->stream.get()];
  } else if (point->stream->is_late) {
    emulation::RunOnStream(
        stream.handle(), {}, [point] { point->Reach(); }, where);
  } else {
    point->Reach();
  }
  *static_cast<EmulatedEvent*>(handle_) = point;
}

bool Event::IsDone(const Where& where) const {
  RefuseCaptured(PointOf(handle_), where);
  return PointOf(handle_) == nullptr || PointOf(handle_)->done;
}

void Event::Synchronize(const Where& where) const {
  emulation::RefuseInCapture("waiting for an event on the host", where);
  RefuseCaptured(PointOf(handle_), where);
  if (const EmulatedEvent point = PointOf(handle_)) point->WaitFor();
}

void Event::MakeWait(Stream& stream, const Where& where) const {
  const EmulatedEvent point = PointOf(handle_);
  if (point == nullptr) return;
  if (point->capture != 0) return WaitInCapture(*point, stream.handle(), where);
  if (emulation::IsCaptured(stream.handle())) {
    emulation::RefuseInCapture("waiting for work outside the capture", where);
  }
  if (point->done) return;
  emulation::RunOnStream(
      stream.handle(), {}, [point] { point->WaitFor(); }, where);
}

float Event::MillisecondsSince(const Event& begin, const Where& where) const {
  const EmulatedEvent &from = PointOf(begin.handle_), &to = PointOf(handle_);
  if (from == nullptr || to == nullptr) throw DeviceError("an event was never recorded", where);
  RefuseCaptured(from, where);
  RefuseCaptured(to, where);
  from->WaitFor();
  to->WaitFor();
  return static_cast<float>((to->seconds - from->seconds) * 1e3);
}

}  // namespace sepia::kernels::cuda
