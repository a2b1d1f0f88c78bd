package cache

import (
	"iter"
	"slices"
	"strconv"
	"time"

	"hubcap/eviction"
	"hubcap/eviction/advisor"
	"hubcap/metrics"
)

// Problem is a condition of the disk or the index that keeps the cache from
// working as it should. Cached content is served all the same.
type Problem uint8

// The problems.
const (
	ProblemReadOnly Problem = iota // the file system accepts no writes
	ProblemSpace                   // others have filled the file system
	ProblemInodes                  // the file system can create no more files
	ProblemWrites                  // a write failed within the last minute
	ProblemIndex                   // the index is kept in memory only
	ProblemReads                   // cached files, or directories of them, cannot be read
	problems
)

var problemNames = [problems]string{"read_only", "space", "inodes", "writes", "index", "reads"}

// String returns the name of the problem in metrics, logs and the API.
func (p Problem) String() string { return problemNames[p] }

// Degradation is a problem that exists now.
type Degradation struct {
	Problem Problem
	Since   time.Time
}

// Status is the state of a Cache. Its figures are read one after another; the
// ledger has its own Status.
type Status struct {
	Degraded     []Degradation // in the order of the constants; empty if there is no problem
	Scrub        ScrubStatus
	Walking      bool // files found at the start are still being counted
	FillsRunning int  // those that wait for their turn included
	FillsWaiting int
	OpenFiles    int // files that readers and verifications have open
	Unreadable   int // cached files that could not be read the last time, at most 4096
	FileSystem   FileSystem
}

// FileSystem is the size of the data directory's file system, in bytes. It is at
// most a second old, and zero while it cannot be read.
type FileSystem struct{ Size, Free int64 }

// ScrubStatus is the progress of the scrubber.
type ScrubStatus struct {
	Due      int       // objects that the present round, or the last one, has left to verify
	Bytes    int64     // read since the start
	Began    time.Time // of the present round, or the last one; of the scrubber before the first
	Ended    time.Time // of the last round; zero before its end
	Verified int       // objects in the last round
}

// Status returns the state of the cache.
func (c *Cache) Status() Status {
	s := Status{
		Degraded:   slices.Clone(c.degraded()),
		Walking:    !isClosed(c.walked),
		OpenFiles:  c.files.Count(),
		Unreadable: int(c.unread.count.Load()),
	}
	s.FillsRunning, s.FillsWaiting = c.fills.Count()
	if known := c.disk.size.Load(); known != nil {
		s.FileSystem = *known
	}
	c.scrubbed.mu.Lock()
	s.Scrub = c.scrubbed.status
	c.scrubbed.mu.Unlock()
	return s
}

// Fills returns the running fills, the oldest first; see fill.Fills.
func (c *Cache) Fills() []FillStatus { return c.fills.Running() }

// Parked iterates over the parked fills; see fill.Fills.
func (c *Cache) Parked() iter.Seq[FillStatus] { return c.fills.Parked() }

// Degraded returns the names of the problems that exist now.
func (c *Cache) Degraded() (names []string) {
	for _, one := range c.degraded() {
		names = append(names, one.Problem.String())
	}
	return names
}

// export has metrics read the cache's and the ledger's status at each scrape.
func (c *Cache) export() {
	c.o.Metrics.Watch(func(set metrics.Set) {
		ledger := c.o.Ledger.Status()
		set(metrics.CacheBudget, float64(ledger.Budget))
		set(metrics.CacheBytes, float64(ledger.Overhead), "index")
		set(metrics.CacheBytes, float64(ledger.Reserved), "reserved")
		set(metrics.CacheBytes, float64(ledger.Evicted), "evicted")
		set(metrics.CacheBytes, float64(ledger.Partial), "partial")
		for _, segment := range []eviction.Segment{eviction.Small, eviction.Large} {
			set(metrics.CacheBytes, float64(ledger.Segments[segment].Bytes), segment.String())
			set(metrics.CacheObjects, float64(ledger.Segments[segment].Objects), segment.String())
		}
		set(metrics.CacheBytes, float64(ledger.Pinned.Bytes), "pinned")
		set(metrics.CacheObjects, float64(ledger.Pinned.Objects), "pinned")
		set(metrics.CacheBytes, float64(ledger.Guests.Bytes), "guest")
		set(metrics.CacheObjects, float64(ledger.Guests.Objects), "guest")
		if a, known := c.Capacity(); known {
			for i, e := range a.Scales {
				scale := strconv.FormatFloat(advisor.Scales[i], 'g', -1, 64)
				set(metrics.Capacity, e.Requests, "requests", scale)
				set(metrics.Capacity, e.Bytes, "bytes", scale)
			}
		}
		status := c.Status()
		for p := range problems {
			degraded := 0.
			if slices.ContainsFunc(status.Degraded, func(d Degradation) bool { return d.Problem == p }) {
				degraded = 1
			}
			set(metrics.Degraded, degraded, p.String())
		}
		set(metrics.FillsRunning, float64(status.FillsRunning))
		set(metrics.FillsWaiting, float64(status.FillsWaiting))
		set(metrics.ScrubDue, float64(status.Scrub.Due))
		set(metrics.Scrubbed, float64(status.Scrub.Bytes))
		set(metrics.OpenFiles, float64(status.OpenFiles))
		set(metrics.VerifyWithin, c.o.VerifyInterval.Seconds())
		if began := status.Scrub.Began; !began.IsZero() {
			set(metrics.ScrubStarted, float64(began.Unix()))
		}
		if status.FileSystem.Size > 0 {
			set(metrics.FSSize, float64(status.FileSystem.Size))
			set(metrics.FSFree, float64(status.FileSystem.Free))
		}
	}, metrics.CacheBudget, metrics.CacheBytes, metrics.CacheObjects, metrics.Capacity, metrics.Degraded, metrics.FillsRunning, metrics.FillsWaiting,
		metrics.ScrubDue, metrics.Scrubbed, metrics.ScrubStarted, metrics.VerifyWithin, metrics.FSSize, metrics.FSFree, metrics.OpenFiles)
}
