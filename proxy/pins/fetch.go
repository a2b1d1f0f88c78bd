package pins

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hubcap/proxy/jobs"
	"hubcap/proxy/reference"
	"hubcap/proxy/warm"
)

const (
	// The pauses between two attempts to fetch one image; each is twice as long
	// as the one before.
	minPause = time.Minute
	maxPause = time.Hour

	// pullsAnHour is how many manifests are fetched an hour because they were
	// lost: registries with a pull limit count them.
	pullsAnHour = 10

	// keptPulls is the share of a pull limit that is left to clients.
	keptPulls = 0.2
)

// attempt is what was last tried for a pin.
type attempt struct {
	count int       // of attempts, since the pin was whole for long
	at    time.Time // of the last one
	next  time.Time // when there may be another one
	err   error     // of the last one; nil while it lasts
}

// kick has fetchMissing look at what is missing.
func (p *Pins) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// fetchMissing has what is missing fetched, an image at a time, until ctx ends.
func (p *Pins) fetchMissing(ctx context.Context) {
	for ctx.Err() == nil {
		one, wait := p.due()
		if one != nil {
			p.try(ctx, one)
			continue
		}
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-p.o.After(wait):
		}
	}
}

// due returns the pin that is to be fetched next, or how long there is none.
func (p *Pins) due() (*pin, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	var due *pin
	var since, first time.Time // of due; when the first of the others is
	consider := func(one *pin) {
		var last attempt
		if a := p.attempts[one.key()]; a != nil {
			last = *a
		}
		switch {
		case last.next.After(now):
			if first.IsZero() || last.next.Before(first) {
				first = last.next
			}
		case due == nil || last.next.Before(since) || last.next.Equal(since) && one.key() < due.key():
			due, since = one, last.next
		}
	}
	for _, e := range p.entries {
		if !e.whole() {
			consider(e.pin)
		}
	}
	for _, one := range p.wanted {
		consider(one)
	}
	if due == nil && first.IsZero() {
		return nil, maxPause
	}
	return due, first.Sub(now)
}

// try fetches what is missing of a pin, or pins a wanted one.
func (p *Pins) try(ctx context.Context, one *pin) {
	key := one.key()
	p.mu.Lock()
	e, pinned := p.entries[key]
	a := p.attempts[key]
	if a == nil {
		a = new(attempt)
		p.attempts[key] = a
	}
	now := p.o.Now()
	limited := pinned && one.Held != "" && e.manifests > 0
	if wait := p.pullsUsed(now); limited && wait > 0 {
		a.next, a.err = now.Add(wait), fmt.Errorf("%d manifests were fetched within an hour because they were lost; the next one has to wait", pullsAnHour)
		p.mu.Unlock()
		return
	}
	a.at, a.next = now, now.Add(min(minPause<<min(a.count, 10), maxPause))
	a.count++
	p.fetching = key
	p.mu.Unlock()

	var pulls int
	var err error
	if pinned {
		pulls, err = p.fetch(ctx, e)
	} else {
		_, err = p.admit(ctx, one, keptPulls, false)
	}
	p.look()

	p.mu.Lock()
	defer p.mu.Unlock()
	if now, pinned := p.entries[key]; err == nil && pinned && !now.whole() {
		err = errors.New("parts of it could not be stored, or were lost again")
	}
	p.fetching, a.err = "", err
	if limited {
		p.pulls = append(p.pulls, slices.Repeat([]time.Time{now}, pulls)...)
	}
	if err != nil && ctx.Err() == nil {
		p.o.Log.Warn("a pinned image cannot be fetched", "image", one.ref.String(), "attempts", a.count, "next", a.next, "err", err)
	}
}

// pullsUsed returns how long there is no pull left for a manifest that was lost.
// p.mu is held.
func (p *Pins) pullsUsed(now time.Time) time.Duration {
	p.pulls = slices.DeleteFunc(p.pulls, func(at time.Time) bool { return now.Sub(at) >= time.Hour })
	if len(p.pulls) < pullsAnHour {
		return 0
	}
	return time.Hour - now.Sub(p.pulls[0])
}

// fetch fetches what is missing of a pinned image: its manifests first, since what
// they name is pinned from then on; then the rest, as a job.
func (p *Pins) fetch(ctx context.Context, e entry) (pulls int, err error) {
	ref := e.pin.ref
	if e.digest != "" {
		ref = reference.Reference{Registry: ref.Registry, Repository: ref.Repository, Digest: e.digest}
	}
	req := warm.Request{Platforms: e.platforms, KeepPulls: keptPulls, ManifestsOnly: true}
	found, err := p.o.Fetcher.Image(ctx, ref, req, nil)
	if err != nil {
		return found.Pulls, err
	}
	p.look()
	ref.Tag, ref.Digest = "", found.Digest
	req.ManifestsOnly = false
	kind := jobs.Pin
	if e.pin.frozen != "" {
		kind = jobs.Freeze
	}
	_, err = p.o.Jobs.Do(ctx, jobs.Work{Kind: kind, What: e.pin.ref.String(), Run: func(ctx context.Context, t *jobs.Task) error {
		_, err := p.o.Fetcher.Image(ctx, ref, req, func(now warm.Progress) {
			t.Progress(now.Objects, now.ObjectsTotal, now.Bytes, now.BytesTotal)
		})
		return err
	}})
	return found.Pulls, err
}
