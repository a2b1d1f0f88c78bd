package eviction

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
)

// Remover unlinks what the ledger has doomed.
type Remover interface {
	// Remove unlinks d if the ledger still has it doomed, and tells the
	// ledger. A file that cannot be unlinked stays doomed, and counted.
	Remove(d digest.Digest)
}

// JanitorOptions is what a Janitor needs; every field is required.
type JanitorOptions struct {
	Ledger   *Ledger
	Remover  Remover
	Free     func() (int64, error) // bytes free in the file system
	MinFree  int64                 // bytes that must stay free
	Overhead func() int64          // bytes the index takes on disk
	Interval time.Duration         // how often the file system is looked at
	Log      *slog.Logger
}

// Janitor makes room: at once when a fill asks for it, ahead of time between
// the watermarks, and when the file system runs low because of others.
type Janitor struct {
	JanitorOptions
	kick chan struct{}
}

// NewJanitor returns a Janitor; Run sets it to work.
func NewJanitor(o JanitorOptions) *Janitor {
	return &Janitor{JanitorOptions: o, kick: make(chan struct{}, 1)}
}

// maxRounds is how often a reservation makes room again because others took
// what it had made.
const maxRounds = 16

// Reserve promises size bytes, evicting what was used least recently. The
// error is ErrTooLarge or ErrNoRoom, the latter also when the free-space
// floor would be crossed. What cannot be reached evicts nothing.
func (j *Janitor) Reserve(size int64) error {
	defer j.Wake()
	if err := j.Ledger.Fits(size); err != nil {
		return err
	}
	if err := j.aboveFloor(size); err != nil {
		return err
	}
	for range maxRounds {
		err := j.Ledger.Reserve(size)
		if !errors.Is(err, ErrNoRoom) {
			return err
		}
		going := append(j.Ledger.MakeRoom(size), j.Ledger.Pending()...)
		if len(going) == 0 {
			return err // the rest is reserved, or open in readers' hands
		}
		j.remove(going)
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

// aboveFloor makes sure that the file system keeps its free bytes. Bytes that
// running fills have reserved and allocated are gone from the free ones.
func (j *Janitor) aboveFloor(size int64) error {
	missing := j.missing(size)
	if missing <= 0 {
		return nil
	}
	if missing > j.Ledger.Evictable() {
		return ErrNoRoom
	}
	j.remove(append(j.Ledger.Shrink(missing), j.Ledger.Pending()...))
	if j.missing(size) > 0 {
		return ErrNoRoom
	}
	return nil
}

// missing tells how many bytes the file system lacks to take size more and
// stay above the floor. An unreadable figure never stops a pull.
func (j *Janitor) missing(size int64) int64 {
	free, err := j.Free()
	if err != nil {
		j.Log.Warn("free space of the data directory is not to be read", "err", err)
		return 0
	}
	return size + j.MinFree - free
}

// Run sweeps until ctx ends.
func (j *Janitor) Run(ctx context.Context) {
	tick := time.NewTicker(j.Interval)
	defer tick.Stop()
	for {
		j.Ledger.SetOverhead(j.Overhead())
		j.remove(append(j.Ledger.Sweep(), j.Ledger.Pending()...)) // also what could not be unlinked before
		if missing := j.missing(0); missing > 0 {
			going := j.Ledger.Shrink(missing)
			if len(going) > 0 { // else the operator was told, and nothing helps
				j.Log.Warn("the file system is below its floor of free space; evicting",
					"objects", len(going), "missing_bytes", missing, "floor_bytes", j.MinFree)
			}
			j.remove(going)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-j.kick:
		}
	}
}

func (j *Janitor) remove(struckOut []digest.Digest) {
	for _, d := range struckOut {
		j.Remover.Remove(d)
	}
}
