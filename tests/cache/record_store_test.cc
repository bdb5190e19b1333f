#include "cache/record_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/rng.h"
#include "cache/small_cache.h"
#include "cache/tier.h"
#include "io/temp_folder.h"
#include "tensor/context.h"

namespace cachette {
namespace {

using ::testing::HasSubstr;

// 64-byte aligned places, every other one aligned for direct I/O as well.
class Places {
 public:
  Places(size_t num_places, size_t place_bytes)
      : stride_((place_bytes + 2 * 4096 - 1) / 4096 * 4096), bytes_(num_places * stride_ + 4096) {}
  std::byte* at(size_t i) {
    const auto base = (reinterpret_cast<uintptr_t>(bytes_.data()) + 4095) / 4096 * 4096;
    return reinterpret_cast<std::byte*>(base) + i * stride_ + (i % 2) * 64;
  }

 private:
  size_t stride_;
  std::vector<std::byte> bytes_;
};

std::vector<std::byte> Contents(uint64_t seed, size_t num_bytes) {
  Rng rng(seed);
  std::vector<std::byte> bytes(num_bytes);
  for (size_t i = 0; i < num_bytes; i += 8) {
    const uint64_t word = rng.Next();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  return bytes;
}

bool Holds(const std::byte* at, uint64_t seed, size_t num_bytes) {
  return std::memcmp(at, Contents(seed, num_bytes).data(), num_bytes) == 0;
}

// One record with contents seed.
int64_t MustStore(RecordStore& store, uint64_t seed) {
  auto record = store.Allocate(1);
  CACHETTE_CHECK(record.ok());
  CACHETTE_CHECK(store.Write(*record, Contents(seed, store.record_bytes())).ok());
  return *record;
}

// Every kind of store and reader; F stands for a folder.
class RecordStoreTest : public testing::TestWithParam<const char*> {
 protected:
  // Null, and the test skipped, where this machine lacks what the spec asks for.
  std::unique_ptr<RecordStore> MakeStore(size_t record_bytes = kRecordBytes,
                                         size_t limit_bytes = RecordStore::kUnlimited) {
    std::string spec = GetParam();
    if (const size_t at = spec.find('F'); at != std::string::npos) spec.replace(at, 1, folder_ / "");
    auto store = RecordStore::Create(spec, record_bytes, limit_bytes);
    if (store.ok()) return std::move(*store);
    EXPECT_THAT(store.failure().error, testing::AnyOf(Error::kUnavailable, Error::kUnsupported));
    EXPECT_TRUE(spec.find("uring") != std::string::npos || spec.find("direct") != std::string::npos);
    return nullptr;
  }
  bool IsDirect() const { return std::string(GetParam()).find("direct") != std::string::npos; }

  TempFolder folder_;
};

#define MAKE_STORE_OR_SKIP(store, ...)                                       \
  const std::unique_ptr<RecordStore> store##_owner = MakeStore(__VA_ARGS__); \
  if (store##_owner == nullptr) GTEST_SKIP() << "not on this machine";       \
  RecordStore& store = *store##_owner

INSTANTIATE_TEST_SUITE_P(, RecordStoreTest,
                         testing::Values("ram", "ram,verify", "disk:F", "disk:F,uring", "disk:F,threads",
                                         "disk:F,uring,direct", "disk:F,threads,direct"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::erase_if(name, [](char c) { return c == ':' || c == 'F'; });
                           std::replace(name.begin(), name.end(), ',', '_');
                           return name;
                         });

TEST_P(RecordStoreTest, RandomUseAgreesWithAModel) {
  struct Model {
    uint64_t seed = 0;
    uint32_t refs = 1;
    bool is_written = false;
  };
  struct Batch {
    ReadTicket ticket;
    std::vector<RecordRead> reads;
    std::vector<uint64_t> seeds;
    std::unique_ptr<Places> places;
  };
  for (const size_t record_bytes : {64ul, 320ul, 4096ul, 12288ul}) {
    if (IsDirect() && record_bytes % 4096 != 0) continue;
    MAKE_STORE_OR_SKIP(store, record_bytes);
    std::map<int64_t, Model> model;
    std::vector<Batch> batches;
    std::set<int64_t> held_by_reads;
    Rng rng(5 + record_bytes);
    uint64_t next_seed = 1;
    int64_t num_read = 0;
    size_t peak = 0;

    const auto end_batch = [&](size_t i) {
      if (rng.Below(5) == 0) {
        store.Discard(batches[i].ticket);
      } else {
        const auto outcome = store.Wait(batches[i].ticket);
        ASSERT_TRUE(outcome.ok()) << outcome.failure().message;
        for (size_t k = 0; k < batches[i].reads.size(); ++k)
          ASSERT_TRUE(Holds(batches[i].reads[k].to, batches[i].seeds[k], record_bytes));
      }
      batches.erase(batches.begin() + static_cast<int64_t>(i));
    };

    for (int step = 0; step < 1500; ++step) {
      const bool is_growing = (step / 150) % 2 == 0;
      const uint64_t choice = rng.Below(10);
      if (model.empty() || choice < (is_growing ? 4u : 1u)) {
        const auto num_records = static_cast<int64_t>(1 + rng.Below(9));
        const auto first = store.Allocate(num_records);
        ASSERT_TRUE(first.ok()) << first.failure().message;
        std::vector<std::byte> data;
        for (int64_t r = *first; r < *first + num_records; ++r) {
          ASSERT_TRUE(model.emplace(r, Model{.seed = next_seed}).second) << r << " is owned";
          const auto bytes = Contents(next_seed++, record_bytes);
          data.insert(data.end(), bytes.begin(), bytes.end());
        }
        // All at once, or only a part: the rest stays unwritten for good.
        const int64_t num_written = rng.Below(3) == 0 ? num_records / 2 : num_records;
        data.resize(static_cast<size_t>(num_written) * record_bytes);
        ASSERT_TRUE(store.Write(*first, data).ok());
        for (int64_t r = *first; r < *first + num_written; ++r) model[r].is_written = true;
        peak = std::max(peak, model.size() * record_bytes);
      } else if (choice < 5) {
        const auto it = std::next(model.begin(), static_cast<int64_t>(rng.Below(model.size())));
        store.AddRef(it->first);
        ++it->second.refs;
      } else if (choice < 8) {
        // Only records that no read holds: the model does not follow those references.
        const auto it = std::next(model.begin(), static_cast<int64_t>(rng.Below(model.size())));
        if (!batches.empty() && it->second.refs == 1) end_batch(rng.Below(batches.size()));
        if (it->second.refs > 1 || batches.empty()) {
          store.Release(it->first);
          if (--it->second.refs == 0) model.erase(it);
        }
      } else if (batches.size() < 4) {
        Batch batch;
        const size_t num_wanted = rng.Below(40);
        batch.places = std::make_unique<Places>(num_wanted, record_bytes);
        auto it = model.begin();
        while (batch.reads.size() < num_wanted) {
          // Runs of neighbours, in order or not, and some records twice.
          if (it == model.end() || rng.Below(4) == 0)
            it = std::next(model.begin(), static_cast<int64_t>(rng.Below(model.size())));
          if (it->second.is_written) {
            batch.reads.push_back({it->first, batch.places->at(batch.reads.size())});
            batch.seeds.push_back(it->second.seed);
          } else if (rng.Below(50) == 0) {
            break;
          }
          ++it;
        }
        const auto ticket = store.StartRead(batch.reads);
        ASSERT_TRUE(ticket.ok()) << ticket.failure().message;
        batch.ticket = *ticket;
        num_read += static_cast<int64_t>(batch.reads.size());
        batches.push_back(std::move(batch));
      } else {
        end_batch(rng.Below(batches.size()));
      }
      if (batches.empty()) {
        ASSERT_EQ(store.owned_bytes(), model.size() * record_bytes);
        for (const auto& [record, m] : model) ASSERT_EQ(store.ref_count(record), m.refs);
      }
    }
    while (!batches.empty()) end_batch(0);
    EXPECT_EQ(store.peak_bytes(), peak);
    EXPECT_EQ(store.traffic().records_read, num_read);
    EXPECT_EQ(store.traffic().bytes_read, num_read * static_cast<int64_t>(record_bytes));
    EXPECT_GT(num_read, 1000);
  }
}

TEST_P(RecordStoreTest, NumbersAreConsecutiveAndTheLowestFreeOnes) {
  MAKE_STORE_OR_SKIP(store);
  EXPECT_EQ(*store.Allocate(8), 0);
  EXPECT_EQ(*store.Allocate(2), 8);
  for (const int64_t record : {2, 5, 3, 4}) store.Release(record);
  EXPECT_EQ(*store.Allocate(5), 10);  // the hole has four
  EXPECT_EQ(*store.Allocate(3), 2);
  EXPECT_EQ(*store.Allocate(2), 15);
  EXPECT_EQ(*store.Allocate(1), 5);
  // A free end is forgotten as a whole, holes before it included.
  for (int64_t record = 16; record >= 6; record -= 2) store.Release(record);
  for (int64_t record = 7; record <= 15; record += 2) store.Release(record);
  EXPECT_EQ(*store.Allocate(3), 6);
  EXPECT_EQ(store.owned_bytes(), 9 * kRecordBytes);
  EXPECT_EQ(store.peak_bytes(), 17 * kRecordBytes);
  EXPECT_EQ(store.ref_count(9), 0u);
  EXPECT_EQ(store.ref_count(-1), 0u);
  EXPECT_EQ(store.ref_count(1ll << 60), 0u);
}

TEST_P(RecordStoreTest, TheLimitIsExactAndAFailureChangesNothing) {
  MAKE_STORE_OR_SKIP(store, kRecordBytes, 3 * kRecordBytes + kRecordBytes - 1);
  const int64_t record = MustStore(store, 1);
  const auto refused = store.Allocate(3);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().error, Error::kOutOfMemory);
  EXPECT_THAT(refused.failure().message, HasSubstr("limit"));
  EXPECT_EQ(store.owned_bytes(), kRecordBytes);
  EXPECT_EQ(store.peak_bytes(), kRecordBytes);
  ASSERT_TRUE(store.Allocate(2).ok());
  EXPECT_FALSE(store.Allocate(1).ok());
  store.Release(record);
  EXPECT_EQ(*store.Allocate(1), record);

  MAKE_STORE_OR_SKIP(none, kRecordBytes, kRecordBytes - 1);
  EXPECT_FALSE(none.Allocate(1).ok());
}

TEST_P(RecordStoreTest, AReadHoldsItsRecords) {
  MAKE_STORE_OR_SKIP(store);
  const int64_t first = MustStore(store, 1), second = MustStore(store, 2);
  Places places(2, kRecordBytes);
  const auto ticket = store.StartRead(std::vector<RecordRead>{{second, places.at(1)}, {first, places.at(0)}});
  ASSERT_TRUE(ticket.ok());
  store.Release(first);
  MustStore(store, 3);  // not over what is being read
  ASSERT_TRUE(store.Wait(*ticket).ok());
  EXPECT_TRUE(Holds(places.at(0), 1, kRecordBytes));
  EXPECT_TRUE(Holds(places.at(1), 2, kRecordBytes));
  EXPECT_EQ(store.owned_bytes(), 2 * kRecordBytes);
}

TEST_P(RecordStoreTest, BatchesOfNoneOneAndMoreThanTheQueueHolds) {
  MAKE_STORE_OR_SKIP(store);
  EXPECT_TRUE(store.Read({}).ok());
  EXPECT_TRUE(store.Wait(ReadTicket{}).ok());
  store.Discard(ReadTicket{});
  EXPECT_EQ(store.traffic().batches_read, 0);

  constexpr int64_t kNumRecords = 1400;
  std::vector<std::byte> data;
  for (uint64_t seed = 0; seed < kNumRecords; ++seed) {
    const auto bytes = Contents(seed, kRecordBytes);
    data.insert(data.end(), bytes.begin(), bytes.end());
  }
  ASSERT_EQ(*store.Allocate(kNumRecords), 0);
  ASSERT_TRUE(store.Write(0, std::span(data).subspan(0, 0)).ok());
  ASSERT_TRUE(store.Write(1, std::span(data).subspan(kRecordBytes)).ok());
  ASSERT_TRUE(store.Write(0, std::span(data).first(kRecordBytes)).ok());
  EXPECT_EQ(store.traffic().records_written, kNumRecords);
  EXPECT_EQ(store.traffic().bytes_written, kNumRecords * static_cast<int64_t>(kRecordBytes));

  Places places(kNumRecords, kRecordBytes);
  std::vector<RecordRead> all, odd;
  for (int64_t record = 0; record < kNumRecords; ++record) {
    all.push_back({record, places.at(static_cast<size_t>(record))});
    if (record % 2 == 1) odd.push_back(all.back());  // no two are neighbours: 700 reads of the file
  }
  for (const auto& reads : {std::vector<RecordRead>{all[700]}, odd, all}) {
    std::memset(places.at(0), 0, kRecordBytes);
    const auto outcome = store.Read(reads);
    ASSERT_TRUE(outcome.ok()) << outcome.failure().message;
    for (const RecordRead& read : reads)
      ASSERT_TRUE(Holds(read.to, static_cast<uint64_t>(read.record), kRecordBytes)) << read.record;
  }
  EXPECT_EQ(store.traffic().batches_read, 3);
  EXPECT_EQ(store.traffic().records_read, 1 + kNumRecords / 2 + kNumRecords);
  EXPECT_GT(store.traffic().read_seconds, 0.0);
  EXPECT_GT(store.traffic().write_seconds, 0.0);
}

TEST_P(RecordStoreTest, RecordsMadeOnThreadsAreReadBack) {
  MAKE_STORE_OR_SKIP(store);
  Context cx(AllBackends()[0], 2);
  MustStore(store, 99);
  for (const int64_t count : {1, 16, 17, 70}) {
    const auto first = store.Allocate(count);
    ASSERT_TRUE(first.ok());
    std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
    const int64_t written = store.traffic().records_written;
    const auto made = store.WriteMade(cx, *first, count, [&](int64_t i, std::byte* to) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(to) % 64, 0u);
      const auto bytes = Contents(static_cast<uint64_t>(count * 100 + i), kRecordBytes);
      std::copy(bytes.begin(), bytes.end(), to);
      ++calls[static_cast<size_t>(i)];
    });
    ASSERT_TRUE(made.ok()) << made.failure().message;
    EXPECT_TRUE(std::all_of(calls.begin(), calls.end(), [](const auto& n) { return n == 1; }));
    EXPECT_EQ(store.traffic().records_written, written + count);
    Places places(static_cast<size_t>(count), kRecordBytes);
    std::vector<RecordRead> reads;
    for (int64_t i = 0; i < count; ++i) reads.push_back({*first + i, places.at(static_cast<size_t>(i))});
    ASSERT_TRUE(store.Read(reads).ok()) << "checksums agree where there are some";
    for (int64_t i = 0; i < count; ++i)
      EXPECT_TRUE(Holds(reads[static_cast<size_t>(i)].to, static_cast<uint64_t>(count * 100 + i), kRecordBytes));
  }
}

// What a thread has asked io_uring for ends with the thread, read or not.
TEST_P(RecordStoreTest, ABatchOutlivesTheThreadThatStartedIt) {
  MAKE_STORE_OR_SKIP(store);
  constexpr int64_t kNumRecords = 600;
  for (uint64_t seed = 0; seed < kNumRecords; ++seed) MustStore(store, seed);
  for (int round = 0; round < 5; ++round) {
    Places places(kNumRecords / 2, kRecordBytes);
    std::vector<RecordRead> reads;
    for (int64_t i = 0; i < kNumRecords / 2; ++i) reads.push_back({2 * i, places.at(static_cast<size_t>(i))});
    ReadTicket ticket;
    std::thread([&] {
      const auto started = store.StartRead(reads);
      ASSERT_TRUE(started.ok()) << started.failure().message;
      ticket = *started;
    }).join();
    const auto outcome = store.Wait(ticket);
    ASSERT_TRUE(outcome.ok()) << outcome.failure().message;
    for (const RecordRead& read : reads)
      ASSERT_TRUE(Holds(read.to, static_cast<uint64_t>(read.record), kRecordBytes)) << read.record;
  }
}

TEST_P(RecordStoreTest, DestructionEndsReadsUnderWay) {
  for (int round = 0; round < 10; ++round) {
    auto store = MakeStore();
    if (store == nullptr) GTEST_SKIP() << "not on this machine";
    constexpr int64_t kNumRecords = 600;
    ASSERT_TRUE(store->Allocate(kNumRecords).ok());
    ASSERT_TRUE(store->Write(0, std::vector<std::byte>(kNumRecords * kRecordBytes, std::byte{1})).ok());
    auto places = std::make_unique<Places>(kNumRecords, kRecordBytes);
    std::vector<RecordRead> odd, even;
    for (int64_t record = 0; record < kNumRecords; ++record)
      (record % 2 == 0 ? even : odd).push_back({record, places->at(static_cast<size_t>(record))});
    ASSERT_TRUE(store->StartRead(odd).ok());
    ASSERT_TRUE(store->StartRead(even).ok());
    store.reset();
    // Read-and-write memory of ours again: a late read would be a race, or a use after free.
    for (const RecordRead& read : odd) std::memset(read.to, 2, kRecordBytes);
    for (const RecordRead& read : odd) ASSERT_EQ(read.to[kRecordBytes - 1], std::byte{2});
    places.reset();
  }
}

TEST_P(RecordStoreTest, SaysWhatItIs) {
  MAKE_STORE_OR_SKIP(store);
  const int64_t record = MustStore(store, 7);
  const std::string spec = GetParam(), reader(store.reader_name());
  if (spec.starts_with("ram")) {
    EXPECT_EQ(store.kind(), TierKind::kArena);
    EXPECT_EQ(reader, "memory");
    EXPECT_TRUE(Holds(store.InPlace(record), 7, kRecordBytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(store.InPlace(record)) % 64, 0u);
  } else {
    EXPECT_EQ(store.kind(), TierKind::kDisk);
    EXPECT_EQ(store.InPlace(record), nullptr);
    EXPECT_EQ(reader.ends_with(",direct"), IsDirect());
    if (spec.find("uring") != std::string::npos || spec.find("threads") != std::string::npos) {
      EXPECT_EQ(reader.starts_with("io_uring"), spec.find("uring") != std::string::npos);
    }
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / ""));
}

TEST(RecordStoreSpec, ARefusalSaysWhatIsAllowed) {
  for (const char* spec : {"", "RAM", "ram:", "ram,direct", "ram,", "disk", "disk:", "disk:,direct", "disk:/tmp,fast",
                           "disk:/tmp,direct,", "disk:/tmp,uring,threads", "disk:/tmp,verify", "tape:/tmp"}) {
    const auto store = RecordStore::Create(spec, kRecordBytes);
    ASSERT_FALSE(store.ok()) << spec;
    EXPECT_EQ(store.failure().error, Error::kInvalidArgument) << spec;
    EXPECT_THAT(store.failure().message, HasSubstr("disk:FOLDER")) << spec;
  }
  EXPECT_TRUE(RecordStore::Create("ram", 64).ok());
}

TEST(RecordStoreDeathTest, WrongUseIsOurMistake) {
  const auto made = RecordStore::Create("ram", kRecordBytes);
  RecordStore& store = **made;
  const int64_t written = MustStore(store, 1), blank = *store.Allocate(1);
  Places places(1, kRecordBytes);
  EXPECT_DEATH((void)store.Write(written, Contents(1, kRecordBytes)), "is_written");
  EXPECT_DEATH((void)store.Write(blank, Contents(1, 64)), "record_bytes_ == 0");
  EXPECT_DEATH((void)store.Read(std::vector<RecordRead>{{blank, places.at(0)}}), "is_written");
  EXPECT_DEATH((void)store.Read(std::vector<RecordRead>{{written, places.at(0) + 8}}), "% 64 == 0");
  EXPECT_DEATH((void)store.Allocate(0), "num_records > 0");
  store.Release(blank);
  EXPECT_DEATH(store.Release(blank), "ref_count");
  EXPECT_DEATH(store.AddRef(blank), "ref_count");
  EXPECT_DEATH((void)store.InPlace(blank), "ref_count");
}

TEST(RamStore, VerifiesWhenAsked) {
  const auto made = RecordStore::Create("ram,verify", kRecordBytes);
  RecordStore& store = **made;
  const int64_t record = MustStore(store, 1);
  const_cast<std::byte*>(store.InPlace(record))[100] ^= std::byte{4};
  Places places(1, kRecordBytes);
  const auto outcome = store.Read(std::vector<RecordRead>{{record, places.at(0)}});
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.failure().error, Error::kCorrupt);
  EXPECT_THAT(outcome.failure().message, HasSubstr("record 0"));
}

TEST(RamStore, ShortMemoryIsAnError) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers need the address space";
#endif
  const pid_t child = fork();
  if (child == 0) {
    const rlimit most{.rlim_cur = 512u << 20, .rlim_max = 512u << 20};
    if (setrlimit(RLIMIT_AS, &most) != 0) _exit(3);
    auto store = RecordStore::Create("ram", kRecordBytes);
    if (!store.ok()) _exit(4);
    for (int i = 0; i < 1000; ++i) {
      const size_t owned = (*store)->owned_bytes();
      const auto first = (*store)->Allocate(1000);
      if (first.ok()) continue;
      const bool is_clean =
          first.failure().error == Error::kOutOfMemory && (*store)->owned_bytes() == owned && owned > 0;
      (*store)->Release(0);
      _exit(is_clean && (*store)->Allocate(1).ok() ? 0 : 1);
    }
    _exit(2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace cachette
