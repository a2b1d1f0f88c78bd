package credentials

import (
	"context"
	"errors"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

const (
	patience = 10 * time.Second // with a source, before requests go on without it
	pause    = time.Minute      // between two questions when the first was in vain, and before what was refused is shown again

	// The life of a credential whose source says nothing of it: helper
	// programs do not, and hand out what lives for some minutes only.
	renewUnknown = 5 * time.Minute
	endUnknown   = time.Hour

	// trusted is how long a credential that was accepted is not doubted for
	// one refusal: it may be the repository's, and whoever asks for such
	// repositories must not take it from the others.
	trusted = 10 * time.Minute
)

var (
	// ErrRefused says that the registry has not accepted the credential lately.
	ErrRefused = errors.New("the registry or its token service does not accept it")

	errSlow    = errors.New("its source does not answer in time")
	errExpired = errors.New("its source gives out one that has expired")
)

// Keeper has a registry's credential at hand. It asks the source for another
// one before the last quarter of its life, behind the requests, which go on
// with the one at hand. There is one question at a time, and none for a minute
// after one in vain.
type Keeper struct {
	source source

	mu         sync.Mutex
	held       auth.Credential
	renew, end time.Time     // when the source is asked for another one, and when held is of no use
	asking     chan struct{} // closed when the source has answered or is no longer waited for; nil when it is not being asked
	asked      time.Time     // when it last was
	rest       time.Time     // until when it is not
	failure    error         // of the last question; nil when it was not in vain
	aside      time.Time     // until when held is not shown: it was refused
	accepted   time.Time     // when held last was
}

// Get returns the credential. The first request waits for the source, for a
// while; after a failure none does.
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

// Accepted notes that the credential shown lately was not refused.
func (k *Keeper) Accepted() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.accepted = time.Now()
}

// Refused notes that a credential was, and asks the source for another one. It
// tells whether there is one now.
func (k *Keeper) Refused(ctx context.Context, shown auth.Credential) bool {
	k.mu.Lock()
	if shown == k.held {
		now := time.Now()
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

// await waits until the source has answered, or is not waited for.
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

// usable tells whether held may be shown. mu is held, here and below.
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

// ask has the source answer. When that takes too long the requests go on
// without; but no other question begins before this one has ended.
func (k *Keeper) ask(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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
		k.held, k.aside, k.accepted = c, time.Time{}, time.Time{}
	} else if now.Before(k.aside) {
		k.renew = k.aside // it is still the one that was refused
	}
}
