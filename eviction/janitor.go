package eviction

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
)

// Remover unlinks what the ledger has evicted.
type Remover interface {
	// Remove unlinks d if the ledger has it evicted, and reports that to the
	// ledger. If the file cannot be unlinked, d stays evicted and counted.
	Remove(d digest.Digest)
}

// JanitorOptions is what a Janitor needs; every field is required.
type JanitorOptions struct {
	Ledger   *Ledger
	Remover  Remover
	Free     func() (int64, error) // bytes free in the file system
	MinFree  int64                 // bytes that must stay free
	Overhead func() int64          // bytes on disk beside the objects: for SetOverhead
	Interval time.Duration         // between two looks at the file system
	Log      *slog.Logger
}

// Janitor makes room: at once when a fill asks for it, ahead of time between
// the watermarks, and when others use up the file system.
type Janitor struct {
	o    JanitorOptions
	kick chan struct{}
}

// NewJanitor returns a Janitor; Run starts it.
func NewJanitor(o JanitorOptions) *Janitor {
	return &Janitor{o: o, kick: make(chan struct{}, 1)}
}

// maxRounds is how often a reservation makes room again because other
// reservations took what it had made.
const maxRounds = 16

// Reserve promises size bytes, evicting the least recently used objects. The
// error is ErrTooLarge or ErrNoRoom, the latter also when the free-space floor
// would be crossed. A reservation that cannot succeed evicts nothing.
func (j *Janitor) Reserve(size int64) error {
	return j.reserve(size, j.o.Ledger.Fits, j.o.Ledger.MakeRoom)
}

// ReserveFor is Reserve for the object d, which may be a guest: see
// Ledger.SetGuests.
func (j *Janitor) ReserveFor(d digest.Digest, size int64) error {
	if j.o.Ledger.IsGuest(d, size) {
		return j.reserve(size, j.o.Ledger.FitsGuest, j.o.Ledger.MakeRoomForGuest)
	}
	return j.Reserve(size)
}

func (j *Janitor) reserve(size int64, fits func(int64) error, makeRoom func(int64) []digest.Digest) error {
	defer j.Wake()
	if err := fits(size); err != nil {
		return err
	}
	if err := j.aboveFloor(size); err != nil {
		return err
	}
	for range maxRounds {
		err := j.o.Ledger.Reserve(size)
		if !errors.Is(err, ErrNoRoom) {
			return err
		}
		evicted := append(makeRoom(size), j.o.Ledger.ToUnlink()...)
		if len(evicted) == 0 {
			return err // the rest is reserved, or unlinked and still open
		}
		j.remove(evicted)
	}
	return ErrNoRoom
}

// Wake has Run look at the watermarks and the file system now.
func (j *Janitor) Wake() {
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// aboveFloor makes room in the file system for size bytes above the floor. The
// free bytes that the file system reports exclude what running fills have
// allocated.
func (j *Janitor) aboveFloor(size int64) error {
	missing := j.missing(size)
	if missing <= 0 {
		return nil
	}
	if missing > j.o.Ledger.Evictable() {
		return ErrNoRoom
	}
	j.remove(append(j.o.Ledger.Shrink(missing), j.o.Ledger.ToUnlink()...))
	if j.missing(size) > 0 {
		return ErrNoRoom
	}
	return nil
}

// missing returns how many bytes the file system lacks to take size more and
// stay above the floor. It is 0 when the file system cannot be asked: that
// stops no pull.
func (j *Janitor) missing(size int64) int64 {
	free, err := j.o.Free()
	if err != nil {
		j.o.Log.Warn("the free space of the data directory cannot be read", "err", err)
		return 0
	}
	return size + j.o.MinFree - free
}

// Run sweeps until ctx ends.
func (j *Janitor) Run(ctx context.Context) {
	tick := time.NewTicker(j.o.Interval)
	defer tick.Stop()
	for {
		j.o.Ledger.SetOverhead(j.o.Overhead())
		j.remove(append(j.o.Ledger.Sweep(), j.o.Ledger.ToUnlink()...)) // also what could not be unlinked before
		if missing := j.missing(0); missing > 0 {
			evicted := j.o.Ledger.Shrink(missing)
			if len(evicted) > 0 { // else it was logged before, and there is nothing to evict
				j.o.Log.Warn("the file system is below its floor of free space; evicting",
					"objects", len(evicted), "missing_bytes", missing, "floor_bytes", j.o.MinFree)
			}
			j.remove(evicted)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-j.kick:
		}
	}
}

// Evict evicts at the wish of an operator; see Ledger.EvictBytes. It returns what
// it evicted, in that order.
func (j *Janitor) Evict(bytes int64) (evicted []Object) {
	for some := range j.o.Ledger.EvictBytes(bytes) {
		j.remove(digestsOf(some))
		evicted = append(evicted, some...)
	}
	return evicted
}

func (j *Janitor) remove(evicted []digest.Digest) {
	for _, d := range evicted {
		j.o.Remover.Remove(d)
	}
}
