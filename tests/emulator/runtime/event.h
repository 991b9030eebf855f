// Something that goes on beside the threads: when it happens is Config::completion's choice, until somebody waits for
// it.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

namespace emulator {

// Happens once. What that means is said by `act`.
class Event {
  public:
    Event() = default;
    virtual ~Event();
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    void happen();
    bool happened() const { return happened_; }

    // Completion::eager: now; random: after a random number of steps; lazy: not before somebody calls `happen`.
    void happen_in_time();

  private:
    friend class Agenda;
    virtual void act() = 0;

    bool happened_ = false;
    std::pair<uint64_t, uint64_t> due_{};  // the step, and a number; 0 if not on the agenda
};

// What is to happen in which step of the launch. A step of any thread brings all of it nearer.
class Agenda {
  public:
    void add(Event& event, uint64_t steps);
    void remove(const Event& event) { due_.erase(event.due_); }
    void step();
    // The next event now, whenever it was due; false if there is none.
    bool hurry();

  private:
    uint64_t now_ = 0;
    uint64_t number_ = 0;
    std::map<std::pair<uint64_t, uint64_t>, Event*> due_;
};

}  // namespace emulator
