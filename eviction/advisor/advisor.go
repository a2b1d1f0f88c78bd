// Package advisor estimates what a cache of another size would have answered:
// which share of the requests, and which share of their bytes. It watches the
// requests of one LRU list, keeps a sample of the objects, and knows neither the
// cache nor the list.
//
// The method is SHARDS with a sample of fixed size (Waldspurger, Park,
// Garthwaite, Ahmad: Efficient MRC Construction with SHARDS, FAST '15). An object
// is in the sample when its hash is below a threshold, which sinks when the
// sample is full. At each request of a sampled object the distance is taken: the
// bytes of distinct objects that were requested since its last request, divided
// by the sampled share. An LRU cache answers the requests whose distance is at
// most its size.
package advisor

import (
	"container/heap"
	"encoding/hex"
	"hash/fnv"
	"math"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// Samples is how many objects an Advisor should keep. The paper's few thousand are
// for blocks of one size. The sizes of layers differ so much that a small
// sample misjudges the bytes: on a synthetic site of 60,000 layers the worst
// error was 0.056 of the bytes with 8,192 samples.
const Samples = 32768

// Advisor watches the requests of one list. Its methods may be called
// concurrently. New returns one.
type Advisor struct {
	threshold atomic.Uint64 // an object is in the sample when its hash is at most this
	requests  atomic.Int64  // since New
	bytes     atomic.Int64  // of these requests

	samples int // the most that are kept

	mu      sync.Mutex
	sample  map[uint64]place // by hash
	recency recency
	largest hashes // of the sample
	hist    histogram
}

// place is a sampled object in the order of use.
type place struct {
	at   int32 // in recency
	size int64
}

// New returns an Advisor that has seen nothing and keeps at most some samples.
// With 32,768 it takes less than 4 MiB.
func New(samples int) *Advisor {
	a := &Advisor{samples: samples, sample: make(map[uint64]place), recency: newRecency(2 * (samples + 1))}
	a.threshold.Store(math.MaxUint64)
	return a
}

// Saw counts one request of an object. Size is in bytes; a request of an object
// of unknown size (negative) is not counted.
func (a *Advisor) Saw(d digest.Digest, size int64) {
	if size < 0 {
		return
	}
	a.requests.Add(1)
	a.bytes.Add(size)
	if hash := hashOf(d); hash <= a.threshold.Load() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.sampled(hash, size)
	}
}

// sampled takes the distance of a request of a sampled object. The caller holds mu.
func (a *Advisor) sampled(hash uint64, size int64) {
	threshold := a.threshold.Load()
	if hash > threshold {
		return // it has sunk in the meantime
	}
	weight := math.MaxUint64 / float64(threshold)
	if last, known := a.sample[hash]; known {
		distance := float64(a.recency.after(last.at))*weight + float64(size)
		a.recency.remove(last.at, last.size)
		a.hist.hit(distance, size, weight)
	} else {
		a.hist.cold(size, weight)
		heap.Push(&a.largest, hash)
	}
	a.sample[hash] = place{at: a.append(hash, size), size: size}
	for len(a.sample) > a.samples {
		out := heap.Pop(&a.largest).(uint64)
		a.recency.remove(a.sample[out].at, a.sample[out].size)
		delete(a.sample, out)
		a.threshold.Store(out - 1)
	}
}

// append makes an object the one that was used last.
func (a *Advisor) append(hash uint64, size int64) int32 {
	if a.recency.full() {
		a.recency.compact(func(hash uint64, at int32) int64 {
			p := a.sample[hash]
			p.at = at
			a.sample[hash] = p
			return p.size
		})
	}
	return a.recency.append(hash, size)
}

// Estimate is what a cache of some size would have answered.
type Estimate struct {
	Requests float64 // share of the requests, 0 to 1
	Bytes    float64 // share of the bytes, 0 to 1
}

// Seen returns how many requests, and how many bytes of them, the estimates are of.
func (a *Advisor) Seen() (requests, bytes int64) { return a.requests.Load(), a.bytes.Load() }

// At returns the estimate for a list of some bytes. It is zero when nothing was seen.
func (a *Advisor) At(size int64) Estimate {
	a.mu.Lock()
	defer a.mu.Unlock()
	requests, bytes := float64(a.requests.Load()), float64(a.bytes.Load())
	if requests == 0 || bytes == 0 {
		return Estimate{}
	}
	n, b := a.hist.below(float64(size))
	// The sample may hold more or fewer of the requests than its share. The
	// difference counts as requests of the smallest distance (3.4 in the paper).
	n += requests - a.hist.total.Requests
	b += bytes - a.hist.total.Bytes
	return Estimate{Requests: clamp(n / requests), Bytes: clamp(b / bytes)}
}

func clamp(share float64) float64 { return min(max(share, 0), 1) }

// hashOf returns a number that is uniform over all digests. A SHA-256 digest is
// uniform itself.
func hashOf(d digest.Digest) uint64 {
	const prefix = "sha256:"
	var b [8]byte
	if len(d) == len(prefix)+64 && d[:len(prefix)] == prefix {
		if _, err := hex.Decode(b[:], []byte(d[len(prefix):len(prefix)+16])); err == nil {
			return uint64(b[0])<<56 | uint64(b[1])<<48 | uint64(b[2])<<40 | uint64(b[3])<<32 |
				uint64(b[4])<<24 | uint64(b[5])<<16 | uint64(b[6])<<8 | uint64(b[7])
		}
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(d))
	return mix(h.Sum64())
}

// mix spreads what differs in the low bits of a hash over all bits (the
// finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
