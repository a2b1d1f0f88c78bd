// Package cache holds blobs in files, manifests in memory and in files, and runs
// the fills that fetch them. It knows digests, offsets and sources; it knows
// neither HTTP nor registries nor tags.
//
// A blob is read while it is filled. One fill serves every reader of its digest,
// belongs to no request, and withholds the last bytes until the whole blob is
// known to hash to the digest.
//
// Files of what is held: cache.go (the whole), status.go (its read side),
// manifests.go, edges.go (what the held manifests name), remove.go (unlinks what is evicted), purge.go (at an
// operator's wish), gone.go (what was held), classes.go (public and
// restricted blobs), recover.go (the start), usage.go (last use), verify.go and
// scrub.go (verification of stored files), unread.go (files that cannot be read
// now), locks.go, disk.go (the condition of the file system).
//
// Files of fills: open.go (finds a blob, or starts or joins a fill), fetch.go (a blob that no client has requested), blob.go (an
// open blob), source.go (where bytes come from, resumed when a connection
// breaks), fill.go (one download), state.go (its states), reasons.go (why it
// failed, or stores nothing), fillstatus.go (its read side), plan.go and writers.go (which writer fetches
// which bytes), spans.go (which bytes are there), partial.go (fills that are
// resumed later), hasher.go, reader.go (one reader of a held or growing file),
// uncached.go (uncached blobs), recentlywrong.go (digests that were wrong
// lately).
package cache

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/content"
	"hubcap/cache/index"
	"hubcap/eviction"
	"hubcap/eviction/advisor"
	"hubcap/metrics"
)

// Options is what a Cache needs; every field is required, except where 0 has a
// meaning of its own.
type Options struct {
	Store          *blobs.Store
	Index          *index.Index
	Ledger         *eviction.Ledger
	MinFree        int64         // bytes that stay free in the file system
	Reserve        int64         // bytes free below which the file system counts as full
	Ballast        int64         // bytes allocated for that case; 0 for none
	Growth         int64         // bytes of the budget left for notes and for the growth of the index within SweepInterval
	MaxBlob        int64         // bytes of the largest blob that is stored
	ManifestMemory int64         // bytes of manifests kept in memory
	FlushInterval  time.Duration // how often last use is written to the index
	SweepInterval  time.Duration // how often the index is measured, and the janitor sweeps
	StartWithin    time.Duration // how long New waits for the files to be counted
	Connections    int           // writers of one fill, at least 1; 1 sends no Range requests
	MaxFills       int           // at a time; more wait for their turn
	MaxConnections int           // of all fills together
	MaxPerHost     int           // of the fills from one host
	Bandwidth      int64         // bytes a second from all sources together; 0 for no limit
	VerifyInterval time.Duration // how long a verified file is trusted
	Now            func() time.Time
	Patience       time.Duration // with a writer that gets nothing while the fill's others do
	Metrics        *metrics.Metrics
	Log            *slog.Logger
}

// Cache is what is held and what is being filled. Its methods are safe for
// concurrent use.
//
// Lock order: the lock of a digest (locks), then trust.mu, then Cache.mu, then
// fill.mu or the ledger's own, which is held while edges are read. A goroutine waits for the lock of a digest only
// while it holds no lock at all; while it holds one of a digest it may try
// another (tryLock), as an eviction does that a fill caused. All other mutexes
// (classes, gone, handles, manifests, pacer, scrubbed, slots, unread, usage,
// locks.mu) are innermost: no other lock is taken while one of them is held.
// Only the lock of a digest is held during I/O.
type Cache struct {
	o         Options
	janitor   *eviction.Janitor
	manifests *manifests
	edges     *content.Edges // of the manifests that are held
	// remembering is held while a manifest enters memory with its edges, so that
	// another one does not drive it out in between. Of other locks, only innermost
	// ones and the ledger's are taken meanwhile.
	remembering sync.Mutex
	usage       *usage
	capacity    *advisor.Capacity
	classes     classes
	wrong       recentlyWrong
	unread      unread
	gone        gone // what was held, and is no more
	trust       *trust
	slots       *slots // of connections
	turns       *slots // of fills
	pacer       *pacer
	disk        disk
	scrubbed    scrubbed
	learned     chan struct{} // closed when learnEdges has ended
	walked      chan struct{} // closed when the walk over the files has ended
	counted     atomic.Bool   // the walk was not cut short: the ledger knows all files
	unseen      atomic.Bool   // except those in directories that could not be read

	locks   locks   // exclude a digest's fill and its removal
	handles handles // open files

	base    context.Context // of every fill; Close ends it
	stop    context.CancelCauseFunc
	running sync.WaitGroup // fills, manifests on their way to disk, the janitor

	fillsRunning atomic.Int64
	fillsWaiting atomic.Int64

	mu     sync.Mutex
	fills  map[digest.Digest]*fill // those that a reader may join
	closed bool                    // nothing new is started
}

// errStopped ends the fills at shutdown.
var errStopped = errors.New("hubcap is shutting down")

// New counts what the store holds and starts the janitor, the scrubber and what
// else runs in the background. Close ends it all.
func New(o Options) *Cache {
	base, stop := context.WithCancelCause(context.Background())
	c := &Cache{
		o:         o,
		manifests: newManifests(o.ManifestMemory, o.Now()),
		edges:     content.NewEdges(),
		learned:   make(chan struct{}),
		usage:     newUsage(o.Now),
		capacity:  advisor.NewCapacity(),
		classes:   classes{restricted: make(map[digest.Digest][]string)},
		wrong:     newRecentlyWrong(),
		unread:    unread{at: make(map[digest.Digest]int64)},
		gone:      newGone(),
		trust:     newTrust(),
		slots:     newSlots(o.MaxConnections, o.MaxPerHost),
		turns:     newSlots(o.MaxFills, turnsOfHost(o.MaxFills)),
		pacer:     newPacer(o.Bandwidth),
		walked:    make(chan struct{}),
		locks:     locks{held: make(map[digest.Digest]*digestLock)},
		handles:   handles{open: make(map[digest.Digest]*handle)},
		base:      base,
		stop:      stop,
		fills:     make(map[digest.Digest]*fill),
	}
	c.janitor = eviction.NewJanitor(eviction.JanitorOptions{
		Ledger: o.Ledger, Remover: c, Free: c.free, MinFree: o.MinFree,
		Overhead: func() int64 { return o.Index.DiskBytes() + o.Store.Ballast() + o.Growth },
		Interval: o.SweepInterval, Log: o.Log,
	})
	o.Ledger.KeepWhole(c.edges)
	c.begin()
	c.export()
	c.running.Go(c.learnEdges)
	c.running.Go(func() { c.janitor.Run(base) })
	c.running.Go(func() { every(base, o.FlushInterval, func() { c.usage.flush(c) }) })
	c.running.Go(func() { c.scrub(base) })
	c.running.Go(func() { every(base, rereadInterval, c.reread) })
	c.running.Go(func() { c.watchDisk(base) })
	return c
}

// Close ends the fills, whose readers get an error, and writes to the index what
// is still to be written. The store and the index stay open.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop(errStopped)
	c.running.Wait()
	c.usage.flush(c)
}

// work runs do in a goroutine that Close waits for. It reports false, and does
// not run it, after Close.
func (c *Cache) work(do func()) (started bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.running.Go(do)
	return true
}
