package fill

import (
	"fmt"
	"slices"
)

// state is the state of a fill. These are the legal transitions; the diagram in
// deploy/docs/architecture.md shows the same ones, and a test compares the two.
//
//	from        to          because
//	waiting     asking      it has the digest's lock and its turn
//	waiting     held        the blob was stored meanwhile, as a manifest (ErrAgain)
//	waiting     failed      shutdown, panic
//	asking      filling     the file is ready, and the source has answered or the partial file has every byte
//	asking      uncached    too large, no room, or the disk refuses the file
//	asking      parked      the source failed, or shutdown; there is a partial file of an earlier fill
//	asking      failed      the same without a partial file; panic
//	filling     committing  every byte is in the file, and the digest is right
//	filling     stopping    wrong digest, source or disk failed, shutdown, panic
//	committing  held        the file is synced and has its final name
//	committing  stopping    a writer panicked after its last byte
//	committing  failed      the commit failed, panic
//	stopping    parked      source failed or shutdown, and the blob is larger than one piece
//	stopping    failed      any other reason
//
// The goroutine of fill.run makes every transition, except those from filling
// and committing to stopping (fill.abort, by any part of the fill) and from
// filling to committing (the hasher).
type state uint8

const (
	stateWaiting    state = iota // for the digest's lock and for its turn
	stateAsking                  // for the first answer of the source
	stateFilling                 // writers, hasher and readers are at work
	stateCommitting              // every byte may be read; the file becomes a blob
	stateStopping                // it has failed, and its writers and hasher are ending

	// The ends.
	stateHeld     // the blob is stored
	stateParked   // the file stays as a partial file for the next fill
	stateUncached // nothing is stored; each reader reads a stream of its own
	stateFailed   // nothing is left
	states
)

var stateNames = [states]string{"waiting", "asking", "filling", "committing", "stopping", "held", "parked", "uncached", "failed"}

func (s state) String() string { return stateNames[s] }

var transitions = [states][]state{
	stateWaiting:    {stateAsking, stateHeld, stateFailed},
	stateAsking:     {stateFilling, stateUncached, stateParked, stateFailed},
	stateFilling:    {stateCommitting, stateStopping},
	stateCommitting: {stateHeld, stateStopping, stateFailed},
	stateStopping:   {stateParked, stateFailed},
}

// over reports whether a fill in this state fetches nothing more, because it
// has failed or ended.
func (s state) over() bool { return s >= stateStopping }

// end is how a fill ends.
type end struct {
	state  state
	err    error   // the reason; nil if this fill has stored the blob
	stream *Stream // of an uncached one: the open answer of the source
}

// strict has an illegal transition panic. The tests of this package set it.
var strict bool

// move makes a transition. f.mu is held.
func (f *Fill) move(to state) {
	if !slices.Contains(transitions[f.state], to) {
		bug := fmt.Sprintf("illegal transition of a fill from %s to %s", f.state, to)
		if strict {
			panic(bug)
		}
		f.fills.o.Log.Error(bug, "digest", f.want.Digest, "err", f.err)
	}
	f.state = to
}
