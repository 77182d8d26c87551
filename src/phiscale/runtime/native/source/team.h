// The threads of one engine. Thread 0 is whoever calls; the others wait, spinning for a short bounded time and then asleep.
#pragma once
#include <immintrin.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace phi {

// A number that others wait to see change.
class Signal {
  public:
    unsigned value() const { return value_.load(std::memory_order_acquire); }
    void change() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            value_.fetch_add(1, std::memory_order_release);
        }
        changed_.notify_all();
    }
    void wait_beyond(unsigned seen) {
        const auto until = std::chrono::steady_clock::now() + SPIN;  // a pause takes from 10 to 140 cycles, so it is time that counts
        do {
            for (int i = 0; i < 32; i++) {
                if (value() != seen) return;
                _mm_pause();
            }
        } while (std::chrono::steady_clock::now() < until);
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] { return value() != seen; });
    }

  private:
    static constexpr std::chrono::microseconds SPIN{200};  // several times the wait between two phases of a block, and what waking costs
    std::atomic<unsigned> value_{0};
    std::mutex mutex_;
    std::condition_variable changed_;
};

class Team {
  public:
    explicit Team(int size) : size_(size) {
        try {
            for (int id = 1; id < size; id++) workers_.emplace_back([this, id] { work(id); });
        } catch (...) {  // no more threads to be had
            end();
            throw;
        }
    }
    ~Team() { end(); }
    int size() const { return size_; }

    // job(id) on every thread; returns when all have ended
    void run(std::function<void(int)> job) {
        job_ = std::move(job);
        start_.change();
        job_(0);
        barrier();
    }
    // all threads of the team, inside a job
    void barrier() {
        if (size_ == 1) return;
        const unsigned seen = met_.value();
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            met_.change();
        } else {
            met_.wait_beyond(seen);
        }
    }

  private:
    void end() {
        ends_ = true;
        start_.change();
        for (auto &worker : workers_) worker.join();
    }
    void work(int id) {
        for (unsigned seen = 0;; seen++) {
            start_.wait_beyond(seen);
            if (ends_) return;
            job_(id);
            barrier();
        }
    }
    const int size_;
    std::function<void(int)> job_;
    std::atomic<bool> ends_{false};
    std::atomic<int> arrived_{0};
    Signal start_, met_;
    std::vector<std::thread> workers_;
};

}  // namespace phi
