package fill

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// slots limits a number for all fills together and for those of one host.
// Waiting callers are served in order. The slot of a connection is held for one
// piece, so that a large blob that clients wait for does not starve the others.
type slots struct {
	all     *semaphore.Weighted
	perHost int64

	mu    sync.Mutex
	hosts map[string]*semaphore.Weighted // as many as registries are configured
}

func newSlots(all, perHost int) *slots {
	return &slots{all: semaphore.NewWeighted(int64(all)), perHost: int64(perHost), hosts: make(map[string]*semaphore.Weighted)}
}

// acquire waits for a slot and returns the function that gives it back. The
// error is ctx's cause.
func (s *slots) acquire(ctx context.Context, host string) (release func(), err error) {
	s.mu.Lock()
	one := s.hosts[host]
	if one == nil {
		one = semaphore.NewWeighted(s.perHost)
		s.hosts[host] = one
	}
	s.mu.Unlock()
	if err := one.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := s.all.Acquire(ctx, 1); err != nil {
		one.Release(1)
		return nil, context.Cause(ctx)
	}
	return func() { s.all.Release(1); one.Release(1) }, nil
}

// turnsOfHost returns how many of all concurrent fills may be from one host, so
// that a host that hangs does not block the others.
func turnsOfHost(all int) int { return max(all*3/4, 1) }

// turn waits until one more fill may begin. The number is limited because each
// has files open and bytes reserved, with or without a connection.
// Those that boxes may feed have turns of their own, and transfers from places have
// slots of their own: what waits for another box takes nothing away from what that
// box may wait for.
func (s *Fills) turn(ctx context.Context, host string, fed bool) (over func(), err error) {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	if fed {
		return s.nearTurns.acquire(ctx, host)
	}
	return s.turns.acquire(ctx, host)
}

// slotsOf returns the slots of the transfers from a place.
func (s *Fills) slotsOf(p Place) *slots {
	if p.Store {
		return s.storeSlots
	}
	return s.nearSlots
}
