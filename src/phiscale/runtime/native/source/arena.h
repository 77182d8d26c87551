// Memory: zeroed, aligned for cache lines, huge pages where the system has them.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

namespace phi {

class Arena {
  public:
    template <class T>
    T *take(size_t count) {
        const size_t bytes = (count * sizeof(T) + 4095) / 4096 * 4096 + 192;  // 192: neighbours must not share their address modulo 4096
        if (bytes > left_) grow(bytes);
        T *result = (T *)next_;
        next_ += bytes, left_ -= bytes;
        return result;
    }
    size_t bytes() const { return bytes_; }
    Arena() = default;
    Arena(const Arena &) = delete;
    ~Arena() {
        for (auto &[memory, size] : parts_) munmap(memory, size);
    }

  private:
    void grow(size_t bytes) {
        constexpr size_t PAGE = 2u << 20;
        const size_t size = (std::max<size_t>(bytes, PAGE) + PAGE - 1) / PAGE * PAGE;
        const size_t machine = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
        void *memory = bytes_ + size > machine ? MAP_FAILED : mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::runtime_error("no memory: " + std::to_string((bytes_ + size) >> 20) + " MiB are needed");
        madvise(memory, size, MADV_HUGEPAGE);
        parts_.emplace_back(memory, size);
        next_ = (char *)memory, left_ = size, bytes_ += size;
    }
    std::vector<std::pair<void *, size_t>> parts_;
    char *next_ = nullptr;
    size_t left_ = 0, bytes_ = 0;
};

}  // namespace phi
