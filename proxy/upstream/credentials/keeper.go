package credentials

import (
	"context"
	"errors"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

const (
	timeout = 10 * time.Second // of a source, after which requests go on without it
	pause   = time.Minute      // after a source failed, and before a refused credential is shown again

	// The life of a credential whose source does not state it: helper programs
	// do not, and some of theirs live for minutes only.
	renewUnknown = 5 * time.Minute
	endUnknown   = time.Hour

	// trusted is how long an accepted credential is shown although it is
	// refused: the refusal may be about one repository, and must not affect
	// the others.
	trusted = 10 * time.Minute
)

var (
	// ErrRefused says that the registry lately refused the credential.
	ErrRefused = errors.New("the registry or its token service does not accept it")

	errSlow    = errors.New("its source does not answer in time")
	errExpired = errors.New("its source gives out an expired one")
)

// Keeper holds a registry's credential and renews it in the background, before
// the last quarter of its life. The source is asked once at a time, and not for a
// minute after a failure. Its methods are safe for concurrent use.
type Keeper struct {
	source source

	mu         sync.Mutex
	held       auth.Credential
	renew, end time.Time     // when the source is asked again, and when held expires
	asking     chan struct{} // closed when the source has answered or timed out; nil while it is not asked
	asked      time.Time     // when the source last was
	rest       time.Time     // until when the source is not asked
	failure    error         // of the source, when last asked
	aside      time.Time     // until when held is not shown, because it was refused
	accepted   time.Time     // when held last was
	refused    time.Time     // when held last was; zero when it was accepted since
}

// Get returns the credential. Without one it waits for the source, up to timeout,
// unless the source has failed.
func (k *Keeper) Get(ctx context.Context) (auth.Credential, error) {
	k.mu.Lock()
	k.askWhenDue()
	asking := k.asking
	if k.usable() || k.failure != nil {
		asking = nil
	}
	k.mu.Unlock()
	if err := await(ctx, asking); err != nil {
		return auth.EmptyCredential, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.usable():
		return k.held, nil
	case k.failure != nil:
		return auth.EmptyCredential, k.failure
	default:
		return auth.EmptyCredential, ErrRefused
	}
}

// Accepted notes that the credential was accepted.
func (k *Keeper) Accepted() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.accepted, k.refused = time.Now(), time.Time{}
}

// Refused notes that a credential was refused, and asks the source for another
// one. It reports whether there is one now.
func (k *Keeper) Refused(ctx context.Context, shown auth.Credential) bool {
	k.mu.Lock()
	if shown == k.held {
		now := time.Now()
		k.refused = now
		if now.Sub(k.accepted) > trusted {
			k.aside = now.Add(pause)
		}
		k.renew = now
		if next := k.asked.Add(pause); next.After(k.rest) {
			k.rest = next
		}
		k.askWhenDue()
	}
	asking := k.asking
	k.mu.Unlock()
	if await(ctx, asking) != nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return shown != k.held && k.usable()
}

// await waits until asking is closed or ctx ends.
func await(ctx context.Context, asking chan struct{}) error {
	if asking == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-asking:
		return nil
	}
}

// usable reports whether held may be shown. mu is held, here and below.
func (k *Keeper) usable() bool {
	now := time.Now()
	return now.Before(k.end) && !now.Before(k.aside)
}

func (k *Keeper) askWhenDue() {
	if now := time.Now(); k.asking == nil && !now.Before(k.renew) && !now.Before(k.rest) {
		k.asking, k.asked = make(chan struct{}), now
		go k.ask(k.asking)
	}
}

// ask asks the source. After the timeout requests go on without it, but it is not
// asked again before it has returned.
func (k *Keeper) ask(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	late := context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.fail(errSlow)
		close(done)
	})
	c, ends, err := k.source.get(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if late() {
		close(done)
	}
	k.asking = nil
	now := time.Now()
	switch {
	case err != nil:
		k.fail(err)
	case !ends.IsZero() && !now.Before(ends):
		k.fail(errExpired)
	default:
		k.hold(c, ends, now)
	}
}

func (k *Keeper) fail(err error) { k.failure, k.rest = err, time.Now().Add(pause) }

func (k *Keeper) hold(c auth.Credential, ends, now time.Time) {
	k.failure, k.rest = nil, time.Time{}
	k.end, k.renew = ends, now.Add(max(ends.Sub(now)*3/4, time.Second))
	if ends.IsZero() {
		k.end, k.renew = now.Add(endUnknown), now.Add(renewUnknown)
	}
	if c != k.held {
		k.held, k.aside, k.accepted, k.refused = c, time.Time{}, time.Time{}, time.Time{}
	} else if now.Before(k.aside) {
		k.renew = k.aside // it is still the refused one
	}
}
