// The threads of one engine. Thread 0 is whoever calls; the others wait, spinning for a short bounded time and then asleep.
//
// A job is the same sequence of phases on every thread. A phase is a number of units, each done once, by whichever thread comes first;
// it is over when its units are, not when every thread has been there. So a thread that the system keeps from running holds up no more
// than the unit it is in, and on a crowded machine the others do its share.
#pragma once
#include <immintrin.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace phi {

class Team {
  public:
    // phases: the most that a job has
    Team(int size, size_t phases) : size_(size), phases_(std::make_unique<Phase[]>(phases)) {
        try {
            for (int id = 1; id < size; id++) workers_.emplace_back([this, id] { work(id); });
        } catch (const std::system_error &problem) {
            const size_t started = workers_.size() + 1;
            end();
            throw std::runtime_error("the system gives it " + std::to_string(started) + " threads, not " + std::to_string(size) + ": " + problem.what());
        }
    }
    ~Team() { end(); }
    int size() const { return size_; }

    // job(id) on every thread, with this many phases at most; returns when all is done and no thread is in the job any more. It must not throw
    void run(std::function<void(int)> job, size_t phases) {
        job_ = std::move(job);
        for (size_t i = 0; i < phases; i++) phases_[i].next.store(0, std::memory_order_relaxed), phases_[i].done.store(0, std::memory_order_relaxed);
        inside_.store(OPEN);
        runs_.fetch_add(1);
        wake();
        job_(0);
        inside_.fetch_and(~OPEN);
        wait([&] { return inside_.load() == 0; });
    }

    // Inside a job: fn(i) for i in [0, count), each on one thread; prepare() before a thread's first. Returns when all are done.
    template <class Prepare, class Fn>
    void each(int phase, int count, Prepare prepare, Fn fn) {
        Phase &p = phases_[phase];
        int mine = 0;
        for (int i; (i = p.next.fetch_add(1)) < count;) {
            if (!mine++) prepare();
            fn(i);
        }
        if (mine && p.done.fetch_add(mine) + mine == count)
            wake();
        else
            wait([&] { return p.done.load() >= count; });
    }

  private:
    struct Phase {
        std::atomic<int> next{0}, done{0};
    };
    static constexpr int OPEN = 1, THREAD = 2;                // of inside_: the job may be entered; one thread more is in it
    static constexpr std::chrono::microseconds SPIN{200};  // several times what a unit takes, and what waking costs

    template <class Over>
    void wait(Over over) {
        const auto until = std::chrono::steady_clock::now() + SPIN;  // a pause takes from 10 to 140 cycles, so it is time that counts
        do {
            for (int i = 0; i < 32; i++) {
                if (over()) return;
                _mm_pause();
            }
        } while (std::chrono::steady_clock::now() < until);
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1);  // before looking again: who changes what is looked at looks for sleepers afterwards
        changed_.wait(lock, over);
        sleepers_.fetch_sub(1);
    }
    void wake() {
        if (!sleepers_.load()) return;
        std::lock_guard<std::mutex> lock(mutex_);
        changed_.notify_all();
    }
    void end() {
        ends_ = true;
        wake();
        for (auto &worker : workers_) worker.join();
    }
    bool enter() {
        int inside = inside_.load();
        while (inside & OPEN)
            if (inside_.compare_exchange_weak(inside, inside + THREAD)) return true;
        return false;
    }
    void work(int id) {
        for (unsigned seen = 0;;) {
            wait([&] { return ends_.load() || runs_.load() != seen; });
            if (ends_) return;
            seen = runs_.load();
            if (!enter()) continue;  // came too late: the others have done it
            job_(id);
            inside_.fetch_sub(THREAD);
            wake();
        }
    }
    const int size_;
    std::unique_ptr<Phase[]> phases_;
    std::function<void(int)> job_;
    std::atomic<bool> ends_{false};
    std::atomic<unsigned> runs_{0};
    std::atomic<int> inside_{0}, sleepers_{0};
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::thread> workers_;
};

}  // namespace phi
