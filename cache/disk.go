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
	"hubcap/metrics"
)

// diskInterval is how often the file system is looked at: others can fill it
// at hundreds of MiB a second.
const diskInterval = time.Second

// writesTrouble is how long a write that failed counts as trouble.
const writesTrouble = time.Minute

// errReadOnly says that the data directory takes no writes.
var errReadOnly = diskError{errors.New("the data directory's file system is read-only")}

// disk is what is known of the file system's condition.
type disk struct {
	troubles atomic.Uint32             // metrics.Troubles
	failed   atomic.Pointer[time.Time] // when a write last failed; nil for never
}

// Degraded names what keeps the cache from working as it should. What is held
// is served all the same.
func (c *Cache) Degraded() []string {
	return metrics.Troubles(c.disk.troubles.Load()).Names()
}

// writable tells whether a new file may be tried.
func (c *Cache) writable() error {
	if space, err := c.Store.Space(); err == nil && space.ReadOnly {
		return errReadOnly
	}
	return nil
}

// writeFailed notes an error of the disk that is not one of room.
func (c *Cache) writeFailed(err error) {
	if !blobs.NoSpace(err) {
		now := c.Now()
		c.disk.failed.Store(&now)
	}
}

// writesFailed reports whether a write has failed within writesTrouble.
func (c *Cache) writesFailed() bool {
	at := c.disk.failed.Load()
	if at == nil {
		return false
	}
	since := c.Now().Sub(*at)
	return since >= 0 && since < writesTrouble // the clock may have been set
}

// watchDisk looks after the file system until ctx ends.
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

// lookAtDisk settles what trouble there is, and gives up the ballast when
// others have filled the file system; the janitor evicts then.
func (c *Cache) lookAtDisk() {
	space, err := c.Store.Space()
	seen := err == nil // else the janitor says why
	if seen {
		c.tendBallast(space)
	}
	now := metrics.Troubles(0).
		With(metrics.TroubleReadOnly, space.ReadOnly).
		With(metrics.TroubleSpace, seen && (space.Full || space.Free < c.Reserve || space.Free < c.MinFree && c.Ledger.Evictable() == 0)).
		With(metrics.TroubleInodes, space.NoInodes).
		With(metrics.TroubleWrites, c.writesFailed()).
		With(metrics.TroubleIndex, c.Index.InMemory()).
		With(metrics.TroubleReads, !seen || c.unread.count.Load() > 0 || c.unseen.Load())
	c.Metrics.Disk.Set(now)
	before := metrics.Troubles(c.disk.troubles.Swap(uint32(now)))
	if now == before {
		return
	}
	if now == 0 {
		c.Log.Info("the data directory is well again", "dir", c.Store.Dir())
	} else {
		c.Log.Warn("the data directory is in trouble: what is held is served, and the rest may only be passed through",
			"reasons", strings.Join(now.Names(), ","), "dir", c.Store.Dir(), "free_bytes", space.Free)
	}
}

// free is how many bytes the file system has free, for the janitor. One that
// refuses bytes although it says that some are free, for a quota, lacks those
// of the reserve.
func (c *Cache) free() (int64, error) {
	space, err := c.Store.Space()
	if space.Full {
		return min(space.Free, c.MinFree-c.Reserve), err
	}
	return space.Free, err
}

// tendBallast gives the ballast up when the file system is nearly full, and
// sets it aside again when there is room.
func (c *Cache) tendBallast(space blobs.Space) {
	if (space.Free < c.Reserve || space.Full) && !space.ReadOnly {
		if c.Store.DropBallast() {
			c.Log.Warn("the file system is nearly full; its ballast is given up", "free_bytes", space.Free, "dir", c.Store.Dir())
		}
		c.janitor.Wake()
	} else if space.Free > c.MinFree+c.Reserve+2*c.Ballast {
		c.holdBallast()
	}
}

// holdBallast sets aside what keeps the index alive for a moment when others
// fill the file system.
func (c *Cache) holdBallast() {
	if c.Ballast == 0 || c.Store.Ballast() == c.Ballast {
		return
	}
	if err := c.Store.HoldBallast(c.Ballast); err != nil {
		c.Log.Debug("no ballast", "err", err)
	}
}

// lookEach is how many bytes MakeRoom removes between two looks at the file
// system.
const lookEach = 1 << 20

// MakeRoom frees the file system that others have filled, up to need bytes,
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
		log.Warn("the file system is nearly full; its ballast was given up", "dir", store.Dir())
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
	log.Warn("the file system is nearly full; blobs had to go before the start", "removed", removed, "dir", store.Dir())
	if !enough() {
		err = errors.Join(err, fmt.Errorf("the file system of %s has less than %d bytes free; free some", store.Dir(), need))
	}
	return err
}
