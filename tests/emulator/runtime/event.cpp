#include "runtime/event.h"

#include "emulator/config.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

// The longest delay is about 2^14 steps: a main loop's turn is some hundred to some thousand of them.
constexpr unsigned kDelays = 15;

}  // namespace

Event::~Event() { agenda_of_launch().remove(*this); }

void Event::happen() {
    if (happened_) return;
    happened_ = true;
    agenda_of_launch().remove(*this);
    act();
}

void Event::happen_in_time() {
    if (config().completion == Completion::eager) happen();
    if (config().completion != Completion::random) return;
    agenda_of_launch().add(*this, random_of_launch().below(1u << random_of_launch().below(kDelays)));
}

void Agenda::add(Event& event, uint64_t steps) {
    event.due_ = {now_ + steps, ++number_};
    due_.emplace(event.due_, &event);
}

void Agenda::step() {
    ++now_;
    while (!due_.empty() && due_.begin()->first.first <= now_) hurry();
}

bool Agenda::hurry() {
    if (due_.empty()) return false;
    due_.begin()->second->happen();
    return true;
}

}  // namespace emulator
