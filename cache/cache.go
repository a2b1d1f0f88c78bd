// Package cache is what hubcap holds: blobs in files, manifests in memory and
// in files, and the fills that bring them in. It knows digests, offsets and
// sources; it knows neither HTTP nor registries nor tags.
//
// A blob is read while it is filled. One fill serves every reader of its
// digest, belongs to no request, and lets nobody read the last bytes before
// all of them are known to hash to the digest.
//
// Files: cache.go (the whole), open.go (finding a blob, or having it brought
// in), blob.go (an open one), source.go (where bytes come from, through
// breaks), fill.go (one download), state.go (its states), fillstatus.go (what is told of it), plan.go and writers.go (who brings which
// bytes), spans.go (which bytes are there), partial.go (downloads that go on
// another time), hasher.go (the verdict), reader.go (one reader of a held or
// growing file), uncached.go (streams that are not stored), manifests.go,
// edges.go (what the held manifests name), remove.go
// (eviction's hand), classes.go (who may see what is held), recover.go (the
// start), usage.go (last use), verify.go and scrub.go (files at rest),
// unread.go (files that
// cannot be read now), recentlywrong.go, locks.go, disk.go (the file system's condition).
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
	oci "hubcap/cache/content"
	"hubcap/cache/index"
	"hubcap/eviction"
	"hubcap/metrics"
)

// Options is what a Cache needs; every field is required.
type Options struct {
	Store          *blobs.Store
	Index          *index.Index
	Ledger         *eviction.Ledger
	MinFree        int64         // bytes that stay free in the file system
	Reserve        int64         // bytes free below which the file system counts as full
	Ballast        int64         // bytes set aside for that case; 0 for none
	Growth         int64         // bytes of the budget that are left for notes, and for what the index takes between two looks
	MaxBlob        int64         // bytes of the largest blob that is kept
	ManifestMemory int64         // bytes of manifests kept in memory
	FlushInterval  time.Duration // how often last use goes to the index
	SweepInterval  time.Duration // how often the index is measured, and what is too much evicted
	StartWithin    time.Duration // how long New waits for the files to be counted
	Connections    int           // writers of one fill, at least 1; 1 asks for no ranges
	MaxFills       int           // at a time; more wait for their turn
	MaxConnections int           // of all fills together
	MaxPerHost     int           // of the fills from one host
	Bandwidth      int64         // bytes a second from all sources together; 0 for no cap
	VerifyInterval time.Duration // how long a verified file is trusted
	Now            func() time.Time
	Patience       time.Duration // with a writer that gets nothing while the fill's others do
	Metrics        *metrics.Metrics
	Log            *slog.Logger
}

// Cache is what is held and what is being brought in. Its methods may be
// called at any time by anyone.
type Cache struct {
	Options
	janitor   *eviction.Janitor
	manifests *manifests
	edges     *oci.Edges // of the manifests that are held
	usage     *usage
	classes   classes
	wrong     recentlyWrong
	unread    unread
	trust     *trust
	slots     *slots // of connections
	turns     *slots // of fills
	pacer     *pacer
	disk      disk
	walked    chan struct{} // closed when the walk has ended
	learned   chan struct{} // closed when learnEdges has ended
	counted   atomic.Bool   // the ledger knows all files: the walk was not ended before it had seen them
	unseen    atomic.Bool   // but for those in directories that it could not look at

	locks   locks   // a digest's fill against its removal
	handles handles // open files

	base    context.Context // of every fill; ended by Close
	stop    context.CancelCauseFunc
	running sync.WaitGroup // fills, manifests on their way to disk, the janitor

	mu     sync.Mutex
	fills  map[digest.Digest]*fill // those that a reader may join
	closed bool                    // nothing new begins
}

// errStopped ends the fills at shutdown.
var errStopped = errors.New("hubcap is shutting down")

// New takes up what the store holds and sets the janitor to work. Close ends
// it.
func New(o Options) *Cache {
	base, stop := context.WithCancelCause(context.Background())
	c := &Cache{
		Options:   o,
		manifests: newManifests(o.ManifestMemory),
		edges:     oci.NewEdges(),
		learned:   make(chan struct{}),
		usage:     newUsage(o.Now),
		classes:   classes{closed: make(map[digest.Digest][]string)},
		wrong:     newRecentlyWrong(),
		unread:    unread{at: make(map[digest.Digest]int64)},
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
	c.begin()
	o.Metrics.Space.Watch(o.Ledger.Stats)
	c.running.Go(c.learnEdges)
	c.running.Go(func() { c.janitor.Run(base) })
	c.running.Go(func() { every(base, o.FlushInterval, func() { c.usage.flush(c) }) })
	c.running.Go(func() { c.scrub(base) })
	c.running.Go(func() { every(base, rereadInterval, c.reread) })
	c.running.Go(func() { c.watchDisk(base) })
	return c
}

// Close ends the fills, whose readers are cut short, and writes out what the
// index should know. The store and the index stay open.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop(errStopped)
	c.running.Wait()
	c.usage.flush(c)
}

// work has do done beside everything else, unless nothing new begins any more.
func (c *Cache) work(do func()) (begun bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.running.Go(do)
	return true
}
