package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
)

// diskInterval is how often the file system is looked at: others can fill it
// at hundreds of MiB a second.
const diskInterval = time.Second

// writesProblem is how long a failed write counts as a problem.
const writesProblem = time.Minute

// errReadOnly means that the data directory accepts no writes.
var errReadOnly = errors.New("the data directory's file system is read-only")

// disk is what is known of the file system's condition.
type disk struct {
	degraded atomic.Pointer[[]Degradation] // replaced, never changed
	failed   atomic.Pointer[time.Time]     // when a write last failed; nil for never
	size     atomic.Pointer[FileSystem]    // as it was last read; nil while it cannot be
}

// degraded returns the problems that exist now, which the caller must not
// change.
func (c *Cache) degraded() []Degradation {
	if known := c.disk.degraded.Load(); known != nil {
		return *known
	}
	return nil
}

// writable returns an error if creating a file is pointless.
func (c *Cache) writable() error {
	if space, err := c.o.Store.Space(); err == nil && space.ReadOnly {
		return errReadOnly
	}
	return nil
}

// writeFailed notes a failed write, unless it only lacked space.
func (c *Cache) writeFailed(err error) {
	if !blobs.NoSpace(err) {
		now := c.o.Now()
		c.disk.failed.Store(&now)
	}
}

// writesFailed reports whether a write has failed within writesProblem.
func (c *Cache) writesFailed() bool {
	at := c.disk.failed.Load()
	if at == nil {
		return false
	}
	since := c.o.Now().Sub(*at)
	return since >= 0 && since < writesProblem // the clock may have been set
}

// watchDisk looks at the file system until ctx ends.
func (c *Cache) watchDisk(ctx context.Context) {
	c.lookAtDisk()
	every(ctx, diskInterval, c.lookAtDisk)
}

// every calls do at each interval until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

// lookAtDisk finds out which problems exist, and removes the ballast when others
// have filled the file system; the janitor evicts then.
func (c *Cache) lookAtDisk() {
	space, err := c.o.Store.Space()
	seen := err == nil // else the janitor logs why
	if seen {
		c.disk.size.Store(&FileSystem{Size: space.Total, Free: space.Free})
		c.tendBallast(space)
	} else {
		c.disk.size.Store(nil)
	}
	var exists [problems]bool
	exists[ProblemReadOnly] = space.ReadOnly
	exists[ProblemSpace] = seen && (space.Full || space.Free < c.o.Reserve || space.Free < c.o.MinFree && c.o.Ledger.Evictable() == 0)
	exists[ProblemInodes] = space.NoInodes
	exists[ProblemWrites] = c.writesFailed()
	exists[ProblemIndex] = c.o.Index.InMemory()
	exists[ProblemReads] = !seen || c.unread.count.Load() > 0 || c.unseen.Load()
	if !c.noteProblems(exists) {
		return
	}
	if names := c.Degraded(); len(names) == 0 {
		c.o.Log.Info("the data directory has no problem any more", "dir", c.o.Store.Dir())
	} else {
		c.o.Log.Warn("degraded: the data directory has a problem; cached content is served, new content may be uncached",
			"reasons", strings.Join(names, ","), "dir", c.o.Store.Dir(), "free_bytes", space.Free)
	}
}

// noteProblems notes which problems exist now, and reports whether that has
// changed.
func (c *Cache) noteProblems(exists [problems]bool) (changed bool) {
	before, now := c.degraded(), []Degradation(nil)
	for p, so := range exists {
		i := slices.IndexFunc(before, func(d Degradation) bool { return d.Problem == Problem(p) }) //nolint:gosec // a small constant
		switch {
		case so && i >= 0:
			now = append(now, before[i])
		case so:
			now = append(now, Degradation{Problem(p), c.o.Now()})
		}
		changed = changed || so != (i >= 0)
	}
	if changed {
		c.disk.degraded.Store(&now)
	}
	return changed
}

// free returns how many bytes the file system has free, for the janitor. One
// that refuses bytes although some are free, for a quota, lacks the reserve.
func (c *Cache) free() (int64, error) {
	space, err := c.o.Store.Space()
	if space.Full {
		return min(space.Free, c.o.MinFree-c.o.Reserve), err
	}
	return space.Free, err
}

// tendBallast removes the ballast when the file system is nearly full, and
// allocates it again when there is room.
func (c *Cache) tendBallast(space blobs.Space) {
	if (space.Free < c.o.Reserve || space.Full) && !space.ReadOnly {
		if c.o.Store.DropBallast() {
			c.o.Log.Warn("the file system is nearly full; the ballast is removed", "free_bytes", space.Free, "dir", c.o.Store.Dir())
		}
		c.janitor.Wake()
	} else if space.Free > c.o.MinFree+c.o.Reserve+2*c.o.Ballast {
		c.holdBallast()
	}
}

// holdBallast allocates the ballast, which is removed to keep the index alive
// when others fill the file system.
func (c *Cache) holdBallast() {
	if c.o.Ballast == 0 || c.o.Store.Ballast() == c.o.Ballast {
		return
	}
	if err := c.o.Store.HoldBallast(c.o.Ballast); err != nil {
		c.o.Log.Debug("the ballast cannot be allocated", "err", err)
	}
}

// lookEach is how many bytes MakeRoom removes between two looks at the file
// system.
const lookEach = 1 << 20

// MakeRoom frees up to need bytes of a file system that others have filled,
// before there is a Cache: the ballast first, then the blobs that were written
// longest ago.
func MakeRoom(store *blobs.Store, need int64, log *slog.Logger) error {
	enough := func() bool {
		_, _ = store.Room() // tries it; what it says of inodes is not of interest, and Space has the rest
		space, err := store.Space()
		return err != nil || space.ReadOnly || !space.Full && space.Free >= need
	}
	ballast := store.Ballast()
	if enough() {
		return nil
	}
	store.DropBallast()
	if ballast > 0 && enough() {
		log.Warn("the file system is nearly full; the ballast is removed", "dir", store.Dir())
		return nil
	}
	var files []found
	err := store.Walk(func(d digest.Digest, _ blobs.Class, size int64, modified time.Time) error {
		files = append(files, found{digest: d, size: size, used: modified.UnixNano()})
		return nil
	})
	slices.SortFunc(files, byUse)
	removed, unseen := 0, int64(0)
	for _, f := range files {
		if unseen == 0 && enough() {
			break
		}
		err = cmp.Or(err, store.Remove(f.digest))
		removed++
		if unseen += f.size; unseen >= lookEach {
			unseen = 0
		}
	}
	log.Warn("the file system is nearly full; blobs are evicted before the start", "removed", removed, "dir", store.Dir())
	if !enough() {
		err = errors.Join(err, fmt.Errorf("the file system of %s has less than %d bytes free; free some", store.Dir(), need))
	}
	return err
}
