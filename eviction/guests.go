package eviction

import (
	"math"

	"github.com/opencontainers/go-digest"
)

// guestShare is the share of the budget that guests keep, however much room what
// this box owns would need: otherwise a full box would fetch what another one owns
// once for each client.
const guestShare = 0.05

// guests are the large objects that other boxes of the site own. They live in room
// that this box's own objects do not need, and beyond their share go first.
type guests struct {
	limit int64
	owned func(d digest.Digest) bool // by another box; nil for none
	list  list
}

// SetGuests has large objects that another box owns held as guests. owned is called
// while the ledger is locked, calls none of its methods, and gives the same answer
// each time. It is set before anything is held.
func (l *Ledger) SetGuests(owned func(d digest.Digest) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.guests.owned = owned
}

// isGuest reports whether d, of size bytes, is held as a guest. l.mu is held.
func (l *Ledger) isGuest(d digest.Digest, size int64) bool {
	return l.guests.owned != nil && size >= l.smallSize && l.guests.owned(d)
}

// IsGuest reports whether d, of size bytes, is held as a guest once it is held.
func (l *Ledger) IsGuest(d digest.Digest, size int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isGuest(d, size)
}

// FitsGuest is Fits for a guest: for one that is larger than the share of guests,
// only guests are evicted.
func (l *Ledger) FitsGuest(size int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	size = onDisk(size)
	room := l.limit - l.overhead - l.reserved - l.pins.list.all.bytes - l.small.all.bytes - l.large[0].all.bytes
	switch {
	case size > l.limit-l.overhead:
		return ErrTooLarge
	case !l.settled():
		room = l.limit - l.total() // nothing is evicted yet
	default:
		room = max(room, min(l.guests.limit, room+l.large[0].all.bytes))
	}
	if size > room {
		return ErrNoRoom
	}
	return nil
}

// MakeRoomForGuest is MakeRoom for a guest: other guests go first.
func (l *Ledger) MakeRoomForGuest(size int64) []digest.Digest {
	if l.FitsGuest(size) != nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	order := l.evictionOrder(false)
	order.allGuests = true
	return digestsOf(l.evict(order, l.keeps(l.limit-onDisk(size)), math.MaxInt))
}
