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
	requests  atomic.Int64  // since New, halved now and then
	bytes     atomic.Int64  // of these requests

	samples int // the most that are kept

	mu      sync.Mutex
	events  []event          // that wait to be taken in, fewer than noted
	sample  map[uint64]place // by hash
	recency recency
	largest hashes // of the sample
	hist    histogram
	held    weighted // requests of objects of the sample that were held before
}

// place is a sampled object in the order of use.
type place struct {
	size    int64
	before  float32 // the largest distance since its last request; infinite for none before
	at      int32   // in recency
	fetched bool    // since its last request
	awaited bool    // a request that missed it is counted, what it fetches is not stored yet
}

// New returns an Advisor that has seen nothing and keeps at most some samples.
// With 32,768 it takes less than 4 MiB.
func New(samples int) *Advisor {
	a := &Advisor{samples: samples, sample: make(map[uint64]place), recency: newRecency(2 * (samples + 1))}
	a.threshold.Store(math.MaxUint64)
	return a
}

// Saw counts one request of an object, and whether it was held or, if not, joined a
// running download. Size is in bytes; a
// request of an object of unknown size (negative) is not counted. What a pull has
// fetched before it was requested was not held, and what several requests wait for
// was missed by the first of them.
func (a *Advisor) Saw(d digest.Digest, size int64, held, joined bool) {
	if size < 0 {
		return
	}
	a.requests.Add(1)
	a.bytes.Add(size)
	e := event{size: size, kind: missed}
	switch {
	case held:
		e.kind = found
	case joined:
		e.kind = waited
	}
	a.note(d, e)
}

// Used notes that an object is used with its image, if it was requested or fetched
// before.
func (a *Advisor) Used(d digest.Digest) { a.note(d, event{kind: used}) }

// Fetched notes that an object of size bytes was stored.
func (a *Advisor) Fetched(d digest.Digest, size int64) {
	a.note(d, event{size: size, kind: fetched})
}

// event is what has happened to an object of the sample.
type event struct {
	hash uint64
	size int64
	kind kind
}

type kind uint8

const (
	missed kind = iota // requested, and not held
	found              // requested, and held
	waited             // requested, and joined a running download
	used
	fetched
)

// noted is how many events wait to be taken in: together they take less time, and
// most callers do not wait for that.
const noted = 64

// note has an event taken in some time later, if the object is in the sample.
func (a *Advisor) note(d digest.Digest, e event) {
	if e.hash = hashOf(d); e.hash > a.threshold.Load() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.events = append(a.events, e); len(a.events) == noted {
		a.takeIn()
	}
}

// lock locks mu for reading what was seen.
func (a *Advisor) lock() {
	a.mu.Lock()
	a.takeIn()
}

// takeIn takes in the events that wait. The caller holds mu.
func (a *Advisor) takeIn() {
	for _, e := range a.events {
		if threshold := a.threshold.Load(); e.hash <= threshold { // it may have sunk in the meantime
			a.take(e, math.MaxUint64/float64(threshold))
			a.bound()
		}
	}
	a.events = a.events[:0]
}

// take takes in an event, whose object stands for weight objects. The caller holds mu.
func (a *Advisor) take(e event, weight float64) {
	before, known := a.sample[e.hash]
	if e.kind == used {
		if !known {
			return
		}
		e.size = before.size
	}
	p := a.move(e.hash, e.size, weight)
	switch e.kind {
	case used:
	case fetched:
		if before.awaited {
			p.before = before.before
		}
		p.fetched, p.awaited = !before.awaited, false
	default:
		if e.kind == found && !p.fetched || e.kind == waited && p.awaited {
			a.held.add(e.size, weight)
		}
		if math.IsInf(float64(p.before), 1) {
			a.hist.cold(e.size, weight)
		} else {
			a.hist.hit(float64(p.before), e.size, weight)
		}
		p.before, p.fetched, p.awaited = 0, false, e.kind != found
	}
	a.sample[e.hash] = p
}

// move makes an object the one that was used last, and takes its distance. The
// caller stores what it returns, and holds mu.
func (a *Advisor) move(hash uint64, size int64, weight float64) place {
	p, known := a.sample[hash]
	if known {
		distance := float64(a.recency.after(p.at))*weight + float64(size)
		p.before = max(p.before, float32(distance))
		a.recency.remove(p.at, p.size)
	} else {
		p.before = float32(math.Inf(1))
		heap.Push(&a.largest, hash)
	}
	p.size, p.at = size, a.append(hash, size)
	return p
}

// bound keeps the sample at its size. The caller holds mu.
func (a *Advisor) bound() {
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
	a.lock()
	defer a.mu.Unlock()
	n, b := a.hist.below(float64(size))
	return a.share(weighted{n, b})
}

// Measured returns what the list has answered, as far as the sample tells.
func (a *Advisor) Measured() Estimate {
	a.lock()
	defer a.mu.Unlock()
	return a.share(a.held)
}

// share returns which share of all requests some are. The caller holds mu.
func (a *Advisor) share(some weighted) Estimate {
	requests, bytes := float64(a.requests.Load()), float64(a.bytes.Load())
	if requests == 0 || bytes == 0 {
		return Estimate{}
	}
	// The sample may hold more or fewer of the requests than its share. The
	// difference counts as requests of the smallest distance (3.4 in the paper).
	n := some.Requests + requests - a.hist.total.Requests
	b := some.Bytes + bytes - a.hist.total.Bytes
	return Estimate{Requests: clamp(n / requests), Bytes: clamp(b / bytes)}
}

// scale multiplies what was counted by a factor from 0 to 1. The order of use stays.
func (a *Advisor) scale(factor float64) {
	a.lock()
	defer a.mu.Unlock()
	a.requests.Store(int64(factor * float64(a.requests.Load())))
	a.bytes.Store(int64(factor * float64(a.bytes.Load())))
	a.hist.scale(factor)
	a.held.scale(factor)
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
