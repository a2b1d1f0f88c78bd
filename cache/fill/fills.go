// Package fill downloads blobs: one download, many readers. It knows digests,
// offsets, sources and the file that it writes; it knows neither what else is held
// nor who asks, nor HTTP.
//
// A blob is read while it is filled. One fill serves every reader of its digest,
// belongs to no request, and withholds the last bytes until the whole blob is
// known to hash to the digest.
//
// Files: fills.go (all fills), want.go (what a request knows of a blob), source.go
// (where bytes come from, resumed when a connection breaks), fill.go (one download),
// state.go (its states), reasons.go (why it failed, or stores nothing), status.go (its
// read side), plan.go and writers.go (which writer fetches which bytes), slots.go (how
// many connections), pace.go (the bandwidth cap), places.go (places that are nearer
// than a registry), spans.go (which bytes are there), partial.go (fills that are
// resumed later), hasher.go, file.go (a file that is sent), reader.go (one reader of a
// growing file), uncached.go (blobs that are not stored), recentlywrong.go (digests
// that were wrong lately).
package fill

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/locks"
	"hubcap/eviction"
	"hubcap/metrics"
)

// Options is what Fills need; every field is required, except where 0 has a
// meaning of its own.
type Options struct {
	Store   *blobs.Store
	Ledger  *eviction.Ledger
	Reserve func(d digest.Digest, size int64) error // promises bytes in the ledger, and makes room for them
	Remover eviction.Remover                        // unlinks what was evicted while a fill held its digest's lock
	Holder  Holder
	Disk    Disk
	Digests *locks.Digests // exclude a digest's fill and its removal
	Files   *locks.Files   // that readers have open

	MaxBlob        int64         // bytes of the largest blob that is stored
	Connections    int           // writers of one fill, at least 1; 1 sends no Range requests
	MaxFills       int           // at a time; more wait for their turn
	MaxConnections int           // of all fills together
	MaxPerHost     int           // of the fills from one host
	Bandwidth      int64         // bytes a second from all sources together; 0 for no limit
	Patience       time.Duration // with a writer that gets nothing while the fill's others do
	Now            func() time.Time
	Metrics        *metrics.Metrics
	Log            *slog.Logger
}

// Holder holds the blobs that fills have fetched. Its methods are called with the
// lock of the digest held.
type Holder interface {
	// Clear unlinks the file of d if it is evicted. After an error there may still
	// be a file of d.
	Clear(d digest.Digest) error
	// Keep notes that a file has become a blob.
	Keep(k Kept)
	// Reveal makes the blob d public.
	Reveal(d digest.Digest)
}

// Kept is a file that has become a blob.
type Kept struct {
	Digest   digest.Digest
	Stat     blobs.Stat
	Class    blobs.Class
	Host     string // that the bytes came from
	Reserved int64  // bytes in the ledger
	Fetched  bool   // from the registry at least in part, or no Place is known to have it
}

// Disk is the condition of the file system.
type Disk interface {
	// Writable returns an error if creating a file is pointless.
	Writable() error
	// WriteFailed notes a failed write.
	WriteFailed(err error)
}

// Fills are all that run. Their methods are safe for concurrent use.
//
// Lock order: the lock of a digest, then Fills.mu, then Fill.mu or the ledger's.
// The locks of slots, pacer and locks are innermost.
type Fills struct {
	o     Options
	wrong recentlyWrong
	slots *slots // of connections
	turns *slots // of fills
	// The same for what comes from places, see turn.
	nearSlots, nearTurns *slots
	storeSlots           *slots // of connections to object stores, see slotsOf
	pacer                *pacer

	base context.Context // of every fill; Close ends it
	stop context.CancelCauseFunc
	all  sync.WaitGroup

	running atomic.Int64
	waiting atomic.Int64

	mu     sync.Mutex
	list   map[digest.Digest]*Fill // those that a reader may join
	closed bool                    // nothing new is started
}

// ErrStopped ends the fills at shutdown.
var ErrStopped = errors.New("hubcap is shutting down")

// ErrAgain says that another look for the blob may have another result.
var ErrAgain = errors.New("the blob was stored, or its fill ended, meanwhile")

// New returns Fills, none of which runs. Close ends them.
func New(o Options) *Fills {
	base, stop := context.WithCancelCause(context.Background())
	return &Fills{
		o: o, wrong: newRecentlyWrong(), pacer: newPacer(o.Bandwidth),
		slots: newSlots(o.MaxConnections, o.MaxPerHost), turns: newSlots(o.MaxFills, turnsOfHost(o.MaxFills)),
		nearSlots: newSlots(o.MaxConnections, o.MaxPerHost), nearTurns: newSlots(o.MaxFills, turnsOfHost(o.MaxFills)),
		storeSlots: newSlots(max(o.MaxConnections/2, 1), o.MaxPerHost),
		base:       base, stop: stop, list: make(map[digest.Digest]*Fill),
	}
}

// Close ends the fills, whose readers get an error.
func (s *Fills) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop(ErrStopped)
	s.all.Wait()
}

// Count returns how many fills run, those that wait for their turn included, and
// how many wait.
func (s *Fills) Count() (running, waiting int) {
	return int(s.running.Load()), int(s.waiting.Load())
}

// Of returns the running fill of a digest, nil for none.
func (s *Fills) Of(d digest.Digest) *Fill {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list[d]
}

// Join returns the running fill of a digest, or starts one, and counts the caller
// in; Open counts it out. stored is called before one is started: it reports
// whether the blob is stored by now, since a fill keeps its blob before it leaves
// the list. Then the error is ErrAgain. replaces says that the fill is to replace a
// stored file that cannot be read.
func (s *Fills) Join(want Want, replaces bool, stored func() bool) (f *Fill, began bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.list[want.Digest]; f != nil {
		if !f.want.in(want.Repository) && !want.Shows(f.classNow(), func() bool { return f.want.Host == want.Host }) {
			return nil, false, ErrRestricted
		}
		if want.Peer && f.source.fed() {
			return nil, false, ErrFed
		}
		if f.enter() {
			s.o.Metrics.Fills.Joined()
			return f, false, nil
		}
	}
	if s.closed {
		return nil, false, ErrStopped
	}
	if stored() {
		return nil, false, ErrAgain
	}
	f = newFill(s, want, replaces)
	f.enter()
	s.start(f)
	return f, true, nil
}

// Begin returns the running fill of a blob, or starts one that no client has
// requested. The error is ErrAgain if the blob is stored, or ErrStopped.
func (s *Fills) Begin(want Want) (f *Fill, began bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.list[want.Digest]; f != nil {
		return f, false, nil
	}
	if s.closed {
		return nil, false, ErrStopped
	}
	if s.o.Ledger.Holds(want.Digest) {
		return nil, false, ErrAgain
	}
	f = newFill(s, want, false)
	s.start(f)
	return f, true, nil
}

// start puts a fill on the list and runs it. s.mu is held.
func (s *Fills) start(f *Fill) {
	s.list[f.want.Digest] = f
	s.o.Metrics.Fills.Started()
	s.running.Add(1)
	s.all.Go(func() {
		defer s.running.Add(-1)
		f.run()
	})
}

// unlist takes a fill off the list, so that it is not joined any more.
func (s *Fills) unlist(f *Fill) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.list[f.want.Digest] == f {
		delete(s.list, f.want.Digest)
	}
}

// NoteWrong notes that clients were sent a wrong beginning of d.
func (s *Fills) NoteWrong(d digest.Digest) { s.wrong.add(d) }

// RecentlyWrong reports whether a wrong beginning of d was sent lately, so that a
// range is to be answered with the whole blob.
func (s *Fills) RecentlyWrong(d digest.Digest) bool { return s.wrong.has(d) }

// panicked reports a bug that cost one fill.
func (s *Fills) panicked(d digest.Digest, p any) {
	s.o.Metrics.Requests.Panicked()
	s.o.Log.Error("a fill panicked", "digest", d, "panic", p, "stack", string(debug.Stack()))
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
