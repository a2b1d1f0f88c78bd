// Package cache holds blobs in files, manifests in memory and in files. It knows
// digests, offsets and sources; it knows neither HTTP nor registries nor tags. What
// is not held is fetched by package fill.
//
// Files: cache.go (the whole), open.go (finds a blob, or starts or joins a fill),
// fetch.go (a blob that no client has requested), take.go (content that an operator
// brings), blob.go (an open blob), held.go (a reader of a stored file), keep.go (what
// fills bring), public.go (files of public blobs), status.go (its read side),
// manifests.go, small.go (small files in memory), edges.go (what the held manifests
// name), remove.go (unlinks what is evicted), purge.go (at an operator's wish), gone.go
// (what was held), classes.go (public and restricted blobs), recover.go (the start),
// usage.go (last use), verify.go and scrub.go (verification of stored files), unread.go
// (files that cannot be read now), disk.go (the condition of the file system). The
// tables of locked digests and open files are in locks.
package cache

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/content"
	"hubcap/cache/fill"
	"hubcap/cache/index"
	"hubcap/cache/locks"
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
	Capacity       *advisor.Capacity
	MinFree        int64                      // bytes that stay free in the file system
	Reserve        int64                      // bytes free below which the file system counts as full
	Ballast        int64                      // bytes allocated for that case; 0 for none
	Growth         int64                      // bytes of the budget left for notes and for the growth of the index within SweepInterval
	MaxBlob        int64                      // bytes of the largest blob that is stored
	ManifestMemory int64                      // bytes of manifests kept in memory; a quarter of it is added for small files
	FlushInterval  time.Duration              // how often last use is written to the index
	SweepInterval  time.Duration              // how often the index is measured, and the janitor sweeps
	StartWithin    time.Duration              // how long New waits for the files to be counted
	Connections    int                        // writers of one fill, at least 1; 1 sends no Range requests
	MaxFills       int                        // at a time; more wait for their turn
	MaxConnections int                        // of all fills together
	MaxPerHost     int                        // of the fills from one host
	Bandwidth      int64                      // bytes a second from all sources together; 0 for no limit
	VerifyInterval time.Duration              // how long a verified file is trusted
	Guest          func(d digest.Digest) bool // reports whether another box owns the public d; nil for none
	Kept           func(d digest.Digest)      // is told of each public blob that came from its registry and is stored now, and must not wait; nil for none
	Now            func() time.Time
	Patience       time.Duration // with a writer that gets nothing while the fill's others do
	Metrics        *metrics.Metrics
	Log            *slog.Logger
}

// Cache is what is held and what is being filled. Its methods are safe for
// concurrent use.
//
// Lock order: the lock of a digest, then trust.mu, then the locks of fills (see
// fill.Fills) or the ledger's own, which is held while edges are read. A goroutine
// waits for the lock of a digest only while it holds no lock at all; while it holds
// one of a digest it may try another (TryLock), as an eviction does that a fill
// caused. All other mutexes (classes, gone, files, manifests, scrubbed, unread,
// usage, digests, Cache.mu) are innermost: no other lock is taken while one of them is held.
// Only the lock of a digest is held during I/O.
type Cache struct {
	o         Options
	janitor   *eviction.Janitor
	manifests *manifests
	small     *smallFiles
	edges     *content.Edges // of the manifests that are held
	// remembering is held while a manifest enters memory with its edges, so that
	// another one does not drive it out in between. Of other locks, only innermost
	// ones and the ledger's are taken meanwhile.
	remembering sync.Mutex
	usage       *usage
	capacity    *advisor.Capacity
	classes     classes
	unread      unread
	gone        gone // what was held, and is no more
	trust       *trust
	fills       *fill.Fills
	disk        disk
	scrubbed    scrubbed
	learned     chan struct{} // closed when learnEdges has ended
	walked      chan struct{} // closed when the walk over the files has ended
	counted     atomic.Bool   // the walk was not cut short: the ledger knows all files
	unseen      atomic.Bool   // except those in directories that could not be read

	digests locks.Digests // exclude a digest's fill and its removal
	files   locks.Files   // open files

	base    context.Context // of what runs in the background; Close ends it
	stop    context.CancelCauseFunc
	running sync.WaitGroup // manifests on their way to disk, verifications, the janitor

	mu     sync.Mutex
	closed bool // nothing new is started
}

// New counts what the store holds and starts the janitor, the scrubber and what
// else runs in the background. Close ends it all.
func New(o Options) *Cache {
	base, stop := context.WithCancelCause(context.Background())
	c := &Cache{
		o:         o,
		manifests: newManifests(o.ManifestMemory, o.Now()),
		small:     newSmallFiles(o.ManifestMemory),
		edges:     content.NewEdges(),
		learned:   make(chan struct{}),
		usage:     newUsage(o.Now),
		capacity:  o.Capacity,
		classes:   classes{restricted: make(map[digest.Digest][]string)},
		unread:    unread{at: make(map[digest.Digest]int64)},
		gone:      newGone(),
		trust:     newTrust(),
		walked:    make(chan struct{}),
		base:      base,
		stop:      stop,
	}
	c.janitor = eviction.NewJanitor(eviction.JanitorOptions{
		Ledger: o.Ledger, Remover: c, Free: c.free, MinFree: o.MinFree,
		Overhead: func() int64 { return o.Index.DiskBytes() + o.Store.Ballast() + o.Growth },
		Interval: o.SweepInterval, Log: o.Log,
	})
	c.fills = fill.New(fill.Options{
		Store: o.Store, Ledger: o.Ledger, Reserve: c.janitor.ReserveFor, Remover: c, Holder: keeper{c}, Disk: keeper{c},
		Digests: &c.digests, Files: &c.files,
		MaxBlob: o.MaxBlob, Connections: o.Connections, MaxFills: o.MaxFills, MaxConnections: o.MaxConnections,
		MaxPerHost: o.MaxPerHost, Bandwidth: o.Bandwidth, Patience: o.Patience, Now: o.Now, Metrics: o.Metrics, Log: o.Log,
	})
	o.Ledger.KeepWhole(c.edges)
	if o.Guest != nil {
		o.Ledger.SetGuests(func(d digest.Digest) bool { return o.Guest(d) && c.classes.of(d) == blobs.Public })
	}
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
	c.stop(fill.ErrStopped)
	c.fills.Close()
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

// panicked reports a bug that cost one piece of work.
func (c *Cache) panicked(what string, d digest.Digest, p any) {
	c.o.Metrics.Requests.Panicked()
	c.o.Log.Error(what+" panicked", "digest", d, "panic", p, "stack", string(debug.Stack()))
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
